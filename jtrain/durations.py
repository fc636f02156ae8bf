"""Durations with a unit, turned once into optimizer updates by exact arithmetic, and the markers of such options."""

import dataclasses
import fractions
import math
import re
import typing
from collections.abc import Callable
from typing import Any

_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,2})?|\.[0-9]+)\s*([A-Za-z%]*)\s*")
_UNITS = {
    "step": "steps", "steps": "steps", "epoch": "epochs", "epochs": "epochs",
    "example": "examples", "examples": "examples", "%": "%",
}  # fmt: skip
LONGEST = 2**31 - 1  # the step counter is an int32


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training such as `20epochs`, `500steps`, `1e6examples` or `5%` (of the total)."""

    amount: fractions.Fraction
    unit: str  # steps, epochs, examples or %
    text: str

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Reads a duration; raises ValueError with the valid forms."""
        match = _FORM.fullmatch(text)
        if not match:
            raise ValueError(f"{text!r} is not a duration such as '20epochs', '500steps' or '1e6examples'")
        number, unit = match.groups()
        amount = fractions.Fraction(number)
        if not unit and amount != 0:
            raise ValueError(f"{text!r} needs a unit: '{number}steps', '{number}epochs' or '{number}examples'")
        if unit and unit not in _UNITS:
            raise ValueError(f"{text!r}: no such unit {unit!r}; use steps, epochs or examples, or % of the run")
        return cls(amount, _UNITS.get(unit, "steps"), text)

    def updates(self, *, batch_size: int, epoch_examples: int, total: int | None = None) -> fractions.Fraction:
        """The exact length in optimizer updates.

        Args:
          batch_size: examples of one update, over all devices.
          epoch_examples: training examples after the validation cut.
          total: updates of the whole run, needed by `%` alone.
        """
        if self.unit == "steps":
            return self.amount
        if self.unit == "examples":
            return self.amount / batch_size
        if self.unit == "epochs":
            return self.amount * epoch_examples / batch_size
        if total is None:
            raise ValueError(f"{self.text!r}: the whole run cannot be a share of itself; use steps, epochs or examples")
        return self.amount * total / 100


@dataclasses.dataclass(frozen=True)
class Clock:
    """Turns durations into updates for one run: a total is rounded up, a boundary down."""

    batch_size: int
    epoch_examples: int
    total: int

    @classmethod
    def start(cls, total: str, *, batch_size: int, epoch_examples: int) -> "Clock":
        exact = Duration.parse(total).updates(batch_size=batch_size, epoch_examples=epoch_examples)
        updates = math.ceil(exact)
        if not 1 <= updates <= LONGEST:
            raise ValueError(f"{total!r} is {updates} updates; a run has 1 to {LONGEST}")
        return cls(batch_size, epoch_examples, updates)

    def boundary(self, text: str) -> int:
        """Updates before a boundary, rounded down; raises ValueError if longer than any run."""
        exact = Duration.parse(text).updates(
            batch_size=self.batch_size, epoch_examples=self.epoch_examples, total=self.total
        )
        if exact > LONGEST:
            raise ValueError(f"{text!r} is longer than any run ({LONGEST} updates)")
        return math.floor(exact)

    def period(self, text: str) -> int:
        """Updates between two events, rounded down, at least 1."""
        return max(1, self.boundary(text))

    def epoch(self, step: int) -> float:
        """Epochs seen after `step` updates."""
        return step * self.batch_size / self.epoch_examples


def check_time(value: Any, zero: bool = False) -> None:
    """Raises ValueError unless `value` is the text of a duration, longer than 0 unless it may be `zero`."""
    if not isinstance(value, str):
        raise ValueError(f"needs a unit, such as '{value}steps' or '{value}epochs', got {value!r}")
    duration = Duration.parse(value)
    if duration.amount == 0 and not zero:
        raise ValueError(f"must be longer than zero, got {value!r}")
    if duration.unit == "%" and duration.amount > 100:
        raise ValueError(f"{value!r} is more than the whole run")


class ToUpdates(typing.Protocol):
    """Updates (int) of a duration, at least 1 unless it may be `zero`; raises ConfigError naming `key`."""

    def __call__(self, text: str, key: str, *, zero: bool = False) -> int: ...


@dataclasses.dataclass(frozen=True)
class Time:
    """Marks a duration. Its config default is text with a unit; the part itself gets updates (int).

    `zero` allows 0 (off).
    """

    default: str
    zero: bool = False

    def check(self, value: Any) -> None:
        """Raises ValueError unless `value` is a duration."""
        check_time(value, self.zero)

    def in_updates(self, value: Any, key: str, updates: ToUpdates) -> Any:
        """What the part gets for the config's `value`."""
        return updates(value, key, zero=self.zero)


@dataclasses.dataclass(frozen=True)
class Times:
    """Marks a tuple of durations, each longer than the one before; the part itself gets a tuple of updates (int)."""

    default: tuple[str, ...]

    def check(self, value: Any) -> None:
        """Raises ValueError unless `value` is a tuple of durations that increase, where their units are the same."""
        if not isinstance(value, tuple) or not value:
            raise ValueError(f"must be a tuple of durations such as {self.default!r}, got {value!r}")
        for index, text in enumerate(value):
            try:
                check_time(text)
            except ValueError as error:
                raise ValueError(f"[{index}]: {error}") from error
            if index:
                last, this = Duration.parse(value[index - 1]), Duration.parse(text)
                if last.unit == this.unit and last.amount >= this.amount:
                    raise ValueError(f"[{index}]: must be after {last.text!r}, got {text!r}")

    def in_updates(self, value: Any, key: str, updates: ToUpdates) -> Any:
        """What the part gets for the config's `value`."""
        return tuple(updates(text, f"{key}[{index}]") for index, text in enumerate(value))


@dataclasses.dataclass(frozen=True)
class Timed:
    """Marks a tuple with durations somewhere inside it.

    `check(value)` raises ValueError ('[1]: …' names an item); `in_updates(value, key, updates)` is what the part gets.
    """

    default: tuple[Any, ...]
    check: Callable[[Any], None]
    in_updates: Callable[[Any, str, ToUpdates], Any]
