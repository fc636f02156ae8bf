"""Configs in and out of files, and values set by dotted key: `--config=…`, `--config.x=…`, config.json."""

import ast
import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_origin

import ml_collections

from jtrain import config as configs
from jtrain.config_errors import explain
from jtrain.errors import ConfigError, DataError
from jtrain.shipped import locate, shipped
from jtrain.table import Option, at

# What may differ when a run is resumed; each change is printed.
MAY_CHANGE = (
    "log", "checkpoint", "mesh.devices", "mesh.fsdp", "mesh.rules", "mesh.heartbeat", "mesh.start_timeout",
    "mesh.step_timeout", "lr_scale", "train.total", "optimizer.lr", "schedule", "plateau", "early_stopping",
    "train.on_nan", "train.on_nan_limit", "train.rollback_scale", "metrics", "data.workers",
    "train.remat", "train.steps_per_call",
    "study", "lint", "diagnose",
)  # fmt: skip
LONGEST, DEEPEST = 2**24, 32  # characters and levels of a .json: far beyond any config, far below what hurts


def changes(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{key: (old, new)} of all fields that differ."""
    before, after = configs.flat(old), configs.flat(new)
    keys = sorted(before.keys() | after.keys())
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def may_change(key: str) -> bool:
    """Whether a resumed run may have another value of this key."""
    return any(key == allowed or key.startswith(allowed + ".") for allowed in MAY_CHANGE)


def load(text: str, overrides: Mapping[str, str] | None = None, *, trust: bool = False) -> ml_collections.ConfigDict:
    """The config that `--config=text` names. A .py file is run, and may import its neighbours; a .json is only read.

    Args:
      text: a shipped config, or a path; with `:argument` for a .py file that takes one.
      overrides: {dotted key: text} on top of it, as on the command line.
      trust: let a .json name parts "module:Name", which are imported and called once the config is assembled.

    Raises:
      ConfigError: the file is missing, raises, or does not return a valid config made by `base()`; or, without
        `trust`, a .json names a part of somebody's.
    """
    path, argument = locate(os.path.expanduser(text))
    if path.suffix == ".json":
        if argument:
            raise ConfigError(f"--config={text}: a .json config takes no argument")
        return read_config(path, overrides, trust=trust)
    config = _run(path, argument)
    for key, value in (overrides or {}).items():
        override(config, key, value)
    return config


def python_of(text: str) -> Path | None:
    """The Python file that `load(text)` would run; None for a config that comes with jtrain, and for a .json."""
    path, _ = locate(os.path.expanduser(text))
    return None if path.suffix == ".json" or path in shipped().values() else path.absolute()


def _run(path: Path, argument: str | None) -> ml_collections.ConfigDict:
    if path not in shipped().values():
        look_in(path.parent)
    spec = importlib.util.spec_from_file_location(f"jtrain_config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = module.get_config
        config = get_config(argument) if argument is not None else get_config()
        if not isinstance(config, ml_collections.ConfigDict):
            raise ConfigError(f"get_config returns {type(config).__name__}, not the config of jtrain.config.base()")
        configs.validate(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(explain(error, path)) from error
    return config


def look_in(folder: str | Path) -> None:
    """Lets modules of a folder be imported, after all that are installed."""
    absolute = str(Path(folder).absolute())
    if absolute not in sys.path:
        sys.path.append(absolute)


def override(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    """Sets one field from the text of a command line, converted to the field's type.

    Raises:
      ConfigError: no such key, or text that is not of the key's type.
    """
    *parents, last = key.split(".")
    node = config
    if configs.is_free(key):
        with config.ignore_type():
            for parent in parents:
                if not isinstance(node.get(parent), ml_collections.ConfigDict):
                    node[parent] = ml_collections.ConfigDict()
                node = node[parent]
            node[last] = _literal(text)
        return
    known = configs.schema().get(key)
    if known is None:
        raise ConfigError(configs.unknown_key(key))
    value = _converted(text, known.kind)
    if isinstance(known.default, tuple) and not isinstance(value, tuple):
        raise ConfigError(f"{key}: must be a tuple, such as {_example(known, value)}, got {text!r}")
    try:
        value = known.check(value)
    except (ValueError, ConfigError) as error:
        raise ConfigError(at(key, str(error))) from error
    for parent in parents:
        node = node[parent]
    with node.ignore_type():
        node[last] = value


def to_json(config: ml_collections.ConfigDict) -> str:
    """The resolved config as text: nested, every field, in order."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def read_config(
    path: Path, overrides: Mapping[str, str] | None = None, *, trust: bool = False
) -> ml_collections.ConfigDict:
    """The config of a .json file, to be assembled: what it names is run only if that was typed here, or is trusted.

    Args:
      path: of the file.
      overrides: {dotted key: text} on top of it.
      trust: take the parts "module:Name" that it names.

    Raises:
      ConfigError: as `from_json` and `override`; or the file names a part and there is no `trust`.
      DataError: the file cannot be read.
    """
    config = from_json(path)
    for key, text in (overrides or {}).items():
        override(config, key, text)
    if not trust:
        _refuse_parts(config, path, overrides or {})
    return config


