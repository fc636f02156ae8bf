"""SIGTERM and SIGINT at random moments: the very step is saved, the exit code tells, the end is that of a whole run."""

import random
import re
import signal
import time

import pytest
from faults.lanes import TRAINING, check_same, check_whole, complain, newest, saving, until

SAVED = re.compile(r"signal \d+: stopped after update (\d+) of \d+, saved; the same command resumes")
UNSAVED = re.compile("interrupted by|nothing to save yet")  # before the first update of its life
TOTAL = 120
SLOW = ("slow_disk", 0.004)  # the more lives a run has
BOUND = 20.0  # seconds to an end, of which most is waiting for one of two cores


def told_what_is_saved(lane, given, workdir, number, in_start, rng):
    """Ends the run by a signal; whether it named the step that it saved, which must be the newest."""
    begun = newest(workdir)
    child = lane.start(*given, before=SLOW)
    if in_start:
        assert not child.ended(rng.random())
    else:
        assert until(lambda: newest(workdir) > begun, child), child.err()
        time.sleep(rng.random() * 0.3)
    child.send(number)
    child.wait(BOUND)
    line = complain(child, 128 + number)
    found = SAVED.search(line)
    if found is None:
        assert UNSAVED.search(line), line
        assert newest(workdir) == begun
        return False
    assert newest(workdir) == int(found[1]), line
    return True


def signalled(lane, argv, workdir, total, moments, seed):
    """Begins the run, sends it a signal `moments` times and lets it end; the number of times it said what it saved."""
    rng = random.Random(seed)
    told = 0
    for moment in range(moments):
        number = (signal.SIGTERM, signal.SIGINT)[moment % 2]
        told += told_what_is_saved(lane, argv(workdir, total), workdir, number, moment % 5 == 0, rng)
        check_whole(workdir)
    child = lane.start(*argv(workdir, total))
    assert child.wait(TRAINING) == 0, child.err()
    return told


@pytest.mark.parametrize(
    ("runs", "moments", "total"), [(2, 3, 120), pytest.param(2, 25, 600, marks=pytest.mark.faults)]
)
def test_a_signal_at_any_moment_saves_that_very_step_and_the_run_goes_on(
    tmp_path, lanes, argv, whole, runs, moments, total
):
    expected = whole(total)
    folders = [tmp_path / f"run{i}" for i in range(runs)]
    told = lanes.each(lambda lane, i: signalled(lane, argv, folders[i], total, moments, seed=i), range(runs))
    for folder in folders:
        check_same(expected, folder)
    assert sum(told) >= 0.6 * runs * moments


def insisted(lane, argv, workdir, total, number):
    """Begins a run whose saves take half a minute, and sends a signal twice while one is going on."""
    child = lane.start(*argv(workdir, total))
    assert until(lambda: newest(workdir) > 0, child), child.err()
    child.send(number)
    assert child.wait(BOUND) == 128 + number
    before = newest(workdir)
    child = lane.start(*argv(workdir, total), before=("slow_disk", 1.0))
    assert until(lambda: saving(workdir), child), child.err()
    child.send(number)
    assert not child.ended(1.2)  # it waits for its save
    child.send(number)
    child.wait(1.0)
    assert child.code == 128 + number
    assert "Traceback" not in child.err()
    assert newest(workdir) >= before
    check_whole(workdir)
    child = lane.start(*argv(workdir, total))
    assert child.wait(TRAINING) == 0, child.err()


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.faults)])
def test_a_second_signal_leaves_at_once_and_spoils_nothing(tmp_path, lanes, argv, whole, times):
    expected = whole(TOTAL)
    numbers = [signal.SIGTERM, signal.SIGINT] * times
    folders = [tmp_path / f"run{i}" for i in range(len(numbers))]
    lanes.each(lambda lane, i: insisted(lane, argv, folders[i], TOTAL, numbers[i]), range(len(numbers)))
    for folder in folders:
        check_same(expected, folder)
