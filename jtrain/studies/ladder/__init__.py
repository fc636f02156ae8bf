"""`ladder`: which learning rate, by short runs at rungs of ×3 that go on until the best lies inside."""

import contextlib
import math
from pathlib import Path
from typing import Any

import ml_collections

from jtrain.errors import ConfigError
from jtrain.io.progress import Screen
from jtrain.run import Run
from jtrain.studies.journal import Journal, open_study
from jtrain.studies.ladder.answer import (
    HIGHEST,
    LOWEST,
    Judge,
    Rung,
    answer,
    between,
    candidates,
    lr_of,
    missing_side,
    open_end,
)
from jtrain.studies.ladder.report import report
from jtrain.studies.ladder.rungs import climb
from jtrain.studies.short import check_one_phase, is_higher_better, shortened, updates_of
from jtrain.studies.study import Study
from jtrain.supervise import Supervisor


def ladder(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """The learning rate with the best validation metric after a short run with the whole schedule in it.

    All rungs have the same data, order, first weights and compiled step, and differ in `lr_scale` alone. The ladder
    goes on until its best rung has a worse one on either side; then come points between, and other seeds of the best
    few. `found` is {"lr", "low", "high", "unstable", …}.

    Args:
      given: a config or a run; nothing of it changes. Its `study.ladder` holds the options.
      workdir: folder for study.json and study.png, from which the same command goes on after a kill; None writes none.
      model: with a config: your own, as `assemble` takes it.
      data: with a config: your own.
      screen: None shows nothing.

    Raises:
      ConfigError: the run is too short, has phases, or the options make no sense together.
    """
    with open_study("ladder", given, workdir, model=model, data=data, screen=screen) as journal:
        run, options = journal.run, journal.options
        check_one_phase(run)
        Supervisor.of(run)  # refuses a metric to watch that there is not
        if options.rungs > options.most:
            raise ConfigError(f"study.ladder.rungs: {options.rungs} are more than study.ladder.most ({options.most})")
        total, note = updates_of(run, options.total, "study.ladder.total")
        if note:
            journal.told(note)
        with contextlib.closing(shortened(run, total)) as short:
            validated = "val" in short.feeds
            metric = short.watch if validated else "loss"
            judge = Judge(metric, is_higher_better(short, metric))
            words = f"val {metric}" if validated else "training loss (there is no validation split: data.validation)"
            journal.told(f"ladder: rungs of {total} updates (the run has {run.clock.total}), judged by {words}")
            climbed = _Ladder(journal, short, judge)
            climbed.to_the_top()
        rungs = sorted(climbed.rungs, key=lambda rung: rung["lr"])
        found = answer(rungs, judge, climbed.start)
        study = report(run, rungs, judge, found, start=climbed.start, bar=climbed.bar, total=total, words=words)
        return journal.finish(study)


class _Ladder:
    """The rungs of a ladder so far."""

    def __init__(self, journal: Journal, run: Run, judge: Judge) -> None:
        self.journal = journal
        self.options = journal.options
        self.run = run
        self.judge = judge
        self.rungs: list[Rung] = []
        self.start = math.nan
        self.strategy: Any = None
        self.ends = 0, 0  # numbers of the lowest and the highest rung

    def to_the_top(self) -> None:
        """The first round, further rungs until the best is inside, points between, other seeds; and further rungs until
        what is as good as the best is inside, too."""
        half = (self.options.rungs - 1) // 2
        self.ends = -half, self.options.rungs - half - 1
        numbers = range(self.ends[0], self.ends[1] + 1)
        self._round([lr for lr in map(self._lr, numbers) if LOWEST < lr <= HIGHEST])
        while (side := missing_side(self.rungs, self.judge, self.bar)) and self._further(side):
            pass
        if self.options.refine:
            self._round(between(self.rungs, self.judge)[: max(0, self.options.most - len(self.rungs))])
        self._other_seeds(candidates(self.rungs, self.judge))
        while (side := open_end(self.rungs, self.judge, self.start, self.bar)) and (lr := self._further(side)):
            self._other_seeds([lr])

    def _further(self, side: int) -> float:
        """One more rung above (1) or below (-1) all; its lr, or 0 where there may be none."""
        low, high = self.ends
        number = high + 1 if side > 0 else low - 1
        lr = self._lr(number)
        if len(self.rungs) >= self.options.most or not LOWEST < lr <= HIGHEST:
            return 0.0
        self.ends = min(low, number), max(high, number)
        self._round([lr])
        return lr

    @property
    def bar(self) -> float:
        """The loss of who has learned nothing: that of the first weights, or of outputs that are all 0."""
        guess = self.run.task.guess
        return min(self.start, guess()) if guess else self.start

    def _lr(self, number: int) -> float:
        return lr_of(number, self.options.start, self.options.factor)

    def _round(self, lrs: list[float]) -> None:
        """Rungs that are climbed together."""
        if not lrs:
            return
        found = self._climb(f"rungs {lrs}", self.run, lrs)
        self.start = found["start"] if found["start"] is not None else math.nan
        self.strategy = found["strategy"]
        self.rungs += map(self._judged, found["rungs"])

    def _other_seeds(self, lrs: list[float]) -> None:
        """Rungs that came to the end once more, with other weights and another order of the same data."""
        done = [rung for rung in self.rungs if rung["lr"] in lrs and self.judge.values(rung)]
        for number in range(1, self.options.seeds if done else 1):
            seed = (int(self.run.config.seed) + number) % 2**32
            lrs = [rung["lr"] for rung in done]
            with contextlib.closing(self.run.reseed(seed)) as other:
                found = self._climb(f"rungs {lrs} with seed {seed}", other, lrs)
            for rung, again in zip(done, map(self._judged, found["rungs"]), strict=True):
                rung.setdefault("seeds", []).append(again["metric"])

    def _climb(self, key: str, run: Run, lrs: list[float]) -> dict[str, Any]:
        if not self.journal.has(key):
            seed = key.partition(" with ")[2]
            self.journal.told(f"ladder: lr {', '.join(f'{lr:g}' for lr in lrs)}{f' with {seed}' if seed else ''}")
        return self.journal.piece(
            key, lambda: climb(run, lrs, start=self.start, strategy=self.strategy, told=self.journal.told)
        )

    def _judged(self, rung: Rung) -> Rung:
        """A rung as the journal gives it back; its metric is the training loss where there is no validation."""
        updates, losses = rung["curve"]
        curve = [updates, [math.nan if loss is None else loss for loss in losses]]
        alone = rung["status"] == "finished" and "val" not in self.run.feeds
        return rung | {"curve": curve, "metric": rung["end"] if alone else rung["metric"]}
