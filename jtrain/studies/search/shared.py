"""The trials of a search among its workers, on Optuna's storage: who runs which, and what became of those who died."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from jtrain.studies.search.params import distributions, params_of, point_of, suggest
from jtrain.studies.search.points import Sampler, sequence
from jtrain.studies.search.space import Axis, Point, live
from jtrain.studies.search.storage import Watch, again, beating, doubt, failing, quiet, worker
from jtrain.studies.search.trial import WHOLE, Answer, Asked, Trial

POLL = 1.0  # seconds between looks at what the others do
TRIES = 5  # so often a trial is begun: one that kills its worker every time will do so again
WARM_UP = WHOLE // 4  # part of a trial before which none is pruned: a large lr is often slow at first
COMPARED, ALONGSIDE = 5, 4  # trials that must be done before any is pruned; of them, with a report at the same place


def optimise(
    axes: Sequence[Axis],
    objective: Callable[[Asked], Answer],
    *,
    trials: int,
    sampler: Sampler = "auto",
    storage: optuna.storages.BaseStorage | None = None,
    name: str = "search",
    seed: int = 0,
    maximize: bool = False,
    prune: bool = False,
    own: Point | None = None,
    told: Callable[[str], None] = lambda text: None,
    ended: Callable[[Sequence[Trial]], None] = lambda trials: None,
) -> list[Trial]:
    """Runs trials until all are over, those of other workers on the same storage included; gives all of them.

    Every number below `trials` is run to its end exactly once: what a worker leaves behind that was killed is begun
    again with the same values by another.

    Args:
      axes: what is searched.
      objective: runs a trial. What it raises ends this worker; the trial is then free for others.
      trials: of all workers together.
      sampler: see `Search`.
      storage: from `open_storage`; None is memory.
      name: of the search in the storage: workers with the same share their trials.
      seed: of what is drawn.
      maximize: more is better.
      prune: `Asked.report` gives up what is worse than the median of the others (Golovin et al., Vizier, 2017).
      own: the first point, see `sequence`.
      told: hears what happens to the trials of others.
      ended: is called with all trials that are over, after each of this worker's own.

    Raises:
      ConfigError: as `sequence`. DataError: the storage fails.
    """
    plan = sequence(axes, sampler, trials, seed, own)
    with quiet():
        pool = _Pool(axes, plan, storage or optuna.storages.InMemoryStorage(), name, seed, maximize, prune, told)
        while (taken := pool.take()) is not None:
            asked, trial = taken
            try:
                with beating(trial):
                    answer = objective(asked)
            except BaseException:
                pool.give_back(trial)
                raise
            pool.settle(trial, answer)
            ended(pool.over())
        return pool.over()


@dataclasses.dataclass
class _Pool:
    """The trials in a storage, as one worker sees them.

    A trial of Optuna that is not void stands for a number of the plan; where several do, the earliest does. A number
    that none stands for any more, as its worker is gone, is put into the queue again, by any worker, with the same
    values: twice in the queue does no harm, and a worker that dies in between loses nothing.
    """

    axes: Sequence[Axis]
    plan: Sequence[Point | None]
    storage: optuna.storages.BaseStorage
    name: str
    seed: int
    maximize: bool
    prune: bool
    told: Callable[[str], None]

    def __post_init__(self) -> None:
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.prune:
            pruner = optuna.pruners.MedianPruner(COMPARED, WARM_UP, n_min_trials=ALONGSIDE)
        with failing():
            self.study = again(
                lambda: optuna.create_study(
                    storage=self.storage, study_name=self.name, load_if_exists=True, pruner=pruner,
                    direction="maximize" if self.maximize else "minimize",
                )
            )  # fmt: skip
        self.distributions = distributions(self.axes)
        self.watch = Watch()
        self.waiting = False

    def take(self) -> tuple[Asked, optuna.Trial] | None:
        """The next trial for this worker; None when all are over. Waits while others run the last ones: one of them
        may die."""
        with failing():
            while True:
                everything = self.study.get_trials(deepcopy=False)
                if self._bury(everything):
                    everything = self.study.get_trials(deepcopy=False)
                standing = self._standing(everything)
                missing = [number for number in range(len(self.plan)) if number not in standing]
                if not any(trial.state == TrialState.WAITING for trial in standing.values()):
                    if missing:
                        self._queue(missing[0], everything)
                    elif all(trial.state.is_finished() for trial in standing.values()):
                        return None
                    else:
                        self._wait(standing)
                        continue
                taken = self._ask(everything)
                if taken is not None:
                    return taken

    def settle(self, trial: optuna.Trial, answer: Answer) -> None:
        """Writes what came of a trial."""
        with failing():
            try:
                trial.set_user_attr("status", answer.status)
                trial.set_user_attr("why", answer.why)
                trial.set_user_attr("tie", answer.tie)
                if answer.status == "done":
                    self.study.tell(trial, answer.value)
                else:  # not failed, as Optuna would say: its samplers then forget where it was, and go there again
                    self.study.tell(trial, state=TrialState.PRUNED)
            except (UpdateFinishedTrialError, ValueError):  # this worker was silent for so long that it counted as dead
                self.told(f"trial {trial.user_attrs['number']}: another worker has taken it over")

    def give_back(self, trial: optuna.Trial) -> None:
        """Lets another worker have a trial that this one does not end."""
        with contextlib.suppress(UpdateFinishedTrialError, ValueError, StorageInternalError, OSError):
            trial.set_user_attr("void", "given back")
            self.study.tell(trial, state=TrialState.FAIL)

    def over(self) -> list[Trial]:
        """All trials that are over, by number."""
        with failing():
            standing = self._standing(self.study.get_trials(deepcopy=False))
        return [
            _trial(self.axes, number, self.plan[number], each)
            for number, each in sorted(standing.items())
            if each.state.is_finished()
        ]

    def _standing(self, everything: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
        """By number the trial that stands for it."""
        found: dict[int, FrozenTrial] = {}
        for trial in everything:
            number = trial.user_attrs.get("number")
            if number is not None and number < len(self.plan) and trial.state != TrialState.FAIL:
                found.setdefault(number, trial)
        return found

    def _bury(self, everything: Sequence[FrozenTrial]) -> int:
        """Voids what the dead were running; how many that were."""
        count = 0
        for trial in everything:
            if trial.state == TrialState.RUNNING and self.watch.is_lost(trial):
                with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another worker was quicker
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    worker = trial.user_attrs.get("worker", {})
                    who = f"process {worker['pid']} on {worker['host']}" if worker else "its worker"
                    self.told(f"trial {trial.user_attrs.get('number', '?')}: {who} is gone; it is run again")
                count += 1
        return count

    def _queue(self, number: int, everything: Sequence[FrozenTrial]) -> None:
        """Puts a number into the queue: with the values it had, those of the plan, or none yet."""
        before = [t for t in everything if t.user_attrs.get("number") == number and t.state == TrialState.FAIL]
        killed = [t for t in before if "void" not in t.user_attrs]
        planned = self.plan[number]
        known = [t.params for t in before if len(t.params) == len(self.axes)]
        params = known[-1] if known else params_of(self.axes, planned) if planned is not None else {}
        attributes: dict[str, Any] = {"number": number, "tries": len(before)}
        if len(killed) < TRIES:
            self.study.enqueue_trial(params, user_attrs=attributes)
            return
        why = f"its worker was killed {TRIES} times; was the memory full?"
        given = {key: self.distributions[key] for key in params}
        self.study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED, params=params, distributions=given,
                user_attrs=attributes | {"status": "killed", "why": why},
            )
        )  # fmt: skip

    def _sampler(self, everything: Sequence[FrozenTrial]) -> optuna.samplers.BaseSampler:
        """Draws what the plan leaves open; by the same seed the same, where no other worker is there."""
        planned = sum(point is not None for point in self.plan)
        startup = 2 if planned > 1 else max(2, min(10, len(self.plan) // 4))
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=startup, seed=(self.seed + 7919 * len(everything)) % 2**32
        )
        if any(trial.state == TrialState.RUNNING for trial in everything):
            sampler.reseed_rng()  # workers that ask at once would all draw the same
        return sampler

    def _ask(self, everything: Sequence[FrozenTrial]) -> tuple[Asked, optuna.Trial] | None:
        """The first trial in the queue, with values; None where another worker has had it, or has it already."""
        self.study.sampler = self._sampler(everything)
        trial, me = self.study.ask(), worker()
        trial.set_user_attr("worker", me)
        time.sleep(doubt(self.storage))
        everything = self.study.get_trials(deepcopy=False)
        if everything[trial.number].user_attrs["worker"] != me:
            return None
        standing, number = self._standing(everything), trial.user_attrs.get("number")
        if number is None or number not in standing or standing[number].number != trial.number:
            trial.set_user_attr("void", "one too many")
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        params = {key: suggest(trial, key, distribution) for key, distribution in self.distributions.items()}
        self.waiting = False
        point = live(point_of(self.axes, params, self.plan[number]))
        return Asked(number, trial.user_attrs["tries"], point, functools.partial(self._report, trial, set())), trial

    def _report(self, trial: optuna.Trial, places: set[int], place: int, value: float) -> str:
        if place in places:  # a run that was rolled back comes by again
            return ""
        places.add(place)
        try:
            with failing():
                trial.report(value, place)
                if not trial.should_prune():
                    return ""
        except UpdateFinishedTrialError:
            return "another worker has taken it over"
        return f"its metric, {value:.4g}, is worse than the median of the other trials there"

    def _wait(self, standing: Mapping[int, FrozenTrial]) -> None:
        if not self.waiting:
            running = sum(not trial.state.is_finished() for trial in standing.values())
            self.told(f"all trials are begun; waits for {running} of other workers, in case one is lost")
        self.waiting = True
        time.sleep(POLL)


def _trial(axes: Sequence[Axis], number: int, planned: Point | None, trial: FrozenTrial) -> Trial:
    given = trial.user_attrs
    done = trial.state == TrialState.COMPLETE
    answer = Answer(trial.value if done else None, given["status"], given["why"], given.get("tie"))
    seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
    point = live(point_of(axes, trial.params, planned))
    return Trial(number, point, answer, sorted(trial.intermediate_values.items()), seconds)
