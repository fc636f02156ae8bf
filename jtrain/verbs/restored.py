"""The run of a workdir and one of its states, for verbs that read and change nothing."""

from pathlib import Path
from typing import Any

import jax

from jtrain import config as configs
from jtrain import config_files
from jtrain.assembly import GIVEN, assemble
from jtrain.errors import ConfigError, DataError
from jtrain.io.manifest import digest_of
from jtrain.io.progress import Screen
from jtrain.peers import ALONE, Peers
from jtrain.pod import agree, code_version
from jtrain.run import Run
from jtrain.session import place_state
from jtrain.state import TrainState
from jtrain.weights_source import read_checkpoint

# What no weight depends on. Any other option would be evaluated, not the run as it was trained.
MAY_CHANGE = (
    "mesh", "log", "metrics", "tta", "data.placement", "data.workers", "data.tfds.data_dir", "data.tfds.cache",
    "data.npz.path", "data.folder.path", "data.table.path", "data.text.path",
)  # fmt: skip


def open_run(
    workdir: str | Path,
    *,
    overrides: dict[str, str] | None = None,
    model: Any = None,
    data: Any = None,
    trust: bool = False,
) -> Run:
    """Assembles the run of a workdir from its config.json; `model` and `data` as `assemble` takes them.

    Raises:
      DataError: the workdir holds no run.
      ConfigError: the run was given a model or arrays by a program, or an override is of more than devices, the log
        and where the data is; or it was given parts "module:Name", and there is no `trust`.
    """
    path = Path(workdir) / "config.json"
    if (Path(workdir) / "study.jsonl").is_file():
        runs = sorted(str(path.parent) for path in Path(workdir).glob("*/config.json"))
        inside = f"; runs in it: {', '.join(runs[:3])}{', …' if len(runs) > 3 else ''}" if runs else ""
        raise DataError(f"--workdir: {workdir} holds a study, which is no run{inside}")
    if not path.is_file():
        raise DataError(f"--workdir: {workdir} holds no run (no config.json)")
    config = config_files.read_config(path, overrides, trust=trust)
    for key in overrides or {}:
        if not any(f"{key}.".startswith(f"{allowed}.") for allowed in MAY_CHANGE):
            raise ConfigError(
                f"{key}: is as {path} says, with which the run was trained; only {', '.join(MAY_CHANGE)} may differ"
            )
    if config.data.name == "arrays" and data is None:
        given = "model=…, data=…" if config.model.name == GIVEN and model is None else "data=…"
        raise ConfigError(
            f"{path}: this run's data were arrays of a program; give them again in a program, as in "
            f"jtrain.evaluate({str(workdir)!r}, {given}), and likewise jtrain.predict"
        )
    return assemble(config, model=model, data=data)


def moved(overrides: dict[str, str] | None) -> bool:
    """Whether the data are to be taken from elsewhere than in the training."""
    return any(key.startswith("data.") for key in overrides or {})


def agree_on(run: Run, peers: Peers, asked: dict[str, Any]) -> None:
    """Raises ConfigError unless all processes do the same with the same run."""
    if jax.process_count() != peers.processes:
        raise ConfigError(f"peers: JAX has {jax.process_count()} processes; pass peers=jtrain.connect()")
    if peers.processes > 1:
        agree(peers, "code", code_version())
        agree(peers, "config", configs.flat(run.config) | asked)
        agree(peers, "data", run.fingerprint)


def open_state(
    run: Run, workdir: str | Path, at: str | int = "latest", *, screen: Screen | None = None, peers: Peers = ALONE,
    held_out: str = "",
) -> TrainState:  # fmt: skip
    """A state of a workdir: `latest`, `best`, or the number of a step; for all processes the one that process 0 finds.

    Args:
      run: from `open_run`.
      workdir: its folder.
      at: which state.
      screen: where it is told.
      peers: the processes that do this together.
      held_out: 'train' or 'val', where the split is to be the one of the training.

    Raises:
      ConfigError: `at` is none of these; or the state was trained on another cut of the data, so that its split of that
        name is another one. DataError: there is no such checkpoint, or it is damaged.
    """
    screen = screen or Screen.quiet()

    def tell(kind: str, text: str) -> None:
        screen.line(f"{kind}: {text}")

    folder = Path(workdir)
    restored = None
    if peers.leads:
        restored = read_checkpoint(folder, str(at), key="--at", event=tell, abstract=run.abstract)
        at_step, digest = restored.step, digest_of(folder / "checkpoints" / str(restored.step))
    at_step, digest = peers.first("state", [at_step, digest] if peers.leads else None)
    if restored is None:
        restored = read_checkpoint(folder, str(at_step), key="--at", event=tell, abstract=run.abstract)
        if digest_of(folder / "checkpoints" / str(at_step)) != digest:
            raise DataError(f"--workdir: {folder} is not the same folder for all processes")
    trained_on = restored.control.get("data")
    if held_out in ("train", "val") and trained_on and trained_on != run.fingerprint:
        raise ConfigError(
            f"split={held_out}: {workdir} was trained on other examples than its config.json cuts for that (a member "
            "of a study, or changed data), so that it may have seen them; use split=test"
        )
    stopped = restored.control.get("stopped") and str(at) == "latest"
    hint = "; the run was stopped early, its best is --at=best" if stopped else ""
    screen.line(f"checkpoint of update {restored.step} in {workdir}{hint}")
    return place_state(run, restored)
