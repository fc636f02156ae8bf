"""Configs in and out of files, and values set by dotted key: `--config=…`, `--config.x=…`, config.json."""

import ast
import importlib.util
import json
import linecache
import math
import os
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

import ml_collections

from jtrain import config as configs
from jtrain.errors import ConfigError, DataError
from jtrain.shipped import locate, shipped
from jtrain.table import Option, at

# What may differ when a run is resumed; each change is printed.
MAY_CHANGE = (
    "log", "checkpoint", "mesh", "lr_scale", "train.total", "optimizer.lr", "schedule", "plateau", "early_stopping",
    "train.on_nan", "train.on_nan_limit", "train.rollback_scale", "metrics", "data.workers",
)  # fmt: skip


def changes(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{key: (old, new)} of all fields that differ."""
    before, after = configs.flat(old), configs.flat(new)
    keys = sorted(before.keys() | after.keys())
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def may_change(key: str) -> bool:
    """Whether a resumed run may have another value of this key."""
    return any(key == allowed or key.startswith(allowed + ".") for allowed in MAY_CHANGE)


def load(text: str) -> ml_collections.ConfigDict:
    """The config that `--config=text` names. A .py file is run, and may import its neighbours; a .json is only read.

    Raises:
      ConfigError: the file is missing, raises, or does not return a valid config made by `base()`.
    """
    path, argument = locate(os.path.expanduser(text))
    if path.suffix == ".json":
        if argument:
            raise ConfigError(f"--config={text}: a .json config takes no argument")
        return from_json(path)
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
        raise ConfigError(_explain(error, path)) from error
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


def from_json(path: Path) -> ml_collections.ConfigDict:
    """A config that `to_json` wrote, on top of today's defaults; no Python is run.

    Raises:
      ConfigError: unknown keys or text that is no JSON object. DataError: the file cannot be read.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: must hold one JSON object")
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


def _explain(error: BaseException, path: Path) -> str:
    """One line for an exception of a config file: where, what, and the nearest key for a mistyped one."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}: {error.msg}" if error.lineno else f"{path}: {message}"
    full = str(path.resolve())
    walk = list(traceback.walk_tb(error.__traceback__))
    own = [i for i, (frame, _) in enumerate(walk) if str(Path(frame.f_code.co_filename).resolve()) == full]
    if not own:
        if isinstance(error, AttributeError) and "get_config" in message:
            return f"{path}: has no function get_config(arg=None)"
        return f"{path}: {message}" if isinstance(error, ValueError) else f"{path}: {type(error).__name__}: {message}"
    number = walk[own[-1]][1]
    line, where = linecache.getline(full, number).strip(), f"{path}:{number}"
    if isinstance(error, SystemExit):
        return f"{where}: the config ends the program, {line}; let it return a config, or raise an error"
    keys = re.findall(r"\b\w+\.([A-Za-z_][\w.]*)", re.sub(r"\[['\"](\w+)['\"]\]", r".\1", line))
    if isinstance(error, AttributeError | KeyError):
        for dotted in keys:
            if dotted not in configs.schema() and any(part in message for part in dotted.split(".")):
                return f"{where}: {configs.unknown_key(dotted)}"
    if isinstance(error, TypeError) and "get_config" not in message:
        below = walk[own[-1] + 1][0].f_locals if own[-1] + 1 < len(walk) else {}
        return f"{where}: {_wrong_type(keys, below) or f'{line}: {message}'}"
    return f"{where}: {type(error).__name__}: {message}"


def _wrong_type(keys: list[str], setting: Mapping[str, Any]) -> str | None:
    """What `validate` says of a value that ml_collections refused; None where it was something else.

    Args:
      keys: that the line names.
      setting: the arguments of ConfigDict.__setattr__ or __setitem__, which refused it.
    """
    name = setting.get("attribute", setting.get("key"))
    for written in keys:
        meant = [key for key in configs.schema() if f".{key}".endswith(f".{written}")]
        if len(meant) == 1 and meant[0].split(".")[-1] == name and "value" in setting:
            try:
                configs.schema()[meant[0]].check(setting["value"])
            except (ValueError, ConfigError) as refusal:
                return at(meant[0], str(refusal))
    return None
