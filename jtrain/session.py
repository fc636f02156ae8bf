"""A run's hold on its workdir: the lock, the config it was begun with, the files, the signals."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp

from jtrain import config as configs
from jtrain import config_files, metrics
from jtrain import mesh as meshes
from jtrain.assembly import Run
from jtrain.errors import ConfigError
from jtrain.io.progress import Screen
from jtrain.io.record import Record
from jtrain.io.workdir import Workdir, write_text_atomic
from jtrain.io.writers import check_tensorboard
from jtrain.state import TrainState, from_flat, to_flat


@dataclasses.dataclass
class Control:
    """The few host numbers of a run; with the state they make a checkpoint.

    Attributes:
      totals: sums since the last log point.
      logged, evaluated: the updates at which these were last done.
      best: {'step', 'metric', 'value'} of the best evaluation, or None.
      lr_factors: what each owner asks of `lr_scale`; the state holds their product.
    """

    totals: metrics.Totals = dataclasses.field(default_factory=dict)
    logged: int = 0
    evaluated: int = 0
    best: dict[str, Any] | None = None
    lr_factors: dict[str, float] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def open_record(
    run: Run, workdir: str | Path | None, screen: Screen, *, force: bool
) -> Iterator[tuple[Record, TrainState, Control]]:
    """The files of a run, its state (new, or restored) and its control state; all is closed at the end.

    Raises:
      ConfigError: the workdir holds a run of another config, or something that is no run.
      DataError: it cannot be written, or all its checkpoints are damaged. HeldError: another run holds it.
    """
    factors = {"user": float(run.config.lr_scale)}
    try:
        if workdir is None:
            yield Record(None, screen=screen), run.init_state(), Control(lr_factors=factors)
            return
        folder = Path(workdir)
        if run.config.log.tensorboard:
            check_tensorboard()
        changed = _check_config(run, folder, force=force)
        held = Workdir(folder)
        held.acquire()
        try:
            record = Record(
                folder, screen=screen, keep=run.config.checkpoint.keep, tensorboard=run.config.log.tensorboard
            )
            try:
                state, control = _restore(run, record)
                for key, (old, new) in changed.items():
                    record.event("config", f"{key}: {old!r} → {new!r}, because the command says so")
                write_text_atomic(folder / "config.json", config_files.to_json(run.config))
                control.lr_factors |= factors
                lr_scale = jnp.asarray(_product(control.lr_factors), jnp.float32)
                state = dataclasses.replace(state, lr_scale=meshes.place(lr_scale, meshes.replicated(run.mesh)))
                yield record, state, control
            finally:
                record.close()
        finally:
            held.release()
    finally:
        run.close()


def _check_config(run: Run, folder: Path, *, force: bool) -> dict[str, tuple[Any, Any]]:
    """What differs from the config that the workdir was begun with; refuses what must not."""
    path = folder / "config.json"
    if not path.is_file():
        if folder.is_dir() and any(p.name != "lock" for p in folder.iterdir()):
            raise ConfigError(
                f"--workdir: {folder} holds files but no run (no config.json); choose a new or empty folder"
            )
        return {}
    changed = configs.changes(config_files.from_json(path), run.config)
    refused = [key for key in changed if not configs.may_change(key)]
    if refused and not force:
        old, new = changed[refused[0]]
        more = f" (and {len(refused) - 1} more: {', '.join(refused[1:4])})" if len(refused) > 1 else ""
        raise ConfigError(
            f"{refused[0]}: {folder} holds a run with {old!r}, the command says {new!r}{more}; "
            "choose another --workdir, or --resume=force"
        )
    return changed


def _restore(run: Run, record: Record) -> tuple[TrainState, Control]:
    restored = record.restore(to_flat(run.shapes))
    if restored is None:
        record.keep_rows(0, 0)
        return run.init_state(), Control()
    control = dict(restored.control)
    record.keep_rows(control.pop("rows"), restored.step)
    if restored.step > run.clock.total:
        raise ConfigError(
            f"train.total: {run.config.train.total!r} is {run.clock.total} updates; "
            f"the run in {record.folder} has done {restored.step}"
        )
    state = meshes.place(from_flat(restored.state, run.shapes), meshes.replicated(run.mesh))
    # A copy: the restored NumPy arrays may be aliased on CPU, and the step donates its state.
    return jax.tree.map(jnp.copy, state), Control(**control)


def _product(factors: dict[str, float]) -> float:
    product = 1.0
    for factor in factors.values():
        product *= factor
    return product


class Signals:
    """SIGTERM and SIGINT are noted, for the loop to save and leave; a second one leaves at once.

    Outside the main thread, or when not active, signals keep their usual meaning.
    """

    def __init__(self, *, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if self.active:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)  # the person asked twice; what is committed stays whole
        self.received = number
