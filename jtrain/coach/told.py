"""What the coach says: findings about a config, verdicts on a run, and what may be done about one."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Level = Literal["warning", "info"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What lint says of a config.

    Attributes:
      rule: by which it is silenced, such as 'lr-high'.
      level: 'warning': likely a mistake; 'info': worth knowing.
      key: the option that it is about, such as 'optimizer.lr'.
      text: what is there, with its numbers, and what to do.
      reason: why that matters, one line.
      source: where the rule comes from.
    """

    rule: str
    level: Level
    key: str
    text: str
    reason: str
    source: str

    def line(self) -> str:
        """As it is shown on the screen."""
        return f"lint {self.level} [{self.rule}] {self.key}: {self.text}"


@dataclasses.dataclass(frozen=True)
class Act:
    """What may be done about a verdict.

    Attributes:
      kind: 'restart': from the start with another lr; 'tail': on from the state after `step` updates with another lr.
      factor: × the lr.
      step: updates done at the state from which a tail goes on; 0 for a restart.
    """

    kind: Literal["restart", "tail"]
    factor: float
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What diagnose says of a run.

    Attributes:
      name: such as 'overfitting'.
      text: what is seen, with its numbers; one sentence.
      action: what to do; one sentence.
      evidence: the numbers that it rests on, by name.
      marks: (updates done, words) to be marked in the picture.
      act: what the trainer itself can do about it; None: nothing.
      level: 'warning': something is wrong; 'info': worth knowing.
    """

    name: str
    text: str
    action: str
    evidence: Mapping[str, float]
    marks: tuple[tuple[int, str], ...] = ()
    act: Act | None = None
    level: Level = "warning"

    def line(self) -> str:
        """As it is shown on the screen."""
        return f"{self.name}: {self.text}; {self.action}"

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Verdict":
        """The verdict that `as_json` made plain."""
        act = Act(**told["act"]) if told["act"] else None
        marks = tuple((int(step), str(words)) for step, words in told["marks"])
        return cls(**{**told, "marks": marks, "act": act})


def as_json(told: Finding | Verdict) -> dict[str, Any]:
    """Plain values, as in coach.json."""
    return dataclasses.asdict(told)
