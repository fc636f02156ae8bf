"""The commands that read the folder of a run or a study: eval, predict, export, diagnose, report."""

# What takes time to import is imported where it is used, so that a mistyped command is refused at once.
import os
from collections.abc import Callable
from typing import Any

from jtrain.command_parts import joined, look_here, setup
from jtrain.errors import ConfigError


def _evaluate(values: dict[str, str], overrides: dict[str, str]) -> None:
    _need_workdir("eval", values)
    look_here(bool(values["trust"]))
    setup()
    from jtrain.io.progress import Screen
    from jtrain.verbs.evaluate import evaluate

    with joined("eval", values, _of_workdir(values, overrides)) as peers:
        evaluate(
            values["workdir"], split=values["split"] or "test", at=values["at"] or "latest", overrides=overrides,
            trust=bool(values["trust"]), screen=Screen() if peers.leads else Screen.quiet(), peers=peers,
        )  # fmt: skip


def _predict(values: dict[str, str], overrides: dict[str, str]) -> None:
    _need_workdir("predict", values)
    if values["inputs"] and values["split"]:
        raise ConfigError("--split: is not for predict with --inputs")
    look_here(bool(values["trust"]))
    setup()
    from jtrain.io.progress import Screen
    from jtrain.studies.journal import study_in
    from jtrain.verbs.predict import default_name, inputs_of, predict, write_found

    split = values["split"] or "test"
    rule = f"-{values['rule']}" if values["rule"] else ""
    out = values["out"] or os.path.join(values["workdir"], default_name(values["inputs"] or split) + rule)
    if study_in(values["workdir"]) == "ensemble":
        from jtrain.studies.ensemble import predict_ensemble

        for name in [name for name in ("at", "coordinator", "processes", "process") if values[name]]:
            raise ConfigError(f"--{name}: is not for predict with an ensemble")
        for key in overrides:
            raise ConfigError(f"--config.{key}: is not for predict with an ensemble; it is read as it was trained")
        of = "" if values["inputs"] else split
        predict_ensemble(
            values["workdir"], inputs_of(values["inputs"]) if values["inputs"] else split, values["rule"] or "mean",
            trust=bool(values["trust"]), told=lambda run, found: write_found(run, found, of, out, Screen()),
        )  # fmt: skip
        return
    if values["rule"]:
        raise ConfigError(f"--rule: is for the folder of an ensemble study; {values['workdir']} holds one run")
    with joined("predict", values, _of_workdir(values, overrides)) as peers:
        predict(
            values["workdir"], split=split, at=values["at"] or "latest", overrides=overrides,
            trust=bool(values["trust"]), inputs=inputs_of(values["inputs"]) if values["inputs"] else None,
            screen=Screen() if peers.leads else Screen.quiet(), out=out if peers.leads else None, peers=peers,
        )  # fmt: skip


def _export(values: dict[str, str], overrides: dict[str, str]) -> None:
    _need_workdir("export", values)
    look_here(bool(values["trust"]))
    setup()
    from jtrain.io.progress import Screen
    from jtrain.verbs.export import export

    export(
        values["workdir"], out=values["out"] or None, at=values["at"] or "latest", format=values["format"],
        overrides=overrides, trust=bool(values["trust"]), screen=Screen(),
    )  # fmt: skip


def _of_workdir(values: dict[str, str], overrides: dict[str, str]) -> Any:
    """The config of a workdir, only read."""
    from pathlib import Path

    from jtrain import config as configs
    from jtrain import config_files

    path = Path(values["workdir"]) / "config.json"
    return config_files.read_config(path, overrides, trust=True) if path.is_file() else configs.base()


def _diagnose(values: dict[str, str], overrides: dict[str, str]) -> int:
    for key in overrides:
        raise ConfigError(f"--config.{key}: is not for diagnose; it reads what a run has left")
    paths = _paths("diagnose", values, "a run's folder, or a .csv of step and loss")
    if len(paths) > 1:
        raise ConfigError(f"{paths[1]}: diagnose reads one run at a time")
    from jtrain.io.progress import Screen
    from jtrain.verbs.diagnose import diagnose

    found = diagnose(paths[0], screen=Screen(), out=values["out"] or None)
    return 1 if any(verdict.level == "warning" for verdict in found) else 0


def _report(values: dict[str, str], overrides: dict[str, str]) -> None:
    paths = _paths("report", values, "a folder of a run or a study, or several to compare")
    look_here(bool(values["trust"]))
    setup()
    from jtrain.io.progress import Screen
    from jtrain.verbs.report import report

    report(
        *paths, screen=Screen(), out=values["out"] or None, at=values["at"], overrides=overrides or None,
        trust=bool(values["trust"]),
    )  # fmt: skip


def _paths(verb: str, values: dict[str, str], what: str) -> list[str]:
    """The folders or files that stand behind a verb."""
    paths = [os.path.expanduser(path) for path in values["paths"].split("\n") if path]
    paths += [values["workdir"]] if values["workdir"] else []
    if not paths:
        raise ConfigError(f"{verb}: needs {what}, for example: jtrain {verb} runs/digits-20260131-120000")
    return paths


def _need_workdir(verb: str, values: dict[str, str]) -> None:
    if not values["workdir"]:
        raise ConfigError(f"--workdir: is needed by {verb}: the folder of a run")
    if values["config"]:
        raise ConfigError(f"--config: is not for {verb}; it reads the workdir's own config.json")


# ({flag: value}, {dotted key: text}) -> exit code, None is 0
Command = Callable[[dict[str, str], dict[str, str]], int | None]
OF_WORKDIRS: dict[str, Command] = {
    "eval": _evaluate, "predict": _predict, "export": _export, "diagnose": _diagnose, "report": _report,
}  # fmt: skip
