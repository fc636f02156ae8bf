"""Decoding in child processes: the same examples, read beside each other.

Each child is a fresh interpreter that runs `jtrain.data.worker`. It is no fork, as JAX has threads, and not spawned by
multiprocessing, which would import the user's program once more.
"""

import contextlib
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from jtrain.data.broken import Fetched, Tolerant
from jtrain.data.examples import ArrayExamples, Examples, Subset
from jtrain.data.worker import PROTOCOL, receive, send
from jtrain.errors import DataError

PER_ACCELERATOR = 4  # children for each device, where the setting leaves it open
_PATIENCE = 3.0  # seconds in which children end by themselves
_SIGNALS = {signal.SIGINT, signal.SIGTERM}
# One thread for each child, and no accelerator where a user's module imports JAX.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu",
}  # fmt: skip


class Unsendable(Exception):
    """These examples cannot be given to another process; the message says why."""


def drained(lines: queue.SimpleQueue[str]) -> list[str]:
    """What is in the queue, which is empty then."""
    found = []
    with contextlib.suppress(queue.Empty):
        while True:
            found.append(lines.get_nowait())
    return found


def worker_count(setting: int, accelerators: int, cores: int) -> int:
    """How many children decode.

    Args:
      setting: -1 chooses: 4 for each accelerator, at least 4, but no more than there are cores; else it is the number.
      accelerators: devices that are not processors.
      cores: that this process may use.
    """
    return min(PER_ACCELERATOR * max(1, accelerators), cores) if setting < 0 else setting


def usable_cores() -> int:
    """Cores that this process may use, which a scheduler may have cut down."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decodes(examples: Examples) -> bool:
    """Whether fetching is work that a child could do: not where examples lie in memory as they are given out.

    A class of examples may say so itself, by an attribute `decodes`.
    """
    if isinstance(examples, Tolerant):
        return decodes(examples.base)
    if isinstance(examples, Subset):
        return decodes(examples.base)
    return bool(getattr(examples, "decodes", not isinstance(examples, ArrayExamples)))


class Workers:
    """Child processes that fetch examples; one set serves all splits of a run. Several threads may use it at once.

    A child is started when it is first needed, and is given each split once. It ends with this process, however that
    ends. After `close` the next fetch starts anew.

    Args:
      count: of children, at least 1.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        # The child used last is used first, so that no more are started than are needed. None is one not yet started.
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)
        self._closing = threading.Lock()
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()

    def fetch(self, examples: Examples, rows: np.ndarray) -> Fetched:
        """`examples.fetch(rows)`, computed by a child; waits for one that is free.

        Args:
          examples: a split; the same object each time.
          rows: [b] example numbers.

        Raises:
          Unsendable: the examples cannot be pickled, or not read back there.
          DataError: two children died over these rows. Whatever else `examples.fetch` raises, with the same message.
        """
        child = self._idle.get()
        try:
            for again in (True, False):
                try:
                    child = child or _Child()
                    return child.fetch(examples, rows)
                except _Died as death:
                    child = None
                    if not again:
                        raise DataError(_told(death, rows)) from death
                    self._news.put(f"a loader process died ({death}); another one reads its batch")
            raise AssertionError  # the loop returns or raises
        finally:
            if child is not None and child.owes:  # interrupted before its answer came, which is nobody's now
                child.hang_up()
                child.end(0.0)
                child = None
            self._idle.put(child)

    def news(self) -> list[str]:
        """A line for every child that died since the last call, and whose batch another one has read."""
        return drained(self._news)

    def close(self) -> None:
        """Ends all children, once they have answered what they were asked."""
        with self._closing:
            taken: list[_Child | None] = []
            try:
                while len(taken) < self.count:
                    taken.append(self._idle.get())
                children = [child for child in taken if child is not None]
                for child in children:
                    child.hang_up()
                deadline = time.monotonic() + _PATIENCE
                for child in children:
                    child.end(max(0.0, deadline - time.monotonic()))
            finally:
                for _ in taken:
                    self._idle.put(None)


class _Died(Exception):
    """A child answers no more; the message says how it died."""


class _Child:
    """One child, used by one thread at a time."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        try:
            self._process = _start(theirs.fileno())
        except DataError:
            self._connection.close()
            raise
        finally:
            theirs.close()
        self._given: dict[int, Examples] = {}  # by id, which holds as long as the object is kept
        self.owes = False  # an answer

    def fetch(self, examples: Examples, rows: np.ndarray) -> Fetched:
        key = id(examples)
        if key not in self._given:
            self._give(examples)
        kind, value = self._ask(("fetch", key, rows))
        if kind == "failed":
            raise value
        return value

    def _give(self, examples: Examples) -> None:
        try:
            pickled = pickle.dumps(examples, PROTOCOL)
        except Exception as error:  # pickle raises many kinds, and so do the methods of a user that it calls
            raise Unsendable(f"{type(error).__name__}: {error}") from error
        kind, reason = self._ask(("examples", id(examples), pickled))
        if kind == "refused":
            raise Unsendable(reason)
        self._given[id(examples)] = examples

    def _ask(self, request: tuple[str, int, Any]) -> tuple[str, Any]:
        self.owes = True
        try:
            send(self._connection, request)
            answer: tuple[str, Any] = receive(self._connection)
        except (EOFError, OSError) as error:
            self.hang_up()
            self.end(_PATIENCE)
            code = self._process.returncode
            how = f"exit code {code}" if code >= 0 else f"signal {-code}{': out of memory?' if code == -9 else ''}"
            raise _Died(how) from error
        self.owes = False
        return answer

    def hang_up(self) -> None:
        """Closes the socket, upon which the child ends."""
        self._connection.close()

    def end(self, patience: float) -> None:
        """Waits for a child that was hung up on; kills it after `patience` seconds."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _start(fd: int) -> subprocess.Popen[bytes]:
    # What can be imported here can be imported there; -P, as the working folder is there only if it is here.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    command = [sys.executable, "-P", "-m", "jtrain.data.worker", str(fd)]
    environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": path}
    # Ctrl-C and SIGTERM reach the whole process group, but this process alone decides what becomes of them. Blocked
    # here, they are blocked in the child for good, and from its very first moment.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        return subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL, env=environment)
    except OSError as error:
        raise DataError(f"data.workers: no loader process can be started ({error}); use fewer, or 0") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _told(death: _Died, rows: np.ndarray) -> str:
    some = ", ".join(str(int(row)) for row in rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
    return (
        f"data: a loader process died ({death}) while reading records {some}, and so did the one that tried again; "
        "use fewer processes, data.workers (each holds one batch), or 0 to read in this one"
    )
