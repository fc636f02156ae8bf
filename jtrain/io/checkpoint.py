"""Checkpoints that are whole or absent, written in the background, with a checksum per array and file."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.errors import DataError, HeldError, NonFiniteError
from jtrain.io import contents, parts, shelf
from jtrain.io import manifest as manifests
from jtrain.io.arrays import reason
from jtrain.io.contents import Damaged
from jtrain.io.manifest import STATE, some
from jtrain.peers import ALONE, Peers

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

    Several processes make the same saves in the same order; each writes what it owns into `state-<process>/`. What
    there is to decide, process 0 decides. Each of them reads by itself.
    """

    def __init__(
        self, folder: Path, *, keep: int, event: Callable[[str, str], None], read_only: bool = False,
        peers: Peers = ALONE, finite: bool = True,
    ) -> None:  # fmt: skip
        """Args:
        folder: made at the first save; of several processes, on a file system that they share.
        keep: how many of the newest stay, at least 1; the best one stays besides.
        event: told (kind, text) when a damaged checkpoint is passed over.
        read_only: for verbs that look at another's run: neither save nor clean.
        peers: the processes that save together.
        finite: refuse a state that is not.
        """
        self.folder = folder
        self._read_only = read_only
        self._damaged: set[int] = set()  # found so by this object, and not yet written anew
        self._keep = max(1, keep)
        self._event = event
        self._peers, self._leads = peers, peers.process == 0
        self._finite = finite
        self._saves = 0
        self._owned: dict[str, parts.Owned] = {}  # of the last save, whose memory the next one takes
        self._cause: Exception | None = None  # of this process's last failure
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
          state: arrays by path; they may be donated as soon as this returns. Arrays of JAX, which may be cut over all
            processes, or NumPy's, which are the same in all of them.
          control: JSON values.
          best_step: the best checkpoint so far, which stays beside the newest.
          block: return only when it is on the disk.

        Raises:
          DataError: this save (with `block`) or the one before failed, in any process; older checkpoints are unharmed.
          NonFiniteError: likewise, because the state is not finite.
          HeldError: likewise, because a process was lost.
        """
        assert not self._read_only
        self.wait()
        plain = json.loads(json.dumps(control))  # here, so that a wrong value fails at its caller
        owned = self._owned = parts.snapshot(state, self._peers.process, self._owned)
        self._saves += 1
        key = f"save/{self.folder.name}/{step}/{self._saves}"
        self._saving = step, self._thread.submit(self._write, key, step, owned, plain, best_step)
        if block:
            self.wait()

    def poll(self) -> None:
        """Raises what `wait` raises if the last save has failed by now; does not wait."""
        if self._saving is not None and self._saving[1].done():
            self.wait()

    def wait(self) -> None:
        """Waits for the save that is running.

        Raises:
          DataError: it failed, in any process. NonFiniteError: its state is not finite. HeldError: a process was lost.
        """
        if self._saving is None:
            return
        step, future = self._saving
        error = future.exception()
        self._saving = None  # after the wait: an interrupted wait must not lose the save
        if isinstance(error, HeldError):
            raise error
        if isinstance(error, NonFiniteError):
            raise NonFiniteError(
                f"{self.folder}: checkpoint {step} is not saved: {error}; "
                "older checkpoints are unharmed: go on from them with a lower optimizer.lr"
            )
        if error is not None:
            why = str(error) if isinstance(error, _Failed) else reason(error)
            raise DataError(
                f"{self.folder}: cannot save checkpoint {step}: {why}; "
                f"older checkpoints are unharmed: mend it and start the same command again"
            ) from error

    def close(self) -> None:
        """Waits for the last save, ends the thread and gives back the memory of saves; raises what `wait` raises."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._owned, self._cause = {}, None  # whose traceback holds the copy as well

    def steps(self) -> list[int]:
        """The committed steps, oldest first, but for those found damaged; damage shows only on reading."""
        return [step for step in shelf.steps(self.folder) if step not in self._damaged]

    def restore(self, step: int | None = None, abstract: Abstract | None = None) -> Restored | None:
        """Reads a checkpoint and verifies every byte of it.

        Args:
          step: which one; None: the newest that is whole, or None when there is none at all.
          abstract: step -> arrays or ShapeDtypeStructs by path that its state must match.

        Raises:
          DataError: no such step, all are damaged, or the state does not match `abstract`.
        """
        self.wait()
        there = shelf.steps(self.folder)
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
        if self._leads:
            shelf.sweep(self.folder)

    def _write(
        self, key: str, step: int, owned: Mapping[str, parts.Owned], control: dict[str, Any], best: int | None
    ) -> None:
        """The save of one process, in the background; all of them come to the same end."""
        self._cause = None
        try:
            opened = self._peers.exchange(f"{key}/begin", self._begin(step, owned, control))
            ended = _first(opened)
            if not ended and "temporary" in opened[0]:
                temporary = self.folder / opened[0]["temporary"]
                told = self._peers.exchange(f"{key}/parts", self._write_own(temporary, owned), only=0)
                ended = _first(told) or self._told(self._commit, step, temporary, told, control)
            if self._leads and not ended:
                ended = self._told(self._prune, step, best)
            ended = self._peers.exchange(f"{key}/end", ended)[0]
        except BaseException:
            self._sweep_quietly()
            raise
        if ended:
            self._sweep_quietly()
            raise (NonFiniteError if ended["bad"] else _Failed)(ended["error"]) from self._cause
        self._damaged.discard(step)

    def _begin(self, step: int, owned: Mapping[str, parts.Owned], control: dict[str, Any]) -> dict[str, Any]:
        """What this process has to say before anything is written: that it must not be, or where to."""
        found = self._told(parts.check_finite, owned) if self._finite else {}
        if found or not self._leads:
            return found

        def begin() -> dict[str, Any]:
            if shelf.holds(self.folder, step, control):
                return {}
            return {"temporary": shelf.begin(self.folder, step).name}

        return self._told(begin)

    def _write_own(self, temporary: Path, owned: Mapping[str, parts.Owned]) -> dict[str, Any]:
        """Writes the parts of this process; what the manifest says of them."""

        def write() -> dict[str, Any]:
            if not self._leads:
                contents.await_folder(temporary)
            alone = self._peers.processes == 1
            return parts.write(temporary, STATE if alone else f"{STATE}-{self._peers.process}", owned)

        return self._told(write)

    def _commit(self, step: int, temporary: Path, told: list[Any], control: dict[str, Any]) -> None:
        """Makes a checkpoint of what all processes have written; done by process 0."""
        if not self._leads:
            return
        manifest = manifests.make_manifest(step, control, told)
        if self._peers.processes > 1:
            contents.await_files(temporary, manifest["files"])
        (temporary / manifests.NAME).write_bytes(manifests.encode(manifest))
        contents.sync_one(temporary / manifests.NAME)
        contents.sync_one(temporary)
        shelf.put(self.folder, step, temporary)

    def _prune(self, step: int, best: int | None) -> None:
        self._damaged.discard(step)
        # Later steps are left alone: they are damaged, and written anew when the run comes to them.
        whole = [s for s in self.steps() if s <= step]
        broken = [s for s in self._damaged if s <= step]
        for old in whole[: -self._keep] + broken:
            if old != best:
                shelf.remove(self.folder, old)
                self._damaged.discard(old)

    def _told(self, work: Callable[..., dict[str, Any] | None], *arguments: Any) -> dict[str, Any]:
        """What a piece of work results in, or its "error": whatever it is, all processes must hear of it."""
        try:
            return work(*arguments) or {}
        except Exception as error:
            self._cause = error
            who = f"process {self._peers.process}: " if self._peers.processes > 1 else ""
            return {"error": f"{who}{reason(error)}", "bad": isinstance(error, NonFiniteError)}

    def _sweep_quietly(self) -> None:
        if self._leads:
            with contextlib.suppress(OSError):  # what stays is swept at the next start
                shelf.sweep(self.folder)

    def _read(self, step: int, abstract: Abstract | None) -> Restored:
        folder = self.folder / str(step)
        manifest = manifests.read_manifest(folder, step)
        contents.verify(folder, manifest["files"])
        if abstract is not None:
            manifests.check_match(manifest, abstract(step))
        manifests.check_memory(manifest)
        return Restored(step, parts.read(folder, manifest["arrays"]), manifest["control"])


def _first(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The first error among what processes have told, or {}."""
    return next((one for one in told if "error" in one), {})


class _Failed(Exception):
    """A save has failed, in this process or another; the text says why."""
