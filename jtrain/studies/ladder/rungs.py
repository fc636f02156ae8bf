"""Rungs of a ladder: short runs at several learning rates moved together, and which of them are given up early."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jtrain.run import Run
from jtrain.state import TrainState
from jtrain.studies.members import Found, Members, copied, fitting, with_lr_scale
from jtrain.studies.short import is_higher_better, losses_of
from jtrain.studies.ways import Strategy, offered

STRETCHES = 8  # of a rung, after each of which is looked who is given up
FIRST_UPDATES = 3  # whose mean loss is the one at the start
FAR_ABOVE = 2.0  # × the loss at the start, or × what the best has come down: a loss so far above the start, …
LONG = 2  # … for so many stretches, is divergence, …
FALLING = 0.5  # … unless it has fallen to so little of itself from the one to the next
SLOW = 1 / 3  # of the way that the best has come: who has come less far may be hopeless
PATIENT = 3  # stretches before anybody is
WARMED = 0.25  # share of the schedule's lr, summed, before anybody is
SPEED_UP = 2.0  # × its own pace is granted to who is slow, in what is left
POINTS = 48  # of a loss curve that is kept
WORTH = 60.0  # seconds of a first round from which on another compilation is worth it for the later rounds


@dataclasses.dataclass(frozen=True)
class Climber:
    """A rung on its way.

    Attributes:
      lr: its peak.
      losses: the mean training loss of each stretch so far; NaN: most of it was not finite.
      failed: the update (from 1) whose gradient was not finite, 0: none; its state stands still since.
    """

    lr: float
    losses: Sequence[float]
    failed: int = 0


def diverged(climber: Climber, start: float, best: float) -> str:
    """Why a rung has diverged, or ''.

    Args:
      climber: the rung.
      start: the loss before the first update.
      best: the lowest loss of any rung, in its last stretch.
    """
    if climber.failed:
        return f"the gradient of update {climber.failed} is not finite"
    if not math.isfinite(climber.losses[-1]):
        return "the loss is not finite"
    limit = start + FAR_ABOVE * max(abs(start), start - best)
    last = climber.losses[-LONG:]
    if len(last) == LONG and min(last) > limit and last[-1] > FALLING * last[0]:
        return f"the loss is {climber.losses[-1]:.3g} and was {start:.3g} at the start"
    return ""


def hopeless(climber: Climber, others: Sequence[Climber], start: float, left: int) -> str:
    """Why a rung cannot become the best, or ''. In doubt it can.

    It has made less than SLOW of the best's way for two stretches, would not come to where the best is now at twice its
    pace, and is no neighbour of the best.

    Args:
      climber: the rung.
      others: those still on their way, by lr, it among them.
      start: the loss before the first update.
      left: stretches to come.
    """
    if len(climber.losses) < PATIENT:
        return ""
    now, before = climber.losses[-1], climber.losses[-2]
    best = min(others, key=lambda other: other.losses[-1])
    place = {other.lr: i for i, other in enumerate(others)}
    if abs(place[climber.lr] - place[best.lr]) <= 1:
        return ""
    for stretch in (-1, -2):
        way = start - min(other.losses[stretch] for other in others)
        if way <= 0 or start - climber.losses[stretch] > SLOW * way:
            return ""
    if now - SPEED_UP * max(before - now, 0.0) * left <= best.losses[-1]:
        return ""
    return f"the loss is {now:.3g}, that of lr {best.lr:g} is {best.losses[-1]:.3g}"


def climb(
    run: Run, lrs: Sequence[float], *, start: float, strategy: Strategy | None, told: Callable[[str], None]
) -> dict[str, Any]:
    """Trains short runs at several lrs; plain numbers.

    Args:
      run: the short run; all rungs have its data, order and first weights, and differ in `lr_scale` alone.
      lrs: peaks, ascending.
      start: the loss before the first update; NaN: found from the lowest lr.
      strategy: of the members; None: chosen by time.
      told: hears what is given up.

    Returns:
      rungs: one a lr, see `_told`.
      start: the loss before the first update.
      strategy: what later rounds should take; why: how it was chosen.
    """
    rungs: list[dict[str, Any]] = []
    begun, why, first = time.perf_counter(), "", run.init_state()
    size = fitting(run, len(lrs))
    for part in [lrs[i : i + size] for i in range(0, len(lrs), size)]:
        group = _Group(run, part, first, start, strategy, told)
        rungs += group.to_the_top()
        start = group.start
        strategy, why = strategy or group.members.strategy, why or group.members.why
    if time.perf_counter() - begun < WORTH:
        strategy = "loop"
    return {"rungs": rungs, "start": start, "strategy": strategy or "loop", "why": why}


def usable(run: Run, strategy: Strategy, count: int) -> Strategy:
    """A way of moving members where there is one for so many, else the loop."""
    return strategy if strategy in offered(run, fitting(run, count), False) else "loop"


def states_at(run: Run, first: TrainState, lrs: Sequence[float]) -> list[TrainState]:
    """One state a lr, copies of `first` that share no array with it."""
    own = float(run.config.lr_scale)
    return [with_lr_scale(run, copied(first), scale_at(run, lr) * own) for lr in lrs]


def scale_at(run: Run, lr: float) -> float:
    """By what `lr_scale` is multiplied for a peak of `lr`."""
    return lr / run.optimizer.lr


class _Group:
    """Rungs that are in memory together."""

    def __init__(
        self, run: Run, lrs: Sequence[float], first: TrainState, start: float, strategy: Strategy | None,
        told: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.run = run
        self.lrs = list(lrs)
        self.told = told
        if strategy is not None:
            strategy = usable(run, strategy, len(lrs))
        self.members = Members(run, states_at(run, first, lrs), strategy=strategy, told=told)
        self.losses: list[list[np.ndarray]] = [[] for _ in lrs]  # of every update, a stretch each
        self.rungs: dict[int, dict[str, Any]] = {}
        self.failed = [0] * len(self.lrs)  # the update (from 1) that ended each
        self.start = start

    def to_the_top(self) -> list[dict[str, Any]]:
        """All rungs, by lr."""
        total = self.run.clock.total
        marks = [0, *dict.fromkeys(-(-total * i // STRETCHES) for i in range(1, STRETCHES + 1))]
        for stretch, (start, stop) in enumerate(itertools.pairwise(marks), 1):
            for number, sums in self.members.advance(start, stop, until=total).items():
                self._note(number, sums, start)
            self._look(stop, left=len(marks) - 1 - stretch)
            if not self.members.states:
                break
        for number in list(self.members.states):
            self._finish(number)
        return [self.rungs[number] for number in range(len(self.lrs))]

    def _note(self, number: int, sums: Found, done: int) -> None:
        losses, bad = losses_of(sums), sums["non_finite"][:, 0] > 0
        if self.run.options.on_nan == "skip":  # some may fail
            losses = np.full_like(losses, np.nan) if 2 * bad.sum() > len(bad) else losses
        elif bad.any() and not self.failed[number]:
            self.failed[number] = done + int(np.argmax(bad)) + 1
        self.losses[number].append(losses)
        if math.isnan(self.start):  # the first weights are those of all rungs, and hardly move at the lowest
            self.start = _mean(losses[:FIRST_UPDATES])

    def _look(self, done: int, left: int) -> None:
        """Gives up those that have diverged or cannot become the best in what is left."""
        climbers = {
            n: Climber(self.lrs[n], list(map(_mean, self.losses[n])), self.failed[n]) for n in self.members.states
        }
        best = min((c.losses[-1] for c in climbers.values() if math.isfinite(c.losses[-1])), default=math.inf)
        for number, climber in list(climbers.items()):
            if why := diverged(climber, self.start, best):
                self._drop(number, done, "diverged", why)
                del climbers[number]
        if not left or not climbers or not self._warmed(done):
            return
        reasons = {n: hopeless(c, list(climbers.values()), self.start, left) for n, c in climbers.items()}
        behind = self._behind([number for number, why in reasons.items() if why], climbers)
        for number in behind:
            self._drop(number, done, "hopeless", reasons[number])

    def _warmed(self, done: int) -> bool:
        """Whether enough of the schedule has passed for a verdict."""
        lrs = np.asarray(self.run.optimizer.schedules["lr"](np.arange(self.run.clock.total)), np.float64)
        return bool(lrs[:done].sum() >= WARMED * lrs.sum())

    def _behind(self, numbers: Sequence[int], climbers: Mapping[int, Climber]) -> list[int]:
        """Who is behind the best in validation as well: who learns slowly may be the one that does not overfit."""
        if not numbers or "val" not in self.run.feeds:
            return list(numbers)
        leader = min(climbers, key=lambda number: climbers[number].losses[-1])
        found = {n: self.run.evaluate(self.members.states[n], "val") for n in (leader, *numbers)}
        watch, best = self.run.watch, found[leader]
        sign = -1 if is_higher_better(self.run, watch) else 1
        return [n for n in numbers if sign * found[n][watch] > sign * best[watch] and found[n]["loss"] > best["loss"]]

    def _drop(self, number: int, done: int, status: str, why: str) -> None:
        self.members.drop(number)
        self.rungs[number] = self._told(number, status, why, done, {})
        self.told(f"  lr {self.lrs[number]:g} is given up after update {done}, {status}: {why}")

    def _finish(self, number: int) -> None:
        state = self.members.drop(number)
        found = self.run.evaluate(state, "val") if "val" in self.run.feeds else {}
        watched = found.get(self.run.watch, 0.0)
        end, why = _mean(self.losses[number][-1]), ""
        if not np.isfinite(watched) or not np.isfinite(found.get("loss", 0.0)) or not math.isfinite(end):
            why = "the loss is not finite at the end"
        elif end > self.start + SLOW * abs(self.start):
            why = f"the loss is {end:.3g} at the end and was {self.start:.3g} at the start"
        self.rungs[number] = self._told(number, "diverged" if why else "finished", why, self.run.clock.total, found)

    def _told(self, number: int, status: str, why: str, done: int, found: Mapping[str, Any]) -> dict[str, Any]:
        """A rung in plain numbers: lr, status and why, the updates done, the loss of the last stretch ('end'), the
        metric that is watched, and the loss on validation, of those that have come to the end; its loss curve."""
        losses = np.concatenate(self.losses[number])
        parts = np.array_split(losses, min(POINTS, len(losses)))
        ends = np.cumsum([len(part) for part in parts])
        finished = status == "finished"
        return {
            "lr": self.lrs[number], "status": status, "why": why, "updates": done,
            "metric": found.get(self.run.watch) if finished else None,
            "val_loss": found.get("loss") if finished else None,
            "end": _mean(self.losses[number][-1]),
            "curve": [ends.tolist(), [_mean(part) for part in parts]],
        }  # fmt: skip


def _mean(losses: np.ndarray) -> float:
    """The mean of the finite losses; NaN where there is none."""
    good = losses[np.isfinite(losses)]
    return float(good.mean()) if len(good) else math.nan
