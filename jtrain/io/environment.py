"""run.json: where, by what and with which command a run was made, for whoever reads its files later.

    {"schema": 1, "jtrain": "0.1.0", "python": "3.11.2", "platform": "Linux 6.1 x86_64", "cpus": 2,
     "packages": {"jax": "0.10.2", …}, "devices": "1 × cpu", "mesh": {"data": 1, "fsdp": 1}, "processes": 1,
     "precision": "float32", "data": {…}, "total": 162, "described": [["model", "mlp · 9k parameters"], …],
     "defaults": {"optimizer.lr": 0.0}, "schedule": {"lr": [[0, 0.003], …]},
     "sessions": [{"started": "2026-11-01T10:00:00+00:00", "command": ["jtrain", "train", …], "step": 0,
                   "until": 162, "seconds": 4.1}, …]}

A session is one start of the command; of one that was killed `until` and `seconds` are null. A report is made to be
shown, so the options that name hosts or users (--coordinator and its kin, the targets of logging services) are left
out, and the home folder is written ~. Whatever else was typed stays as it was.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jtrain.io.workdir import write_json_atomic

NAME = "run.json"
SCHEMA = 1
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
MOST_BYTES = 1 << 24  # of run.json: far beyond what is ever written
TARGETS = ("log.wandb", "log.mlflow")  # options that name somebody's account or server
PLACES = (
    "coordinator",
    "processes",
    "process",
    *(f"config.{key}" for key in TARGETS),
)  # flags that a report leaves out


def environment() -> dict[str, Any]:
    """Versions and machine of this process: 'jtrain', 'python', 'platform', 'cpus' and 'packages'."""
    versions = {name: _version(name) for name in ("jtrain", *PACKAGES)}
    return {
        "jtrain": versions.pop("jtrain"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "packages": {name: text for name, text in versions.items() if text},
    }


def command_line(argv: Sequence[str] | None = None) -> list[str] | None:
    """The words of the `jtrain` command that this process is, without PLACES; None in a program of somebody's.

    Args:
      argv: of the process; None: its own.
    """
    own = sys.argv if argv is None else argv
    place = Path(own[0]) if own and own[0] else None
    if place is None or (place.name != "jtrain" and place.parts[-2:] != ("jtrain", "main.py")):
        return None
    return ["jtrain", *without_flags(own[1:], PLACES)]


def without_flags(words: Sequence[str], names: Collection[str]) -> list[str]:
    """A command line without some flags, written as '--name=value' or '--name value'."""
    found, skip = [], False
    for word in words:
        name, equals, _ = word.lstrip("-").partition("=")
        if skip:
            skip = False
        elif word.startswith("-") and name in names:
            skip = not equals
        else:
            found.append(word)
    return found


def without_home(text: str) -> str:
    """A text in which '~' stands for the home folder, wherever a path begins with it."""
    try:
        home = Path.home()
    except RuntimeError:  # there is none
        return text
    for place in {str(home), os.path.realpath(home)} - {"/", "."}:
        text = re.sub(rf"(?<![\w./~+-]){re.escape(place)}(?![\w.-])", "~", text)
    return text


def write_environment(
    folder: Path, *, step: int, total: int, devices: str, mesh: Mapping[str, int], processes: int, precision: str,
    data: Mapping[str, Any], described: Sequence[tuple[str, str]] = (), defaults: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> None:  # fmt: skip
    """Begins a session in a workdir's run.json; earlier sessions stay.

    Args:
      folder: the workdir, held by the caller.
      step: updates done when the session begins.
      total: updates of the whole run.
      devices: in words, such as '8 × cpu, data-parallel'.
      mesh: axis -> devices along it.
      processes: of the run.
      precision: of the config.
      data: its fingerprint.
      described: (name, words) of the header of a run's screen.
      defaults: {key: default} of the options that differ from it.
      schedule: name -> (update, lr) as planned, some hundred points of the whole run.

    Raises:
      DataError: it cannot be written.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    session = {"started": now, "command": command_line(), "step": step, "until": None, "seconds": None}
    facts: dict[str, Any] = {"schema": SCHEMA} | environment()
    facts |= {"devices": devices, "mesh": dict(mesh), "processes": processes, "precision": precision}
    facts |= {"data": dict(data), "total": total, "described": [list(pair) for pair in described]}
    facts |= {"defaults": dict(defaults or {}), "schedule": dict(schedule or {})}
    # A run that begins again has done nothing before.
    sessions = _sessions(read_environment(folder)) if step else []
    write_json_atomic(folder / NAME, _without_home(facts) | {"sessions": [*sessions, _without_home(session)]})


def write_end(folder: Path, *, step: int, seconds: float) -> None:
    """Notes in run.json that the session has ended; nothing where none has begun.

    Args:
      folder: the workdir, held by the caller.
      step: updates done.
      seconds: since the session began.

    Raises:
      DataError: it cannot be written.
    """
    facts = read_environment(folder)
    if sessions := _sessions(facts):
        sessions[-1] |= {"until": step, "seconds": round(seconds, 3)}
        write_json_atomic(folder / NAME, facts | {"sessions": sessions})


def read_environment(folder: Path) -> dict[str, Any]:
    """What run.json says; {} where there is none that can be read."""
    path = folder / NAME
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _without_home(found: Any) -> Any:
    """The same in every text of nested values."""
    if isinstance(found, Mapping):
        return {key: _without_home(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_without_home(value) for value in found]
    return without_home(found) if isinstance(found, str) else found


def _sessions(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = facts.get("sessions")
    return [dict(one) for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
