"""`act`: trains, and does what diagnose advises: anew or on from the knee with another lr, in no more updates."""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from jtrain import config as configs
from jtrain.coach.told import Act
from jtrain.errors import ConfigError
from jtrain.io import shelf
from jtrain.io.progress import Screen
from jtrain.io.writers import EventWriter
from jtrain.run import Run
from jtrain.studies.act.choice import choose
from jtrain.studies.act.final import FINAL, make_final, measure_final, prune
from jtrain.studies.act.legs import NOT_FINITE, Ended, Leg, Race, rank, run_leg, typed_lr
from jtrain.studies.act.report import report
from jtrain.studies.journal import Journal, open_study
from jtrain.studies.short import FEWEST, is_higher_better
from jtrain.studies.study import Study

PAYS = 1 / 3  # share of all updates that must be left for a restart with a smaller lr
RACED = 0.25  # share of its updates after which a new attempt is compared with the one before
NOTHING = 0.9  # × the loss of a guess: who is above has learnt nothing
LIFT = 10.0  # × the factor of a larger lr, at most, to make up for what the schedule has fallen by


def act(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """Trains a config, and does about what diagnose sees what it advises, in no more updates than the config asks for.

    The attempts are runs of their own, in the folders `attempt0`, `attempt1`, …; all of them together do
    `train.total` updates at most. The answer is the best state of all by the watched metric on the validation split (of
    those that are as good, that with the lowest loss, see `choose`), in the folder `final`, which is a run to `eval`,
    `predict` and `export`.

    Args:
      given: a config or a run; it stays as it is. `diagnose.attempts` is how often may be acted.
      workdir: for all files; the same command goes on there after a kill. None leaves nothing.
      model: with a config: as `assemble` takes it.
      data: with a config: as `assemble` takes it.
      screen: None shows nothing.

    Returns:
      `found`: "attempt", "step", "metric" and "value" of the best state, "val" and "test" its metrics, "folder" where
      it is, "updates" done of "total", and "acts": what was done, where and why; "late": a verdict that was seen after
      the last update, with the "typed_lr" to start again with; "advice": what to type where the state is of little use,
      else "". `ok` is False where no state is left that is finite.

    Raises:
      ConfigError: the run has phases; or see `open_study`.
    """
    # What only tells, or where, may be another when it goes on.
    free = [key for key in configs.schema() if key.startswith(("log.", "lint.", "mesh.devices"))]
    with (
        open_study("act", given, workdir, model=model, data=data, screen=screen, may_change=free) as journal,
        contextlib.ExitStack() as stack,
    ):
        run = journal.run
        if len(run.phases) > 1:
            raise ConfigError("phases: act begins runs anew, which phases forbid; set phases to (), or leave act out")
        folder = journal.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        acting = Acting(journal, folder.absolute())
        acting.to_the_end()
        chosen = choose(journal, acting.last_of_attempts(), folder.absolute(), acting.higher)
        metrics: dict[str, Any] = {}
        if chosen is not None:
            make_final(folder / chosen.name, chosen.step, folder / FINAL)
            metrics = journal.piece("final", lambda: measure_final(run, folder / FINAL))
        for number, (_, ended) in acting.last_of_attempts().items():
            stays = {ended.best["step"]} if ended.best else set()
            stays |= {chosen.step} if chosen is not None and chosen.attempt == number else set()
            prune(folder / f"attempt{number}", run.config.checkpoint.keep, stays)
        where = journal.folder / FINAL if journal.folder else None
        return journal.finish(report(run, acting.legs, acting.acts, chosen, metrics, where))


class Acting:
    """The legs that were trained so far, and what was done between them.

    Args:
      journal: of the study.
      folder: of the attempts.
    """

    def __init__(self, journal: Journal, folder: Path) -> None:
        self.journal, self.run, self.folder = journal, journal.run, folder
        self.higher = is_higher_better(self.run, self.run.watch)
        self.total = self.run.clock.total
        self.legs: list[tuple[Leg, Ended]] = []
        self.acts: list[dict[str, Any]] = []
        self.spent = 0

    def to_the_end(self) -> None:
        """Trains leg after leg, until one comes to its end or no updates are left."""
        leg: Leg | None = Leg(0, 0, self.total, 1.0, acting=self._may_act)
        while leg is not None:
            ended = self._train(leg)
            self.legs.append((leg, ended))
            self.spent += max(0, ended.step - leg.begin)
            leg = self._next(leg, ended)

    def _train(self, leg: Leg) -> Ended:
        def compute() -> dict[str, Any]:
            lr = self.run.optimizer.lr * leg.factor
            self.journal.told(f"act: {leg.name} from update {leg.begin} to {leg.total} at lr {lr:.3g}")
            return run_leg(self.run, leg, self.folder, self.journal.screen, self.journal.options.keep)

        return Ended(**self.journal.piece(f"leg{len(self.legs)}", compute))

    @property
    def _may_act(self) -> bool:
        return sum(one["kind"] == "act" for one in self.acts) < self.run.config.diagnose.attempts

    @property
    def _left(self) -> int:
        return self.total - self.spent

    def _next(self, leg: Leg, ended: Ended) -> Leg | None:
        """What is trained after a leg; None: nothing."""
        if ended.status == "finished" or self._left < 1:
            return None
        if ended.status == "given_up":
            assert leg.race is not None
            before, stood = self.last_of_attempts()[leg.race.attempt]
            on = self._on(before, stood)
            self._note("back", on, ended, f"goes on with {on.name} instead, because {ended.why}")
            return on
        if not self._may_act:
            return None if ended.status == "failed" else self._on(leg, ended)
        what = NOT_FINITE if ended.verdict is None else Act(**ended.verdict["act"])
        if what.kind == "restart" and what.factor < 1 and not self._learnt(ended):
            what = NOT_FINITE
        then, told = self._anew(leg, ended, what)
        if then is None:
            return None
        if then.attempt != leg.attempt:
            told += f" with {self._lrs_told(leg, ended, then)}"
            told += " and falling to nothing by its end" if then.decays_from == then.begin > 0 else ""
        self._note("act", then, ended, f"{told}, because {ended.why}")
        return dataclasses.replace(then, acting=self._may_act and then.attempt != leg.attempt)

    def _anew(self, leg: Leg, ended: Ended, what: Act) -> tuple[Leg | None, str]:
        """(the leg by which an act is taken, in words); where it would not pay, the attempt goes on as it is."""
        factor, left, failed = leg.factor * what.factor, self._left, ended.status == "failed"
        new = Leg(max(other.attempt for other, _ in self.legs) + 1, 0, left, factor, acting=True)
        if what.kind == "restart" and what.factor < 1 and left >= PAYS * self.total:
            return dataclasses.replace(new, race=self._race(leg, ended, new)), "begins anew"
        at = self._since(leg, ended, what.step) if what.kind == "tail" else self._turn(ended, what.factor)
        begin = self._checkpoint(leg, at)
        if begin and left >= FEWEST:
            lift = self._lift(leg, ended) if what.factor > 1 else 1.0
            lifted = float(f"{factor * lift:.3g}") if lift > 1 else factor
            decays = begin if what.kind == "tail" else leg.decays_from
            tail = dataclasses.replace(
                new, begin=begin, total=begin + left, factor=lifted, parent=leg.attempt, decays_from=decays
            )
            told = f"goes on from update {begin} of {leg.name}"
            return dataclasses.replace(tail, race=self._race(leg, ended, tail)), told
        if failed:
            return (new, "begins anew") if left >= FEWEST else (None, "")
        return self._on(leg, ended), f"goes on as it is: {left} updates are too few for anything else"

    def _turn(self, ended: Ended, factor: float) -> int:
        """From where to go on when nothing is begun anew: a smaller lr needs a state before the harm was done."""
        return ended.best["step"] if factor < 1 and ended.best else ended.step

    def _since(self, leg: Leg, ended: Ended, knee: int) -> int:
        """From where a tail goes on: the knee, or the best evaluation since that has a checkpoint."""
        kept = set(shelf.steps(self.folder / leg.name / "checkpoints"))
        later = [one for one in ended.curve if one[0] in kept and one[0] > knee and one[1] is not None]
        start = self._checkpoint(leg, knee)
        here = [one for one in ended.curve if one[0] <= knee and one[1] is not None][-1:]
        best = max(
            [*here, *later],
            key=lambda one: rank(one[1], math.inf if one[2] is None else one[2], self.higher),
            default=None,
        )
        return start if best is None or best[0] <= knee else int(best[0])

    def _checkpoint(self, leg: Leg, at: int) -> int:
        """The newest checkpoint of an attempt at or before an update; 0: there is none."""
        return max((s for s in shelf.steps(self.folder / leg.name / "checkpoints") if s <= at), default=0)

    def _lift(self, leg: Leg, ended: Ended) -> float:
        """By how much the schedule has fallen: a larger lr is meant of its peak, and most of it may lie behind."""
        peak = self.run.optimizer.lr * self.run.config.lr_scale * leg.factor
        return min(LIFT, max(1.0, peak / ended.lr)) if ended.lr else 1.0

    def _lrs_told(self, leg: Leg, ended: Ended, then: Leg) -> str:
        """Of what goes on, in terms of the lr in force, which the schedule has brought down from its peak."""
        old, new = (typed_lr(self.run, factor) for factor in (leg.factor, then.factor))
        if not then.begin or not ended.lr:
            return f"optimizer.lr {old:g} → {new:g}"
        step = min(self.total - 1, round(then.begin / then.total * self.total))
        force = self.run.lrs(step, {})["lr"] * then.factor
        return (
            f"the lr in force {ended.lr:.2g} → {force:.2g} (optimizer.lr, the peak of its schedule: {old:g} → {new:g})"
        )

    def _race(self, leg: Leg, ended: Ended, new: Leg) -> Race | None:
        """What a new attempt must be better than, early on; None where the old one is not worth going back to."""
        if ended.status == "failed" or not ended.curve or not self._learnt(ended):
            return None
        step = new.begin + math.ceil(RACED * (new.total - new.begin))
        return Race(leg.attempt, step, *ended.standing(self.higher, max(step, ended.curve[0][0])))

    def _learnt(self, ended: Ended) -> bool:
        """Whether the training loss is below that of a guess, where this is known."""
        guess = self.run.task.guess
        return guess is None or (ended.loss is not None and ended.loss < NOTHING * guess())

    def _on(self, leg: Leg, ended: Ended) -> Leg:
        """An attempt goes on as it was, in what is left."""
        total = ended.step + self._left
        return Leg(leg.attempt, ended.step, total, leg.factor, acting=False, decays_from=leg.decays_from)

    def _note(self, kind: str, then: Leg, ended: Ended, text: str) -> None:
        """Tells what is done, once: on the screen, in events.jsonl and in the study's pieces."""
        name = ended.verdict["name"] if ended.verdict else "not finite" if kind == "act" else "no better"
        told = {"kind": kind, "verdict": name, "after": self.spent, "attempt": then.attempt, "text": text}

        def tell() -> dict[str, Any]:
            self.journal.told(f"{kind}: {text}")
            if self.journal.folder is not None:
                with contextlib.closing(EventWriter(self.journal.folder / "events.jsonl")) as events:
                    events.write(kind, text, self.spent)
            return told

        self.acts.append(self.journal.piece(f"{kind} after leg{len(self.legs) - 1}", tell))

    def last_of_attempts(self) -> Mapping[int, tuple[Leg, Ended]]:
        """The last leg of every attempt, by its number."""
        return {leg.attempt: (leg, ended) for leg, ended in self.legs}
