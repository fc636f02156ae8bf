"""Contenders that take turns: each in a process of its own, equal arithmetic checked first, medians of paired ratios.

A row of docs/benchmarks.md is one script: it calls `compare` (perhaps several times), makes claims of what that found,
and hands both to `report`, which prints them and writes the row's file. A contender is a module of
benchmarks/contenders/ with

    prepare(case: dict) -> object with
        versions: dict[str, str]              of what it runs on; "threads" too where it chooses them
        check() -> list[float]                by which equal arithmetic is judged, such as losses; [] compares nothing
        block() -> tuple[float, float]        one turn: seconds, and the units of work (steps, images) done in them

that is imported by benchmarks/worker.py under the contender's own interpreter. One that fails stays in the table as
FAIL with the last line that it wrote to standard error, and so does one that DIFFERS; nothing is claimed against them.
"""

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from findings import Comparison, Contender, Entry, table

HERE = Path(__file__).resolve().parent
SECONDS = {"prepare": 300.0, "check": 300.0, "block": 180.0, "peak": 10.0}  # until a worker counts as stuck


class Failure(Exception):
    """A contender could not do what it was asked to; the text is the reason."""


class Worker:
    """The process of one contender."""

    def __init__(self, contender: Contender) -> None:
        """Starts it.

        Raises:
          Failure: there is no interpreter for it.
        """
        interpreter = peer_interpreter() if contender.peer else sys.executable
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 what it writes to standard error
        self._folder = tempfile.TemporaryDirectory(prefix="jtrain-bench-")  # it is killed, and clears nothing up
        try:
            self._process = subprocess.Popen(
                [interpreter, "-u", str(HERE / "worker.py")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
                env=os.environ | {"TMPDIR": self._folder.name} | contender.environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._said.close()
            self._folder.cleanup()
            raise Failure(f"{interpreter}: {error.strerror}; `make bench` makes the peers' environment") from error

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Its reply.

        Raises:
          Failure: it failed, ended or took too long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do} | details), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise Failure(self._last_words()) from None
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS[do])
        if not ready:
            raise Failure(f"{do}: no answer in {SECONDS[do]:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise Failure(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise Failure(self._last_words() or reply["error"])
        return reply

    def close(self) -> None:
        """Ends it, with whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]
        self._folder.cleanup()

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"ended with {self._process.poll()}"


def compare(
    title: str,
    contenders: Sequence[Contender],
    *,
    reference: str,
    unit: str = "step",
    rounds: int = 7,
    warmup: int = 1,
    tolerance: float = 1e-3,
) -> Comparison:
    """Runs contenders in turn: all are started and checked, warmed up, then measured block by block.

    Every round begins with another of them. All processes are ended at the end, whatever happens.

    Args:
      title: of the table.
      contenders: with names of their own.
      reference: the name of the one to whose check numbers all others' are compared.
      unit: of work, in the singular.
      rounds: turns of each that count.
      warmup: turns of each that do not.
      tolerance: greatest relative difference of check numbers that is equal arithmetic.
    """
    entries = {c.name: Entry(c) for c in contenders}
    if len(entries) < len(contenders) or reference not in entries:
        raise ValueError(f"{title}: the names must differ, and {reference!r} be one of them")
    before = os.getloadavg()[0]
    workers: dict[str, Worker] = {}
    try:
        for entry in entries.values():
            _start(entry, workers)
        for entry in entries.values():
            _judge(entry, entries[reference], tolerance)
        for turn in range(-warmup, rounds):
            names = list(workers)
            first = turn % len(names) if names else 0
            for name in names[first:] + names[:first]:
                _turn(entries[name], workers, counts=turn >= 0)
        for name in list(workers):
            reply = _asked(entries[name], workers, "peak")
            entries[name].peak_bytes = reply["bytes"] if reply else 0
    finally:
        for worker in workers.values():
            worker.close()
    found = Comparison(title, unit, reference, rounds, entries, (before, os.getloadavg()[0]))
    print(table(found), flush=True)
    return found


def _start(entry: Entry, workers: dict[str, Worker]) -> None:
    """Starts and prepares a contender, and lets it compute its check numbers."""
    name = entry.contender.name
    print(f"  … {name}", file=sys.stderr, flush=True)
    try:
        workers[name] = Worker(entry.contender)
    except Failure as failure:
        entry.status, entry.why = "FAIL", str(failure)
        return
    reply = _asked(entry, workers, "prepare", module=entry.contender.module, case=entry.contender.case)
    if reply is not None:
        entry.versions = {key: str(value) for key, value in reply["versions"].items()}
        reply = _asked(entry, workers, "check")
        entry.numbers = reply["numbers"] if reply else []


def _asked(entry: Entry, workers: dict[str, Worker], do: str, **details: Any) -> dict[str, Any] | None:
    """The reply of a contender; None if it failed, and then it takes no further part."""
    try:
        return workers[entry.contender.name].ask(do, **details)
    except Failure as failure:
        entry.status, entry.why, entry.seconds = "FAIL", str(failure), []
        workers.pop(entry.contender.name).close()
        return None


def _turn(entry: Entry, workers: dict[str, Worker], *, counts: bool) -> None:
    reply = _asked(entry, workers, "block")
    if reply is not None and counts:
        entry.seconds.append(reply["seconds"] / reply["units"])


def _judge(entry: Entry, reference: Entry, tolerance: float) -> None:
    """Compares the check numbers of a contender with the reference's."""
    if entry.status != "ok":
        return
    if reference.status != "ok":
        entry.status, entry.why = "UNCHECKED", "the reference failed"
    elif len(entry.numbers) != len(reference.numbers):
        entry.status = "DIFFERS"
        entry.why = f"{len(entry.numbers)} check numbers, the reference has {len(reference.numbers)}"
    elif reference.numbers:
        pairs = zip(entry.numbers, reference.numbers, strict=True)
        entry.difference = max(_relative(a, b) for a, b in pairs)
        if entry.difference > tolerance:
            entry.status, entry.why = "DIFFERS", f"by {entry.difference:.2g} of the reference's numbers"


def _relative(a: float, b: float) -> float:
    """|a - b| / |b|, infinite where either is not finite."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return 0.0 if a == b else abs(a - b) / max(abs(b), 1e-30)


def peer_interpreter() -> str:
    """The Python of the peers' environment: JTRAIN_BENCH_PYTHON, or that of `.venv-bench`, which `make bench` makes."""
    return os.environ.get("JTRAIN_BENCH_PYTHON") or str(HERE.parent / ".venv-bench" / "bin" / "python")
