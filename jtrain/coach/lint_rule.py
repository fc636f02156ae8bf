"""What a rule of lint is made of, and what it may say."""

import dataclasses
from collections.abc import Callable, Iterable

from jtrain.coach.facts import Facts
from jtrain.coach.told import Level


@dataclasses.dataclass(frozen=True)
class Said:
    """What a rule says of one option: the part of a `Finding` that depends on the facts."""

    level: Level
    key: str
    text: str


Check = Callable[[Facts], Said | list[Said] | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule of lint.

    Attributes:
      check: facts -> what it says of them, None or [] for nothing; the first line of its docstring says what it looks
        for.
      levels: that it may speak at.
      reason: why that matters, one line.
      source: where it comes from.
    """

    check: Check
    levels: tuple[Level, ...]
    reason: str
    source: str

    @property
    def what(self) -> str:
        """What it looks for, one line."""
        return (self.check.__doc__ or "").strip().splitlines()[0].rstrip(".")

    def said(self, facts: Facts) -> list[Said]:
        """What it says, perhaps nothing."""
        found = self.check(facts)
        return [found] if isinstance(found, Said) else list(found or ())


def warning(key: str, text: str) -> Said:
    """Likely a mistake."""
    return Said("warning", key, text)


def info(key: str, text: str) -> Said:
    """Worth knowing."""
    return Said("info", key, text)


def known(*values: object) -> bool:
    """Whether none of the values is None."""
    return all(value is not None for value in values)


def listed(items: Iterable[object], most: int = 6) -> str:
    """'a, b, c', with the number of what is left out."""
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
