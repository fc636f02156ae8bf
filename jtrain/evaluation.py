"""A whole data set to metrics or predictions: no gradients, exact on ragged last batches."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import metrics
from jtrain.gradient import select
from jtrain.models.pure import Model
from jtrain.shards import OverShards
from jtrain.step import IN_FLIGHT
from jtrain.tasks import Batch, Task

ROWS_IN_FLIGHT = 16  # batches of resident data under way: their rows are small, but a signal is to be answered

EvalStep = Callable[[Any, Any, Batch, Any], metrics.Sums]
PredictStep = Callable[[Any, Any, Batch, Any], jax.Array]
Views = Callable[[jax.Array], list[jax.Array]]  # inputs [batch, …] -> several forms of them
Apply = Callable[[Any, Any, jax.Array], jax.Array]


def make_eval_step(
    *,
    model: Model,
    task: Task,
    views: Views | None,
    constrain: Callable[[Batch], Batch],
    over_shards: OverShards | None = None,
) -> EvalStep:
    """`eval_step(params, model_state, data, rows) -> sums` of the loss and every metric, pure.

    Args:
      model: on raw inputs.
      task: whose loss and metrics are measured.
      views: test-time augmentation; the outputs of all views are pooled. None: the inputs as they are.
      constrain: cuts the batch over the devices.
      over_shards: computes virtual shards apart; None: the batch in one piece.
    """
    outputs_of = _make_outputs(model, task, views)

    def measured(batch: Batch, params: Any, model_state: Any) -> metrics.Sums:
        outputs = outputs_of(params, model_state, batch["inputs"])
        return metrics.weighted_sums(task.per_example(outputs, batch["targets"]), batch["weight"])

    def eval_step(params: Any, model_state: Any, data: Batch, rows: jax.Array | None) -> metrics.Sums:
        batch = select(data, rows, constrain)
        if task.pretext is not None:
            batch = task.pretext(batch, None)
        if over_shards is None:
            return measured(batch, params, model_state)
        return over_shards(lambda _, *given: (measured(*given), ()), batch, params, model_state)[0]

    return eval_step


def by_batch(model: Model) -> Model:
    """The model as it is in training, what it draws alike every time: normalised by the batch that it sees, so that
    weights may be looked at that no running statistics belong to."""

    def apply(params: Any, model_state: Any, inputs: jax.Array, *, key: Any, train: bool) -> tuple[Any, Any]:
        return model.apply(params, model_state, inputs, key=jax.random.key(0), train=True)

    return Model(init=model.init, apply=apply)


def make_predict_step(
    *, model: Model, task: Task, views: Views | None, constrain: Callable[[Batch], Batch]
) -> PredictStep:
    """`predict_step(params, model_state, data, rows) -> predictions [batch, …]` float32, pure.

    They are the task's activation, applied once, on the model's outputs. The arguments are those of `make_eval_step`.
    """
    outputs_of = _make_outputs(model, task, views)

    def predict_step(params: Any, model_state: Any, data: Batch, rows: jax.Array | None) -> jax.Array:
        return task.activation(outputs_of(params, model_state, select(data, rows, constrain)["inputs"]))

    return predict_step


def _make_outputs(model: Model, task: Task, views: Views | None) -> Apply:
    def outputs_of(params: Any, model_state: Any, inputs: jax.Array) -> jax.Array:
        seen = [inputs] if views is None else views(inputs)
        found = [task.shown(model.apply(params, model_state, one, key=None, train=False)[0]) for one in seen]
        return found[0] if views is None else task.pool(jnp.stack(found))

    return outputs_of


class Aborted(Exception):
    """An evaluation was left because `stop` said so."""


def evaluate(
    eval_step: EvalStep,
    task: Task,
    params: Any,
    model_state: Any,
    batches: Iterable[tuple[Batch, Any]],
    *,
    block: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Every metric over all examples of weight above 0.

    Args:
      eval_step: compiled.
      task: whose metrics they are.
      params: parameters.
      model_state: running statistics and the like.
      batches: (data, rows) as the step takes them.
      block: wait for each batch (simulated devices).
      stop: asked before each batch.

    Raises:
      Aborted: when `stop()` is true.
    """
    pending = []
    for data, rows in batches:
        if stop():
            raise Aborted
        sums = eval_step(params, model_state, data, rows)
        pending.append(jax.block_until_ready(sums) if block else sums)
        ahead = IN_FLIGHT if rows is None else ROWS_IN_FLIGHT  # else batches of a fast feed pile up on the device
        if len(pending) > ahead:
            jax.block_until_ready(pending[-1 - ahead])
    totals: metrics.Totals = {}
    for sums in jax.device_get(pending):
        metrics.add_to(totals, {name: values[None] for name, values in sums.items()})
    found = metrics.means(totals, task.metrics)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}


def predict(
    predict_step: PredictStep, params: Any, model_state: Any, batches: Iterable[tuple[Batch, Any]], count: int
) -> np.ndarray:
    """Predictions [count, …] in example order."""
    parts = [np.asarray(predict_step(params, model_state, data, rows)) for data, rows in batches]
    return np.concatenate(parts)[:count]
