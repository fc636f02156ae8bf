"""What the rungs of a ladder come to: the next rung to try, the best, what is as good, where it becomes unstable."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

THREES = (1.0, 3.0)  # the notes' rungs: 0.001, 0.003, 0.01, …
FIRST = 1e-3  # the middle one
CLOSE = 3.0  # an unstable rung closer than so many times the best asks for warm-up or clipping first
FEW = 4  # of the best rungs that are run with other seeds
SURE = 0.95  # confidence (two-sided, by Student's t) at which a difference is told
LESS = 0.01  # share by which the loss must be below its start, and below a guess, to have been learned at all
LOWEST, HIGHEST = 1e-30, 1000.0  # between which rungs are

Rung = dict[str, Any]  # of `ladder_rungs.climb`; 'seeds': metrics of other seeds, where it was run with them


def lr_of(number: int, start: float, factor: float) -> float:
    """The lr of rung `number`; 0 is the middle one.

    Args:
      number: counted upward, negative below the middle.
      start: lr of the middle; 0: 1e-3.
      factor: between two; of 3 the rungs are 1 and 3 times powers of ten, as the notes have them.
    """
    base = start or FIRST
    power = 10.0 ** (number // 2) * THREES[number % 2] if factor == 3.0 else factor**number
    return float(f"{base * power:.6g}")


@dataclasses.dataclass(frozen=True)
class Judge:
    """By what rungs are told apart.

    Attributes:
      metric: its name.
      higher: which way it improves.
    """

    metric: str
    higher: bool

    def score(self, rung: Rung) -> float:
        """Higher is better; the mean over seeds; -inf for who did not come to the end."""
        values = self.values(rung)
        return float(np.mean(values)) * (1 if self.higher else -1) if values else -math.inf

    def values(self, rung: Rung) -> list[float]:
        """The metric of every seed; [] for who did not come to the end with each."""
        if rung["status"] != "finished" or rung["metric"] is None:
            return []
        values = [rung["metric"], *rung.get("seeds", ())]
        return [] if any(value is None for value in values) else values

    def order(self, rung: Rung) -> tuple[float, float]:
        """By which the best is the greatest: of equal ones that with the lower loss."""
        loss = rung["val_loss"] if rung["val_loss"] is not None else rung["end"]
        return self.score(rung), -loss if loss is not None else -math.inf

    def best(self, rungs: Sequence[Rung]) -> Rung | None:
        """The best of those that came to the end."""
        done = [rung for rung in rungs if self.values(rung)]
        return max(done, key=self.order, default=None)


def missing_side(rungs: Sequence[Rung], judge: Judge, bar: float) -> int:
    """Where the ladder must go on: 1 upward, -1 downward, 0 nowhere, as the best lies inside it.

    While no rung has learned anything, metrics are chance: then it goes on towards the lowest training loss.

    Args:
      rungs: so far.
      judge: tells them apart.
      bar: the loss of who has learned nothing.
    """
    done = [rung for rung in rungs if judge.values(rung)]
    best = judge.best(done)
    if best is None:
        return -1
    if not any(learned(rung, bar) for rung in done):
        best = min(done, key=lambda rung: rung["end"])
    lrs = [rung["lr"] for rung in rungs]
    return 1 if best["lr"] == max(lrs) else -1 if best["lr"] == min(lrs) else 0


def between(rungs: Sequence[Rung], judge: Judge) -> list[float]:
    """The lrs half way (geometrically) between the best and its neighbours."""
    best = judge.best(rungs)
    if best is None:
        return []
    lrs = sorted(rung["lr"] for rung in rungs)
    place = lrs.index(best["lr"])
    return [
        float(f"{math.sqrt(a * best['lr']):.3g}")
        for a in (lrs[max(place - 1, 0)], *lrs[place + 1 : place + 2])
        if a != best["lr"]
    ]


def candidates(rungs: Sequence[Rung], judge: Judge) -> list[float]:
    """The lrs of the best few, ascending."""
    done = sorted((rung for rung in rungs if judge.values(rung)), key=judge.order, reverse=True)
    return sorted(rung["lr"] for rung in done[:FEW])


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a ladder comes to.

    Attributes:
      best: the rung that is recommended.
      low, high: lrs that are as good.
      noise: standard deviation of a run beside others of the same seed; None: not known.
      seeds: of the best few.
      unstable: the first lr above the best that is unstable, or None.
      edge: 'highest' or 'lowest', where the rung with the best mean is the last of the ladder, else ''.
      edge_lr: its lr.
    """

    best: Rung
    low: float
    high: float
    noise: float | None
    seeds: int
    unstable: float | None
    edge: str
    edge_lr: float


