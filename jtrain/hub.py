"""The hub among the processes of a run: a thread of process 0 that hears from all of them, and tells all of them."""

import contextlib
import json
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any

from jtrain.errors import HeldError
from jtrain.wire import BEAT, FIRST, TRAIN, Member, line_of, listen

FIRST_WORDS = 4096  # bytes: of a line from somebody who has not yet said who he is
LONGEST = 1 << 28  # bytes: of any line
PATIENT = 6  # times the limit of a step: for starting and compiling, which take their time


class Hub:
    """Hears from every process and answers all; ends, and tells all why, when one of them is lost.

    Args:
      address: (host, port) to listen at.
      processes: how many there are, this one included.
      welcome: asked once all have come, for what they are told then.
      heartbeat: seconds without a sign of life after which a process counts as lost.
      start: seconds in which all must have come.
      step: seconds in which a step, an evaluation's batch, or a wait for the others must be over.
    """

    def __init__(
        self, address: tuple[str, int], processes: int, welcome: Callable[[], dict[str, Any]], *,
        heartbeat: float, start: float, step: float,
    ) -> None:  # fmt: skip
        self._processes, self._welcome = processes, welcome
        self._heartbeat, self._start, self._step = heartbeat, start, step
        self._members: dict[int, Member] = {}
        self._strangers: set[Member] = set()
        self._begun = time.monotonic()
        self._complete = False
        self._exchanges: dict[str, dict[int, Any]] = {}
        self._since: dict[str, float] = {}
        self._only: dict[str, int | None] = {}
        self._stopping: int | None = None  # the signal that all are asked to stop by
        self._frozen: dict[int, int] = {}
        self._over = False
        self._server = listen(address)
        self._server.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Waits until all have left."""
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self._hear_all()
        except Exception as error:  # this thread is what the others learn everything from
            self._lose(f"process 0 cannot go on: {error!r}")
        for member in [*self._members.values(), *self._strangers]:
            with contextlib.suppress(OSError):
                member.connection.settimeout(1.0)
                member.connection.sendall(member.outgoing)
            member.connection.close()
        self._server.close()
        self._selector.close()

    def _hear_all(self) -> None:
        last = paused = time.monotonic()
        while not self._over:
            for key, _ in self._selector.select(BEAT / 4):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            now = time.monotonic()
            if now - paused > max(
                self._heartbeat / 2, 2 * BEAT
            ):  # this process itself stood still: what it did not hear is no sign
                for member in self._members.values():
                    member.heard = now
            paused = now
            if now - last >= BEAT:
                last = now
                self._tell({"beat": 0})
                self._look(now)
            for member in [*self._members.values(), *self._strangers]:
                self._flush(member)
            if self._complete and all(member.gone for member in self._members.values()):
                self._over = True

    def _look(self, now: float) -> None:
        """Finds who is absent, silent, or stuck."""
        for stranger in [s for s in self._strangers if now - s.heard > self._heartbeat]:
            self._close(stranger)
        if not self._complete and now - self._begun > self._start:
            absent = [p for p in range(self._processes) if p not in self._members]
            there = ", ".join(member.name for _, member in sorted(self._members.items()))
            return self._lose(
                f"{_named(absent)} of {self._processes} did not come within {self._start:g} s (there: {there}); "
                "look at its log, its address of process 0, and mesh.start_timeout"
            )
        for member in self._members.values():
            if not member.gone and now - member.heard > self._heartbeat:
                return self._lose(
                    f"{member.name} has not been heard of for {now - member.heard:.0f} s; {member.where(now)}"
                )
        for key, since in self._since.items():
            if now - since > self._limit_of([m for m in self._members.values() if not m.gone]):
                late = [m for p, m in sorted(self._members.items()) if p not in self._exchanges[key]]
                return self._lose(f"{self._late(late, now)} did not come to {key!r} within {now - since:.0f} s")
        members = [member for member in self._members.values() if not member.gone]
        if self._complete and members and all(m.phase and now - m.moved > self._limit_of([m]) for m in members):
            least = min(member.count for member in members)
            late = [member for member in members if member.count == least]
            limit, found = self._limit_of(members), self._late(late, now)
            return self._lose(f"no process has got on for {limit:g} s (mesh.step_timeout): {found}")
        return None

    def _limit_of(self, members: list[Member]) -> float:
        slow = any(not member.phase or member.phase.startswith(("starting", "compiling")) for member in members)
        return self._step * (PATIENT if slow else 1)

    def _late(self, members: list[Member], now: float) -> str:
        return "; ".join(f"{member.name}, {member.where(now)}" for member in members)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._server.accept()
            connection.setblocking(False)
            member = Member(connection)
            self._strangers.add(member)
            self._selector.register(connection, selectors.EVENT_READ, member)

    def _read(self, member: Member) -> None:
        try:
            more = member.connection.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        member.incoming += more
        *lines, rest = member.incoming.split(b"\n")
        member.incoming = bytearray(rest)
        for line in lines:
            try:
                message = json.loads(line) if len(line) <= self._longest(member) else None
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                more = b""
                break
            self._hear(member, message)
        if not more or len(member.incoming) > self._longest(member):
            self._close(member)

    def _longest(self, member: Member) -> int:
        return FIRST_WORDS if member.process is None else LONGEST

    def _close(self, member: Member) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(member.connection)
        self._strangers.discard(member)
        if member.process is None:
            member.connection.close()
        elif not member.gone and not self._over:
            now = time.monotonic()
            member.gone = True
            self._lose(f"{member.name} died; {member.where(now)}")

    def _hear(self, member: Member, message: dict[str, Any]) -> None:
        now = member.heard = time.monotonic()
        if member.refused:
            return
        if member.process is None:
            self._meet(member, message.get("hello"))
        elif "beat" in message:
            phase, count, age = message["beat"]
            member.phase, member.count, member.moved = str(phase), int(count), now - float(age)
        elif "exchange" in message:
            self._collect(member.process, message["exchange"], message["value"], message["only"])
        elif "stop" in message and self._stopping is None:
            self._stopping = int(message["stop"])
            self._tell({"freeze": 0})
        elif "frozen" in message and self._stopping is not None:
            self._frozen[member.process] = int(message["frozen"])
            if len(self._frozen) == self._processes:
                self._tell({"limit": max(self._frozen.values()), "signal": self._stopping})
        elif "bye" in message:
            member.gone = True
            for key in self._exchanges:
                self._need(key)
        elif "left" in message:
            member.gone = True
            self._lose(f"{member.name} left: {message['left']}", int(message["code"]))

    def _meet(self, member: Member, hello: Any) -> None:
        try:
            process, processes = int(hello["process"]), int(hello["processes"])
            name = f"process {process} (pid {int(hello['pid'])} on {hello['host']})"
            member.place = str(hello["host"]), str(hello["sees"])
        except (TypeError, ValueError, KeyError, OverflowError):
            return self._close(member)
        refused = ""
        if processes != self._processes:
            refused = f"{name} says there are {processes} processes, process 0 says {self._processes}"
        elif not 0 <= process < processes:
            refused = f"{name}: the numbers are 0 to {processes - 1}"
        elif process in self._members:
            refused = f"{name} is one too many: {self._members[process].name} is there"
        if refused:
            member.refused = True
            self._send(member, line_of({"refused": refused}))
            return None
        member.process, member.name = process, name
        self._strangers.discard(member)
        self._members[process] = member
        if len(self._members) == self._processes:
            self._complete = True
            everyone = [self._members[p] for p in range(self._processes)]
            named = {"names": [m.name for m in everyone], "places": [m.place for m in everyone]}
            self._tell({"welcome": self._welcome() | named})
        return None

    def _collect(self, process: int, key: str, value: Any, only: int | str | None) -> None:
        values = self._exchanges.setdefault(key, {})
        self._since.setdefault(key, time.monotonic())
        values[process] = value
        if len(values) < self._processes:
            return self._need(key)
        del self._exchanges[key], self._since[key]
        if key == TRAIN:
            self._stopping, self._frozen = None, {}
        everything = [values[0]] if only == FIRST else [values[p] for p in range(self._processes)]
        # Made into bytes once: there may be thousands to tell.
        whole, nothing = line_of({"answer": key, "values": everything}), line_of({"answer": key, "values": []})
        for p, member in self._members.items():
            self._send(member, whole if only in (None, FIRST, p) else nothing)
        return None

    def _need(self, key: str) -> None:
        """Finds who has ended although the others wait for him."""
        for process, member in sorted(self._members.items()):
            if member.gone and process not in self._exchanges[key]:
                return self._lose(f"{member.name} ended before it came to {key!r}")
        return None

    def _lose(self, text: str, code: int = HeldError.exit_code) -> None:
        if not self._over:
            self._over = True
            self._tell({"lost": text, "code": code})

    def _tell(self, message: dict[str, Any]) -> None:
        line = line_of(message)
        # Process 0 last: when it learns that it must end, it takes this thread with it.
        for _, member in sorted(self._members.items(), reverse=True):
            self._send(member, line)

    def _send(self, member: Member, line: bytes) -> None:
        if member.gone:
            return
        member.outgoing += line
        self._flush(member)

    def _flush(self, member: Member) -> None:
        with contextlib.suppress(OSError):  # who does not listen is found by his silence
            while member.outgoing:
                del member.outgoing[: member.connection.send(member.outgoing)]


def _named(processes: list[int]) -> str:
    words = ", ".join(map(str, processes[:8])) + (f" and {len(processes) - 8} more" if len(processes) > 8 else "")
    return f"process{'es' if len(processes) > 1 else ''} {words}"
