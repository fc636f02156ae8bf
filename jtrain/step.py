"""The training step: one pure function, compiled once, whatever the lr, the data's place or the device count."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtrain import metrics, tree
from jtrain.models.pure import Model
from jtrain.state import TrainState
from jtrain.task import Task

Batch = dict[str, jax.Array]  # inputs [batch, …], targets [batch, …], weight [batch] float32
Augment = Callable[[jax.Array, jax.Array], jax.Array]

# Streams of randomness within a step: fold_in(fold_in(key, step), number).
DROPOUT, AUGMENT = 0, 1


def select(data: Batch, rows: jax.Array | None, constrain: Callable[[Batch], Batch]) -> Batch:
    """The batch of a step: gathered from resident data by example number, or the placed batch itself.

    Args:
      data: resident arrays of all examples with rows, or a placed batch without.
      rows: example numbers [batch], -1 for padding; None for a placed batch.
      constrain: cuts the batch over the devices.
    """
    if rows is None:
        return constrain(data)
    index = jnp.maximum(rows, 0)
    batch = {name: values.at[index].get(mode="promise_in_bounds") for name, values in data.items()}
    batch["weight"] = (rows >= 0).astype(jnp.float32)
    # The barrier keeps the program behind it the same for resident and streamed data, so equal bits.
    return constrain(jax.lax.optimization_barrier(batch))


def make_train_step(
    *,
    model: Model,
    task: Task,
    tx: optax.GradientTransformationExtraArgs,
    frozen: set[str],
    augment: Augment | None,
    constrain: Callable[[Batch], Batch],
) -> Callable[[TrainState, Batch, jax.Array | None], tuple[TrainState, metrics.Sums]]:
    """`train_step(state, data, rows) -> (state, sums)`, pure; `select` explains data and rows.

    Args:
      model: pure, on raw inputs.
      task: gives the loss per example, and the metrics.
      tx: the chain over trainable parameters; its update takes `step` and `lr_scale`.
      frozen: paths of parameters that are not trained: no gradient, no optimizer state, no decay.
      augment: (raw inputs, key) -> raw inputs, in training alone.
      constrain: cuts a batch over the devices.
    """

    def train_step(state: TrainState, data: Batch, rows: jax.Array | None) -> tuple[TrainState, metrics.Sums]:
        batch = select(data, rows, constrain)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        inputs = batch["inputs"]
        if augment is not None:
            inputs = augment(inputs, jax.random.fold_in(key, AUGMENT))
        fixed, trained = tree.split(state.params, frozen)

        def loss_fn(trained: Any) -> tuple[jax.Array, Any]:
            outputs, model_state = model.apply(
                tree.merge(trained, fixed), state.model_state, inputs, key=jax.random.fold_in(key, DROPOUT), train=True
            )
            sums = metrics.weighted_sums(task.per_example(outputs, batch["targets"]), batch["weight"])
            return sums["loss"][0] / jnp.maximum(sums["loss"][1], 1.0), (sums, model_state)

        grads, (sums, model_state) = jax.grad(loss_fn, has_aux=True)(trained)
        updates, opt_state = tx.update(grads, state.opt_state, trained, step=state.step, lr_scale=state.lr_scale)
        sums["grad_norm"] = jnp.stack([optax.tree.norm(grads), jnp.ones(())])
        new_state = TrainState(
            step=state.step + 1,
            params=tree.merge(optax.apply_updates(trained, updates), fixed),
            model_state=model_state,
            opt_state=opt_state,
            key=state.key,
            lr_scale=state.lr_scale,
            ema=state.ema,
            extra=state.extra,
        )
        return new_state, sums

    return train_step
