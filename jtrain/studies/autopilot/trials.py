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
from jtrain.studies.autopilot.recipe import Candidate, few_to_judge, put, rules_of, scolded
from jtrain.studies.folds import Steps, cut, fold_run, pool_of, readable
from jtrain.studies.journal import Journal
from jtrain.studies.short import is_higher_better

FOLDS = 5  # where the validation split is small: every example judges once
SEEDS = 2  # where it is not
RECIPE = "the recipe"
ENOUGH = 100  # updates of a trial, at least
SHARE = 0.1  # of the final run, at least
# Of Student's t, by the cuts less one: what chance alone exceeds one time in ten.
SURE = {1: 3.078, 2: 1.886, 3: 1.638, 4: 1.533}


@dataclasses.dataclass(frozen=True)
class Trials:
    """What trials came to.

    Attributes:
      chosen: candidates that are taken, one of a group at most.
      rows: of every candidate: its name, mean difference, in words, runs, whether it is taken, its updates and seconds.
      base: of the recipe itself: the mean of the watched metric, updates and seconds.
      updates: of all trials.
      length: of one.
      note: in words, how they were judged.
    """

    chosen: tuple[Candidate, ...]
    rows: tuple[dict[str, Any], ...]
    base: dict[str, Any]
    updates: int
    length: int
    note: str


def try_out(
    journal: Journal, run: Run, given: Sequence[Candidate], updates: int, may: Callable[[], bool]
) -> Trials | None:
    """Runs every candidate beside the recipe itself; None where there are too few updates for any.

    Where fewer than 1,000 examples judge, these are the cuts of a cross-validation of training and validation examples
    together; else other seeds on the one split. A candidate that is no better on the first two is given up. It is taken
    where a one-sided paired t-test says at 90 % that it is better: the mean difference is above t · standard error.
    That error is no smaller than what one example more in each cut makes of a share of right answers.

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
        base = [sign * runs.value(Candidate(RECIPE, "", {}), number) for number in range(cuts)]
        rows = [_raced(runs, one, base, sign, may) for one in tried]
        value = sign * _mean(base)
        measured = {"value": value, "updates": length * cuts, "seconds": runs.seconds.get(RECIPE, 0.0)}
    best: dict[str, tuple[float, Candidate]] = {}
    for one, row in zip(tried, rows, strict=True):
        if row["better"] and row["gain"] > best.get(one.group, (0.0, one))[0]:
            best[one.group] = row["gain"], one
    what = f"{cuts} folds" if few_to_judge(run) else f"{cuts} seeds"
    chosen = tuple(one for _, one in best.values())
    spent = length * cuts + sum(row["updates"] for row in rows)
    note = f"val {run.watch} over {what} of {length:,} updates each"
    return Trials(chosen, tuple(rows), measured, spent, length, note)


def cost_of(row: Mapping[str, Any]) -> tuple[int, float]:
    """(updates, seconds) of a row of trials."""
    return row["updates"], row["seconds"]


def agreed(run: Run, chosen: Sequence[Candidate]) -> tuple[dict[str, Candidate], dict[str, str]]:
    """(the candidates that are taken, what lint says against the others), both by name: what lint says nothing of alone
    it may say something of together."""
    known = rules_of(run)
    taken: dict[str, Candidate] = {}
    against: dict[str, str] = {}
    for one in chosen:
        together = {key: value for other in (*taken.values(), one) for key, value in other.values.items()}
        said = scolded(run, together, known)
        if said:
            against[one.name] = f"[{said[0].rule}] {said[0].text}"
        else:
            taken[one.name] = one
    return taken, against


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
    sure = mean > SURE[len(base) - 1] * max(error, runs.least / math.sqrt(len(base)))
    ran = f"{len(gains)} {runs.what}{'' if len(gains) == 1 else 's'}"
    better = len(gains) == len(base) and mean > 0 and sure
    return {
        "candidate": one.name, "gain": mean, "runs": len(gains), "better": better,
        "told": _told(gains) + (f", given up after {ran}" if len(gains) < len(base) else f", over {ran}"),
        "updates": len(gains) * runs.updates_of(one), "seconds": runs.seconds.get(one.name, 0.0),
    }  # fmt: skip


def _told(gains: Sequence[float]) -> str:
    """The differences in words; a standard error only where there is one."""
    mean, error = _mean(gains), _error(gains)
    if not math.isfinite(mean):
        return "not finite" if gains else "there was no time for it"
    if len(gains) < 2:
        return f"{mean:+.2g}"
    if error <= 1e-9 * max(1.0, abs(mean)):
        return f"{mean:+.2g} each" if abs(mean) > 1e-12 else "no difference"
    return f"{mean:+.2g} ± {error:.2g}"


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
        self.seconds: dict[str, float] = {}  # of each candidate
        self.what = "fold" if self._cuts else "seed"
        judged = len(self._pool) / cuts if self._cuts else len(run.data.val or (0,))
        # One example, where right answers are counted.
        self.least = 1 / judged if run.watch.removeprefix("ema/") == "accuracy" else 0.0
        self._known: list[Steps] = []  # compiled steps of this candidate's folds
        self._held: tuple[str, Run] | None = None

    def value(self, one: Candidate, number: int) -> float:
        """The watched metric at the end; NaN of a run that was not finite."""
        key = f"trial {one.name} {number} of {self._length} updates"
        told: Mapping[str, Any] = self._journal.piece(key, lambda: self._trained(one, number))
        self.seconds[one.name] = self.seconds.get(one.name, 0.0) + float(told["seconds"])
        return math.nan if told["value"] is None else float(told["value"])

    def updates_of(self, one: Candidate) -> int:
        """Of one run of a candidate."""
        return max(1, round(self._length * one.share))

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
        shown = "not finite" if value is None else f"{value:.4g}"
        self._journal.told(f"  {one.name}, {self.what} {number}: {self._run.watch} {shown}")
        return {"value": value, "seconds": time.perf_counter() - begun}

    def _short(self, one: Candidate) -> Run:
        """The run of a candidate; that of the one before is let go."""
        if self._held is None or self._held[0] != one.name:
            self.close()
            changes: dict[str, Any] = {"diagnose.mode": "off", "train.eval_every": "100%"}
            if self._run.config.train.on_nan == "rollback":  # which needs a workdir
                keys = ("train.on_nan", "train.on_nan_limit", "train.rollback_scale")
                changes |= {key: configs.schema()[key].default for key in keys}
            config = put(self._run.config, changes | one.values)
            self._held = one.name, with_total(self._run, config, self.updates_of(one))
            self._known = []
        return self._held[1]

    def close(self) -> None:
        """Lets the last run go."""
        if self._held is not None:
            self._held[1].close()
            self._held = None
