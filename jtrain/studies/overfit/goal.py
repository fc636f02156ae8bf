"""When a few examples count as learnt by heart."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import config as configs
from jtrain import metrics
from jtrain.run import Run
from jtrain.studies.members import Found
from jtrain.studies.probe import number
from jtrain.tasks import Task

NEAR = {
    "class": 0.05,
    "classes": 0.05,
    "values": 0.1,
    "tokens": 0.1,
    "inputs": 0.1,
}  # of a guess's loss, above the floor
NEAR_SQUARES = 0.01  # the same of a squared error: an R² of 0.99
R2 = 0.99


@dataclasses.dataclass(frozen=True)
class Goal:
    """When examples are learnt.

    Attributes:
      guess: the loss of a model whose own outputs are all 0.
      floor: the least loss there can be: above 0 where equal inputs have different targets.
      line: the loss to come under.
      metric: that must come to `need` besides, or "".
    """

    guess: float
    floor: float
    line: float
    metric: str
    need: float


def make_goal(small: Run, inputs: np.ndarray, targets: np.ndarray) -> Goal:
    """When these examples [n, …] count as learnt by the run that `small` is."""
    task = small.task
    if task.pretext is not None:
        seen = task.pretext(
            {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets), "weight": jnp.ones(len(inputs))}, None
        )
        targets = np.asarray(seen["targets"])
    blank = jnp.zeros((len(targets), *task.output_shape))
    if task.rescale is not None:
        middle = np.asarray(task.rescale[0], np.float32)
        blank = blank + middle.reshape((1,) * (blank.ndim - middle.ndim) + middle.shape)
    guess = float(task.loss(task.shown(blank), jnp.asarray(targets)).mean())
    best = _best(task, inputs, targets) if task.pretext is None else None
    floor, metric, need = 0.0, "", 0.0
    names = {"class": "accuracy", "classes": "exact_match", "values": "r2"}
    if names.get(task.predictions) in task.metrics:
        metric = names[task.predictions]
        need = R2 if metric == "r2" else 1.0
    if best is not None:
        per_example = task.per_example(best, jnp.asarray(targets), training=True)
        floor = float(per_example["loss"].mean())
        if metric:
            sums = metrics.weighted_sums({metric: per_example[metric]}, jnp.ones(len(targets)))
            need *= mean_of(small, sums[metric][None], metric) or 1.0
    loss = configs.chosen("loss", small.config.loss.name, small.config.task.name)
    near = NEAR_SQUARES if task.predictions == "values" and loss == "mse" else NEAR[task.predictions]
    return Goal(guess, floor, floor + near * max(guess - floor, 0.0), metric, need)


def _best(task: Task, inputs: np.ndarray, targets: np.ndarray) -> jax.Array | None:
    """The best outputs [n, …], as shown, of whatever sees the inputs alone: the same for equal inputs."""
    if task.predictions not in ("class", "classes", "values"):
        return None
    own = np.eye(task.num_outputs)[targets] if task.predictions == "class" else np.asarray(targets, np.float64)
    groups: dict[bytes, list[int]] = {}
    for i, one in enumerate(inputs):
        groups.setdefault(one.tobytes(), []).append(i)
    best = np.empty_like(own, np.float64)
    for rows in groups.values():
        best[rows] = own[rows].mean(axis=0)
    if task.predictions == "class":
        best = np.log(np.maximum(best, 1e-30))
    elif task.predictions == "classes":
        best = np.log(np.maximum(best, 1e-30)) - np.log(np.maximum(1.0 - best, 1e-30))
    return jnp.asarray(best.reshape(len(best), *task.output_shape), jnp.float32)


def is_learnt(small: Run, goal: Goal, last: Found, loss: float) -> bool:
    """Whether the sums of the last updates, and the mean of their losses, reach the goal."""
    metric = mean_of(small, last.get(goal.metric), goal.metric)
    return loss <= goal.line and (metric is None or metric >= goal.need - 1e-6)


def mean_of(run: Run, sums: Any, name: str) -> float | None:
    """A metric over several updates by their sums [updates, k + 1]; None where there are none."""
    if sums is None or not name:
        return None
    totals: metrics.Totals = {}
    metrics.add_to(totals, {name: np.asarray(sums)})
    return number(metrics.means(totals, run.task.metrics)[name])
