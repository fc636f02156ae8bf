"""The commands of the command line: flags and overrides to a call of a verb, one function each."""

# What takes time to import is imported where it is used, so that a mistyped command is refused at once.
import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from jtrain.errors import ConfigError

# Options that are paths: what a command says from one folder must hold in any other.
PATHS = (
    "data.npz.path", "data.table.path", "data.folder.path", "data.text.path", "data.tfds.data_dir",
    "transfer.init_from", "study.kfold.groups", "study.ensemble.workdirs",
)  # fmt: skip


def _setup() -> None:
    """A compile cache that belongs to this user alone (whoever writes it runs code)."""
    from jtrain.io.cache import use_compile_cache

    use_compile_cache()


def _load(values: dict[str, str], overrides: dict[str, str]) -> Any:
    """The config of a command, valid; the screen says so before one is run."""
    from pathlib import Path

    from jtrain import config as configs
    from jtrain import config_files
    from jtrain.shipped import shipped

    trust = bool(values["trust"])
    _look_here(trust or any(":" in text for key, text in overrides.items() if key.endswith(".name")))
    if values["config"]:
        if python := config_files.python_of(values["config"]):
            from jtrain.io.progress import Screen
            from jtrain.launchers import detect

            _look_here(True)
            cluster = detect(os.environ, **_cluster_flags(values))
            if cluster is None or cluster.process == 0:
                Screen().line(f"config: runs {python}")
        config = config_files.load(values["config"], overrides, trust=trust)
    elif values["workdir"] and (path := Path(values["workdir"]) / "config.json").is_file():
        config = config_files.read_config(path, overrides, trust=trust)
    elif values["branch"]:
        from jtrain.resume import parse_branch

        parent = parse_branch(values["branch"])[0] / "config.json"
        config = config_files.read_config(parent, overrides, trust=trust)
    elif values["workdir"]:
        raise ConfigError(f"--workdir={values['workdir']}: holds no run to resume; to begin one, add --config=…")
    else:
        names = ", ".join(shipped())
        raise ConfigError(f"--config: is missing; for example --config=digits (shipped: {names}; see --help)")
    configs.validate(config)
    for key in PATHS:  # a run can be resumed from any folder
        *parents, last = key.split(".")
        node = functools.reduce(getattr, parents, config)
        if isinstance(node[last], tuple):
            node[last] = tuple(str(Path(text).expanduser().absolute()) for text in node[last])
        elif node[last]:
            node[last] = str(Path(node[last]).expanduser().absolute())
    return config


@contextlib.contextmanager
def _joined(verb: str, values: dict[str, str], config: Any) -> Iterator[Any]:
    """The processes of a run that several were started for; none of them waits for one that has failed."""
    from jtrain.errors import HeldError, Interrupted, JtrainError
    from jtrain.pod import agree, connect

    times: dict[str, Any] = {name: config.mesh[name] for name in ("heartbeat", "start_timeout", "step_timeout")}
    peers = connect(**_cluster_flags(values), **times)
    try:
        if peers.processes > 1:
            own = ("config", "coordinator", "process")
            agree(peers, "command", {"verb": verb} | {f"--{k}": v for k, v in values.items() if k not in own})
        yield peers
    except Interrupted as error:  # all of them are; the first tells it
        peers.leave()
        if not peers.leads:
            raise SystemExit(error.exit_code) from error
        raise
    except JtrainError as error:
        _left(peers, str(error), error.exit_code)
        raise
    except Exception as error:
        peers.wait_for_news()  # it may be the consequence of another's end, which ends this process as well
        reason = " ".join(str(error).split())[:300] or repr(error)
        if "DEADLINE_EXCEEDED" in reason:  # of JAX: they are all there, but one is far behind
            _left(peers, reason, HeldError.exit_code)
            raise HeldError(f"the processes did not come to a collective in time: {reason}; start again") from error
        _left(peers, reason, 70)
        raise
    peers.leave()


def _cluster_flags(values: dict[str, str]) -> dict[str, Any]:
    return {name: values[name] for name in ("coordinator", "processes", "process")}


def _left(peers: Any, reason: str, code: int) -> None:
    """Ends in front of the others; this process is not held up at its exit by waiting for them."""
    import atexit

    peers.leave(reason, code)
    if peers.processes > 1:
        from jtrain.peers import end_now

        atexit.register(end_now, code)  # runs before what JAX has registered, which waits for all processes


