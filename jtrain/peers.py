"""The processes of one run: what they tell each other, and how each learns that another one is lost.

Lines of JSON over TCP, through a hub in process 0. Arrays never come this way; they are JAX's.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from jtrain.errors import ConfigError, HeldError
from jtrain.hub import Hub
from jtrain.wire import BEAT, FIRST, RETRY, TRAIN, is_loopback, line_of, reach


class Peers:
    """The processes of a run; this class is a process that is alone.

    Attributes:
      process: this one's number, from 0.
      processes: how many there are.
    """

    process, processes = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return self.process == 0

    def exchange(self, key: str, value: Any, *, only: int | str | None = None) -> list[Any]:
        """The values of all processes in their order, once all have given theirs.

        Args:
          key: the same on all processes; each use of it waits for all of them.
          value: of JSON types.
          only: the one process that is given the values; the others wait likewise, and are given [].
        """
        return [value]

    def first(self, key: str, value: Any) -> Any:
        """The value of process 0, once all have come; that of the others is not sent."""
        return self.exchange(key, value if self.leads else None, only=FIRST)[0]

    def begin(self) -> None:
        """A run begins: a signal that ended an earlier one holds no longer, and waiting is limited from here on."""

    def when_lost(self, tell: Callable[[str], None] | None) -> None:
        """`tell(text)` is called, in another thread, before this process ends because another one is lost."""

    def at(self, phase: str) -> None:
        """Notes where this process is, for those who wait for it; '': nothing is waited for."""

    def grant(self, received: int | None) -> int | None:
        """Asked before every piece of work that all processes do together: None to go on, or the signal to stop by.

        Processes agree on the piece before which they stop, whichever of them received the signal.

        Args:
          received: the signal that this process received.
        """
        return received

    def wait_for_news(self) -> None:
        """After an error that another process may have caused: waits until it is known whether one was lost."""

    def leave(self, reason: str = "", code: int = HeldError.exit_code) -> None:
        """Tells the others that this process ends: its work is done, or for a `reason`; then they end with `code`."""


ALONE = Peers()


class Joined(Peers):
    """This process among others.

    When another one is lost, `on_lost(text, code)` is called in a thread of its own, as the main thread may be waiting
    for that process inside a computation, which nothing but the end of this process ends.

    Args:
      host, port: where process 0 listens.
      process, processes: the number of this one, and of all.
      welcome: in process 0: what all are told once they are there.
      heartbeat, start, step: seconds; see `Hub`.
      on_lost: by default prints the text and ends this process with that code.

    Raises:
      HeldError: not all processes came in time. ConfigError: this process is none of them, or cannot listen.
    """

    def __init__(
        self, host: str, port: int, process: int, processes: int, *, welcome: Callable[[], dict[str, Any]] = dict,
        heartbeat: float = 10.0, start: float = 300.0, step: float = 600.0,
        on_lost: Callable[[str, int], None] | None = None,
    ) -> None:  # fmt: skip
        self.process, self.processes = process, processes
        self.on_lost = on_lost or _end
        self._heartbeat = heartbeat
        self._condition = threading.Condition()
        self._sending = threading.Lock()
        self._answers: dict[str, list[list[Any]]] = {}
        self._phase, self._moved = "", time.monotonic()
        self._count = 0  # pieces of common work begun
        self._asked = self._frozen = self._leaving = self._losing = False
        self._limit: int | None = None
        self._signal: int | None = None
        self._lost = ""
        self._told: dict[str, Any] | None = None
        self._hub: Hub | None = None
        self._tell: Callable[[str], None] | None = None
        if process == 0:
            self._hub = _hub((host, port), processes, welcome, heartbeat=heartbeat, start=start, step=step)
            self._hub.start()
        # Process 0 reaches its own hub in any case, whatever the address means on this machine.
        self._connection = reach("127.0.0.1" if process == 0 and not is_loopback(host) else host, port, start)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "sees": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        self._send({"hello": {"process": process, "processes": processes} | me})
        self._heard = time.monotonic()
        for target in (self._receive, self._live):
            threading.Thread(target=target, name=f"peers-{target.__name__}", daemon=True).start()
        with self._condition:
            # The hub tells who is absent; only where even its word does not come, this process tells by itself.
            there = self._condition.wait_for(lambda: self._told is not None or self._lost, start + heartbeat)
        if self._lost:
            raise (ConfigError if self._lost.startswith("coordinator: ") else HeldError)(self._lost)
        if not there or self._told is None:
            raise HeldError(f"process 0 at {host}:{port} does not answer")

    @property
    def welcome(self) -> dict[str, Any]:
        """What process 0 told all of them, their `names`, and `places`: (host, accelerators that it may see)."""
        assert self._told is not None
        return self._told

    def exchange(self, key: str, value: Any, *, only: int | str | None = None) -> list[Any]:
        self._send({"exchange": key, "value": value, "only": only})
        with self._condition:
            self._condition.wait_for(lambda: self._answers.get(key) or self._lost or self._leaving)
            if not self._answers.get(key):
                raise HeldError(self._lost or "this process has left the others")
            return self._answers.pop(key)[0]

    def when_lost(self, tell: Callable[[str], None] | None) -> None:
        self._tell = tell

    def begin(self) -> None:
        self.at("starting")
        self.exchange(TRAIN, 0, only=0)
        with self._condition:
            self._asked = self._frozen = False
            self._limit = self._signal = None

    def at(self, phase: str) -> None:
        self._phase, self._moved = phase, time.monotonic()

    def grant(self, received: int | None) -> int | None:
        with self._condition:
            if received is not None and not self._asked:
                self._asked = True
                self._send({"stop": received})
            # Who has said how far he is waits until it is known how far all shall go.
            self._condition.wait_for(lambda: not self._frozen or self._limit is not None or self._lost)
            if self._lost:
                raise HeldError(self._lost)
            if self._limit is not None and self._count >= self._limit:
                return self._signal
            self._count += 1
            self._moved = time.monotonic()
            return None

    def wait_for_news(self) -> None:
        with self._condition:
            if self._condition.wait_for(lambda: self._lost, self._heartbeat + 2 * BEAT):
                raise HeldError(self._lost)

    def leave(self, reason: str = "", code: int = HeldError.exit_code) -> None:
        with self._condition:
            if reason and not self.leads:  # where all fail alike the first process tells it, once its files are written
                self._condition.wait_for(lambda: self._losing, 2 * BEAT)
            if self._leaving or self._losing:
                return
            self._leaving = True
            self._condition.notify_all()
        self._send({"left": reason, "code": code} if reason else {"bye": 0})
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        if self._hub is not None:
            self._hub.join(self._heartbeat)

    def _send(self, message: dict[str, Any]) -> None:
        # A connection that is gone is found by the thread that reads from it.
        with contextlib.suppress(OSError), self._sending:
            self._connection.sendall(line_of(message))

    def _live(self) -> None:
        """Gives signs of life, and looks for those of process 0."""
        paused = time.monotonic()
        while not self._leaving and not self._lost:
            now = time.monotonic()
            if now - paused > max(self._heartbeat / 2, 2 * BEAT):  # this process itself stood still
                self._heard = now
            paused = now
            self._send({"beat": [self._phase, self._count, now - self._moved]})
            if now - self._heard > self._heartbeat:
                self._lose(f"process 0 has not been heard of for {now - self._heard:.0f} s")
            with self._condition:
                self._condition.wait_for(lambda: self._leaving or self._lost, BEAT)

    def _receive(self) -> None:
        try:
            with self._connection, self._connection.makefile("rb") as lines:
                for line in lines:
                    self._heard = time.monotonic()
                    self._hear(json.loads(line))
        except (OSError, ValueError):
            pass
        if not self._leaving:
            stranger = "what answers at the address of process 0 is no process of this run, or has ended: coordinator"
            self._lose("process 0 died" if self._told is not None else stranger)

    def _hear(self, message: dict[str, Any]) -> None:
        with self._condition:
            if "answer" in message:
                self._answers.setdefault(message["answer"], []).append(message["values"])
            elif "welcome" in message:
                self._told = message["welcome"]
            elif "freeze" in message:
                self._frozen = True
                self._send({"frozen": self._count})
            elif "limit" in message:
                self._limit, self._signal = message["limit"], message["signal"]
            self._condition.notify_all()
        if "lost" in message:
            self._lose(message["lost"], message["code"])
        elif "refused" in message:
            self._lose(f"coordinator: {message['refused']}")

    def _lose(self, text: str, code: int = HeldError.exit_code) -> None:
        with self._condition:
            if self._losing or self._leaving:
                return
            self._losing, started = True, self._told is not None
        if self._hub is not None:
            self._hub.join(BEAT)  # it is telling the others
        if started:
            with contextlib.suppress(Exception):  # a disk that is full is no reason to stay
                if self._tell is not None:
                    self._tell(text)
            self.on_lost(text, code)  # before those who wait are woken: one word on this is enough
        with self._condition:
            self._lost = text
            self._condition.notify_all()


def _hub(
    address: tuple[str, int], processes: int, welcome: Callable[[], dict[str, Any]], *,
    heartbeat: float, start: float, step: float,
) -> Hub:  # fmt: skip
    """A hub that listens; waits for a process of an earlier start that is about to leave the address."""
    until = time.monotonic() + heartbeat + 2 * BEAT
    while True:
        try:
            return Hub(address, processes, welcome, heartbeat=heartbeat, start=start, step=step)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                where, why = f"{address[0]}:{address[1]}", os.strerror(error.errno) if error.errno else str(error)
                raise ConfigError(f"coordinator: process 0 cannot listen at {where}: {why}") from error
        time.sleep(RETRY)


def end_now(code: int) -> NoReturn:
    """Ends this process without waiting for anything, once what it has printed is out."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _end(text: str, code: int) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"jtrain: {text}\n")
    end_now(code)
