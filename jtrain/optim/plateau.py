"""Reduce on plateau and early stopping: pure functions of a metric's series, between evaluations."""

import dataclasses
import math
import typing
from typing import Annotated, Any, Literal

from jtrain.table import Natural, NonNegative, Range

Memory = dict[str, float]  # what is remembered between evaluations; JSON numbers, in the control state


@dataclasses.dataclass(frozen=True)
class Plateau:
    """`torch.optim.lr_scheduler.ReduceLROnPlateau`, on a factor of the lr instead of the lr itself.

    Attributes:
      mode: whether less or more of the metric is better.
      factor: what the lr is multiplied by, below 1.
      patience: evaluations without improvement that are borne; one more reduces.
      threshold: what counts as an improvement.
      threshold_mode: 'rel': a share of the best so far; 'abs': as it is.
      cooldown: evaluations after a reduction that are not counted.
      min_lr: below which the peak lr is not taken.
      eps: a smaller change of the lr is not made.
    """

    mode: Literal["min", "max"] = "min"
    factor: Annotated[float, Range(0, 1, above=True, below=True)] = 0.1
    patience: Natural = 10
    threshold: NonNegative = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: Natural = 0
    min_lr: NonNegative = 0.0
    eps: NonNegative = 1e-8

    def step(self, memory: Memory, value: float, scale: float, lr: float) -> tuple[Memory, float]:
        """(memory, scale) after an evaluation.

        Args:
          memory: {} at first.
          value: of the metric; NaN is no improvement.
          scale: this owner's factor of the lr so far.
          lr: the peak lr that it multiplies.
        """
        best = memory.get("best", math.inf if self.mode == "min" else -math.inf)
        bad, cooldown = memory.get("bad", 0), memory.get("cooldown", 0)
        if is_better(value, best, self.mode, self.threshold, self.threshold_mode):
            best, bad = value, 0
        else:
            bad += 1
        if cooldown > 0:
            cooldown, bad = cooldown - 1, 0
        if bad > self.patience:
            smaller = max(scale * self.factor, self.min_lr / lr)
            if (scale - smaller) * lr > self.eps:
                scale = smaller
            cooldown, bad = self.cooldown, 0
        memory = {"bad": bad, "cooldown": cooldown}
        return (memory | {"best": best} if math.isfinite(best) else memory), scale


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stops after `patience` evaluations in a row that are not better than the best by more than `min_delta`."""

    mode: Literal["min", "max"] = "min"
    patience: Annotated[int, Range(1, 10**6)] = 5
    min_delta: NonNegative = 0.0

    def step(self, memory: Memory, value: float) -> tuple[Memory, bool]:
        """(memory, whether to stop) after an evaluation."""
        best = memory.get("best", math.inf if self.mode == "min" else -math.inf)
        if is_better(value, best, self.mode, self.min_delta, "abs"):
            return {"best": value, "bad": 0}, False
        bad = memory.get("bad", 0) + 1
        memory = {"bad": bad} | ({"best": best} if math.isfinite(best) else {})
        return memory, bad >= self.patience


def is_better(value: float, best: float, mode: str, threshold: float = 0.0, threshold_mode: str = "abs") -> bool:
    """Whether `value` improves on `best` by more than the threshold; as torch's ReduceLROnPlateau."""
    if threshold_mode == "rel" and math.isfinite(best):
        return value < best * (1.0 - threshold) if mode == "min" else value > best * (1.0 + threshold)
    return value < best - threshold if mode == "min" else value > best + threshold


def watching(cls: type) -> dict[str, tuple[Any, Any]]:
    """(type, default) of the options of a class that watches a metric: '' is off; its mode follows from the metric."""
    hints = typing.get_type_hints(cls, include_extras=True)
    own = {f.name: (hints[f.name], f.default) for f in dataclasses.fields(cls) if f.name != "mode"}
    return {"metric": (str, "")} | own
