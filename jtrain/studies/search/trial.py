"""The trials of a search: what one is asked, what it answers, and what is known of it in the end."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from jtrain.studies.search.space import Point

Status = Literal["done", "pruned", "diverged", "refused", "no memory", "killed"]
WHOLE = 1000  # a trial's length, in which reports are placed: trials may differ in updates


@dataclasses.dataclass(frozen=True)
class Asked:
    """A trial that is to be run.

    Attributes:
      number: of the trial, from 0; the same when it is run again.
      tries: how often it was begun before and its worker did not end it.
      point: its values by key, of those that have a say.
      report: (part of the trial that is done, of `WHOLE`; the metric there) -> why it is to be given up, or ''.
    """

    number: int
    tries: int
    point: Point
    report: Callable[[int, float], str]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of a trial.

    Attributes:
      value: of the metric, finite; None where the trial has none.
      status: 'done' with a value, all others without: 'pruned' was given up, 'diverged' is not finite, 'refused' is a
        config that cannot be, 'no memory' did not fit on the device, 'killed' took its worker with it every time.
      why: in words, where it is not done.
      tie: the loss, by which equal values are told apart, less is better; None: they are not.
    """

    value: float | None
    status: Status = "done"
    why: str = ""
    tie: float | None = None


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial that is over.

    Attributes:
      number: from 0.
      point: its values by key, of those that have a say; {} where it was killed before it had any.
      answer: what came of it.
      reports: (part done, of `WHOLE`; metric) of its evaluations.
      seconds: that it took, in its last try.
    """

    number: int
    point: Point
    answer: Answer
    reports: Sequence[tuple[int, float]] = ()
    seconds: float = 0.0

    @property
    def part(self) -> float:
        """Share of its length that was trained, as far as reports tell."""
        if self.answer.status == "done":
            return 1.0
        return max((place for place, _ in self.reports), default=0) / WHOLE

    @property
    def shown(self) -> float | None:
        """Its value, or the last one that it reported."""
        if self.answer.value is not None:
            return self.answer.value
        return max(self.reports)[1] if self.reports else None


def ranked(trials: Sequence[Trial], maximize: bool) -> list[Trial]:
    """Those that are done, the best first; of equal values that with the smaller loss, then the earlier."""

    def key(trial: Trial) -> tuple[float, float, int]:
        value, tie = trial.answer.value or 0.0, trial.answer.tie
        return -value if maximize else value, float("inf") if tie is None else tie, trial.number

    return sorted((trial for trial in trials if trial.answer.value is not None), key=key)
