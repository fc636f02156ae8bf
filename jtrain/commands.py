"""The commands of the command line: flags and overrides to a call of a verb, one function each."""

# What takes time to import is imported where it is used, so that a mistyped command is refused at once.
import functools
import os
from collections.abc import Callable
from typing import Any

from jtrain.errors import ConfigError

# Options that are paths: what a command says from one folder must hold in any other.
PATHS = (
    "data.npz.path", "data.table.path", "data.folder.path", "data.text.path", "data.tfds.data_dir",
    "transfer.init_from",
)  # fmt: skip


def _setup() -> None:
    """A compile cache that belongs to this user alone (whoever writes it runs code)."""
    from jtrain.io.cache import use_compile_cache

    use_compile_cache()


def _load(values: dict[str, str], overrides: dict[str, str]) -> Any:
    """The config of a command, valid."""
    from pathlib import Path

    from jtrain import config as configs
    from jtrain import config_files
    from jtrain.shipped import shipped

    if values["config"]:
        config = config_files.load(values["config"])
    elif values["workdir"] and (path := Path(values["workdir"]) / "config.json").is_file():
        config = config_files.from_json(path)
    elif values["branch"]:
        from jtrain.session import parse_branch

        config = config_files.from_json(parse_branch(values["branch"])[0] / "config.json")
    elif values["workdir"]:
        raise ConfigError(f"--workdir={values['workdir']}: holds no run to resume; to begin one, add --config=…")
    else:
        names = ", ".join(shipped())
        raise ConfigError(f"--config: is missing; for example --config=digits (shipped: {names}; see --help)")
    for key, text in overrides.items():
        config_files.override(config, key, text)
    configs.validate(config)
    for key in PATHS:  # a run can be resumed from any folder
        *parents, last = key.split(".")
        node = functools.reduce(getattr, parents, config)
        if node[last]:
            node[last] = str(Path(node[last]).expanduser().absolute())
    return config


def _train(values: dict[str, str], overrides: dict[str, str]) -> None:
    config = _load(values, overrides)
    _setup()
    import time
    from pathlib import Path

    from jtrain.assembly import assemble
    from jtrain.io.progress import Screen
    from jtrain.loop import train
    from jtrain.verbs.summary import summary

    workdir = Path(values["workdir"] or f"runs/{_name(values)}-{time.strftime('%Y%m%d-%H%M%S')}")
    screen, force = Screen(), values["resume"] == "force"
    result = train(assemble(config), workdir, screen=screen, force=force, branch=values["branch"])
    for line in summary(result):
        screen.line(line)


def _name(values: dict[str, str]) -> str:
    """The config's name, for a folder: 'cifarsmall' of configs/cifar.py:small; a branch is named after its parent."""
    from pathlib import Path

    text, _, argument = values["config"].partition(":")
    return Path(text or values["branch"].rpartition("@")[0] or values["branch"]).stem + Path(argument).stem


def _check(values: dict[str, str], overrides: dict[str, str]) -> None:
    config = _load(values, overrides)
    _setup()
    from jtrain.assembly import assemble
    from jtrain.io.progress import Screen
    from jtrain.verbs.check import check

    screen = Screen()
    check(assemble(config), screen=screen, out=values["out"] or f"runs/check-{_name(values)}")
    screen.line("check passed")


def _evaluate(values: dict[str, str], overrides: dict[str, str]) -> None:
    _need_workdir("eval", values)
    _setup()
    from jtrain.io.progress import Screen
    from jtrain.verbs.evaluate import evaluate

    evaluate(
        values["workdir"], split=values["split"] or "test", at=values["at"] or "latest", overrides=overrides,
        screen=Screen(),
    )  # fmt: skip


def _predict(values: dict[str, str], overrides: dict[str, str]) -> None:
    _need_workdir("predict", values)
    if values["inputs"] and values["split"]:
        raise ConfigError("--split: is not for predict with --inputs")
    _setup()
    from jtrain.io.progress import Screen
    from jtrain.verbs.predict import default_name, inputs_of, predict

    split = values["split"] or "test"
    predict(
        values["workdir"], split=split, at=values["at"] or "latest", overrides=overrides, screen=Screen(),
        inputs=inputs_of(values["inputs"]) if values["inputs"] else None,
        out=values["out"] or os.path.join(values["workdir"], default_name(values["inputs"] or split)),
    )  # fmt: skip


def _export(values: dict[str, str], overrides: dict[str, str]) -> None:
    _need_workdir("export", values)
    for key in overrides:
        raise ConfigError(f"--config.{key}: is not for export; it writes the weights as they are")
    from jtrain.io.progress import Screen
    from jtrain.verbs.export import export

    out = values["out"] or os.path.join(values["workdir"], "weights.safetensors")
    export(values["workdir"], out=out, at=values["at"] or "latest", screen=Screen())


def _need_workdir(verb: str, values: dict[str, str]) -> None:
    if not values["workdir"]:
        raise ConfigError(f"--workdir: is needed by {verb}: the folder of a run")
    if values["config"]:
        raise ConfigError(f"--config: is not for {verb}; it reads the workdir's own config.json")


Command = Callable[[dict[str, str], dict[str, str]], None]  # ({flag: value}, {dotted key: text})
COMMANDS: dict[str, Command] = {
    "train": _train, "check": _check, "eval": _evaluate, "predict": _predict, "export": _export,
}  # fmt: skip
