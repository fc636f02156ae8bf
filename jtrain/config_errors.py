"""What went wrong in a config file that was run, in one line."""

import linecache
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtrain import config as configs
from jtrain.errors import ConfigError
from jtrain.table import at


def explain(error: BaseException, path: Path) -> str:
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
        # A study has options of the same names; a line that means those names the study.
        meant = [key for key in meant if not key.startswith("study.") or "study" in written] or meant
        if len(meant) == 1 and meant[0].split(".")[-1] == name and "value" in setting:
            try:
                configs.schema()[meant[0]].check(setting["value"])
            except (ValueError, ConfigError) as refusal:
                return at(meant[0], str(refusal))
    return None
