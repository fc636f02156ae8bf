"""Batch and gradient of a step: gathered, augmented, mixed, differentiated, perhaps in micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtrain import metrics, tree
from jtrain.data.ops.alternate import Visit, epochs_of
from jtrain.models.pure import Model
from jtrain.shards import OverShards
from jtrain.state import TrainState
from jtrain.tasks import Batch, Task

Augment = Callable[..., jax.Array]  # (inputs, key, visit) -> inputs
Mix = Callable[..., tuple[jax.Array, jax.Array]]  # (inputs, targets, weight, key) -> (inputs, targets)
Gradient = Callable[[TrainState, Batch, Any], tuple[Any, metrics.Sums, Any]]

# Streams of randomness within a step: fold_in(fold_in(key, step), number).
DROPOUT, AUGMENT, MIX, PRETEXT = 0, 1, 2, 3
# What is drawn once for a run: fold_in(key, number), which no step bears.
VISIT = 2**31


def select(data: Batch, rows: jax.Array | None, constrain: Callable[[Batch], Batch]) -> Batch:
    """The batch of a step: gathered from resident data by example number, or the placed batch itself.

    Args:
      data: resident arrays of all examples (a weight only where some are broken) with rows, or a placed batch without.
      rows: example numbers [batch], -1 for padding; None for a placed batch.
      constrain: cuts the batch over the devices.
    """
    if rows is None:
        return constrain(data)
    index = jnp.maximum(rows, 0)
    batch = {name: values.at[index].get(mode="promise_in_bounds") for name, values in data.items()}
    batch["weight"] = (rows >= 0).astype(jnp.float32) * batch.get("weight", 1.0)
    # The barrier keeps the program behind it the same for resident and streamed data, so equal bits.
    return constrain(jax.lax.optimization_barrier(batch))


def prepared(
    batch: Batch, key: jax.Array, *, task: Task, augment: Augment | None, mix: Mix | None, visit: Visit | None = None
) -> Batch:
    """What the model and the loss see of a training batch; each part draws from a stream of its own of `key`.

    `visit` says which examples these are, for augmentations that go by that.
    """
    if augment is not None:
        batch = batch | {"inputs": augment(batch["inputs"], jax.random.fold_in(key, AUGMENT), visit)}
    if mix is not None and task.as_floats is not None:
        floats = task.as_floats(batch["targets"])
        inputs, targets = mix(batch["inputs"], floats, batch["weight"], jax.random.fold_in(key, MIX))
        batch = batch | {"inputs": inputs, "targets": targets}
    return task.pretext(batch, jax.random.fold_in(key, PRETEXT)) if task.pretext is not None else batch


def make_gradient(
    *,
    model: Model,
    task: Task,
    frozen: set[str],
    augment: Augment | None,
    mix: Mix | None,
    constrain: Callable[[Batch], Batch],
    epoch_examples: int,
    accumulate: int,
    unroll: bool,
    loss_scaling: bool,
    remat: Callable[[Callable[..., Any]], Callable[..., Any]],
    over_shards: OverShards | None,
) -> Gradient:
    """`gradient(state, data, rows) -> (gradients of trainable parameters, sums, model_state)`, pure.

    The gradient is that of the weighted mean loss of the whole batch, whatever `accumulate` is: each micro-batch's
    sum is divided by the weight of all. Batch statistics alone are those of the micro-batches, one after another.

    Args:
      model: on raw inputs.
      task: its loss is what is differentiated.
      frozen: paths of parameters without a gradient.
      augment: changes the inputs.
      mix: mixes examples and their targets, after that.
      constrain: cuts the batch over the devices.
      epoch_examples: of an epoch, by which a step knows where in one it is.
      accumulate: micro-batches.
      unroll: write them out one after another instead of a loop.
      loss_scaling: the state's `extra["loss_scale"]` multiplies the loss, and divides the gradients.
      remat: the loss as a function -> the same, whose backward pass keeps less.
      over_shards: computes virtual shards apart, each with batch statistics and dropout of its own; None: the batch in
        one piece.
    """

    def of_part(
        batch: Batch, key: jax.Array, trained: Any, fixed: Any, model_state: Any, weight: jax.Array, scale: Any
    ) -> tuple[Any, metrics.Sums, Any]:
        """The part that some examples have in gradients and sums; `weight` is that of the whole batch."""

        def loss_fn(trained: Any, model_state: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
            params = tree.merge(trained, fixed)
            outputs, model_state = model.apply(params, model_state, batch["inputs"], key=key, train=True)
            measured = task.per_example(task.shown(outputs), batch["targets"], training=True)
            sums = metrics.weighted_sums(measured, batch["weight"])
            loss = sums["loss"][0] / weight
            return loss if scale is None else loss * scale, (sums, model_state)

        grad = jax.grad(remat(loss_fn), has_aux=True)
        if accumulate == 1:
            grads, (sums, model_state) = grad(trained, model_state, batch, key)
            return grads, sums, model_state
        return _accumulated(grad, trained, model_state, batch, key, accumulate, unroll)

    def gradient(state: TrainState, data: Batch, rows: jax.Array | None) -> tuple[Any, metrics.Sums, Any]:
        batch = select(data, rows, constrain)
        numbers = batch.pop("row", None) if rows is None else rows
        of_run = jax.random.wrap_key_data(state.key)
        key = jax.random.fold_in(of_run, state.step)
        visit = None
        if numbers is not None:
            epochs = epochs_of(state.step, len(numbers), epoch_examples)
            visit = Visit(jax.random.fold_in(of_run, VISIT), numbers, epochs)
        batch = prepared(batch, key, task=task, augment=augment, mix=mix, visit=visit)
        key = jax.random.fold_in(key, DROPOUT)
        fixed, trained = tree.split(state.params, frozen)
        scale = state.extra["loss_scale"] if loss_scaling else None
        if over_shards is None:
            weight = jnp.maximum(batch["weight"].sum(), 1.0)
            grads, sums, model_state = of_part(batch, key, trained, fixed, state.model_state, weight, scale)
        else:

            def of_shard(number: jax.Array, batch: Batch, key: jax.Array, *whole: Any) -> tuple[Any, Any]:
                grads, sums, model_state = of_part(batch, jax.random.fold_in(key, number), *whole)
                return (grads, sums), model_state

            weights = {"weight": batch["weight"]}
            weight, _ = over_shards(lambda number, batch: (batch["weight"].sum(), ()), weights)
            whole = key, trained, fixed, state.model_state, jnp.maximum(weight, 1.0), scale
            (grads, sums), model_state = over_shards(of_shard, batch, *whole)
        if scale is not None:
            grads = jax.tree.map(lambda g: g / scale, grads)
        return grads, sums, model_state

    return gradient


def _accumulated(
    grad: Callable[..., Any], trained: Any, model_state: Any, batch: Batch, key: jax.Array, n: int, unroll: bool
) -> tuple[Any, metrics.Sums, Any]:
    """Gradients and sums added over micro-batches; micro-batch i holds every n-th example from i on."""
    # Every n-th, not n in a row: so that each device keeps the examples that it has.
    micro = jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1), batch)
    (shapes, (sums, _)) = jax.eval_shape(grad, trained, model_state, jax.tree.map(lambda x: x[0], micro), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes, sums))

    def body(carry: Any, item: Any) -> tuple[Any, None]:
        (grads, sums), model_state = carry
        i, part = item
        more_grads, (more_sums, model_state) = grad(trained, model_state, part, jax.random.fold_in(key, i))
        return (jax.tree.map(jnp.add, (grads, sums), (more_grads, more_sums)), model_state), None

    ((grads, sums), model_state), _ = jax.lax.scan(
        body, (zeros, model_state), (jnp.arange(n), micro), unroll=n if unroll else 1
    )
    return grads, sums, model_state
