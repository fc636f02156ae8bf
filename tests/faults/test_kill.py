"""SIGKILL at random moments, half of them inside a save: the run ends as one that was never stopped."""

import random
import signal
import time

import pytest
from faults.lanes import PATIENCE, TRAINING, check_same, leftovers, newest, saving, until
from helpers import tiny_run

from jtrain.loop import train

SLOW = 0.004  # seconds for each fsync: a save has some thirty
ENDS = 2  # kills of each run once all its updates are done


def live_and_die(child, workdir, rng, in_save):
    """Kills the run at a random moment; False: it came to its end before."""
    begun = newest(workdir)
    if in_save:
        moments = (lambda: newest(workdir) > begun, lambda: not saving(workdir), lambda: saving(workdir))
        further = all(until(moment, child) for moment in moments)
        time.sleep(rng.random() * 0.2)
    elif rng.random() < 0.5:  # in its start: reading its config, restoring, compiling
        further = not child.ended(rng.random())
    else:
        further = until(lambda: newest(workdir) > begun, child)
        time.sleep(rng.random() * 0.2)
    child.send(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL and further


def killed_again_and_again(lane, argv, workdir, total, kills, seed):
    """Begins the run, kills it `kills` times and lets it end; how many of the kills fell into a save."""
    rng = random.Random(seed)
    hits = 0
    for kill in range(kills - ENDS):
        before = leftovers(workdir)
        child = lane.start(*argv(workdir, total), before=("slow_disk", SLOW))
        assert live_and_die(child, workdir, rng, kill % 2 == 0), f"ended after {kill} kills: {child.err()}"
        hits += any(before.get(path) != at for path, at in leftovers(workdir).items())
    for kill in range(ENDS):
        child = lane.start(*argv(workdir, total), before=("slow_disk", SLOW))
        assert until(lambda: newest(workdir) == total, child, TRAINING), child.err()
        time.sleep(rng.random() * 0.3)  # the last metrics, the curves
        child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL or kill > 0
    child = lane.start(*argv(workdir, total))
    assert child.wait(PATIENCE) == 0, child.err()
    return hits


@pytest.mark.parametrize(("runs", "kills", "total"), [(2, 10, 120), pytest.param(4, 50, 600, marks=pytest.mark.faults)])
def test_killed_at_random_moments_is_bit_identical(tmp_path, lanes, argv, whole, runs, kills, total):
    expected = whole(total)
    folders = [tmp_path / f"run{i}" for i in range(runs)]
    hits = lanes.each(lambda lane, i: killed_again_and_again(lane, argv, folders[i], total, kills, seed=i), range(runs))
    for folder in folders:
        check_same(expected, folder)
    print(f"{sum(hits)} of {runs * kills} kills fell into a save")
    assert sum(hits) >= 0.4 * runs * kills, "too few of the kills fell into a save for this to prove anything"


def test_what_a_killed_write_has_left_goes_at_the_next_start_but_not_what_others_are_writing(tmp_path):
    train(tiny_run("2steps"), tmp_path)
    mine = [tmp_path / f".{name}.tmp-1" for name in ("config.json", "metrics.jsonl", "best.json", "curves.png")]
    others = tmp_path / ".predictions-test.npz.tmp-1"
    for path in (*mine, others):
        path.touch()
    train(tiny_run("2steps"), tmp_path)
    assert not any(path.exists() for path in mine)
    assert others.exists()
