"""The commands of the command line: flags and overrides to a call of a verb, one function each."""

# What takes time to import is imported where it is used, so that a mistyped command is refused at once.
import functools
from typing import Any

from jtrain.command_parts import joined, load, name_of, setup
from jtrain.command_workdirs import OF_WORKDIRS, Command
from jtrain.errors import ConfigError
from jtrain.study_options import STUDY_OPTIONS


def _train(values: dict[str, str], overrides: dict[str, str]) -> int | None:
    if values["profile"]:
        if "log.profile" in overrides:
            raise ConfigError("--profile: and --config.log.profile say the same; give one")
        overrides = {**overrides, "log.profile": values["profile"]}
    config = load(values, overrides)
    setup()
    import time
    from pathlib import Path

    from jtrain.assembly import assemble
    from jtrain.io.progress import Screen
    from jtrain.loop import train
    from jtrain.verbs.summary import summary

    with joined("train", values, config) as peers:
        named = f"runs/{name_of(values)}-{time.strftime('%Y%m%d-%H%M%S')}"
        workdir = Path(values["workdir"] or peers.first("workdir", named))
        screen, force = Screen(), values["resume"] == "force"
        if config.diagnose.mode == "act":
            return _act(config, workdir, values, peers)
        result = train(assemble(config), workdir, screen=screen, force=force, branch=values["branch"], peers=peers)
        for line in summary(result) if peers.leads else ():
            screen.line(line)
    return None


def _act(config: Any, workdir: Any, values: dict[str, str], peers: Any) -> int:
    """Training that a study looks after: it acts on what diagnose says."""
    for name in ("branch", "resume"):
        if values[name]:
            raise ConfigError(f"--{name}: is not for diagnose.mode='act'")
    if peers.processes > 1:
        raise ConfigError(f"diagnose.mode: 'act' runs in one process, this is one of {peers.processes}; use 'report'")
    from jtrain.io.progress import Screen
    from jtrain.studies.act import act

    return 0 if act(config, workdir, screen=Screen()).ok else 1


def _lint(values: dict[str, str], overrides: dict[str, str]) -> int:
    config = load(values, overrides)
    from jtrain.io.progress import Screen
    from jtrain.verbs.lint import lint

    return 1 if any(finding.level == "warning" for finding in lint(config, screen=Screen())) else 0


def _check(values: dict[str, str], overrides: dict[str, str]) -> None:
    config = load(values, overrides)
    setup()
    from jtrain.assembly import assemble
    from jtrain.io.progress import Screen
    from jtrain.verbs.check import check

    screen = Screen()
    check(assemble(config), screen=screen, out=values["out"] or f"runs/check-{name_of(values)}")
    screen.line("check passed")


def _study(name: str, values: dict[str, str], overrides: dict[str, str]) -> int:
    config = load(values, overrides)
    setup()
    import importlib
    import time

    from jtrain.io.progress import Screen

    workdir = values["workdir"] or f"runs/{name}-{name_of(values)}-{time.strftime('%Y%m%d-%H%M%S')}"
    study = getattr(importlib.import_module(f"jtrain.studies.{name}"), name)
    return 0 if study(config, workdir, screen=Screen()).ok else 1


COMMANDS: dict[str, Command] = {
    "train": _train, "check": _check, "lint": _lint, **OF_WORKDIRS,
    **{name: functools.partial(_study, name) for name in STUDY_OPTIONS},
}  # fmt: skip
