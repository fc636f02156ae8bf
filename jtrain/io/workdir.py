"""The folder of a run: its lock, and files in it that are whole or absent."""

import contextlib
import datetime
import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jtrain.errors import DataError, HeldError

_LOOKS, _LOOK_AGAIN = 20, 0.05  # seconds between looks for the name of a lock's holder


class Workdir:
    """A run's folder, held by one process at a time; `with Workdir(path):` acquires and releases."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: int | None = None

    def acquire(self) -> None:
        """Makes the folder and takes its lock, which ends with this process even by SIGKILL.

        Raises:
          DataError: it is not a folder, cannot be made or cannot be written.
          HeldError: another process holds it.
        """
        lock_file = self.path / "lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileExistsError, NotADirectoryError) as error:
            raise DataError(
                f"workdir {self.path}: it, or what it is in, is a file; choose another --workdir"
            ) from error
        except OSError as error:
            raise DataError(f"workdir {self.path}: cannot write: {error.strerror}; choose another --workdir") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise HeldError(f"workdir {self.path}: held by {_holder(lock_file)}; wait for it or end it") from error
        except OSError as error:
            os.close(lock)
            raise DataError(f"workdir {self.path}: cannot lock {lock_file}: {error.strerror}") from error
        self._lock = lock
        # A forked worker would inherit the lock and hold it on when this process is killed.
        os.register_at_fork(after_in_child=self._forget)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "start": started})
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, text.encode(), 0)
        except OSError as error:
            self.release()
            raise disk_error(lock_file, error) from error

    def release(self) -> None:
        """Gives the lock back; harmless when it is not held."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # the text is for people; the lock goes with the descriptor
                os.ftruncate(self._lock, 0)
            self._forget()

    def __enter__(self) -> "Workdir":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _forget(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def write_json_atomic(path: Path, value: Any) -> None:
    """Writes JSON that is there in full or not at all, also after a crash; NaN and infinities become null.

    Raises:
      DataError: it cannot be written.
    """
    write_text_atomic(path, json.dumps(plain(value), indent=2) + "\n")


def write_text_atomic(path: Path, text: str) -> None:
    """Replaces a text file (UTF-8) as a whole; raises DataError when it cannot be written."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_atomic(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Replaces a file as a whole by what `write` writes into it; raises DataError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # there only after a failure


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Removes what a kill in the midst of `write_atomic` left of these files. Only for the holder of the lock."""
    for name in names:
        for leftover in folder.glob(f".{name}.tmp-*"):
            with contextlib.suppress(OSError):
                leftover.unlink()


def open_append(path: Path) -> Any:
    """A binary file at its end, after a newline: what a killed writer left unfinished stays a line of its own."""
    file = path.open("ab+")
    if file.tell() > 0:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file


def cut_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """Cuts a .jsonl file to its first `count` lines, byte for byte, and gives them as rows.

    Later lines, among them a last one that is torn, go. No file counts as an empty one.

    Raises:
      DataError: it holds fewer whole lines, one of them is not a row, or it cannot be written.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error
    kept = lines[:count]
    whole = sum(line.endswith(b"\n") for line in kept)
    if whole < count:
        raise DataError(f"{path}: holds {whole} whole rows, the checkpoint counts {count}; put back a copy of the file")
    rows = []
    for number, line in enumerate(kept, 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: line {number} is damaged; put back a copy of the file") from error
    if len(kept) < len(lines):
        write_atomic(path, lambda file: file.writelines(kept))
    return rows


def plain(value: Any) -> Any:
    """The value in JSON's types: numpy numbers become Python's, tuples lists, and NaN and infinities null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", None) == 0):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def disk_error(path: Path, error: OSError) -> DataError:
    """One line for a write that failed: 'runs/a/metrics.jsonl: cannot write: No space left on device; …'."""
    return DataError(f"{path}: cannot write: {error.strerror or error}; mend it and start the same command again")


def _holder(lock_file: Path) -> str:
    """Who holds the lock. It writes its name a moment after it has taken it; till then an older name may be there."""
    name = "another process (it left no name yet)"
    for _ in range(_LOOKS):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            held = json.loads(lock_file.read_bytes())
            name = f"process {held['pid']} on {held['host']} since {held['start']}"
            if held["host"] != socket.gethostname() or _is_alive(held["pid"]):
                break
        time.sleep(_LOOK_AGAIN)
    return name


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True
