"""The logging services Weights & Biases and MLflow: what a run is there, and how its rows come to it."""

import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jtrain.errors import ConfigError
from jtrain.io.environment import TARGETS
from jtrain.io.hosted import Hosted, Row, Service, Tell, one_line
from jtrain.io.writers import numbers_of

INIT_SECONDS, FINISH_SECONDS = 30.0, 20.0  # that W&B is waited for, by its own thread
EXPERIMENT = "jtrain"  # at MLflow, where MLFLOW_EXPERIMENT_NAME names no other
PARAMS, METRICS = 100, 1000  # that MLflow takes at a time
ID_TAG = "jtrain.id"
ENV = "env"  # as `log.mlflow`: the address that MLFLOW_TRACKING_URI holds

_REFUSED = re.compile(r"[^\w\-. :/]", re.ASCII)  # by MLflow, in names
_HOLDS_USER = re.compile(r"\s*\w[\w+.-]*://[^/]*@|.*[?&;](user|password|passwd|pwd|token)=", re.IGNORECASE | re.DOTALL)


def check_services(targets: Mapping[str, str]) -> None:
    """Raises ConfigError where the package of a service that is asked for is not installed, or its address is none, or
    holds a password.

    Args:
      targets: {'wandb': project, 'mlflow': tracking URI}; '' is off.
    """
    for name, target in targets.items():
        if not target:
            continue
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder wandb/, which W&B leaves behind, is no package
            raise ConfigError(f"log.{name}: needs {name}: pip install 'jtrain[{name}]'")
    uri = targets.get("mlflow", "")
    try:
        check_address(uri)
    except ValueError as error:
        raise ConfigError(f"log.mlflow: {error}") from error
    if uri == ENV and not address_of(uri):
        raise ConfigError(f"log.mlflow: {ENV!r} stands for the address in MLFLOW_TRACKING_URI, which is not set")


def check_address(uri: str) -> None:
    """Raises ValueError for an address of MLflow with a user's name or password in it, of whatever scheme."""
    if _HOLDS_USER.match(uri):
        raise ValueError(
            "holds a user's name or password, which config.json would keep; for a server set MLFLOW_TRACKING_USERNAME "
            f"and MLFLOW_TRACKING_PASSWORD and leave them out of the address; for a database set {ENV!r} here, and its "
            "address as MLFLOW_TRACKING_URI"
        )


def address_of(uri: str) -> str:
    """The address that `log.mlflow` stands for: MLFLOW_TRACKING_URI's for 'env', '' where that is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI", "") if uri == ENV else uri


def open_services(targets: Mapping[str, str], folder: Path, config: Mapping[str, Any], rows: list[Row]) -> list[Hosted]:
    """The services that are asked for, each in a thread of its own; nothing here waits for them.

    Args:
      targets: as of `check_services`.
      folder: the workdir; its name is the run's.
      config: all options by dotted key.
      rows: of the run so far; more will be appended.
    """
    folder, sent = folder.resolve(), taken(config)
    return [
        Hosted(name, _known_as(target), SERVICES[name](target, folder, sent), folder, rows, keeps=name in KEEPS)
        for name, target in targets.items()
        if target
    ]


def taken(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a part in a run: without those of choices that are not taken, of studies, and the targets
    of services."""
    chosen = {key.removesuffix(".name"): value for key, value in config.items() if key.count(".") == 1}
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("study.")
        and key not in TARGETS
        and (key.count(".") < 2 or chosen.get(key.split(".")[0]) in key.split(".")[1:2])
    }


def wandb(project: str, folder: Path, config: Mapping[str, Any]) -> Callable[[str, Tell], Service]:
    """Weights & Biases: `project` or 'entity/project'.

    Online where a key is set (`wandb login`, WANDB_API_KEY) and offline where none is or the server does not answer;
    WANDB_MODE decides where it is set. It never asks for a key.
    """

    def connect(identity: str, tell: Tell) -> Service:
        return _Wandb(project, folder, config, identity, tell)

    return connect


