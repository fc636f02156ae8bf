"""Rows sent to a logging service beside the run: whatever becomes of the service, the run goes on."""

import contextlib
import json
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from jtrain.io.workdir import write_json_atomic

Row = dict[str, Any]
Tell = Callable[[str], None]

PIECE = 100  # rows sent at a time
RETRY_SECONDS = 60.0  # from a failure to the next attempt
MARK_SECONDS = 5.0  # at most so often is noted how much was sent
CLOSE_SECONDS = 30.0  # that the end of a run waits for what is not yet sent
LEAVE_SECONDS = 10.0  # the same where a signal or an error ends it


class Service(Protocol):
    """One run at a logging service. Its methods may take long, and may raise whatever they like."""

    def send(self, rows: Sequence[Row]) -> None:
        """Adds rows, in order."""

    def close(self, finished: bool) -> None:
        """Ends the run there, as one that has come to its end or may be resumed."""


Connect = Callable[[str, Tell], Service]  # (the id of the run there, which stays the same; what to tell) -> service


class Hosted:
    """The rows of a run on their way to a service, in a thread of their own.

    The thread reads the run's own list of rows, so that nothing piles up, and what a broken service has not taken
    waits there: it is tried again every minute, at the end, and when the run is resumed.

    Args:
      name: of the service, such as 'mlflow'.
      target: where there: a project, an address.
      connect: opens it; called in the thread, again after a failure.
      folder: the workdir; <name>.json in it holds the id of the run there, and how many rows were sent.
      rows: of the run, to which the caller appends; those that were not sent yet are sent first.
      keeps: what the service has taken is safe. Else, after a run that was killed, all rows are sent anew.
    """

    def __init__(
        self, name: str, target: str, connect: Connect, folder: Path, rows: list[Row], *, keeps: bool = True
    ) -> None:
        self.name = name
        self._target, self._connect, self._rows = target, connect, rows
        self._mark = folder / f"{name}.json"
        known = _read(self._mark)
        self._id = str(known.get("id") or uuid.uuid4().hex[:12])
        has_them = known.get("target") == target and (keeps or known.get("closed"))
        self._sent = min(int(known.get("sent", 0)), len(rows)) if has_them else 0
        self._marked = time.monotonic()
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of rows and the count of those sent, which change together
        self._cuts = 0
        self._due, self._closing, self._finished = threading.Event(), False, False
        self._failing = False
        self._service: Service | None = None
        self._thread = threading.Thread(target=self._work, name=f"log-{name}", daemon=True)
        self._due.set()
        self._thread.start()

    def added(self) -> None:
        """To be called when there are new rows."""
        self._due.set()

    def cut(self, rows: list[Row]) -> None:
        """Goes on from another list: the first of the rows so far. Later ones that were sent will be sent anew."""
        with self._lock:
            self._rows, self._sent, self._cuts = rows, min(self._sent, len(rows)), self._cuts + 1
        self._due.set()

    def news(self) -> list[str]:
        """A line for everything that is worth telling since the last call."""
        lines = []
        with contextlib.suppress(queue.Empty):
            while True:
                lines.append(self._news.get_nowait())
        return lines

    def end(self, *, finished: bool) -> None:
        """Has what is left sent, and waits for nothing.

        Args:
          finished: the run has come to its end, and not only this piece of it.
        """
        self._finished, self._closing = finished, True
        self._due.set()

    def close(self) -> None:
        """Waits until all is sent, but never long; `news` then tells what was not. Behind `end`."""
        self._thread.join(CLOSE_SECONDS if self._finished else LEAVE_SECONDS)
        if self._thread.is_alive():
            self._news.put("does not answer; the run does not wait for it")
        if left := len(self._rows) - self._sent:
            self._news.put(f"{left} of {len(self._rows)} rows were not sent; the same command sends them")

    def _work(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            closing = self._closing
            try:
                self._send_all()
                if closing and self._service is not None:
                    self._service.close(self._finished)
                    self._note(closed=True)
            except Exception as error:  # any, of a package that is not ours: the run must go on
                if not self._failing:
                    self._news.put(f"{one_line(error)}; the run goes on, its rows are kept and tried again")
                self._failing = True
                if not closing:
                    self._pause()
            if closing:
                return

    def _pause(self) -> None:
        """Waits for the next attempt, or for the end of the run."""
        until = time.monotonic() + RETRY_SECONDS
        while not self._closing and time.monotonic() < until:
            self._due.wait(until - time.monotonic())
            self._due.clear()
        self._due.set()

    def _send_all(self) -> None:
        if self._service is None:
            self._note()  # before anything is sent: a run that is killed goes on under the same id
            self._service = self._connect(self._id, self._news.put)
        while True:
            with self._lock:
                rows, cuts = self._rows[self._sent : self._sent + PIECE], self._cuts
            if not rows:
                break
            self._service.send(rows)
            with self._lock:
                if cuts == self._cuts:
                    self._sent += len(rows)
            if self._failing:
                self._failing = False
                self._news.put("answers again")
            if time.monotonic() - self._marked > MARK_SECONDS:
                self._note()
        self._note()

    def _note(self, *, closed: bool = False) -> None:
        """Keeps in mind what was sent, and whether the service was left in good order."""
        marking = {"id": self._id, "target": self._target, "sent": self._sent, "closed": closed}
        if marking != _read(self._mark):
            write_json_atomic(self._mark, marking)
        self._marked = time.monotonic()


def _read(path: Path) -> dict[str, Any]:
    """What a mark holds; {} where there is none, or it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        if isinstance(found, dict) and isinstance(found.get("sent", 0), int):
            return found
    return {}


def one_line(error: Exception) -> str:
    """What an error says, without ends of lines, names and passwords in addresses, and shortened."""
    text = re.sub(r"://\S*@", "://…@", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
