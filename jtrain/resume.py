"""What a workdir holds of a run, and whether this one may go on with it."""

import dataclasses
from pathlib import Path
from typing import Any

from jtrain import config_files
from jtrain.control import Control
from jtrain.errors import ConfigError, DataError
from jtrain.io.checkpoint import Restored
from jtrain.io.record import Record
from jtrain.run import Run
from jtrain.weights_source import read_checkpoint

HOW = {"train.remat", "train.steps_per_call"}  # options that say how an update is computed, not what it is
OURS = frozenset({"lock", "events.jsonl", "metrics.jsonl"})  # files that a run killed at its very start may leave


def refuse_foreign(folder: Path, *, force: bool) -> None:
    """Raises ConfigError for a folder that holds files but no run, or a study."""
    if (folder / "study.jsonl").is_file():
        raise ConfigError(f"--workdir: {folder} holds a study; choose a new or empty folder")
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


def changes_of(run: Run, folder: Path, *, force: bool) -> dict[str, tuple[Any, Any]]:
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


def parse_branch(branch: str) -> tuple[Path, str]:
    """(workdir, which state) of 'OLD', 'OLD@best' or 'OLD@STEP'."""
    whole = Path(branch).expanduser()
    if whole.is_dir() or "@" not in branch:
        return whole, "latest"
    name, _, at = branch.rpartition("@")
    return Path(name).expanduser(), at


def parent_of(run: Run, branch: str, *, force: bool) -> tuple[tuple[str, str], Restored, dict[str, tuple[Any, Any]]]:
    """((branch, workdir), checkpoint, changed options) of the run that a new one branches from."""
    folder, at = parse_branch(branch)
    if not (folder / "config.json").is_file():
        raise DataError(f"--branch={branch}: {folder} holds no run (no config.json)")
    changed = changes_of(run, folder, force=force)
    restored = read_checkpoint(folder, at, key="--branch", event=lambda kind, text: None, abstract=run.abstract)
    if restored.control.get("data") != run.fingerprint and not force:
        what = differing(restored.control.get("data", {}), run.fingerprint)
        raise ConfigError(f"--branch={branch}: that run had other data ({what}); or give --resume=force")
    if restored.step >= run.clock.total:
        raise ConfigError(
            f"train.total: {run.config.train.total!r} is {run.clock.total} updates; "
            f"{branch} has done {restored.step}: ask for more"
        )
    return (branch, str(folder)), restored, changed


def reopened(run: Run, record: Record, control: Control, changed: dict[str, tuple[Any, Any]], step: int) -> Control:
    """The control state under changed options: early stopping and plateau forget what no longer holds."""
    sections = {key.partition(".")[0] for key in changed}
    known = {"loss", "grad_norm", "non_finite", "overflow", *run.task.metrics}
    totals = {name: total for name, total in control.totals.items() if name in known}
    control = dataclasses.replace(control, totals=totals)
    if sections - {"log", "checkpoint", "mesh"} and not set(changed) <= HOW:  # asked for more, or otherwise
        control = dataclasses.replace(control, stopped=0, stopping={})
    if "plateau.metric" in changed:
        control = dataclasses.replace(control, plateau={}, lr_factors=dict(control.lr_factors))
        factor = control.lr_factors.pop("plateau", 1.0)
        if factor != 1.0:
            record.event("plateau", f"lr factor {factor:g} → 1, because plateau.metric is another", step)
    return control


def tell(record: Record, changed: dict[str, tuple[Any, Any]], step: int) -> None:
    """Every change of the config is an event."""
    for key, (old, new) in changed.items():
        record.event("config", f"{key}: {old!r} → {new!r}, as is asked for now", step)


def differing(old: dict[str, int], new: dict[str, int]) -> str:
    """What tells two fingerprints of data apart, in words."""
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key, 'none')} → {new.get(key, 'none')}" for key in keys)
