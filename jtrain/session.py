"""A run's hold on its workdir: the lock, the config and data it was begun with, the files, the state to begin with."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jtrain import config as configs
from jtrain import config_files
from jtrain import mesh as meshes
from jtrain.control import Control
from jtrain.errors import ConfigError, DataError
from jtrain.io.checkpoint import Restored
from jtrain.io.progress import Screen
from jtrain.io.record import Record
from jtrain.io.workdir import Workdir, write_text_atomic
from jtrain.io.writers import check_tensorboard
from jtrain.peers import ALONE, Peers
from jtrain.pod import agree, code_version
from jtrain.run import Run
from jtrain.state import TrainState, from_flat
from jtrain.weights_source import read_checkpoint

OURS = frozenset({"lock", "events.jsonl", "metrics.jsonl"})  # files that a run killed at its very start may leave


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
            record = stack.enter_context(contextlib.closing(Record(None, screen=screen)))
            begun = Begun(None, Control())
        elif peers.leads:
            record, begun = _lead(run, Path(workdir), screen, stack, force=force, branch=branch, peers=peers)
        else:
            record, begun = _follow(run, Path(workdir), screen, stack, peers=peers)
        control = begun.control
        if begun.branched:  # its own from here on: killed or rolled back, it never begins with anything else
            assert begun.restored is not None
            save = begun.restored.step, begun.restored.state, dataclasses.asdict(control)
            record.save(*save, best_step=None, block=True)
        state = place_state(run, begun.restored) if begun.restored else _begin(run, record)
        control.lr_factors["user"] = float(run.config.lr_scale)
        control.data, control.devices = run.fingerprint, meshes.describe(run.mesh)
        yield record, with_lr_scale(run, state, control), control


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


def _lead(
    run: Run, folder: Path, screen: Screen, stack: contextlib.ExitStack, *, force: bool, branch: str, peers: Peers
) -> tuple[Record, Begun]:
    """Takes hold of a workdir, and tells the other processes what it holds."""
    if run.config.log.tensorboard:
        check_tensorboard()
    _refuse_foreign(folder, force=force)
    if not branch and not any((folder / "checkpoints").glob("[0-9]*")):
        run.starting()  # before anything is written: weights that do not fit leave nothing behind
    stack.enter_context(Workdir(folder))
    changed = _changed(run, folder, force=force)
    begun = any((folder / "checkpoints").glob("[0-9]*"))
    parent = _parent(run, branch, force=force) if branch and not begun else None
    path = folder / "config.json"
    if not path.exists():  # first of all: what is killed from here on can be started again
        write_text_atomic(path, config_files.to_json(run.config))
    options = run.config.checkpoint.keep, run.config.log.tensorboard
    record = Record(folder, screen=screen, keep=options[0], tensorboard=options[1], peers=peers)
    stack.enter_context(contextlib.closing(record))
    found = _restore(run, record, changed, parent, force=force)
    if branch and (not found.control.parent or found.control.parent["branch"] != branch):
        raise ConfigError(f"--branch={branch}: {folder} holds a run that began otherwise; choose a new --workdir")
    write_text_atomic(path, config_files.to_json(run.config))
    peers.exchange("begin", {"control": dataclasses.asdict(found.control), "branched": found.branched})
    return record, found


def _follow(
    run: Run, folder: Path, screen: Screen, stack: contextlib.ExitStack, *, peers: Peers
) -> tuple[Record, Begun]:
    """What the first process has found in the workdir."""
    record = Record(folder, screen=screen, keep=run.config.checkpoint.keep, peers=peers)
    stack.enter_context(contextlib.closing(record))
    restored = record.restore(run.abstract)
    told = peers.exchange("begin", None)[0]
    control, branched = Control(**told["control"]), told["branched"]
    if branched and control.parent:
        source, step = control.parent["workdir"], str(control.parent["step"])
        restored = read_checkpoint(
            Path(source), step, key="--branch", event=lambda kind, text: None, abstract=run.abstract
        )
    return record, Begun(restored, control, branched)


def with_lr_scale(run: Run, state: TrainState, control: Control) -> TrainState:
    """The state with the product of all factors of the lr."""
    lr_scale = jnp.asarray(math.prod(control.lr_factors.values()), jnp.float32)
    return dataclasses.replace(state, lr_scale=meshes.place(lr_scale, meshes.replicated(run.mesh)))


def place_state(run: Run, restored: Restored) -> TrainState:
    """A restored state on the mesh; copied, since the step donates its state."""
    phase = run.phase(restored.step)
    return meshes.place(from_flat(restored.state, phase.shapes), phase.shardings, copy=True)


def _refuse_foreign(folder: Path, *, force: bool) -> None:
    if (folder / "config.json").is_file() or not folder.is_dir():
        return
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".config.json.tmp")}
    if names <= OURS or "config.json" in names or (force and "checkpoints" in names):
        return
    if "checkpoints" in names:
        raise ConfigError(
            f"--workdir: {folder} has checkpoints but lost its config.json; put it back, "
            "or give the run's --config and --resume=force"
        )
    raise ConfigError(f"--workdir: {folder} holds files but no run (no config.json); choose a new or empty folder")


def _changed(run: Run, folder: Path, *, force: bool) -> dict[str, tuple[Any, Any]]:
    """What differs from the config that the workdir was begun with; refuses what must not."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    changed = config_files.changes(config_files.from_json(path), run.config)
    moved = [start for start, _ in run.config.phases if start.endswith("%")]
    if "train.total" in changed and moved and not force:
        raise ConfigError(
            f"phases: {moved[0]!r} moves with train.total, which {folder} was begun with another of; choose another "
            "--workdir"
        )
    refused = [key for key in changed if not config_files.may_change(key)]
    if refused and not force:
        old, new = changed[refused[0]]
        more = f" (and {len(refused) - 1} more: {', '.join(refused[1:4])})" if len(refused) > 1 else ""
        raise ConfigError(
            f"{refused[0]}: {folder} holds a run with {old!r}, the command says {new!r}{more}; "
            "choose another --workdir, or --resume=force"
        )
    return changed