def _look_here(parts: bool) -> None:
    """Lets the parts that a command asks for be in the current folder; else nothing that lies there is imported."""
    from jtrain.config_files import look_in

    if parts:
        look_in("")


def _train(values: dict[str, str], overrides: dict[str, str]) -> None:
    config = _load(values, overrides)
    _setup()
    import time
    from pathlib import Path

    from jtrain.assembly import assemble
    from jtrain.io.progress import Screen
    from jtrain.loop import train
    from jtrain.verbs.summary import summary

    with _joined("train", values, config) as peers:
        named = f"runs/{_name(values)}-{time.strftime('%Y%m%d-%H%M%S')}"
        workdir = Path(values["workdir"] or peers.first("workdir", named))
        screen, force = Screen(), values["resume"] == "force"
        result = train(assemble(config), workdir, screen=screen, force=force, branch=values["branch"], peers=peers)
        for line in summary(result) if peers.leads else ():
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
    _look_here(bool(values["trust"]))
    _setup()
    from jtrain.io.progress import Screen
    from jtrain.verbs.evaluate import evaluate

    with _joined("eval", values, _of_workdir(values, overrides)) as peers:
        evaluate(
            values["workdir"], split=values["split"] or "test", at=values["at"] or "latest", overrides=overrides,
            trust=bool(values["trust"]), screen=Screen() if peers.leads else Screen.quiet(), peers=peers,
        )  # fmt: skip


def _predict(values: dict[str, str], overrides: dict[str, str]) -> None:
    _need_workdir("predict", values)
    if values["inputs"] and values["split"]:
        raise ConfigError("--split: is not for predict with --inputs")
    _look_here(bool(values["trust"]))
    _setup()
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
    with _joined("predict", values, _of_workdir(values, overrides)) as peers:
        predict(
            values["workdir"], split=split, at=values["at"] or "latest", overrides=overrides,
            trust=bool(values["trust"]), inputs=inputs_of(values["inputs"]) if values["inputs"] else None,
            screen=Screen() if peers.leads else Screen.quiet(), out=out if peers.leads else None, peers=peers,
        )  # fmt: skip


def _export(values: dict[str, str], overrides: dict[str, str]) -> None:
    _need_workdir("export", values)
    for key in overrides:
        raise ConfigError(f"--config.{key}: is not for export; it writes the weights as they are")
    from jtrain.io.progress import Screen
    from jtrain.verbs.export import export

    out = values["out"] or os.path.join(values["workdir"], "weights.safetensors")
    export(values["workdir"], out=out, at=values["at"] or "latest", screen=Screen())


def _of_workdir(values: dict[str, str], overrides: dict[str, str]) -> Any:
    """The config of a workdir, only read."""
    from pathlib import Path

    from jtrain import config as configs
    from jtrain import config_files

    path = Path(values["workdir"]) / "config.json"
    return config_files.read_config(path, overrides, trust=True) if path.is_file() else configs.base()


def _study(name: str, values: dict[str, str], overrides: dict[str, str]) -> int:
    config = _load(values, overrides)
    _setup()
    import importlib
    import time

    from jtrain.io.progress import Screen

    workdir = values["workdir"] or f"runs/{name}-{_name(values)}-{time.strftime('%Y%m%d-%H%M%S')}"
    study = getattr(importlib.import_module(f"jtrain.studies.{name}"), name)
    return 0 if study(config, workdir, screen=Screen()).ok else 1


def _need_workdir(verb: str, values: dict[str, str]) -> None:
    if not values["workdir"]:
        raise ConfigError(f"--workdir: is needed by {verb}: the folder of a run")
    if values["config"]:
        raise ConfigError(f"--config: is not for {verb}; it reads the workdir's own config.json")


# ({flag: value}, {dotted key: text}) -> exit code, None is 0
Command = Callable[[dict[str, str], dict[str, str]], int | None]
COMMANDS: dict[str, Command] = {
    "train": _train, "check": _check, "eval": _evaluate, "predict": _predict, "export": _export,
    **{
        name: functools.partial(_study, name)
        for name in ("ladder", "lr_find", "inits", "batch_size", "overfit", "kfold", "ensemble", "data_size", "search")
    },
}  # fmt: skip