def answer(rungs: Sequence[Rung], judge: Judge, start: float) -> Answer | None:
    """The answer; None: no rung came to the end.

    Rungs are equal to the best where they are worse by no more than chance allows. Seeds are shared by all rungs, so
    that what a seed does to all of them is no noise of a difference: the standard deviation is that of the residuals
    behind the means of rungs and seeds. Of equal ones that ran with every seed the middle (geometrically) of the range
    is recommended, of two in the middle the lower.

    Args:
      rungs: all, with the metrics of other seeds.
      judge: tells them apart.
      start: the loss before the first update.
    """
    tried = [rung for rung in rungs if judge.values(rung)]
    seeds = max((len(judge.values(rung)) for rung in tried), default=0)
    full = [rung for rung in tried if len(judge.values(rung)) == seeds]
    top = judge.best(full)
    if top is None:
        return None
    noise, freedom = _noise(np.array([judge.values(rung) for rung in full]))
    limit = float(stats.t.ppf((1 + SURE) / 2, freedom)) * noise if noise is not None else 0.0

    def as_good(rung: Rung) -> bool:
        values = judge.values(rung)
        worse = np.mean(judge.values(top)[: len(values)]) - np.mean(values) if values else math.inf  # on the same seeds
        return bool((worse if judge.higher else -worse) <= limit * math.sqrt(2 / max(len(values), 1)) + 1e-12)

    ladder = sorted(rungs, key=lambda rung: rung["lr"])
    low = high = ladder.index(top)
    while low > 0 and as_good(ladder[low - 1]):
        low -= 1
    while high + 1 < len(ladder) and as_good(ladder[high + 1]):
        high += 1
    middle = math.sqrt(ladder[low]["lr"] * ladder[high]["lr"])
    inside = [rung for rung in ladder[low : high + 1] if rung in full]
    best = min(inside, key=lambda rung: (round(abs(math.log(rung["lr"] / middle)), 2), rung["lr"]))
    above = [rung["lr"] for rung in ladder if rung["lr"] > best["lr"] and is_unstable(rung, top, start)]
    ends = {ladder[0]["lr"]: "lowest", ladder[-1]["lr"]: "highest"}
    return Answer(
        best, ladder[low]["lr"], ladder[high]["lr"], noise, seeds, min(above, default=None), ends.get(top["lr"], ""),
        top["lr"],
    )  # fmt: skip


def _noise(values: np.ndarray) -> tuple[float | None, int]:
    """(standard deviation of what rungs and seeds leave of `values` [rungs, seeds], its degrees of freedom); None where
    there are too few."""
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    if freedom < 1:
        return None, 0
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True) + values.mean()
    return math.sqrt(float((rest**2).sum()) / freedom), freedom


def open_end(rungs: Sequence[Rung], judge: Judge, start: float, bar: float) -> int:
    """Where what is as good as the best reaches the end of the ladder: 1 above, -1 below, 0 nowhere.

    Args:
      rungs: all, with the metrics of other seeds.
      judge: tells them apart.
      start: the loss before the first update.
      bar: the loss of who has learned nothing.
    """
    found = answer(rungs, judge, start)
    if found is None or found.noise is None or not learned(found.best, bar):
        return 0
    lrs = [rung["lr"] for rung in rungs]
    return 1 if found.high == max(lrs) else -1 if found.low == min(lrs) else 0


def is_unstable(rung: Rung, best: Rung, start: float) -> bool:
    """Whether a rung above the best has diverged, or has lost most of what the best has come down by."""
    if rung["status"] == "diverged" or None in rung.get("seeds", ()):
        return True
    return rung["end"] is not None and start - rung["end"] < (start - best["end"]) / 3


def learned(rung: Rung, bar: float) -> bool:
    """Whether the training loss has come below that of who has learned nothing."""
    return rung["end"] is not None and rung["end"] < bar - LESS * abs(bar)
