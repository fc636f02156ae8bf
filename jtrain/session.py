"""A run's hold on its workdir: the lock, the config and data it was begun with, the files, the state to begin with."""

import contextlib
import dataclasses
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jtrain import config as configs
from jtrain import config_files, errors, resume
from jtrain import mesh as meshes
from jtrain.control import Control
from jtrain.describe import described
from jtrain.errors import ConfigError, JtrainError
from jtrain.io.checkpoint import Restored
from jtrain.io.environment import write_environment
from jtrain.io.progress import Screen
from jtrain.io.record import Record
from jtrain.io.services import check_services
from jtrain.io.workdir import Workdir, write_text_atomic
from jtrain.io.writers import check_tensorboard
from jtrain.peers import ALONE, Peers
from jtrain.pod import agree, code_version
from jtrain.run import Run
from jtrain.state import TrainState, from_flat
from jtrain.weights_source import read_checkpoint

SCHEDULE_POINTS = 200  # of the lr over the run, for the report


@contextlib.contextmanager
def open_record(
    run: Run, workdir: str | Path | None, screen: Screen, *, force: bool, branch: str = "", peers: Peers = ALONE
) -> Iterator[tuple[Record, TrainState, Control]]:
    """The files of a run, its state (new, or restored) and its control state; all is closed at the end.

    With `branch` ('OLD', 'OLD@best' or 'OLD@STEP') a new workdir begins with the state of another run. Of several
    processes the first looks at the workdir, and tells the others what it has found.

    Raises:
      ConfigError: the workdir holds a run of another config or other data, or something that is no run; or the
        processes are not of one mind on config, code or data.
      DataError: it cannot be written, or all its checkpoints are damaged. HeldError: another run holds it.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(run.close)
        if peers.processes > 1:
            agree(peers, "code", code_version())
            where = {"workdir": str(workdir and Path(workdir).absolute()), "branch": branch}
            agree(peers, "config", configs.flat(run.config) | where)
            agree(peers, "data", run.fingerprint)
        if workdir is None:
            if branch or run.config.train.on_nan == "rollback":
                why = "--branch" if branch else "train.on_nan='rollback'"
                raise ConfigError(f"{why}: needs a workdir; give one")
            record = stack.enter_context(contextlib.closing(Record(None, screen=screen, peers=peers)))
            begun = Begun(None, Control())
        elif peers.leads:
            try:
                record, begun = _lead(run, Path(workdir), screen, stack, force=force, branch=branch, peers=peers)
            except JtrainError as error:
                peers.first("begin", {"error": [type(error).__name__, str(error)]})
                raise
            peers.first("begin", begun.told(record))
        else:
            record, begun = _follow(run, Path(workdir), screen, stack, peers=peers)
        control = begun.control
        peers.when_lost(lambda text: record.event("lost", text))
        stack.callback(peers.when_lost, None)
        if begun.branched:  # its own from here on: killed or rolled back, it never begins with anything else
            assert begun.restored is not None
            save = begun.restored.step, begun.restored.state, dataclasses.asdict(control)
            record.save(*save, best_step=None, block=True)
        state = place_state(run, begun.restored) if begun.restored else _begin(run, record, peers)
        control.lr_factors["user"] = float(run.config.lr_scale)
        control.data, control.devices = run.fingerprint, meshes.describe(run.mesh)
        if record.folder is not None and peers.leads:
            _write_environment(run, record.folder, int(state.step), peers)
        yield record, with_lr_scale(run, state, control), control


def _write_environment(run: Run, folder: Path, step: int, peers: Peers) -> None:
    """What the report tells of how the run is made."""
    marks = np.unique(np.linspace(0, run.clock.total - 1, SCHEDULE_POINTS).astype(np.int64)).tolist()
    lrs = [(mark, run.lrs(mark, {"user": float(run.config.lr_scale)})) for mark in marks]
    names = lrs[-1][1]
    write_environment(
        folder, step=step, total=run.clock.total, devices=meshes.describe(run.mesh), mesh=dict(run.mesh.shape),
        processes=peers.processes, precision=run.config.precision, data=run.fingerprint, described=described(run),
        defaults={key: old for key, (old, _) in config_files.changes(configs.base(), run.config).items()},
        schedule={name: [(mark, found[name]) for mark, found in lrs if name in found] for name in names},
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Begun:
    """What a run begins with.

    Attributes:
      restored: a checkpoint, or None for a new state.
      control: the control state that belongs to it.
      branched: the checkpoint is another run's, and not yet this run's own.
    """

    restored: Restored | None
    control: Control
    branched: bool = False

    def told(self, record: Record) -> dict[str, Any]:
        """What the other processes need to begin with the same."""
        own = self.restored is not None and not self.branched
        step = self.restored.step if self.restored is not None and own else None
        digest = record.digest(step) if step is not None else ""
        return {"control": dataclasses.asdict(self.control), "branched": self.branched, "step": step, "digest": digest}


def _lead(
    run: Run, folder: Path, screen: Screen, stack: contextlib.ExitStack, *, force: bool, branch: str, peers: Peers
) -> tuple[Record, Begun]:
    """Takes hold of a workdir, and tells the other processes what it holds."""
    log = run.config.log
    if log.tensorboard:
        check_tensorboard()
    services = {"wandb": log.wandb, "mlflow": log.mlflow}
    check_services(services)
    resume.refuse_foreign(folder, force=force)
    if not branch and not any((folder / "checkpoints").glob("[0-9]*")):
        run.starting()  # before anything is written: weights that do not fit leave nothing behind
    stack.enter_context(Workdir(folder))
    changed = resume.changes_of(run, folder, force=force)
    begun = any((folder / "checkpoints").glob("[0-9]*"))
    parent = resume.parent_of(run, branch, force=force) if branch and not begun else None
    path = folder / "config.json"
    if not path.exists():  # first of all: what is killed from here on can be started again
        write_text_atomic(path, config_files.to_json(run.config))
    record = Record(
        folder, screen=screen, keep=run.config.checkpoint.keep, tensorboard=log.tensorboard, services=services,
        config=configs.flat(run.config), peers=peers,
    )  # fmt: skip
    stack.enter_context(contextlib.closing(record))
    found = _restore(run, record, changed, parent, force=force)
    if branch and (not found.control.parent or found.control.parent["branch"] != branch):
        raise ConfigError(f"--branch={branch}: {folder} holds a run that began otherwise; choose a new --workdir")
    write_text_atomic(path, config_files.to_json(run.config))
    return record, found


def _follow(
    run: Run, folder: Path, screen: Screen, stack: contextlib.ExitStack, *, peers: Peers
) -> tuple[Record, Begun]:
    """What the first process has found in the workdir; raises what it raised."""
    told = peers.first("begin", None)
    if "error" in told:
        name, text = told["error"]
        raise getattr(errors, name)(text)
    record = Record(folder, screen=screen, keep=run.config.checkpoint.keep, peers=peers)
    stack.enter_context(contextlib.closing(record))
    restored = None
    if told["step"] is not None:
        restored = record.restore_same(told["step"], told["digest"], run.abstract)
    control, branched = Control(**told["control"]), told["branched"]
    if branched and control.parent:
        source, step = control.parent["workdir"], str(control.parent["step"])
        restored = read_checkpoint(
            Path(source), step, key="--branch", event=lambda kind, text: None, abstract=run.abstract
        )
    return record, Begun(restored, control, branched)


def with_lr_scale(run: Run, state: TrainState, control: Control) -> TrainState:
    """The state with the product of all factors of the lr."""
    lr_scale = np.float32(math.prod(control.lr_factors.values()))  # of NumPy: JAX would compile a program for it
    return dataclasses.replace(state, lr_scale=meshes.place(lr_scale, meshes.replicated(run.mesh)))


def place_state(run: Run, restored: Restored) -> TrainState:
    """A restored state on the mesh; copied, since the step donates its state."""
    phase = run.phase(restored.step)
    return meshes.place(from_flat(restored.state, phase.shapes), phase.shardings, copy=True)


def _restore(
    run: Run,
    record: Record,
    changed: dict[str, tuple[Any, Any]],
    parent: tuple[tuple[str, str], Restored, dict[str, tuple[Any, Any]]] | None,
    *,
    force: bool,
) -> Begun:
    restored = record.restore_newest(run.abstract)
    if restored is None and parent is not None:
        name, restored, changed = parent
        control = Control(**{key: value for key, value in restored.control.items() if key != "rows"})
        control = dataclasses.replace(
            control, totals={}, best=None, stopped=0, stopping={}, skipped=0, overflows=0, rollbacks=0,
            told=[], noise={}, data=run.fingerprint, devices=meshes.describe(run.mesh),
            parent={"branch": name[0], "workdir": name[1], "step": restored.step},
        )  # fmt: skip
        record.keep_rows(0, 0)
        record.event("branch", f"begins with update {restored.step} of {name[1]}", restored.step)
        resume.tell(record, changed, restored.step)
        return Begun(restored, resume.reopened(run, record, control, changed, restored.step), branched=True)
    if restored is None:
        if count := record.put_rows_aside():
            record.event("restart", f"no checkpoint is left or was made: begins again; {count} rows are put aside", 0)
        resume.tell(record, changed, 0)
        record.keep_rows(0, 0)
        return Begun(None, Control())
    fields = dict(restored.control)
    rows = fields.pop("rows")
    control = Control(**fields)
    if restored.step > run.clock.total:
        raise ConfigError(
            f"train.total: {run.config.train.total!r} is {run.clock.total} updates; "
            f"the run in {record.folder} has done {restored.step}"
        )
    if control.data != run.fingerprint and not force:
        what = resume.differing(control.data, run.fingerprint)
        raise ConfigError(
            f"data: the run in {record.folder} was begun with other data ({what}); "
            "choose another --workdir, or --resume=force"
        )
    resume.tell(record, changed, restored.step)
    if control.devices != meshes.describe(run.mesh):
        same = run.config.mesh.shards and "mesh.shards" not in changed
        equal = "to the bit (mesh.shards)" if same else "to rounding, no longer to the bit"
        text = f"{control.devices} → {meshes.describe(run.mesh)}: equal {equal}"
        record.event("devices", text, restored.step)
    record.keep_rows(rows, restored.step)
    return Begun(restored, resume.reopened(run, record, control, changed, restored.step))


def _begin(run: Run, record: Record, peers: Peers) -> TrainState:
    """A new state, and what became of the weights that it starts from."""
    start = run.starting()
    if start is not None:
        if peers.processes > 1:
            agree(peers, "weights", {path: zlib.crc32(array.tobytes()) for path, array in start.arrays.items()})
        record.event("transfer", "\n".join(["the run starts from other weights", *start.report.lines()]), 0)
    return run.init_state()


def restore_again(run: Run, record: Record) -> tuple[TrainState, Control]:
    """The newest checkpoint of the run that is going on (or its start), with its rows."""
    restored = record.restore(run.abstract)
    if restored is None:
        record.keep_rows(0, 0)
        return run.init_state(), Control(data=run.fingerprint, devices=meshes.describe(run.mesh))
    fields = dict(restored.control)
    record.keep_rows(fields.pop("rows"), restored.step)
    return place_state(run, restored), Control(**fields)
