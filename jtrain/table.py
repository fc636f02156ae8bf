"""Parts as plain functions in literal tables: signatures become typed, checked options.

A part is a function; its options are its keyword-only parameters. Annotations carry the
type and the range, so that a config tree can be made from them and checked against them:

    def sgd(*, momentum: Fraction = 0.9, nesterov: bool = False): ...
    options(sgd)["momentum"].check(1.5)   # ValueError: must be at least 0 and below 1, got 1.5
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from jtrain.durations import Time, Timed, Times, ToUpdates
from jtrain.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number: closed at `low`; at `high` unless `below`; open at `low` if `above`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high

    def __str__(self) -> str:
        words = []
        if self.low > -math.inf:
            words.append(f"{'above' if self.above else 'at least'} {self.low:g}")
        if self.high < math.inf:
            words.append(f"{'below' if self.below else 'at most'} {self.high:g}")
        return "must be " + " and ".join(words)


Count = Annotated[int, Range(1, 2**31 - 1)]
Size = Annotated[int, Range(1, 2**20)]
Natural = Annotated[int, Range(0, 2**31 - 1)]
Fraction = Annotated[float, Range(0, 1, below=True)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, 1e6, above=True)]
NonNegative = Annotated[float, Range(0, 1e6)]


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its default, its type, and the extra conditions on its value."""

    default: Any
    kind: Any  # bool, int, float, str, tuple, or a Literal
    conditions: tuple[Any, ...] = ()

    def check(self, value: Any) -> Any:
        """Returns `value` (an int becomes a float where a float is asked for); raises ValueError."""
        for condition in self.conditions:
            if isinstance(condition, Time | Times | Timed):
                condition.check(value)
                return value
        value = _check_kind(value, self.kind)
        for condition in self.conditions:
            if isinstance(condition, Range):
                if not condition.holds(value):
                    raise ValueError(f"{condition}, got {value!r}")
            elif callable(condition):
                condition(value)
        return value

    def in_updates(self, value: Any, key: str, updates: ToUpdates) -> Any:
        """`value` as the part takes it: durations, also inside it, turned from text into updates."""
        for condition in self.conditions:
            if isinstance(condition, Time | Times | Timed):
                return condition.in_updates(value, key, updates)
        return value


def option(annotation: Any, default: Any) -> Option:
    """An `Option` from an annotation such as `Annotated[int, Range(1)]` and its default."""
    kind: Any = annotation
    conditions: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        kind, *rest = get_args(annotation)
        conditions = tuple(rest)
    for condition in conditions:
        if isinstance(condition, Time | Times | Timed):
            return Option(condition.default, type(condition.default), conditions)
    return Option(default, kind, conditions)


