import os

import pytest
from faults.config import write_images
from faults.lanes import HERE, TRAINING, Lanes


@pytest.fixture(scope="session")
def lanes():
    if not hasattr(os, "pidfd_open"):
        pytest.skip("runs in children are watched by Linux's pidfd_open")
    found = Lanes()
    yield found
    found.close()


@pytest.fixture(scope="session")
def argv(tmp_path_factory):
    """(workdir, total, …) -> arguments of the command line that begin or go on with the run of config.py there."""
    data = tmp_path_factory.mktemp("faults") / "images.npz"
    write_images(data)

    def made(workdir, total, *more, model=""):
        config = f"--config={HERE / 'config.py'}:{data}{model}"
        return (config, f"--workdir={workdir}", f"--config.train.total={total}steps", *more)

    return made


@pytest.fixture(scope="session")
def whole(lanes, argv, tmp_path_factory):
    """(total, …) -> the workdir of a run that was never stopped."""
    made = {}

    def found(*options):
        if options not in made:
            workdir = tmp_path_factory.mktemp("whole") / "run"
            with lanes.hold() as lane:
                child = lane.start(*argv(workdir, *options))
                assert child.wait(TRAINING) == 0, child.err()
            made[options] = workdir
        return made[options]

    return found