class _Wandb:
    def __init__(self, project: str, folder: Path, config: Mapping[str, Any], identity: str, tell: Tell) -> None:
        import wandb

        # Its own lines would tear the bar apart, and a terminal's prompt would stop a run.
        settings = wandb.Settings(
            console="off", silent=True, init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS
        )  # fmt: skip
        wandb.setup(wandb.Settings(silent=True))
        mode, why = os.environ.get("WANDB_MODE"), "WANDB_MODE"
        if not mode:
            mode, why = "offline", "no key is set (wandb login)"
            try:  # verified here: a run that W&B has failed to begin cannot be begun offline in the same process
                mode = "online" if wandb.login(prompt=False) else mode
            except Exception as error:  # of a server that does not answer, or refuses the key
                why = one_line(error).rstrip(".")
        entity, _, name = project.rpartition("/")
        # `create_new` leaves alone what a program around us logs to W&B.
        self._run = wandb.init(
            entity=entity or None, project=name, name=folder.name, id=identity, dir=str(folder), mode=mode,
            resume=None if mode == "offline" else "allow", config=_nested(config), settings=settings,
            reinit="create_new", allow_val_change=True,
        )  # fmt: skip
        # Not W&B's own count of steps, below which it drops rows: after a resume the later rows must come in.
        self._run.define_metric("*", step_metric="step")
        if mode == "online":
            tell(f"the run is at {self._run.url}")
        elif mode == "offline":
            tell(f"written to {folder.name}/wandb, because {why}; `wandb sync` sends it")
        else:
            tell(f"{mode}, because WANDB_MODE says so")

    def send(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._run.log({"step": row["step"]} | numbers_of(row))

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def mlflow(uri: str, folder: Path, config: Mapping[str, Any]) -> Callable[[str, Tell], Service]:
    """MLflow: `uri` of its tracking server, database ('sqlite:///mlflow.db') or folder; 'env' as of `address_of`."""

    def connect(identity: str, tell: Tell) -> Service:
        return _MLflow(address_of(uri), folder, config, identity, tell)

    return connect


class _MLflow:
    def __init__(self, uri: str, folder: Path, config: Mapping[str, Any], identity: str, tell: Tell) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunStatus

        for name in ("mlflow", "alembic", "urllib3"):  # their own lines would tear the bar apart
            logging.getLogger(name).setLevel(logging.ERROR)
        self._metric, self._status = Metric, RunStatus
        if uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # that is what the config asks for
        self._client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        found = self._client.search_runs([number], f"tags.`{ID_TAG}` = '{identity}'")
        if found:
            run = found[0]
            self._client.update_run(run.info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        else:
            run = self._client.create_run(number, run_name=folder.name, tags={ID_TAG: identity})
        self._id = run.info.run_id
        self._names: dict[str, str] = {}
        texts = {key: str(value) for key, value in config.items()}
        known = run.data.params
        fresh = [Param(key, value) for key, value in texts.items() if key not in known]
        for piece in _pieces(fresh, PARAMS):
            self._client.log_batch(self._id, params=piece)
        for key, value in texts.items():  # MLflow keeps a param as it was first
            if key in known and known[key] != value[: len(known[key])]:
                self._client.set_tag(self._id, f"changed.{key}", value)
        tell(f"run {self._id} of experiment {name}")

    def send(self, rows: Sequence[Row]) -> None:
        now = int(time.time() * 1000)
        found = [
            self._metric(self._name(name), value, now, int(row["step"]))
            for row in rows
            for name, value in numbers_of(row).items()
        ]
        for piece in _pieces(found, METRICS):
            self._client.log_batch(self._id, metrics=piece)

    def close(self, finished: bool) -> None:
        status = self._status.FINISHED if finished else self._status.KILLED
        self._client.set_terminated(self._id, self._status.to_string(status))

    def _name(self, name: str) -> str:
        """As MLflow takes it: of patterns, such as in 'train/lr/head/.*', some letters become '_', and '/' '.'."""
        if name not in self._names:
            split, _, metric = name.partition("/")
            if metric.startswith("lr/"):  # 'lr' is a file of MLflow's folder already, and no folder
                metric = metric.replace("/", ".")
            allowed = _REFUSED.sub("_", f"{split}/{metric}")
            others, unique, number = set(self._names.values()), allowed, 2
            while unique in others:
                unique, number = f"{allowed}_{number}", number + 1
            self._names[name] = unique
        return self._names[name]


Open = Callable[[str, Path, Mapping[str, Any]], Callable[[str, Tell], Service]]
SERVICES: dict[str, Open] = {"wandb": wandb, "mlflow": mlflow}
KEEPS = ("mlflow",)  # what they were sent is safe; W&B writes it some seconds later, and loses it when all is killed


def _known_as(target: str) -> str:
    """By which a target is known again, in a file: of an address of the environment what is no secret."""
    return re.sub(r"://[^/]*@", "://", address_of(target)).partition("?")[0] if target == ENV else target


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return found


def _pieces(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
