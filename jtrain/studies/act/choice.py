"""Which of all the states that a run has been through is its answer."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtrain.io import shelf
from jtrain.run import Run
from jtrain.studies.act.legs import Ended, Leg, rank
from jtrain.studies.journal import Journal


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The state that is the answer.

    Attributes:
      attempt: its number.
      step: updates done.
      factor: × the lr of the config, of its attempt.
      value: the watched metric on the validation split; None: there is none.
      loss: the validation loss; None: likewise, or not finite.
    """

    attempt: int
    step: int
    factor: float
    value: float | None = None
    loss: float | None = None

    @property
    def name(self) -> str:
        """Of the folder of its attempt."""
        return f"attempt{self.attempt}"


def choose(journal: Journal, last: Mapping[int, tuple[Leg, Ended]], folder: Path, higher: bool) -> Chosen | None:
    """The best state of all that have a checkpoint, by the watched metric on the validation split, of equal ones that
    with the lowest validation loss. Of a single attempt, which nothing was done about, it is the best checkpoint, as of
    any run. Without a validation split it is the last state of the last attempt, where that came to its end. None:
    there is none.

    Args:
      journal: keeps what was chosen: checkpoints are removed afterwards.
      last: the last leg of every attempt, by its number.
      folder: of the attempts.
      higher: the larger metric is better.
    """

    def compute() -> dict[str, Any] | None:
        found = _best(journal.run, last, folder, higher)
        return None if found is None else dataclasses.asdict(found)

    told = journal.piece("chosen", compute)
    return None if told is None else Chosen(**told)


def _best(run: Run, last: Mapping[int, tuple[Leg, Ended]], folder: Path, higher: bool) -> Chosen | None:
    found: list[Chosen] = []
    for leg, ended in last.values():
        kept = set(shelf.steps(folder / leg.name / "checkpoints")) if ended.best is not None else set()
        found += [
            Chosen(leg.attempt, int(step), leg.factor, float(value), None if loss is None else float(loss))
            for step, value, loss in ended.curve
            if step in kept and value is not None
        ]
    if not found:
        leg, ended = list(last.values())[-1]
        newest = max((s for s in shelf.steps(folder / leg.name / "checkpoints") if s <= ended.step), default=0)
        return Chosen(leg.attempt, newest, leg.factor) if newest and ended.status != "failed" else None
    top = max(found, key=lambda one: rank(_number(one.value), _number(one.loss), higher))
    if len(last) == 1:
        _, ended = next(iter(last.values()))
        return next((one for one in found if ended.best and one.step == ended.best["step"]), top)
    return top


def _number(value: float | None) -> float:
    return math.nan if value is None else value
