"""However a run ends, the processes that decode for it end with it."""

import os
import random
import signal
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from faults.lanes import newest, until
from PIL import Image

BOUND = 10.0  # seconds to the end of the last of them
MARK = "JTRAIN_TESTED_RUN"  # inherited by all that a run starts


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of little pictures of two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        (folder / label).mkdir()
        for i in range(24):
            pixels = rng.integers(0, 128, (8, 8, 3)) + 127 * (label == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{i}.png")
    return folder


def marked(mark):
    """The processes that bear the mark."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and f"{MARK}={mark}".encode() in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:  # gone meanwhile, or of another user
            pass
    return found


def ended(lane, given, workdir, how, rng):
    """Begins a run with two loader processes and ends it; the seconds that the last of these stayed."""
    mark = uuid.uuid4().hex
    # An environment that was changed after the start is not seen in /proc: only the loaders bear the mark.
    more = ("--config.optimizer.lr=1000", "--config.lr_scale=1e6") if how == "error" else ()
    child = lane.start(*given, *more, environ={MARK: mark})
    if how == "error":
        assert child.wait() == 1, child.err()
        assert "not finite" in child.err() or "is nan" in child.err()
    else:
        if rng.random() < 0.5:
            assert until(lambda: len(marked(mark)) > 0, child), child.err()  # they are just being started
            time.sleep(rng.random() * 0.3)
        else:
            assert until(lambda: newest(workdir) > 0, child), child.err()
            assert len(marked(mark)) == 2
        child.send(how)
        assert child.wait() == (-how if how == signal.SIGKILL else 128 + how), child.err()
    begun = time.monotonic()
    while found := marked(mark):
        assert time.monotonic() < begun + BOUND, f"{how}: still there: {found}"
        time.sleep(0.01)
    return time.monotonic() - begun


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs Linux's /proc")
@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.faults)])
def test_no_loader_outlives_its_run(tmp_path, lanes, argv, images, times):
    rng = random.Random(times)
    streamed = (
        "--config.data.npz.path=", "--config.data.name=folder", f"--config.data.folder.path={images}",
        "--config.data.placement=streamed", "--config.data.workers=2",
    )  # fmt: skip
    cases = [(tmp_path / f"{how}{i}", how) for i in range(times) for how in (signal.SIGKILL, signal.SIGTERM, "error")]
    seconds = lanes.each(lambda lane, case: ended(lane, argv(case[0], 5000, *streamed), *case, rng), cases)
    assert len(seconds) == len(cases)
    assert max(seconds) < BOUND
