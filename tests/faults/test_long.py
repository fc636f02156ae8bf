"""A long run: its memory, its files and its threads stay as many as they were, and its step is compiled once."""

import dataclasses
import os
import time
from pathlib import Path

import pytest
from faults.lanes import newest

INTERVALS = ("--config.log.every=100steps", "--config.train.eval_every=500steps", "--config.checkpoint.every=1000steps")
GROWTH = 12 << 20  # bytes; the rows of 100,000 steps take 2 MB of it, 130 bytes lost at every step would be too many


@dataclasses.dataclass
class Sample:
    step: int
    time: float
    memory: int  # bytes
    files: int
    threads: int


def sample(pid, workdir):
    step = newest(workdir)
    memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Sample(step, time.time(), memory, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")))


def watched(lane, argv, workdir, steps, compiles):
    """Samples of a run from its first to its last checkpoint."""
    child = lane.start(*argv(workdir, steps, *INTERVALS, model=",mlp"), before=("note_compiles", str(compiles)))
    samples = []
    while not child.ended(0.02):
        try:
            samples.append(sample(child.pid, workdir))
        except OSError:  # it has just ended
            break
    assert child.wait() == 0, child.err()
    return [found for found in samples if 0 < found.step < steps]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.parametrize("steps", [10_000, pytest.param(100_000, marks=pytest.mark.faults)])
def test_a_long_run_does_not_grow_and_compiles_once(tmp_path, lanes, argv, steps):
    compiles = tmp_path / "compiles"
    with lanes.hold() as lane:
        samples = watched(lane, argv, tmp_path / "run", steps, compiles)
    # Warm: all that it does has been done once. It ends with what is new to it, the test split.
    warm = [found for found in samples if steps // 10 < found.step < steps - steps // 10]
    early, late = warm[: len(warm) // 5], warm[-len(warm) // 5 :]
    for found in warm[:: len(warm) // 20 + 1]:
        print(f"{found.step}: {found.memory >> 10} KiB, {found.files} files, {found.threads} threads")
    # The least of many moments: a save that is going on has files and threads of its own.
    for what, room in (("memory", GROWTH), ("files", 4), ("threads", 4)):
        before, after = (min(getattr(found, what) for found in part) for part in (early, late))
        assert after - before <= room, f"{what}: {before} → {after}"
    compiled = [line.split() for line in compiles.read_text().splitlines()]
    names = [name for _, name in compiled]
    assert names.count("jit(train_steps)") == 1, names
    late_ones = [name for at, name in compiled if warm[0].time < float(at) < warm[-1].time]
    assert not late_ones
