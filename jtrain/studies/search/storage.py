"""The storage that the workers of a search share, and how they know of each other that they live."""

import contextlib
import functools
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from jtrain.errors import ConfigError, DataError

FILE = "trials.jsonl"
BEAT, LOST = 15.0, 120.0  # seconds: between two signs of life; without one for so long a worker counts as dead
DOUBT = 0.5  # seconds, see `doubt`


def open_storage(text: str, folder: Path | None) -> optuna.storages.BaseStorage:
    """The storage of `study.search.storage`.

    Args:
      text: a database URL, a file, relative to the folder, or '' for a file in it.
      folder: the workdir; None with '' keeps all in memory, for this process alone.

    Raises:
      ConfigError: it cannot be opened.
    """
    try:
        if "://" in text:
            more = {"connect_args": {"timeout": 60}} if text.startswith("sqlite") else {}
            return again(lambda: optuna.storages.RDBStorage(text, engine_kwargs=more))
        if not text and folder is None:
            return optuna.storages.InMemoryStorage()
        path = (folder or Path()) / (Path(text).expanduser() if text else FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=_MendingLock(path)))
    except (SQLAlchemyError, StorageInternalError, ImportError, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"study.search.storage: cannot be opened ({why}); give a file, a URL such as sqlite:///trials.db, "
            "or '' for a file in the workdir"
        ) from error


def worker() -> dict[str, Any]:
    """Who this process is, for others."""
    pid, token = os.getpid(), uuid.uuid4().hex
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "born": _birth(pid), "token": token}


def doubt(storage: optuna.storages.BaseStorage) -> float:
    """Seconds after which a worker knows whether a trial is its own: the last that has written its name has it. In
    SQLite, which locks no rows, two workers may get one trial; all others give it to one."""
    return DOUBT if isinstance(storage, optuna.storages.RDBStorage) and storage.url.startswith("sqlite") else 0.0


class Watch:
    """Which workers have died, as far as one can see from here."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, float]] = {}  # last sign of life of a trial, and when it was new here

    def is_lost(self, trial: FrozenTrial) -> bool:
        """Whether a trial that is running has nobody who runs it: its process has ended here, or it has given no sign
        of life for `LOST` seconds by the clock of this process."""
        worker = trial.user_attrs.get("worker")
        if worker is not None and worker["machine"] == _machine() and _birth(worker["pid"]) != worker["born"]:
            return True
        sign = trial.user_attrs.get("beat")
        last = self._seen.get(trial.number)
        if last is None or last[0] != sign:
            self._seen[trial.number] = (sign, time.monotonic())
            return False
        return time.monotonic() - last[1] > LOST


@functools.cache
def _machine() -> str:
    """What processes have in common that see each other; each container has its own numbers of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown {os.getpid()}"


def _birth(pid: int) -> str:
    """When a process was started, by the clock of the machine: numbers are used again. '' for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


@contextlib.contextmanager
def beating(trial: optuna.Trial) -> Iterator[None]:
    """Gives signs of life of a trial meanwhile."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT):
            count += 1
            # A storage that fails is told by who needs it; without signs of life another takes the trial over.
            with contextlib.suppress(UpdateFinishedTrialError, StorageInternalError, OSError):
                trial.set_user_attr("beat", count)

    thread = threading.Thread(target=beat, name="search", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _MendingLock(JournalFileSymlinkLock):
    """A lock whose holder finds whole lines alone: what a writer that was killed has torn would spoil the next line,
    and with it the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def acquire(self) -> bool:
        """Takes the lock, and cuts off a last line without an end."""
        held = super().acquire()
        with self._path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            back = min(end, 1 << 16)
            file.seek(end - back)
            tail = file.read(back)
            if tail and not tail.endswith(b"\n"):
                file.truncate(end - back + tail.rfind(b"\n") + 1)
        return held


def again(open_it: Callable[[], Any]) -> Any:
    """Workers that begin at once make the same tables: who is later tries again."""
    for wait in (0.1, 0.3, 1.0, 3.0):
        try:
            return open_it()
        except (DBAPIError, StorageInternalError):
            time.sleep(wait)
    return open_it()


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """Errors of the storage as such that a person can act on."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, OSError) as error:
        why = " ".join(str(error).split())[:300]
        raise DataError(f"study.search.storage: fails ({why}); mend it and start the same command again") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Lets Optuna be heard only in warnings; what the program has set comes back."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