def _restore(
    run: Run,
    record: Record,
    changed: dict[str, tuple[Any, Any]],
    parent: tuple[tuple[str, str], Restored, dict[str, tuple[Any, Any]]] | None,
    *,
    force: bool,
) -> Begun:
    restored = record.restore(run.abstract)
    if restored is None and parent is not None:
        name, restored, changed = parent
        control = Control(**{key: value for key, value in restored.control.items() if key != "rows"})
        control = dataclasses.replace(
            control, totals={}, best=None, stopped=0, stopping={}, skipped=0, overflows=0, rollbacks=0,
            data=run.fingerprint, devices=meshes.describe(run.mesh),
            parent={"branch": name[0], "workdir": name[1], "step": restored.step},
        )  # fmt: skip
        record.keep_rows(0, 0)
        record.event("branch", f"begins with update {restored.step} of {name[1]}", restored.step)
        _tell(record, changed, restored.step)
        return Begun(restored, _reopened(run, record, control, changed, restored.step), branched=True)
    if restored is None:
        if count := record.put_rows_aside():
            record.event("restart", f"no checkpoint is left or was made: begins again; {count} rows are put aside", 0)
        _tell(record, changed, 0)
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
        differing = _differing(control.data, run.fingerprint)
        raise ConfigError(
            f"data: the run in {record.folder} was begun with other data ({differing}); "
            "choose another --workdir, or --resume=force"
        )
    _tell(record, changed, restored.step)
    if control.devices != meshes.describe(run.mesh):
        text = f"{control.devices} → {meshes.describe(run.mesh)}: equal to rounding, no longer to the bit"
        record.event("devices", text, restored.step)
    record.keep_rows(rows, restored.step)
    return Begun(restored, _reopened(run, record, control, changed, restored.step))


def _begin(run: Run, record: Record) -> TrainState:
    """A new state, and what became of the weights that it starts from."""
    start = run.starting()
    if start is not None:
        record.event("transfer", "\n".join(["the run starts from other weights", *start.report.lines()]), 0)
    return run.init_state()


def parse_branch(branch: str) -> tuple[Path, str]:
    """(workdir, which state) of 'OLD', 'OLD@best' or 'OLD@STEP'."""
    whole = Path(branch).expanduser()
    if whole.is_dir() or "@" not in branch:
        return whole, "latest"
    name, _, at = branch.rpartition("@")
    return Path(name).expanduser(), at


def _parent(run: Run, branch: str, *, force: bool) -> tuple[tuple[str, str], Restored, dict[str, tuple[Any, Any]]]:
    """((branch, workdir), checkpoint, changed options) of the run that a new one branches from."""
    folder, at = parse_branch(branch)
    if not (folder / "config.json").is_file():
        raise DataError(f"--branch={branch}: {folder} holds no run (no config.json)")
    changed = _changed(run, folder, force=force)
    restored = read_checkpoint(folder, at, key="--branch", event=lambda kind, text: None, abstract=run.abstract)
    if restored.control.get("data") != run.fingerprint and not force:
        differing = _differing(restored.control.get("data", {}), run.fingerprint)
        raise ConfigError(f"--branch={branch}: that run had other data ({differing}); or give --resume=force")
    if restored.step >= run.clock.total:
        raise ConfigError(
            f"train.total: {run.config.train.total!r} is {run.clock.total} updates; "
            f"{branch} has done {restored.step}: ask for more"
        )
    return (branch, str(folder)), restored, changed


def _reopened(run: Run, record: Record, control: Control, changed: dict[str, tuple[Any, Any]], step: int) -> Control:
    """The control state under changed options: early stopping and plateau forget what no longer holds."""
    sections = {key.partition(".")[0] for key in changed}
    known = {"loss", "grad_norm", "non_finite", "overflow", *run.task.metrics}
    totals = {name: total for name, total in control.totals.items() if name in known}
    control = dataclasses.replace(control, totals=totals)
    if sections - {"log", "checkpoint", "mesh"}:  # asked for more, or otherwise
        control = dataclasses.replace(control, stopped=0, stopping={})
    if "plateau.metric" in changed:
        control = dataclasses.replace(control, plateau={}, lr_factors=dict(control.lr_factors))
        factor = control.lr_factors.pop("plateau", 1.0)
        if factor != 1.0:
            record.event("plateau", f"lr factor {factor:g} → 1, because plateau.metric is another", step)
    return control


def restore_again(run: Run, record: Record) -> tuple[TrainState, Control]:
    """The newest checkpoint of the run that is going on (or its start), with its rows."""
    restored = record.restore(run.abstract)
    if restored is None:
        record.keep_rows(0, 0)
        return run.init_state(), Control(data=run.fingerprint, devices=meshes.describe(run.mesh))
    fields = dict(restored.control)
    record.keep_rows(fields.pop("rows"), restored.step)
    return place_state(run, restored), Control(**fields)


def _tell(record: Record, changed: dict[str, tuple[Any, Any]], step: int) -> None:
    for key, (old, new) in changed.items():
        record.event("config", f"{key}: {old!r} → {new!r}, because the command says so", step)


def _differing(old: dict[str, int], new: dict[str, int]) -> str:
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key, 'none')} → {new.get(key, 'none')}" for key in keys)
