"""Tasks: the loss, metrics and output activation that belong together."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal, get_args

from jtrain import metrics
from jtrain.data.examples import TargetKind
from jtrain.errors import ConfigError
from jtrain.metrics import METRICS, Metric
from jtrain.tasks.labelled import classification, language_modelling, multilabel, regression
from jtrain.tasks.pretext import autoencoding, rotation
from jtrain.tasks.task import Batch, Facts, Task

__all__ = ["KINDS", "LOSS", "MIXABLE", "NEEDS", "TASKS", "Batch", "Facts", "Task", "needs", "with_metrics"]

TASKS: dict[str, Callable[..., Task]] = {
    "classification": classification,
    "multilabel": multilabel,
    "regression": regression,
    "language_modelling": language_modelling,
    "autoencoding": autoencoding,
    "rotation": rotation,
}
# What a task asks of the data, the kind of targets that its loss and metrics see, and the loss that it takes by itself.
NEEDS: dict[str, TargetKind | Literal["any"]] = {
    "classification": "class", "multilabel": "classes", "regression": "values", "language_modelling": "tokens",
    "autoencoding": "any", "rotation": "any",
}  # fmt: skip
KINDS: dict[str, TargetKind] = {
    "classification": "class", "multilabel": "classes", "regression": "values", "language_modelling": "tokens",
    "autoencoding": "values", "rotation": "class",
}  # fmt: skip
LOSS: dict[str, str] = {
    "classification": "cross_entropy", "multilabel": "binary_cross_entropy", "regression": "mse",
    "language_modelling": "cross_entropy", "autoencoding": "mse", "rotation": "cross_entropy",
}  # fmt: skip

MIXABLE = ("classification", "multilabel", "regression")  # tasks whose targets may be mixed


def needs(name: str, part: Callable[..., Task]) -> TargetKind | Literal["any"]:
    """What a task asks of the data; a task of yours says so itself, by an attribute `needs` of its function.

    Raises:
      ConfigError: it does not.
    """
    found: Any = NEEDS.get(name) or getattr(part, "needs", None)
    kinds = (*get_args(TargetKind), "any")
    if found not in kinds:
        choices = ", ".join(map(repr, kinds))
        raise ConfigError(f"task.name: {name} must say what targets it needs: set its attribute `needs` to {choices}")
    return found


def with_metrics(task: Task, names: tuple[str, ...], kind: TargetKind | Literal["any"]) -> Task:
    """The task with more metrics, by name.

    Raises:
      ConfigError: no such metric, or one for another kind of targets.
    """
    more: dict[str, Metric] = {}
    for name in names:
        more[name] = metrics.named(name)
        top = re.fullmatch(r"top(\d+)_accuracy", name)
        if top and int(top[1]) >= task.num_outputs:
            raise ConfigError(f"metrics: {name!r} is always 1: there are {task.num_outputs} classes")
        if kind != "any" and kind not in metrics.takes(name):
            fitting = sorted(other for other in METRICS if kind in metrics.takes(other))
            raise ConfigError(f"metrics: {name!r} is not for this task's targets; choose from {', '.join(fitting)}")
    return dataclasses.replace(task, metrics=more | task.metrics)
