"""The files of a checkpoint: regular ones alone, never reached through a link, and safe on the disk."""

import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds in which what one machine has written must show up on another: NFS remembers absence for 3

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Damaged(Exception):
    """A checkpoint is not what was written; the text says which part, and how."""


def read_small(path: Path, name: str, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes; raises Damaged, naming it `name`."""
    try:
        with open(_opened(path, name), "rb") as file:
            if os.fstat(file.fileno()).st_size > most:
                raise Damaged(f"{name}: more than {most:,} bytes")
            return file.read()
    except OSError as error:
        raise Damaged(f"{name}: {error.strerror}") from error


def verify(folder: Path, expected: Mapping[str, Any]) -> None:
    """Compares the files of a checkpoint with what its manifest says.

    Args:
      folder: the checkpoint.
      expected: {"state/d/1f…": {"size", "checksum"}}, whose names have been found to stay inside.

    Raises:
      Damaged: at the first file that is missing, differs, is no regular file, or that nobody has written; at any link.
    """
    found = {name for name in files_in(folder) if "/" in name}  # what lies beside the manifest does no harm
    for name, record in expected.items():
        path = folder / name
        try:
            size = path.stat(follow_symlinks=False).st_size
            if size != record["size"]:
                raise Damaged(f"{name}: {size} bytes, not {record['size']}")
            if file_record(path, name) != record:
                raise Damaged(f"{name}: checksum differs")
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from error
    if found - set(expected):
        raise Damaged(f"{min(found - set(expected))!r}: the manifest does not know this file")


def files_in(folder: Path) -> Iterator[str]:
    """The names of all files below a folder, as 'state/d/1f…'.

    Raises:
      Damaged: one of them is a link, a device or a pipe, or a folder cannot be read.
    """
    pending = [""]
    while pending:
        inner = pending.pop()
        try:
            entries = sorted(os.scandir(folder / inner), key=lambda entry: entry.name)
        except OSError as error:
            raise Damaged(f"{inner or folder.name}: {error.strerror}") from error
        for entry in entries:
            name = f"{inner}/{entry.name}" if inner else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            elif not entry.is_file(follow_symlinks=False):
                raise Damaged(f"{name!r}: is a link, or no regular file")
            elif not entry.name.startswith(".nfs"):  # a deleted file that is still open somewhere
                yield name


def file_record(path: Path, name: str = "") -> dict[str, Any]:
    """Size in bytes and checksum of a regular file; raises OSError, or Damaged, naming it `name`."""
    with open(_opened(path, name or path.name), "rb") as file:
        checksum = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "checksum": checksum}


def await_files(folder: Path, expected: Mapping[str, Any]) -> None:
    """Waits until files that other processes have written are seen here in their full size.

    Raises:
      Damaged: they are not, within some seconds.
    """
    until = time.monotonic() + PATIENCE
    for name, record in expected.items():
        while not _is_there(folder / name, record["size"]):
            if time.monotonic() > until:
                raise Damaged(f"{name}: process 0 does not see what another process has written; {_SHARED}")
            time.sleep(0.05)


def await_folder(folder: Path) -> None:
    """Waits until a folder that process 0 has made is seen here; raises Damaged if it is not, within some seconds."""
    until = time.monotonic() + PATIENCE
    while folder.name not in os.listdir(folder.parent) if folder.parent.is_dir() else True:
        if time.monotonic() > until:
            raise Damaged(f"{folder.parent} does not show here what process 0 has written there; {_SHARED}")
        time.sleep(0.05)


_SHARED = "the workdir must be on a file system that all processes share"


def sync(folder: Path) -> None:
    """Makes a folder with all that is in it outlive a loss of power."""
    for path in folder.rglob("*"):
        sync_one(path)
    sync_one(folder)


def sync_one(path: Path) -> None:
    """Makes one file, or the list of names in one folder, outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Deletes a file, a link (not what it leads to) or a folder, as far as that goes."""
    if path.is_dir() and not path.is_symlink():
        until = time.monotonic() + 1.0
        while path.exists() and time.monotonic() < until:  # a write that has failed may still be putting files there
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                time.sleep(0.05)
    else:
        path.unlink(missing_ok=True)


def _opened(path: Path, name: str) -> int:
    try:
        descriptor = os.open(path, _OPEN)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Damaged(f"{name}: is a link") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged(f"{name}: no regular file")
    return descriptor


def _is_there(path: Path, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False