def options(function: Callable[..., Any]) -> dict[str, Option]:
    """The keyword-only parameters of a part, as options by name.

    A parameter without a default is an option only if it is a `Time`, `Times` or `Timed`
    (its default is in the marker).
    """
    hints = _hints(function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        default = parameter.default
        made = option(hints.get(name, type(default)), default)
        if made.default is inspect.Parameter.empty:
            raise TypeError(f"{function.__qualname__}: option {name!r} needs a default")
        found[name] = made
    return found


def named_fields(factory: Callable[..., Any]) -> dict[str, Option]:
    """Options of any class or function of a user: every parameter that has a default of a plain type.

    Unlike `options`, parameters may be positional and need no annotation (a Flax module's fields).
    """
    found = {}
    for name, parameter in parameters(factory).items():
        default = parameter.default
        if name in ("parent", "name", "rngs", "self"):
            continue
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        kind = type(default) if isinstance(default, bool | int | float | str | tuple) else Any
        found[name] = Option(default, kind)
    return found


def parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function, or of a class's `__init__` (a metaclass may hide them behind *args)."""
    if isinstance(factory, type):
        found = dict(inspect.signature(_init_of(factory)).parameters)
        found.pop("self", None)
        return found
    return inspect.signature(factory).parameters


def nearest(word: str, choices: typing.Iterable[str]) -> str | None:
    """The choice that `word` was most likely meant to be, or None."""
    choices, most = list(choices), max(1, len(word) // 3)
    alike = [c for c in choices if abs(len(c) - len(word)) <= most]  # others take more edits than that
    best = min(alike, key=lambda c: _distance(word.lower(), c.lower()), default=None)
    if best is not None and _distance(word.lower(), best.lower()) <= most:
        return best
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(word: str, choices: typing.Iterable[str]) -> str:
    """' (did you mean 'x'?)', or the list of choices where none is near."""
    choices = sorted(choices)
    near = nearest(word, choices)
    if near:
        return f"; did you mean {near!r}?"
    return f"; choose from {', '.join(choices)}" if choices else ""


def at(key: str, text: str) -> str:
    """'key: text', or 'key[1]: …' where the text tells the place inside, as it is where it names the key itself."""
    if text.startswith((f"{key}:", f"{key}[")):
        return text
    return f"{key}{text}" if re.match(r"\[\d+\]: ", text) else f"{key}: {text}"


def lookup(table: Mapping[str, Callable[..., Any]], name: str, key: str) -> Callable[..., Any]:
    """The part called `name`: from the table, or imported when it is `module:Name`.

    Raises:
      ConfigError: naming `key`, when there is no such part.
    """
    if name in table:
        return table[name]
    if ":" not in name:
        raise ConfigError(f"{key}: no such choice {name!r}{did_you_mean(name, table)}")
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        hint = (
            "; modules are looked for in the current folder, that of the config file, and PYTHONPATH" if missing else ""
        )
        raise ConfigError(f"{key}: cannot import {module_name!r}: {error}{hint}") from error
    except (Exception, SystemExit) as error:  # the user's module raised while it was imported
        raise ConfigError(f"{key}: {module_name!r} fails on import: {error!r}") from error
    if not hasattr(module, attribute):
        near = did_you_mean(attribute, [n for n in vars(module) if not n.startswith("_")])
        raise ConfigError(f"{key}: {module_name!r} has no {attribute!r}{near}")
    return getattr(module, attribute)


def check_plain(value: Any) -> None:
    """Raises ValueError unless JSON can hold `value` and give it back the same (lists come back as tuples)."""
    if isinstance(value, tuple):
        for item in value:
            check_plain(item)
    elif isinstance(value, list):
        raise ValueError(f"must be a tuple, got {_shown(value)}")
    elif isinstance(value, dict) and all(isinstance(name, str) for name in value):
        check_plain(tuple(value.values()))
    elif isinstance(value, str) and _CONTROL.search(value):
        raise ValueError(f"must hold no control characters, got {_shown(value)}")  # which a terminal would obey
    elif not isinstance(value, bool | int | float | str | None):
        raise ValueError(
            f"config.json cannot hold {_shown(value)}; give a name as text instead, "
            "or a number, True, False, None, or a tuple of these"
        )


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = _init_of(function) if isinstance(function, type) else function
    return typing.get_type_hints(target, include_extras=True)


def _init_of(cls: type) -> Callable[..., Any]:
    return getattr(cls, "__init__")  # noqa: B009 (mypy distrusts cls.__init__)


def _check_kind(value: Any, kind: Any) -> Any:
    if kind is Any:
        return value
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if not any(value == choice and type(value) is type(choice) for choice in choices):  # True is no 1
            raise ValueError(f"no such choice {value!r}{did_you_mean(str(value), map(str, choices))}")
        return value
    if get_origin(kind) is tuple or kind is tuple:
        if not isinstance(value, tuple):
            raise ValueError(f"must be a tuple, got {_shown(value)}")
        inner = get_args(kind)[0] if get_args(kind) else Any
        checker = option(inner, None)
        return tuple(checker.check(v) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"must be {_KIND_WORDS[kind]}, got {_shown(value)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {value!r}")
    return value


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and ends of lines
_KIND_WORDS: dict[type, str] = {
    bool: "True or False", int: "a whole number", float: "a number", str: "text",
    types.NoneType: "None",
}  # fmt: skip


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{text[:40]}{'…' if len(text) > 40 else ''} ({type(value).__name__})"


def _distance(a: str, b: str) -> int:
    """Edits (insert, delete, replace, swap of neighbours) between two words."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
