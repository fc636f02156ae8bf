"""How a run was made: its config, its environment, the command that repeats it."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jtrain.io.environment import PLACES, TARGETS, without_flags
from jtrain.io.progress import duration_words
from jtrain.io.report.html import details, esc, is_number, pairs, plainly, section, table
from jtrain.io.report.read import Files
from jtrain.io.report.story import started

WIDEST = 80  # characters of a line of a command


def config(files: Files, defaults: Mapping[str, Any] | None = None) -> str:
    """The options that differ from their defaults, then all of them to unfold; of a logging service that it is on.

    Args:
      files: of a workdir.
      defaults: {key: default} of the options that differ; None: as run.json has it.
    """
    if not files.config:
        return ""
    values = {key: "set" if key in TARGETS and value else value for key, value in files.config.items()}
    known = files.made.get("defaults")
    changed = defaults if defaults is not None else known if isinstance(known, dict) else None
    body = ""
    if changed:
        rows = [[key, plainly(values[key]), plainly(default)] for key, default in changed.items() if key in values]
        body = table(["option", "here", "default"], rows, caption="Options that differ from their defaults")
    elif changed is not None:
        body = "<p>Every option is at its default.</p>"
    every = [[key, plainly(value)] for key, value in values.items()]
    count = f"The whole config: {len(every):,} options"
    return section("config", "Config", body + details(count, table(["option", "value"], every, caption=count)))


def environment(files: Files) -> str:
    """Versions, devices, precision and data."""
    made = files.made
    items: list[tuple[str, Any]] = []
    if when := started(made):
        items.append(("started", when))
    if made.get("jtrain"):
        items.append(("jtrain", str(made["jtrain"])))
    packages = made.get("packages")
    if isinstance(packages, dict) and packages:
        items.append(("packages", " · ".join(f"{name} {version}" for name, version in packages.items())))
    if made.get("python"):
        items.append(("Python", str(made["python"])))
    if made.get("platform"):
        cpus = f" · {made['cpus']} CPU cores" if is_number(made.get("cpus")) else ""
        items.append(("machine", f"{made['platform']}{cpus}"))
    if made.get("devices"):
        items.append(("devices", str(made["devices"])))
    if isinstance(made.get("mesh"), dict):
        items.append(("mesh", " × ".join(f"{axis} {size}" for axis, size in made["mesh"].items())))
    if is_number(made.get("processes")) and made["processes"] > 1:
        items.append(("processes", str(made["processes"])))
    if precision := made.get("precision") or files.config.get("precision"):
        items.append(("precision", str(precision)))
    if isinstance(made.get("data"), dict) and made["data"]:
        items.append(("data fingerprint", " · ".join(f"{k} {v}" for k, v in made["data"].items())))
    told = [pair for pair in made.get("described", ()) if isinstance(pair, list) and len(pair) == 2]
    in_words = pairs((str(name), str(text)) for name, text in told) if told else ""
    body = (pairs(items) if items else "") + _sessions(made)
    return section("environment", "Environment", body + (in_words and details("The run in words", in_words)))


def command(files: Files) -> str:
    """What to type to have this run again, in a new folder."""
    if not files.config:
        return ""
    commands = []
    for one in _list(files.made.get("sessions")):
        words = one.get("command")
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            again = repeated(words)
            if again not in commands and any(word.lstrip("-").startswith("config") for word in again):
                commands.append(again)
    verb = str(files.study.get("study", "train")) if files.kind == "study" else "train"
    trust = ["--trust"] if any(":" in str(v) for k, v in files.config.items() if k.endswith(".name")) else []
    path = (files.folder / "config.json").as_posix()
    resolved = ["jtrain", verb, f"--config={path}", *trust]
    body = "".join(map(_typed, commands))
    if len(commands) > 1:
        body = f"<p>Begun by the first of these, gone on with by the others:</p>{body}"
    how = (
        "Or from its resolved config, which holds every option:" if commands else "From its config, with every option:"
    )
    return section("command", "Run it again", f"{body}<p>{how}</p>{_typed(resolved)}")


def repeated(words: Sequence[str]) -> list[str]:
    """A command line without what ties it to the folder and the machines that it was begun in."""
    return without_flags(words, ("workdir", "resume", *PLACES))


def _typed(words: Sequence[str]) -> str:
    return f'<pre class="command" tabindex="0">{esc(shown(words))}</pre>'


def shown(words: Sequence[str]) -> str:
    """A command for a shell, over several lines where it is long."""
    quoted = [shlex.quote(word) for word in words]
    if len(" ".join(quoted)) <= WIDEST:
        return " ".join(quoted)
    lines, line = [], ""
    for word in quoted:
        if line and len(line) + len(word) + 3 > WIDEST:
            lines.append(line)
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    return " \\\n".join([*lines, line])


def _sessions(made: Mapping[str, Any]) -> str:
    """The parts of a run that was done in several."""
    found = _list(made.get("sessions"))
    if len(found) < 2:
        return ""
    rows = []
    for one in found:
        seconds = one.get("seconds")
        took = duration_words(float(seconds)) if is_number(seconds) else "not known: it was killed, or is running"
        rows.append([str(one.get("started", "")), _number(one.get("step")), _number(one.get("until")), took])
    return details(
        f"{len(found)} sessions", table(["started", "from update", "to update", "took"], rows, caption="Sessions")
    )


def _number(value: Any) -> int | float | None:
    return value if is_number(value) else None


def _list(found: Any) -> list[Mapping[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
