"""Configs in and out of files, and values set by dotted key: `--config=…`, `--config.x=…`, config.json."""

import ast
import importlib.util
import json
import math
import re
import traceback
from pathlib import Path
from typing import Any, get_origin

import ml_collections

from jtrain import config as configs
from jtrain.errors import ConfigError, DataError
from jtrain.shipped import locate
from jtrain.table import at


def load(text: str) -> ml_collections.ConfigDict:
    """The config that `--config=text` names. A .py file is run; a .json file is only read.

    Raises:
      ConfigError: the file is missing, raises, or does not return a config made by `base()`.
    """
    path, argument = locate(text)
    if path.suffix == ".json":
        if argument:
            raise ConfigError(f"--config={text}: a .json config takes no argument")
        return from_json(path)
    spec = importlib.util.spec_from_file_location(f"jtrain_config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = module.get_config
        config = get_config(argument) if argument is not None else get_config()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:
        raise ConfigError(_explain(error, path)) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"{path}: get_config returns {type(config).__name__}, not the config of jtrain.config.base()")
    return config


def override(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    """Sets one field from the text of a command line, converted to the field's type.

    Raises:
      ConfigError: no such key, or text that is not of the key's type.
    """
    section, _, rest = key.partition(".")
    if section in configs.CHOICES and rest.startswith(f"{configs.FREE}.") and rest.count(".") == 1:
        config[section][configs.FREE][rest.split(".")[1]] = _literal(text)
        return
    known = configs.schema().get(key)
    if known is None:
        raise ConfigError(configs.unknown_key(key))
    try:
        value = known.check(_converted(text, known.kind))
    except (ValueError, ConfigError) as error:
        raise ConfigError(at(key, str(error))) from error
    *parents, last = key.split(".")
    node = config
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
        *parents, last = key.split(".")
        if key not in configs.schema() and not configs._is_free(key):
            raise ConfigError(f"{path}: {configs.unknown_key(key)}")
        node = config
        for parent in parents:
            node = node[parent]
        with node.ignore_type():
            node[last] = _tuples(value)
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


def _explain(error: Exception, path: Path) -> str:
    """One line for an exception of a config file: where, what, and the nearest key for a mistyped one."""
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}: {error.msg}"
    full = str(path.resolve())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if str(Path(f.filename).resolve()) == full]
    where = f"{path}:{frames[-1].lineno}" if frames else str(path)
    message = " ".join(str(error).split())
    if isinstance(error, AttributeError) and "get_config" in message and not frames:
        return f"{path}: has no function get_config(arg=None)"
    if isinstance(error, AttributeError | KeyError) and frames:
        for dotted in re.findall(r"\b\w+\.([A-Za-z_][\w.]*)", frames[-1].line or ""):
            word = dotted.split(".")[-1]
            if dotted not in configs.schema() and any(part in message for part in (word, *dotted.split("."))):
                return f"{where}: {configs.unknown_key(dotted)}"
    if isinstance(error, TypeError) and frames and "get_config" not in message and frames[-1].line:
        return f"{where}: {frames[-1].line}: {message}"
    return f"{where}: {type(error).__name__}: {message}"
