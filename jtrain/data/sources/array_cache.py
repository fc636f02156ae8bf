"""Decoded splits kept as arrays in the per-user cache: written whole or not at all, checked when read."""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.io.cache import private_folder

FORMAT = 1
_FILES = ("inputs", "targets")
_PIECE = 1 << 22  # bytes read at a time for a checksum
_LEFTOVER = 24 * 3600  # seconds after which the temporary folder of a killed process is removed

Kept = tuple[np.ndarray, np.ndarray, dict[str, Any]]  # inputs, targets, what the writer noted


def place(name: str, request: dict[str, Any]) -> Path | None:
    """The cache folder of a request (JSON-able); None, with a warning, where there can be no cache."""
    parent = private_folder("data")
    if parent is None:
        return None
    text = json.dumps({"format": FORMAT, **request}, sort_keys=True)
    readable = "".join(c if c.isalnum() or c in "-._" else "-" for c in name)[:60]
    return parent / f"{readable}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def read(folder: Path, fingerprint: str) -> Kept | None:
    """The arrays in `folder`, mapped read-only; None if absent, made from other files, or (with a warning) damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["fingerprint"] != fingerprint:
            return None
        inputs, targets = (_checked(folder / f"{name}.npy", meta[name]) for name in _FILES)
        return inputs, targets, meta["note"]
    except FileNotFoundError:
        if not folder.exists():
            return None
        reason = "a file is gone"
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    print(f"warning: the cache in {folder} is damaged ({reason}); it is made anew", file=sys.stderr)
    return None


def write(
    folder: Path,
    fingerprint: str,
    chunks: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    examples: int,
    note: dict[str, Any],
) -> None:
    """Keeps a split in `folder`, in place of what is there. Processes may race: the last one's folder stays.

    Args:
      folder: from `place`.
      fingerprint: of the files that the arrays are made from.
      chunks: (inputs [m, …], targets [m]) in order, all of one dtype and shape.
      examples: the sum of all m.
      note: JSON-able, comes back from `read`.

    Raises:
      OSError: there is no room, or no right to write. Nothing is left behind.
    """
    _remove_leftovers(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    try:
        meta: dict[str, Any] = {"fingerprint": fingerprint, "note": note}
        # Written with plain writes: on a full disk they raise, where a mapped file would kill the process.
        with (temporary / "inputs.npy").open("wb") as inputs, (temporary / "targets.npy").open("wb") as targets:
            writers = [_Writer(inputs, examples), _Writer(targets, examples)]
            for pair in chunks:
                for writer, array in zip(writers, pair, strict=True):
                    writer.add(array)
        meta |= {name: writer.facts() for name, writer in zip(_FILES, writers, strict=True)}
        (temporary / "meta.json").write_text(json.dumps(meta))
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Writer:
    """One .npy file, written piece by piece."""

    def __init__(self, file: Any, examples: int) -> None:
        self._file, self._examples = file, examples
        self._checksum = 0
        self._header: dict[str, Any] = {}

    def add(self, array: np.ndarray) -> None:
        if not self._header:
            shape = (self._examples, *array.shape[1:])
            self._header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, self._header)
        data = np.ascontiguousarray(array).tobytes()
        self._checksum = zlib.crc32(data, self._checksum)
        self._file.write(data)

    def facts(self) -> dict[str, Any]:
        """Type, shape and checksum of the whole array."""
        return {"dtype": self._header["descr"], "shape": list(self._header["shape"]), "crc32": self._checksum}


def _checked(file: Path, facts: dict[str, Any]) -> np.ndarray:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if array.dtype.str != facts["dtype"] or list(array.shape) != facts["shape"]:
        raise ValueError(f"{file.name} has another type or shape than it was written with")
    checksum = 0
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _PIECE):
        checksum = zlib.crc32(flat[start : start + _PIECE], checksum)
    if checksum != facts["crc32"]:
        raise ValueError(f"the checksum of {file.name} differs")
    return array


def _swap(temporary: Path, folder: Path) -> None:
    """Puts `temporary` in the place of `folder`. Who has the old files mapped keeps them."""
    for _ in range(100):
        try:
            os.rename(temporary, folder)
            return
        except OSError as error:  # not `folder.exists()`: another process may have moved it away since
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        old = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
        try:
            os.rename(folder, old / "old")
        except FileNotFoundError:
            pass  # another process has moved it away just now
        finally:
            shutil.rmtree(old, ignore_errors=True)
    raise OSError(f"other processes keep writing {folder}")


def _remove_leftovers(parent: Path) -> None:
    for old in parent.glob(".tmp-*"):
        try:
            if time.time() - old.stat().st_mtime > _LEFTOVER:
                shutil.rmtree(old, ignore_errors=True)
        except FileNotFoundError:
            continue  # its owner has removed it meanwhile