def _refuse_parts(config: ml_collections.ConfigDict, path: Path, typed: Collection[str]) -> None:
    """Raises ConfigError for parts "module:Name" that a file names, and nobody `typed`."""
    names = {f"{section}.name": config[section].name for section in configs.CHOICES}
    foreign = [f"{key}={name!r}" for key, name in names.items() if ":" in str(name) and key not in typed]
    if foreign:
        raise ConfigError(
            f"{path}: names code that jtrain would run, {', '.join(foreign)}; "
            "if you trust this file, add --trust (in a program: trust=True)"
        )


def from_json(path: Path) -> ml_collections.ConfigDict:
    """A config that `to_json` wrote, on top of today's defaults; no Python is run, and no part is looked up.

    Raises:
      ConfigError: unknown keys or text that is no JSON object. DataError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ConfigError(f"{path}: is longer than {LONGEST:,} characters; it is no config")
        loaded = json.loads(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deep") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: must hold one JSON object")
    if _deeper(loaded, DEEPEST):
        raise ConfigError(f"{path}: is nested too deep, more than {DEEPEST} levels")
    config = configs.base()
    for key, value in configs.flat(loaded).items():
        if configs.is_free(key):
            continue
        if key not in configs.schema():
            raise ConfigError(f"{path}: {configs.unknown_key(key)}")
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        with node.ignore_type():
            node[last] = _tuples(value)
    for section in configs.CHOICES:
        try:
            config[section][configs.FREE].update(_tuples(loaded.get(section, {}).get(configs.FREE, {})))
        except ValueError as error:
            raise ConfigError(f"{path}: {section}.{configs.FREE}: a name must not hold a dot") from error
    return config


def _deeper(value: Any, levels: int) -> bool:
    """Whether dicts and lists are nested in more levels."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(each, levels - 1) for each in inner)


def _converted(text: str, kind: Any) -> Any:
    origin = get_origin(kind)
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return words.get(text.strip().lower(), text)
    if kind is int:
        try:
            number = float(text) if re.search(r"[.eE]", text) else int(text)
        except ValueError:
            return text
        return int(number) if math.isfinite(number) and number == int(number) else number
    if kind is float:
        try:
            return float(text)
        except ValueError:
            return text
    if kind is tuple or origin is tuple:
        return _literal(text)
    return text


def _literal(text: str) -> Any:
    try:
        return _tuples(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _example(known: Option, value: Any) -> str:
    """What a shell takes for a valid tuple: what was given, as a tuple of one, or the default."""
    try:
        text = repr(known.check((value,)))
    except (ValueError, ConfigError):
        text = repr(known.default)
    return f'"{text}"' if "'" in text else f"'{text}'"
