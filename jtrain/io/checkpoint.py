"""Checkpoints that are whole or absent, written in the background, with a checksum per array and file."""

import dataclasses
import functools
import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.errors import DataError
from jtrain.io import manifest as manifests
from jtrain.io.manifest import STATE, Damaged, some

Abstract = Callable[[int], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Restored:
    """One checkpoint, read and verified; `state` is flat, {"params/conv/kernel": array}."""

    step: int
    state: dict[str, np.ndarray]
    control: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run: `folder/<step>/{state/, manifest.json}`.

    A state is a flat dict of arrays by path. A control state is a dict of JSON values. A checkpoint is
    written under a name that starts with `.tmp-` and renamed when all of it is on the disk.
    """

    def __init__(self, folder: Path, *, keep: int, event: Callable[[str, str], None], read_only: bool = False):
        """Args:
        folder: made at the first save.
        keep: how many of the newest stay, at least 1; the best one stays besides.
        event: told (kind, text) when a damaged checkpoint is passed over.
        read_only: for verbs that look at another's run: neither save nor clean.
        """
        self.folder = folder
        self._read_only = read_only
        self._damaged: set[int] = set()  # found so by this object, and not yet written anew
        self._keep = max(1, keep)
        self._event = event
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: tuple[int, Future[None]] | None = None

    def save(
        self, step: int, state: Mapping[str, Any], control: Mapping[str, Any], *, best_step: int | None = None,
        block: bool = False,
    ) -> None:  # fmt: skip
        """Copies the state to host memory and writes it in the background; then removes what is too old.

        Waits for an earlier save first. A whole checkpoint of the same step and control state is left as it is.

        Args:
          step: optimizer updates done.
          state: arrays by path; they may be donated as soon as this returns.
          control: JSON values.
          best_step: the best checkpoint so far, which stays beside the newest.
          block: return only when it is on the disk.

        Raises:
          DataError: this save (with `block`) or the one before failed; older checkpoints are unharmed.
        """
        assert not self._read_only
        self.wait()
        plain = json.loads(json.dumps(control))  # here, so that a wrong value fails at its caller
        arrays = _snapshot(state)
        self._saving = step, self._thread.submit(self._write, step, arrays, plain, best_step)
        if block:
            self.wait()

    def poll(self) -> None:
        """Raises DataError if the last save has failed by now; does not wait."""
        if self._saving is not None and self._saving[1].done():
            self.wait()

    def wait(self) -> None:
        """Waits for the save that is running.

        Raises:
          DataError: it failed.
        """
        if self._saving is None:
            return
        step, future = self._saving
        error = future.exception()
        self._saving = None  # after the wait: an interrupted wait must not lose the save
        if error is not None:
            raise DataError(
                f"{self.folder}: cannot save checkpoint {step}: {_reason(error)}; "
                f"older checkpoints are unharmed: mend it and start the same command again"
            ) from error

    def close(self) -> None:
        """Waits for the last save and ends the thread; raises DataError if that save failed."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def steps(self) -> list[int]:
        """The committed steps, oldest first, but for those found damaged; damage shows only on reading."""
        return [step for step in self._there() if step not in self._damaged]

    def restore(self, step: int | None = None, abstract: Abstract | None = None) -> Restored | None:
        """Reads a checkpoint and verifies every byte of it.

        Args:
          step: which one; None: the newest that is whole, or None when there is none at all.
          abstract: step -> arrays or ShapeDtypeStructs by path that its state must match.

        Raises:
          DataError: no such step, all are damaged, or the state does not match `abstract`.
        """
        self.wait()
        there = self._there()
        if step is not None:
            if step not in there:
                raise DataError(f"{self.folder}: no checkpoint {step}; there are: {some(there) or 'none'}")
            try:
                return self._read(step, abstract)
            except Damaged as damage:
                others = some([s for s in there if s != step])
                raise DataError(
                    f"{self.folder}: checkpoint {step} is damaged ({damage}); others: {others or 'none'}"
                ) from damage
        damages = []
        for index in reversed(range(len(there))):
            try:
                return self._read(there[index], abstract)
            except Damaged as damage:
                self._damaged.add(there[index])
                damages.append(f"{there[index]} ({damage})")
                if index > 0:
                    text = f"checkpoint {there[index]} is damaged ({damage}): using {there[index - 1]}"
                    self._event("checkpoint", text)
        if not damages:
            return None
        raise DataError(
            f"{self.folder}: all checkpoints are damaged: {some(damages)}; "
            "put back a copy of this folder, or delete it to start again from step 0"
        )

    def clean(self) -> None:
        """Removes what killed saves left behind. Only for the holder of the workdir's lock."""
        assert not self._read_only
        self.wait()
        for leftover in self.folder.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _there(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        names = [p.name for p in self.folder.iterdir() if p.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))

    def _write(self, step: int, arrays: dict[str, np.ndarray], control: dict[str, Any], best: int | None) -> None:
        if not self._holds(step, control):
            self._commit(step, arrays, control)
        self._damaged.discard(step)
        # Later steps are left alone: they are damaged, and written anew when the run comes to them.
        whole = [s for s in self.steps() if s <= step]
        broken = [s for s in self._damaged if s <= step]
        for old in whole[: -self._keep] + broken:
            if old != best:
                self._remove(old)
                self._damaged.discard(old)

    def _commit(self, step: int, arrays: dict[str, np.ndarray], control: dict[str, Any]) -> None:
        temporary = self.folder / f".tmp-{step}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            _write_arrays(temporary / STATE, arrays)
            manifest = manifests.make_manifest(temporary, step, arrays, control)
            (temporary / manifests.NAME).write_bytes(manifests.encode(manifest))
            _sync(temporary)
            if (self.folder / str(step)).exists():
                self._remove(step)  # damaged, or of another control state
            os.rename(temporary, self.folder / str(step))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_one(self.folder)

    def _holds(self, step: int, control: dict[str, Any]) -> bool:
        """Whether this step is there, whole, with this control state (a state is a function of its step)."""
        folder = self.folder / str(step)
        if not folder.exists():
            return False
        try:
            manifest = manifests.read_manifest(folder, step)
            manifests.verify_files(folder, manifest)
        except Damaged:
            return False
        return manifest["control"] == control

    def _remove(self, step: int) -> None:
        # Renamed first, so that a kill in the middle leaves no half checkpoint under a good name.
        doomed = self.folder / f".tmp-old-{step}-{os.getpid()}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(self.folder / str(step), doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _read(self, step: int, abstract: Abstract | None) -> Restored:
        folder = self.folder / str(step)
        manifest = manifests.read_manifest(folder, step)
        manifests.verify_files(folder, manifest)
        if abstract is not None:
            manifests.check_match(manifest, abstract(step))
        state = _read_arrays(folder / STATE, manifest["arrays"])
        manifests.verify_arrays(state, manifest)
        return Restored(step, state, manifest["control"])


def _snapshot(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    for leaf in state.values():
        if hasattr(leaf, "copy_to_host_async"):
            leaf.copy_to_host_async()  # all transfers under way before the first is waited for
    return {path: np.array(leaf, order="C") for path, leaf in state.items()}


@functools.cache
def _orbax() -> Any:
    """orbax, imported here because it costs 0.3 s that a run without checkpoints saves; and made quiet."""
    from orbax.checkpoint import v1 as ocp

    logging.getLogger("absl").addFilter(_is_not_chatter)
    logging.getLogger("asyncio").addFilter(_is_not_chatter)
    sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)
    return ocp


def _is_not_chatter(record: logging.LogRecord) -> bool:
    """Whether a log record is not orbax telling, with a traceback, of an error that the save raises to us as well."""
    if record.name == "asyncio":
        return "never retrieved" not in str(record.msg) or not _is_of_orbax(record.exc_info)
    return f"{os.sep}orbax{os.sep}" not in record.pathname or (record.levelno >= logging.ERROR and not record.exc_info)


def _is_of_orbax(exc_info: Any) -> bool:
    frames = traceback.walk_tb(exc_info[2]) if exc_info else ()
    return any(f"{os.sep}orbax{os.sep}" in frame.f_code.co_filename for frame, _ in frames)


def _unraisable(otherwise: Callable[[Any], Any], found: Any) -> None:
    # tensorstore finishes writes of a failed save after orbax has closed the loop that waited for them.
    if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
        otherwise(found)


def _write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    filled = {path: array for path, array in arrays.items() if array.size}  # orbax refuses empty arrays
    if filled:
        _orbax().save(folder.absolute(), filled)


def _read_arrays(folder: Path, records: Mapping[str, Any]) -> dict[str, np.ndarray]:
    state = {p: np.zeros(r["shape"], r["dtype"]) for p, r in records.items() if 0 in r["shape"]}
    if len(state) < len(records):
        try:
            loaded = _orbax().load(folder.absolute())
        except Exception as error:  # whatever orbax meets in files that passed their checksums
            raise Damaged(f"{STATE}: {_reason(error)}") from error
        state |= {path: np.asarray(array) for path, array in loaded.items()}
    return dict(sorted(state.items()))


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error) or repr(error)
    full = "No space left on device"
    return full if full in text else text.splitlines()[0][:200]
