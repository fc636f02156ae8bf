"""What commands share: the config that is meant, the compile cache, the processes of a run."""

# What takes time to import is imported where it is used, so that a mistyped command is refused at once.
import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from jtrain.errors import ConfigError

# Options that are paths: what a command says from one folder must hold in any other.
PATHS = (
    "data.npz.path", "data.table.path", "data.folder.path", "data.text.path", "data.tfds.data_dir",
    "transfer.init_from", "study.kfold.groups", "study.ensemble.workdirs",
)  # fmt: skip


def setup() -> None:
    """A compile cache that belongs to this user alone (whoever writes it runs code)."""
    from jtrain.io.cache import use_compile_cache

    use_compile_cache()


def load(values: dict[str, str], overrides: dict[str, str]) -> Any:
    """The config of a command, valid; the screen says so before one is run."""
    from pathlib import Path

    from jtrain import config as configs
    from jtrain import config_files
    from jtrain.shipped import shipped

    trust = bool(values["trust"])
    look_here(trust or any(":" in text for key, text in overrides.items() if key.endswith(".name")))
    if values["config"]:
        if python := config_files.python_of(values["config"]):
            from jtrain.io.progress import Screen
            from jtrain.launchers import detect

            look_here(True)
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
def joined(verb: str, values: dict[str, str], config: Any) -> Iterator[Any]:
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


def look_here(parts: bool) -> None:
    """Lets the parts that a command asks for be in the current folder; else nothing that lies there is imported."""
    from jtrain.config_files import look_in

    if parts:
        look_in("")


def name_of(values: dict[str, str]) -> str:
    """The config's name, for a folder: 'cifarsmall' of configs/cifar.py:small; a branch is named after its parent."""
    from pathlib import Path

    text, _, argument = values["config"].partition(":")
    return Path(text or values["branch"].rpartition("@")[0] or values["branch"]).stem + Path(argument).stem
