"""A whole data set to metrics or predictions: no gradients, exact on ragged last batches."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jtrain import metrics
from jtrain.models.pure import Model
from jtrain.step import Batch, select
from jtrain.task import Task

EvalStep = Callable[[Any, Any, Batch, Any], tuple[metrics.Sums, jax.Array]]


def make_eval_step(*, model: Model, task: Task, constrain: Callable[[Batch], Batch]) -> EvalStep:
    """`eval_step(params, model_state, data, rows) -> (sums, outputs)`, pure; outputs float32 [batch, …]."""

    def eval_step(params: Any, model_state: Any, data: Batch, rows: jax.Array | None) -> tuple[metrics.Sums, jax.Array]:
        batch = select(data, rows, constrain)
        outputs, _ = model.apply(params, model_state, batch["inputs"], key=None, train=False)
        sums = metrics.weighted_sums(task.per_example(outputs, batch["targets"]), batch["weight"])
        return sums, outputs

    return eval_step


class Aborted(Exception):
    """An evaluation was left because `stop` said so."""


def evaluate(
    eval_step: EvalStep,
    params: Any,
    model_state: Any,
    batches: Iterable[tuple[Batch, Any]],
    *,
    block: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Mean of every metric over all examples of weight above 0.

    Args:
      eval_step: compiled; its outputs may be left out of the program's results.
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
        sums, _ = eval_step(params, model_state, data, rows)
        pending.append(jax.block_until_ready(sums) if block else sums)
    totals: metrics.Totals = {}
    metrics.add_to(totals, jax.device_get(pending))
    return metrics.means(totals)


def predict(
    eval_step: EvalStep, task: Task, params: Any, model_state: Any, batches: Iterable[tuple[Batch, Any]], count: int
) -> np.ndarray:
    """Predictions [count, …] in example order: the task's activation, applied once, on the model's outputs."""
    activation = jax.jit(task.activation)
    parts = [np.asarray(activation(eval_step(params, model_state, data, rows)[1])) for data, rows in batches]
    return np.concatenate(parts)[:count]
