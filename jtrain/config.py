"""The config tree: made from the tables of parts, locked, and checked before anything is built."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from jtrain.data.augment import mixes
from jtrain.durations import Clock, Duration
from jtrain.errors import ConfigError
from jtrain.fields import AUTO, CHOICES, FIELDS, FREE, NEEDS
from jtrain.losses import MIXES, TAKES
from jtrain.table import (
    Option,
    at,
    check_plain,
    did_you_mean,
    lookup,
    named_fields,
    nearest,
    option,
    options,
    parameters,
)
from jtrain.tasks import KINDS, LOSS, MIXABLE


@functools.cache
def schema() -> dict[str, Option]:
    """Every option by its dotted key, in the order of the tree."""
    found: dict[str, Option] = {}
    for section, (default, table) in CHOICES.items():
        found[f"{section}.name"] = Option(default, str)
        for name, part in table.items():
            for key, opt in options(part).items():
                found[f"{section}.{name}.{key}"] = opt
    for key, (kind, default) in FIELDS.items():
        found[key] = option(kind, default)
    return found


def base() -> ml_collections.ConfigDict:
    """A new locked config with every field at its default; `c.model.options` and the like are free."""
    config = ml_collections.ConfigDict()
    for key, opt in sorted(schema().items(), key=lambda item: _top_first(item[0])):
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            if parent not in node:
                node[parent] = ml_collections.ConfigDict()
            node = node[parent]
        node[last] = opt.default
    for section in CHOICES:
        config[section][FREE] = ml_collections.ConfigDict()
    config.lock()
    for section in CHOICES:
        config[section][FREE].unlock()
    return config


def changed(config: ml_collections.ConfigDict, **values: Any) -> ml_collections.ConfigDict:
    """A copy with other values of some fields, dots of their keys written as two underscores; not yet validated."""
    config = config.copy_and_resolve_references()
    for key, value in values.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train.batch_size': 128, …}, plain values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, ml_collections.ConfigDict | dict):
            found |= flat(value, path + ".")
        else:
            found[path] = value
    return found


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every key, type, range, unit and choice.

    Raises:
      ConfigError: naming the key, with what is valid.
    """
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"config: must be a ConfigDict made by jtrain.config.base(), got {type(config).__name__}")
    values, known = flat(config), schema()
    for key in values:
        if key not in known and not is_free(key):
            raise ConfigError(unknown_key(key))
    free = [f"{section}.{FREE}" for section in CHOICES if FREE not in config.get(section, ())]
    for key in [key for key in known if key not in values] + free:
        raise ConfigError(f"{key}: is missing; start from jtrain.config.base()")
    for key, value in values.items():
        try:
            if key in known:
                known[key].check(value)
            check_plain(value)
        except (ValueError, ConfigError) as error:
            raise ConfigError(at(key, str(error))) from error
    _check_choices(values, known)
    _check_sense(values)


