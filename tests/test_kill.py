"""SIGKILL at random moments, in a step, an evaluation or a save: the run ends as one that was never stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import timeless

from jtrain.io.checkpoint import Checkpoints

CHILD = Path(__file__).with_name("kill_child.py")


def start(workdir):
    path = os.pathsep.join([str(CHILD.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "XLA_FLAGS": ""}
    return subprocess.Popen([sys.executable, str(CHILD), str(workdir)], env=environment)


def result(workdir):
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1, event=print, read_only=True)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return checkpoints.restore(), timeless(rows)


def newest(workdir):
    folder = workdir / "checkpoints"
    return max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) if folder.is_dir() else 0


def kill_at_random_moments(workdir, kills, rng):
    """Kills the run `kills` times, each time once it has gone on from where it was; then lets it end."""
    in_save = 0
    for _ in range(kills):
        process = start(workdir)
        begun = newest(workdir)
        if rng.random() < 0.75:  # else at its start: importing, restoring, compiling
            while newest(workdir) <= begun and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.3)
        else:
            time.sleep(rng.random() * 4)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        in_save += bool(list((workdir / "checkpoints").glob(".tmp-*")))
    assert start(workdir).wait() == 0
    return in_save


def check(tmp_path, kills, seed):
    assert start(tmp_path / "whole").wait() == 0
    in_save = kill_at_random_moments(tmp_path / "killed", kills, random.Random(seed))
    (whole, whole_rows), (killed, killed_rows) = result(tmp_path / "whole"), result(tmp_path / "killed")
    assert whole.step == killed.step == 600
    assert whole.control == killed.control
    for path, leaf in whole.state.items():
        np.testing.assert_array_equal(leaf, killed.state[path], err_msg=path)
    assert killed_rows == whole_rows
    assert not list((tmp_path / "killed/checkpoints").glob(".tmp-*"))
    return in_save


def test_killed_twice_and_resumed_is_bit_identical(tmp_path):
    check(tmp_path, kills=2, seed=0)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_is_bit_identical(tmp_path):
    in_save = check(tmp_path, kills=20, seed=1)
    assert in_save >= 3, "too few of the kills fell into a save for this to prove anything"
