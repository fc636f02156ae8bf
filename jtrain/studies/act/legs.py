"""The legs of a run that acts on its diagnosis: stretches of training, each from a start or from a checkpoint."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from jtrain import config as configs
from jtrain.coach.told import Act, as_json
from jtrain.errors import NonFiniteError
from jtrain.io.progress import Screen
from jtrain.io.workdir import plain
from jtrain.loop import Judge, train
from jtrain.run import Run
from jtrain.studies.act.final import coach_of
from jtrain.studies.short import is_higher_better, shortened, tidy, typed

NOT_FINITE = Act("restart", 0.1)  # what cannot stay finite, or below a guess, is further off than what only rises


@dataclasses.dataclass(frozen=True)
class Race:
    """What the attempt before had come to after as many updates, than which a new one must be better.

    Attributes:
      attempt: number of that attempt.
      step: updates after which they are compared.
      value: the best of the watched metric until then.
      loss: the validation loss there, by which a tie is told.
    """

    attempt: int
    step: int
    value: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Leg:
    """A stretch of training, in the folder of its attempt.

    Attributes:
      attempt: its number.
      begin: updates done where it begins.
      total: updates at which its schedule ends.
      factor: × the lr of the config.
      acting: it ends early where diagnose knows what to do.
      parent: number of the attempt from whose checkpoint of `begin` it starts; -1: its own, or none.
      race: what it must be better than, or be given up; None: nothing.
      decays_from: the update from which its lr falls to nothing by its total, in place of the schedule; -1: it has the
        schedule of the config.
    """

    attempt: int
    begin: int
    total: int
    factor: float
    acting: bool
    parent: int = -1
    race: Race | None = None
    decays_from: int = -1

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"attempt{self.attempt}"


@dataclasses.dataclass(frozen=True)
class Ended:
    """What a leg came to.

    Attributes:
      status: 'finished'; 'stopped' for a verdict; 'given_up': it lost its race; 'failed': not finite.
      step: updates done.
      best: {'step', 'metric', 'value'} of its attempt so far, or None.
      curve: (updates, watched metric, loss) of each evaluation of its attempt so far; None is not finite.
      loss: of training, at its end; None is not finite.
      lr: of the last update that was logged.
      verdict: for which it was stopped, plain; None: for none.
      why: it ended so, a sentence; '' where it finished.
      said: the verdicts on the whole of a leg that finished, plain.
      guess: the loss of one; None: it is not known.
    """

    status: str
    step: int
    best: dict[str, Any] | None
    curve: Sequence[Sequence[Any]]
    loss: float | None
    lr: float | None
    verdict: dict[str, Any] | None = None
    why: str = ""
    said: Sequence[Mapping[str, Any]] = ()
    guess: float | None = None

    def standing(self, higher: bool, until: int) -> tuple[float, float]:
        """(the best of the watched metric, the loss there) over the evaluations until an update."""
        return max(
            ((_number(value), _number(loss)) for step, value, loss in self.curve if step <= until),
            key=lambda pair: rank(pair[0], pair[1], higher), default=(math.nan, math.nan),
        )  # fmt: skip


def rank(value: float, loss: float, higher: bool) -> tuple[float, float]:
    """By which the better is the greater: the metric, and of equal ones the loss; what is not finite is last."""
    score = value if higher else -value
    return score if math.isfinite(score) else -math.inf, -loss if math.isfinite(loss) else -math.inf


def run_leg(run: Run, leg: Leg, folder: Path, screen: Screen, keep: int) -> dict[str, Any]:
    """Trains a leg to its end, from where its folder stands; `Ended` as plain values.

    Args:
      run: as it is asked for; it stays as it is.
      leg: which.
      folder: of all attempts.
      screen: where the loop tells how far it is.
      keep: newest checkpoints of an acting leg, from which another may go on.
    """
    where = folder / leg.name
    begun = any((where / "checkpoints").glob("[0-9]*"))
    branch = f"{folder / f'attempt{leg.parent}'}@{leg.begin}" if leg.parent >= 0 and not begun else ""
    own = leg_run(run, leg, keep)
    higher = is_higher_better(run, run.watch)
    racing = _Racing(leg.race, run.watch, higher) if leg.race else None
    try:
        result = train(own, where, screen=screen, branch=branch, judge=racing.judge if racing else None)
    except NonFiniteError as error:
        step = max((row["step"] for row in rows_of(where / "events.jsonl") if row["kind"] == "non_finite"), default=0)
        return _ended(run, where, "failed", step, verdict=None, why=str(error))
    if racing and racing.lost:
        return _ended(run, where, "given_up", why=racing.lost)
    if result.stop is not None:
        return _ended(run, where, "stopped", verdict=as_json(result.stop), why=result.stop.line())
    return _ended(run, where, "finished")


class _Racing:
    """Gives a leg up that is no better than the one before it was after as many updates."""

    def __init__(self, race: Race, watch: str, higher: bool) -> None:
        self._race, self._watch, self._higher = race, watch, higher
        self._best: tuple[float, float] | None = None
        self._asked = False
        self.lost = ""

    @property
    def judge(self) -> Judge:
        return self._judge

    def _judge(self, step: int, found: dict[str, Any]) -> str:
        here = float(found[self._watch]), float(found["loss"])
        best = max((here, self._best or here), key=lambda pair: rank(pair[0], pair[1], self._higher))
        self._best = best
        race = self._race
        if self._asked or step < race.step:
            return ""
        self._asked = True
        if rank(best[0], best[1], self._higher) > rank(race.value, race.loss, self._higher):
            return ""
        told = f"{self._watch} {best[0]:.4g}"
        if best[0] == race.value:
            told += f" and loss {best[1]:.4g} are no better than {race.value:.4g} and {race.loss:.4g}"
        else:
            told += f" is no better than {race.value:.4g}"
        self.lost = f"after {step} updates {told} of attempt{race.attempt}"
        return self.lost


def leg_run(run: Run, leg: Leg, keep: int) -> Run:
    """The run of a leg: the lr × its factor, the whole schedule in its total or the fall to nothing, a checkpoint at
    every evaluation while it may be stopped."""
    changes: dict[str, Any] = {"diagnose__mode": "act" if leg.acting else "report"}
    if leg.factor != 1.0:
        changes["optimizer__lr"] = typed_lr(run, leg.factor)
    if leg.acting:
        changes["checkpoint__keep"] = max(keep, run.config.checkpoint.keep)
        if run.eval_every % run.save_every:
            changes["checkpoint__every"] = f"{run.eval_every}steps"
    config = configs.changed(run.config, **changes)
    if leg.decays_from >= 0:
        with config.unlocked():
            config.schedule = configs.base().schedule  # nothing of yours, which is of another schedule
            config.schedule.name, config.schedule.warmup = "wsd", "0"
            config.schedule.wsd.decay = f"{100 * (leg.total - leg.decays_from) / leg.total:.4f}%"
    return with_total(run, config, leg.total)


def with_total(run: Run, config: ml_collections.ConfigDict, total: int) -> Run:
    """The run with another config, in so many updates; the schedule with it where they are fewer."""
    if total == run.clock.total:
        return run.again(config, run.data)
    return shortened(dataclasses.replace(run, config=config), total)


def typed_lr(run: Run, factor: float) -> float:
    """What `optimizer.lr` must be for the run's lr × a factor."""
    return tidy(float(f"{typed(run, run.optimizer.lr * factor):.6g}"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; [] where there is none. A line that a kill has torn is none."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            rows.append(dict(json.loads(line)))
        except ValueError:
            continue
    return rows


def best_of(run: Run, where: Path) -> dict[str, Any] | None:
    """What best.json of a run says; None where nothing was watched."""
    path = where / "best.json"
    if not path.is_file():
        return None
    best: dict[str, Any] = json.loads(path.read_text())
    return best if best.get("metric") == f"val/{run.watch}" else None


def _ended(
    run: Run, where: Path, status: str, step: int = 0, *, verdict: Mapping[str, Any] | None = None, why: str = ""
) -> dict[str, Any]:
    rows = rows_of(where / "metrics.jsonl")
    trained = [row for row in rows if row["split"] == "train"]
    curve = [(row["step"], row.get(run.watch), row["loss"]) for row in rows if row["split"] == "val"]
    step = step or max((row["step"] for row in rows), default=0)
    last = trained[-1] if trained else {}
    told = dict(verdict) if verdict else None
    coach = coach_of(where)
    said = coach.get("diagnosis", ()) if status == "finished" else ()
    guess = coach.get("curves", {}).get("guess")
    best, loss, lr = best_of(run, where), last.get("loss"), last.get("lr")
    ended = Ended(status, step, best, curve, loss, lr, told, why, said, guess)
    found: dict[str, Any] = plain(dataclasses.asdict(ended))
    return found


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
