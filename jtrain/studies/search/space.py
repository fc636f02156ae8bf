"""What `search` searches: axes from the entries of a space, points on them, and the config of a point."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from jtrain import config as configs
from jtrain.durations import Time, Timed, Times
from jtrain.errors import ConfigError
from jtrain.phases import starting_lr
from jtrain.run import Run
from jtrain.table import Option, at

Point = dict[str, Any]  # a value by key

FEW = 10  # trials: fewer go to the lr alone
EDGE = 0.05  # of a range: who is that near its end is at its edge
DIGITS = 4  # of a number: more say nothing, and have to be typed

# Keys that would change by what, or on what, trials are judged, or that have no say in what is trained.
REFUSED = {
    "seed": "the best seed is luck",
    "task.name": "trials of two tasks cannot be compared",
    "metrics": "they change nothing that is trained",
    "early_stopping.metric": "trials must be judged by one metric",
    "study": "a study's options change nothing that is trained",
    "log": "what is logged changes nothing that is trained",
    "checkpoint": "what is saved changes nothing that is trained",
    "mesh": "the devices change nothing that is trained",
    "data": "trials must be judged on the same examples",
}
SAME_EXAMPLES = ("data.normalize", "data.mean", "data.std", "data.whiten", "data.whiten_eps")


@dataclasses.dataclass(frozen=True)
class Axis:
    """One key and the values it may take.

    Attributes:
      key: of the config.
      low, high: of a number, both included; of no meaning where there are choices.
      log: even on a logarithmic scale.
      whole: whole numbers alone.
      choices: values, instead of a range.
      beyond: whether the key takes values below `low`, above `high`.
    """

    key: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()
    beyond: tuple[bool, bool] = (True, True)

    def at(self, share: float) -> Any:
        """The value at a share (0 to below 1) of the axis, to four digits."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        top = self.high + 1 if self.whole else self.high
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(top) - math.log(self.low)))
        else:
            value = self.low + share * (top - self.low)
        return self.taken(math.floor(value) if self.whole else value)

    def taken(self, value: Any) -> Any:
        """A number as it is used: whole, or to four digits, and within the range."""
        if self.choices:
            return value
        if self.whole:
            return int(min(max(value, self.low), self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def share(self, value: Any) -> float:
        """Where a value lies, 0 at `low` and 1 at `high` on the scale of the axis; of a choice, its place."""
        if self.choices:
            return self.choices.index(value) / (len(self.choices) - 1)
        scale: Callable[[float], float] = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def holds(self, value: Any) -> bool:
        """Whether a value is on the axis."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def edge(self, value: Any) -> str:
        """'lower' or 'upper' where the value is so near an end that better ones may lie beyond it, else ''."""
        if self.choices:  # numbers in a row are a range as well
            ordered = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in self.choices)
            if not ordered or len(self.choices) < 3:
                return ""
            ends = {min(self.choices): "lower" * self.beyond[0], max(self.choices): "upper" * self.beyond[1]}
            return ends.get(value, "")
        share = self.share(value)
        if share <= EDGE and self.beyond[0]:
            return "lower"
        return "upper" if share >= 1 - EDGE and self.beyond[1] else ""

    def labels(self) -> dict[str, Any]:
        """The choices by what they are called; text is called by itself."""
        names = [choice if isinstance(choice, str) else repr(choice) for choice in self.choices]
        if len(set(names)) < len(names):
            names = [repr(choice) for choice in self.choices]
        return dict(zip(names, self.choices, strict=True))

    @property
    def range(self) -> str:
        """In words."""
        if self.choices:
            return f"one of {', '.join(self.labels())}"
        return f"{self.low:g} to {self.high:g}{' in log' if self.log else ''}"


def read_space(space: Sequence[tuple[Any, ...]], config: ml_collections.ConfigDict) -> tuple[Axis, ...]:
    """The axes of `study.search.space`, whose form is known to be right.

    Args:
      space: its entries.
      config: that they are about.

    Raises:
      ConfigError: a key that there is not, that must not be searched, or that does not take such values.
    """
    axes = tuple(_axis(index, entry) for index, entry in enumerate(space))
    named = [axis for axis in axes if axis.key.endswith(".name")]
    for index, axis in enumerate(axes):
        section, _, rest = axis.key.partition(".")
        part = rest.partition(".")[0]
        if any(axis.key != name.key and name.key == f"{section}.name" and part in name.choices for name in named):
            continue  # it has a say in some trials
        _check_taken(f"study.search.space[{index}]", axis, config)
    return axes


def default_space(run: Run, trials: int) -> tuple[tuple[Any, ...], ...]:
    """The entries where none are given: few trials go to the lr, in two decades about the run's; more to its weight
    decay and momentum (b1 in the Adam family) as well, which then have to be found together with it.

    Args:
      run: whose lr and optimizer it is.
      trials: that there are.
    """
    config = run.config
    lr = starting_lr(config, run.optimizer.core)
    entries: list[tuple[Any, ...]] = [("optimizer.lr", _short(lr / 10), _short(min(lr * 10, 1000.0)), "log")]
    if trials < FEW:
        return tuple(entries)
    known = configs.schema()
    prefix = f"optimizer.{config.optimizer.name}."
    decay = prefix + "weight_decay"
    if decay in known and run.optimizer.decayed:
        # Decoupled decay is multiplied by the lr, which is small.
        low, high = (1e-5, 1e-1) if run.optimizer.core.decay == "decoupled" else (1e-6, 1e-2)
        entries.append((decay, *_about(_value(config, decay), low, high), "log"))
    for key in (prefix + "momentum", prefix + "b1"):
        if key in known and _value(config, key) > 0:
            entries.append((key, *_about(_value(config, key), 0.8, 0.98)))
            break
    return tuple(entries)


def own_point(axes: Sequence[Axis], run: Run) -> Point | None:
    """The run's own values by every key, None where they are not all on the axes."""
    lr = {"optimizer.lr": starting_lr(run.config, run.optimizer.core)}
    flat = configs.flat(run.config) | lr
    if all(axis.holds(flat.get(axis.key)) for axis in axes):
        return {axis.key: flat[axis.key] for axis in axes}
    return None


def live(point: Point) -> Point:
    """The part of a point that has a say: not the options of an optimizer, say, that it does not name."""
    found = {}
    for key, value in point.items():
        section, _, rest = key.partition(".")
        name = point.get(f"{section}.name")
        if name is None or key == f"{section}.name" or "." not in rest or rest.partition(".")[0] == name:
            found[key] = value
    return found


def config_at(config: ml_collections.ConfigDict, point: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config with the values of a point. Where it names another part, such as an optimizer, what belongs to those
    that are not taken has no say: it is at its default."""
    names = {key: value for key, value in point.items() if key in _NAMES}
    changed = configs.changed(config, **_underscored(names))
    idle: Point = {}
    for key in names:
        section = key.partition(".")[0]
        taken = changed[section].name
        idle |= {
            other: option.default
            for other, option in configs.schema().items()
            if other.startswith(f"{section}.") and other.count(".") == 2 and other.split(".")[1] != taken
        }
    rest = {key: value for key, value in live(dict(point)).items() if key not in names}
    return configs.changed(changed, **_underscored(idle | rest))


def _axis(index: int, entry: tuple[Any, ...]) -> Axis:
    place, (key, *given) = f"study.search.space[{index}]", entry
    known = configs.schema().get(key)
    if known is None and not configs.is_free(key):
        raise ConfigError(f"{place}: {configs.unknown_key(key)}")
    for refused, why in REFUSED.items():
        if (key == refused or key.startswith(f"{refused}.")) and key not in SAME_EXAMPLES:
            raise ConfigError(f"{place}: {key} is not searched: {why}")
    try:
        if len(given) == 1:
            choices = tuple(known.check(choice) if known else choice for choice in given[0])
            numbers = known is not None and all(type(choice) in (int, float) for choice in choices)
            if known is None or not numbers:
                return Axis(key, choices=choices)
            return Axis(key, choices=choices, beyond=_beyond(known, choices, log=min(choices) > 0))
        if known is None:
            return Axis(key, given[0], given[1], len(given) == 3, all(isinstance(v, int) for v in given[:2]))
        _check_number(known)
        low, high = (known.check(bound) for bound in given[:2])
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{place}: {at(key, str(error))}") from error
    log, whole = len(given) == 3, known.kind is int
    return Axis(key, low, high, log, whole, beyond=_beyond(known, (low, high), log))


def _check_number(known: Option) -> None:
    if any(isinstance(condition, Time | Times | Timed) for condition in known.conditions):
        raise ValueError("a duration is text: give a tuple of choices, such as ('10epochs', '20epochs')")
    if known.kind not in (int, float):
        raise ValueError("is no number: give a tuple of choices instead of low and high")


def _beyond(known: Option, values: Sequence[float], log: bool = False) -> tuple[bool, bool]:
    """Whether a key takes values a little below, and a little above, all of these."""
    low, high, whole = min(values), max(values), known.kind is int
    step = (1.0, 1.0) if whole else (low * 0.01, high * 0.01) if log else ((high - low) * 1e-3,) * 2
    kind = int if whole else float
    return _takes(known, kind(low - step[0])), _takes(known, kind(high + step[1]))


def _takes(known: Option, value: Any) -> bool:
    try:
        known.check(value)
    except (ValueError, ConfigError):
        return False
    return True


def _check_taken(place: str, axis: Axis, config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for a key that has no say in this config, or none of whose values it takes."""
    first: ConfigError | None = None
    own = configs.flat(config).get(axis.key)
    for value in axis.choices or (axis.low, axis.high):
        if value == own:
            continue
        try:
            configs.validate(config_at(config, {axis.key: value}))
            return
        except ConfigError as error:
            first = first or error
    raise ConfigError(f"{place}: {first}") from first


def _about(own: float, low: float, high: float) -> tuple[float, float]:
    """The range, and the value that is there already."""
    return (min(low, own), max(high, own)) if own > 0 else (low, high)


def _value(config: ml_collections.ConfigDict, key: str) -> Any:
    return configs.flat(config)[key]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _underscored(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace(".", "__"): value for key, value in values.items()}


_NAMES = {f"{section}.name" for section in configs.CHOICES}
