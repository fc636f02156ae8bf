"""Two runs in one workdir: one trains, the other is told who holds it; a lock that a killed run left is no lock."""

import fcntl
import json
import os
import signal
import threading

import pytest
from faults.lanes import TRAINING, check_same, complain, newest, until

from jtrain.errors import HeldError
from jtrain.io.workdir import Workdir

SLOW = ("slow_disk", 0.004)  # so that it is not done before it is ended
BOUND = 30.0  # seconds to an end


def both(first, second, given, workdir, trial):
    """Starts the run twice, and ends the one that trains; half of the times they start at the same moment."""
    begun = newest(workdir)
    one = first.start(*given, before=SLOW)
    if trial % 2:
        assert until(lambda: newest(workdir) > begun, one), one.err()
    other = second.start(*given, before=SLOW)
    until(lambda: one.ended(), other)  # or the other has ended
    holder, refused = (one, other) if other.code is not None else (other, one)
    line = complain(refused, 4, f"held by process {holder.pid} on {os.uname().nodename} since 20", str(workdir))
    assert until(lambda: newest(workdir) > begun, holder), (line, holder.err())
    if trial % 4 < 2:
        holder.send(signal.SIGKILL)
        assert holder.wait(BOUND) == -signal.SIGKILL
        assert json.loads((workdir / "lock").read_text())["pid"] == holder.pid  # and yet nobody holds it
    else:
        holder.send(signal.SIGTERM)
        assert holder.wait(BOUND) == 143


@pytest.mark.parametrize(("trials", "total"), [(5, 120), pytest.param(50, 1000, marks=pytest.mark.faults)])
def test_of_two_runs_in_one_workdir_exactly_one_trains(tmp_path, lanes, argv, whole, trials, total):
    expected = whole(total)
    workdir = tmp_path / "run"
    given = argv(workdir, total)
    with lanes.hold() as first, lanes.hold() as second:
        for trial in range(trials):
            both(first, second, given, workdir, trial)
        child = first.start(*given)
        assert child.wait(TRAINING) == 0, child.err()
    check_same(expected, workdir)


@pytest.mark.parametrize("before", ["", '{"pid": 4194304, "host": "HOST", "start": "2001-01-01"}'])
def test_a_holder_that_is_just_writing_its_name_is_named(tmp_path, before):
    lock = tmp_path / "lock"
    lock.write_text(before.replace("HOST", os.uname().nodename))  # 4194304 is above the numbers that processes have
    name = json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "start": "2002-02-02"})
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = threading.Timer(0.2, lock.write_text, [name])
        writer.start()
        with pytest.raises(HeldError, match=f"process {os.getpid()} on .* since 2002-02-02"):
            Workdir(tmp_path).acquire()
        writer.join()