def choice(config: ml_collections.ConfigDict, section: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The part that a section names, and its options; durations are still text.

    Raises:
      ConfigError: for an unknown name, an import that fails, or options that the part does not have.
    """
    name = chosen(section, config[section].name, config.task.name)
    table = CHOICES[section][1]
    part = lookup(table, name, f"{section}.name")
    if name in table:
        return part, {key: config[section][name][key] for key in options(part)}
    given = config[section][FREE].to_dict()
    try:
        known = named_fields(part)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{section}.name: {name!r} cannot be called: {error}") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters(part).values())
    for key, value in given.items():
        if key not in known and not takes_any:
            raise ConfigError(f"{section}.{FREE}.{key}: {name} has no such option{did_you_mean(key, known)}")
        if key in known and known[key].default is not inspect.Parameter.empty:
            try:
                given[key] = known[key].check(value)
            except ValueError as error:
                raise ConfigError(f"{section}.{FREE}.{key}: {error}") from error
    return part, given


def chosen(section: str, name: str, task: str) -> str:
    """The part that a name stands for: `loss.name = "auto"` is the loss that the task takes by itself."""
    if section != "loss" or name != AUTO:
        return name
    if task not in LOSS:
        raise ConfigError(f"loss.name: {task!r} has no loss of its own; name one")
    return LOSS[task]


def timed_choice(
    config: ml_collections.ConfigDict, section: str, clock: Clock
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """`choice` with its durations turned into updates (int)."""
    part, given = choice(config, section)
    name = config[section].name
    if name in CHOICES[section][1]:
        to_updates = functools.partial(updates, clock)
        for key, opt in options(part).items():
            given[key] = opt.in_updates(given[key], f"{section}.{name}.{key}", to_updates)
    return part, given


def updates(clock: Clock, text: str, key: str, *, zero: bool = False) -> int:
    """Updates of a duration, at least 1 unless it may be `zero`; raises ConfigError naming `key`."""
    try:
        return clock.boundary(text) if zero else clock.period(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def unknown_key(key: str) -> str:
    """The message for a key that does not exist, with the nearest that does."""
    known = schema()
    parts = key.split(".")
    sections = {".".join(k.split(".")[:n]) for k in known for n in range(1, len(k.split(".")))}
    if key in sections:
        inner = sorted({k[len(key) + 1 :].split(".")[0] for k in known if k.startswith(key + ".")})
        return f"{key}: is a section; set one of {', '.join(f'{key}.{i}' for i in inner)}"
    parent = ".".join(parts[:-1])
    siblings = {k[len(parent) + 1 :] if parent else k for k in known if k.rpartition(".")[0] == parent}
    if siblings and (near := nearest(parts[-1], siblings)):
        return f"{key}: no such option; did you mean '{parent + '.' if parent else ''}{near}'?"
    if near := nearest(key, known):
        return f"{key}: no such option; did you mean '{near}'?"
    same_end = [k for k in known if k.split(".")[-1] == parts[-1]]
    if same_end:
        return f"{key}: no such option; did you mean '{nearest(key, same_end) or same_end[0]}'?"
    return f"{key}: no such option{did_you_mean(key, {k.split('.')[0] for k in known})}"


def is_free(key: str) -> bool:
    """Whether a key is an option of a part of yours, whose names only that part knows."""
    parts = key.split(".")
    return len(parts) > 2 and parts[0] in CHOICES and parts[1] == FREE


def _top_first(key: str) -> tuple[int, str]:
    return (key.count("."), "") if "." not in key else (1, "")


def _check_choices(values: dict[str, Any], known: dict[str, Option]) -> None:
    for section, (_, table) in CHOICES.items():
        name = chosen(section, values[f"{section}.name"], values["task.name"])
        if name not in table and ":" not in name:
            raise ConfigError(f"{section}.name: no such choice {name!r}{did_you_mean(name, table)}")
        others = [key for key in known if key.startswith(f"{section}.") and key.count(".") == 2]
        idle = [key for key in others if key.split(".")[1] != name and values[key] != known[key].default]
        if idle:
            first, *more = idle
            rest = ", ".join(f"--config.{key}={known[key].default!r}" for key in more)
            raise ConfigError(
                f"{first}: is set to {values[first]!r}, but {section}.name is {name!r}; "
                f"choose {first.split('.')[1]!r} or leave it at {known[first].default!r}"
                + (f"; likewise {rest}" if rest else "")
            )
        free = [key for key in values if key.startswith(f"{section}.{FREE}.")]
        if free and name in table:
            raise ConfigError(
                f"{free[0]}: is for a part of yours ('module:Name'); {section}.name is {name!r}, "
                f"its options are under {section}.{name}"
            )


def _check_sense(values: dict[str, Any]) -> None:
    if Duration.parse(values["train.total"]).unit == "%":
        raise ConfigError("train.total: the whole run cannot be a share of itself; use epochs, steps or examples")
    for key, (other, holds, wanted) in NEEDS.items():
        if values[key] != schema()[key].default and not holds(values[other]):
            raise ConfigError(
                f"{key}: is set to {values[key]!r}, but {other} is {values[other]!r}; it must be {wanted}"
            )
    _check_task(values)
    total, warmup = (Duration.parse(values[k]) for k in ("train.total", "schedule.warmup"))
    if (warmup.unit == total.unit and warmup.amount >= total.amount) or (warmup.unit == "%" and warmup.amount >= 100):
        raise ConfigError(f"schedule.warmup: {warmup.text!r} leaves nothing of train.total ({total.text!r})")


def _check_task(values: dict[str, Any]) -> None:
    """Whether loss, mixing of examples and task are of one kind; parts of yours are taken at their word."""
    task, loss = values["task.name"], chosen("loss", values["loss.name"], values["task.name"])
    kind = KINDS.get(task)
    if kind and loss in TAKES and kind not in TAKES[loss]:
        fitting = [name for name, takes in TAKES.items() if kind in takes]
        others = [name for name, other in KINDS.items() if other in TAKES[loss]]
        raise ConfigError(
            f"loss.name: {loss!r} is for {' or '.join(others)}; {task} takes {', '.join(fitting)} (or 'auto')"
        )
    if not mixes(values["augment"]):
        return
    if task in KINDS and task not in MIXABLE:
        raise ConfigError(f"augment: mixing examples has no meaning in {task}; leave mixup and cutmix out")
    if loss in TAKES and loss not in MIXES:
        raise ConfigError(f"augment: {loss} takes no mixed targets; choose another loss, or leave mixup and cutmix out")
