"""Runs in child processes, two at a time, and what is looked for in what they leave behind."""

import concurrent.futures
import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from helpers import timeless

from jtrain.io.checkpoint import Checkpoints

HERE = Path(__file__).resolve().parent
LANES = 2
PATIENCE = 60.0  # seconds that a run may take to end once it has to; it takes one or two, on a busy machine more
TRAINING = PATIENCE * 10  # seconds in which any run here is through


class Child:
    """A run in a process of its own."""

    def __init__(self, lane, pid, out, err):
        self._lane, self.pid, self._out, self._err = lane, pid, out, err
        self.code = None

    def send(self, number):
        """Sends a signal; harmless once it has ended."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def ended(self, seconds=0.0):
        """Whether it ends within `seconds`."""
        if self.code is None:
            line = self._lane.answer(seconds)
            self.code = None if line is None else int(line)
        return self.code is not None

    def wait(self, seconds=PATIENCE):
        """Its exit code; a failure if it has none in time."""
        assert self.ended(seconds), f"still there after {seconds} s: {self.err()}"
        return self.code

    def err(self):
        return self._err.read_text(errors="replace")

    def out(self):
        return self._out.read_text(errors="replace")


class Lane:
    """A fork server (server.py), which has one run at a time."""

    def __init__(self):
        path = [str(HERE.parent), str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "XLA_FLAGS": "", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-m", "faults.server"]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, bufsize=0)
        self._folder = tempfile.TemporaryDirectory()
        self._child = None
        self._count = 0

    def start(self, *argv, before=(), environ=None):
        """Begins a run of the command line."""
        assert self._child is None or self._child.code is not None
        self._count += 1
        out, err = (Path(self._folder.name) / f"{self._count}.{name}" for name in ("out", "err"))
        out.touch()
        err.touch()
        request = {"argv": list(map(str, argv)), "out": str(out), "err": str(err), "environ": environ or {}}
        self._server.stdin.write(json.dumps(request | {"before": list(before)}).encode() + b"\n")
        self._child = Child(self, int(self.answer(PATIENCE)), out, err)
        return self._child

    def answer(self, seconds):
        """The next line of the server; None if there is none in time."""
        if not select.select([self._server.stdout], [], [], seconds)[0]:
            return None
        line = self._server.stdout.readline()
        assert line, "the fork server is gone"
        return line

    def clear(self):
        """Ends a run that a failed test has left."""
        if self._child is not None and self._child.code is None:
            self._child.send(signal.SIGKILL)
            self._child.wait()

    def close(self):
        self.clear()
        self._server.stdin.close()
        self._server.wait(PATIENCE)
        self._server.stdout.close()
        self._folder.cleanup()


class Lanes:
    """All lanes, made when they are first needed."""

    def __init__(self):
        self._free = queue.LifoQueue()
        for _ in range(LANES):
            self._free.put(None)

    @contextlib.contextmanager
    def hold(self):
        """A lane of one's own; what is left running in it is killed at the end."""
        lane = self._free.get()
        try:
            lane = lane or Lane()
            yield lane
        finally:
            if lane is not None:
                lane.clear()
            self._free.put(lane)

    def each(self, function, items):
        """[function(lane, item), …] in order, as many at a time as there are lanes; raises what one of them raised."""

        def one(item):
            with self.hold() as lane:
                return function(lane, item)

        with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
            return list(pool.map(one, items))

    def close(self):
        for _ in range(LANES):
            lane = self._free.get()
            if lane is not None:
                lane.close()


def newest(workdir):
    """The newest committed checkpoint; 0: there is none."""
    return max(steps(workdir), default=0)


def steps(workdir):
    try:
        return sorted(int(name) for name in os.listdir(workdir / "checkpoints") if name.isdecimal())
    except FileNotFoundError:
        return []


def leftovers(workdir):
    """What an unfinished save or write has left: {path: when it was changed}."""
    found = {}
    for path in [*workdir.glob(".*.tmp-*"), *(workdir / "checkpoints").glob(".*")]:
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.lstat().st_mtime_ns
    return found


def saving(workdir):
    """Whether a checkpoint is being written."""
    try:
        return any(name.startswith(".tmp-") for name in os.listdir(workdir / "checkpoints"))
    except FileNotFoundError:
        return False


def until(true, child, seconds=PATIENCE):
    """Waits until `true()`, or the end of the run; says which, as whether it goes on."""
    end = time.monotonic() + seconds
    while not true():
        if child.ended():
            return False
        assert time.monotonic() < end, f"nothing came in {seconds} s: {child.err()}"
        time.sleep(0.001)
    return True


def complain(child, code, *words):
    """Checks that a run ended with `code` and one clear line, which holds the words."""
    assert child.code == code, (child.code, child.err())
    lines = child.err().splitlines()
    assert len(lines) == 1, child.err()
    assert lines[0].startswith("jtrain: ")
    for word in words:
        assert word in lines[0]
    return lines[0]


def check_whole(workdir):
    """Reads every committed checkpoint, each of which must be whole."""
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1, event=print, read_only=True)
    for step in steps(workdir):
        checkpoints.restore(step)


def check_same(one, other):
    """The last states, control states, rows and files of two finished runs are the same, to the bit."""
    found = []
    for workdir in (one, other):
        checkpoints = Checkpoints(workdir / "checkpoints", keep=1, event=print, read_only=True)
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        found.append((checkpoints.restore(), timeless(rows), (workdir / "best.json").read_text(), steps(workdir)))
    (expected, rows, *files), (restored, other_rows, *other_files) = found
    assert restored.step == expected.step
    assert restored.state.keys() == expected.state.keys()
    for path, leaf in expected.state.items():
        np.testing.assert_array_equal(leaf, restored.state[path], err_msg=path)
    assert restored.control == expected.control
    assert other_rows == rows
    assert other_files == files
    assert not leftovers(other)
