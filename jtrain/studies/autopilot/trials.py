"""Candidates beside a recipe, by short runs on the same cuts or seeds, and which of them are better than chance."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jtrain import config as configs
from jtrain.data.examples import targets_of
from jtrain.errors import NonFiniteError
from jtrain.loop import train
from jtrain.run import Run
from jtrain.studies.act.legs import with_total
from jtrain.studies.autopilot.recipe import Candidate, few_to_judge, put
from jtrain.studies.folds import Steps, cut, fold_run, pool_of, readable
from jtrain.studies.journal import Journal
from jtrain.studies.short import is_higher_better

FOLDS = 5  # where the validation split is small: every example judges once
SEEDS = 2  # where it is not
ENOUGH = 100  # updates of a trial, at least
SHARE = 0.1  # of the final run, at least


@dataclasses.dataclass(frozen=True)
class Trials:
    """What trials came to.

    Attributes:
      chosen: candidates that are taken, one of a group at most.
      rows: of every candidate: its name, mean difference, its standard error, runs, whether it is taken.
      updates: of all trials.
      length: of one.
      note: in words, how they were judged.
    """

    chosen: tuple[Candidate, ...]
    rows: tuple[dict[str, Any], ...]
    updates: int
    length: int
    note: str


def try_out(
    journal: Journal, run: Run, given: Sequence[Candidate], updates: int, may: Callable[[], bool]
) -> Trials | None:
    """Runs every candidate beside the recipe itself; None where there are too few updates for any.

    Where fewer than 1,000 examples judge, these are the cuts of a cross-validation of training and validation examples
    together; else other seeds on the one split. A candidate that is no better on the first two is given up. It is taken
    where it is better by more than one standard error of the paired differences.

    Args:
      journal: keeps every run as a piece.
      run: the recipe.
      given: candidates, the likeliest first; as many are tried as there are updates for.
      updates: that all trials may do together.
      may: asked before each run.
    """
    cuts = FOLDS if few_to_judge(run) else SEEDS
    least = max(ENOUGH, math.ceil(SHARE * run.clock.total))
    tried = list(given)
    while tried and updates // ((len(tried) + 1) * cuts) < least:
        tried.pop()
    if not tried:
        return None
    length = min(run.clock.total, updates // ((len(tried) + 1) * cuts))
    sign = 1.0 if is_higher_better(run, run.watch) else -1.0
    with contextlib.closing(_Runs(journal, run, cuts, length)) as runs:
        base = [sign * runs.value(Candidate("the recipe", "", {}), number) for number in range(cuts)]
        rows = [_raced(runs, one, base, sign, may) for one in tried]
    best: dict[str, tuple[float, Candidate]] = {}
    for one, row in zip(tried, rows, strict=True):
        if row["better"] and row["gain"] > best.get(one.group, (0.0, one))[0]:
            best[one.group] = row["gain"], one
    what = f"{cuts} folds" if few_to_judge(run) else f"{cuts} seeds"
    chosen = tuple(one for _, one in best.values())
    each = [row["runs"] * one.share for one, row in zip(tried, rows, strict=True)]
    spent = math.ceil(length * (cuts + sum(each)))
    return Trials(chosen, tuple(rows), spent, length, f"val {run.watch} over {what} of {length} updates each")


def _raced(
    runs: "_Runs", one: Candidate, base: Sequence[float], sign: float, may: Callable[[], bool]
) -> dict[str, Any]:
    """The row of a candidate, whose runs end where the first two were no better."""
    gains: list[float] = []
    for number, value in enumerate(base):
        if not may() or (number >= min(2, len(base) - 1) and _hopeless(gains)):
            break
        gains.append(sign * runs.value(one, number) - value)
    mean, error = _mean(gains), _error(gains)
    taken = len(gains) == len(base) and mean > error and mean > 0
    return {"candidate": one.name, "gain": mean, "error": error, "runs": len(gains), "better": taken}


def _hopeless(gains: Sequence[float]) -> bool:
    return all(not gain > 0 for gain in gains)


def _mean(gains: Sequence[float]) -> float:
    return float(np.mean(gains)) if gains and all(map(math.isfinite, gains)) else -math.inf


def _error(gains: Sequence[float]) -> float:
    if len(gains) < 2 or not all(map(math.isfinite, gains)):
        return math.inf
    return float(np.std(gains, ddof=1)) / math.sqrt(len(gains))


class _Runs:
    """Short runs of a recipe with changes, on one of several cuts of the examples or with another seed."""

    def __init__(self, journal: Journal, run: Run, cuts: int, length: int) -> None:
        self._journal, self._run, self._length = journal, run, length
        self._cuts: list[Any] = []
        if few_to_judge(run):
            self._pool = pool_of(run)
            targets = targets_of(readable(run, self._pool), np.arange(len(self._pool)))
            self._cuts = cut(targets, run.data.targets, cuts, seed=int(run.config.seed))
        self._known: list[Steps] = []  # compiled steps of this candidate's folds
        self._held: tuple[str, Run] | None = None

    def value(self, one: Candidate, number: int) -> float:
        """The watched metric at the end; NaN of a run that was not finite."""
        key = f"trial {one.name} {number} of {self._length} updates"
        told: Mapping[str, Any] = self._journal.piece(key, lambda: self._trained(one, number))
        return math.nan if told["value"] is None else float(told["value"])

    def _trained(self, one: Candidate, number: int) -> dict[str, Any]:
        begun = time.perf_counter()
        short = self._short(one)
        if self._cuts:
            other = fold_run(short, self._pool, self._cuts[number], known=self._known)
        else:
            other = short.reseed((int(short.config.seed) + number) % 2**32)
        try:
            value: float | None = float(train(other).metrics["val"][self._run.watch])
        except NonFiniteError:
            value = None
        what = "fold" if self._cuts else "seed"
        shown = "not finite" if value is None else f"{value:.4g}"
        self._journal.told(f"  {one.name}, {what} {number}: {self._run.watch} {shown}")
        return {"value": value, "seconds": time.perf_counter() - begun}

    def _short(self, one: Candidate) -> Run:
        """The run of a candidate; that of the one before is let go."""
        if self._held is None or self._held[0] != one.name:
            self.close()
            changes: dict[str, Any] = {"diagnose.mode": "off", "train.eval_every": "100%"}
            if self._run.config.train.on_nan == "rollback":  # which needs a workdir
                keys = ("train.on_nan", "train.on_nan_limit", "train.rollback_scale")
                changes |= {key: configs.schema()[key].default for key in keys}
            length = max(1, round(self._length * one.share))
            self._held = one.name, with_total(self._run, put(self._run.config, changes | one.values), length)
            self._known = []
        return self._held[1]

    def close(self) -> None:
        """Lets the last run go."""
        if self._held is not None:
            self._held[1].close()
            self._held = None
