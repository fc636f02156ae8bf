"""A disk that is full, read-only or gone: one clear line in bounded time, nothing lost, and the run goes on after."""

import random
import resource
import shutil
import signal
import subprocess
import time

import pytest
from faults.lanes import TRAINING, check_same, check_whole, complain, leftovers, newest, until

BOUND = 30.0  # seconds to an end


def mount(folder, *options):
    """Mounts memory as a disk; skips the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("mounting a small disk needs mount(8)")
    if done.returncode:
        pytest.skip(f"mounting a small disk needs root: {done.stderr.strip()}")


@pytest.fixture
def disks(tmp_path):
    """Makes small disks: disks(n) -> n folders."""
    made = []

    def make(count, *options):
        for _ in range(count):
            folder = tmp_path / f"disk{len(made)}"
            mount(folder, "size=4m", *options)
            made.append(folder)
        return made[-count:]

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path, leave):
    """Fills the disk of `path` but for `leave` bytes."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))


def goes_on(lane, given, workdir, kept):
    """Checks that nothing was lost, and lets the run end."""
    assert newest(workdir) >= kept
    check_whole(workdir)
    assert not leftovers(workdir)
    child = lane.start(*given)
    assert child.wait(TRAINING) == 0, child.err()


# What is written often, and so is what meets the full disk: total steps, options.
OFTEN = {
    "save": (60, "--config.checkpoint.every=2steps", "--config.log.every=99steps", "--config.train.eval_every=99steps"),
    "log": (
        300,
        "--config.log.every=1steps",
        "--config.checkpoint.every=100steps",
        "--config.train.eval_every=1000steps",
    ),
    "all": (60,),
}


def filled(lane, argv, disk, where, seed):
    """Fills a run's disk at a random moment and makes room again; the workdir of the run that went on."""
    rng = random.Random(seed)
    workdir = disk / "run"
    given = argv(workdir, *OFTEN[where])
    child = lane.start(*given)
    moment = rng.randrange(15)
    assert until(lambda: newest(workdir) > moment, child), child.err()
    kept = newest(workdir)
    child.send(signal.SIGSTOP)  # however slow this machine is, the disk is full before the next write
    fill(disk / "filler", leave=0 if where == "log" else rng.randrange(0, 24 * 1024))
    child.send(signal.SIGCONT)
    child.wait(BOUND)
    line = complain(child, 3, "No space left on device", "start the same command again", str(workdir))
    assert ("cannot save checkpoint" in line) or ("cannot write" in line)
    if where == "log":
        assert "metrics.jsonl" in line
    assert newest(workdir) >= kept
    assert not leftovers(workdir)
    check_whole(workdir)
    fill(disk / "filler2", leave=0)  # and again, from its start
    child = lane.start(*given)
    child.wait(BOUND)
    complain(child, 3, "No space left on device")
    (disk / "filler").unlink()
    (disk / "filler2").unlink()
    goes_on(lane, given, workdir, kept)
    return workdir


@pytest.mark.parametrize(
    "where",
    [pytest.param(["log"], id="few"), pytest.param([*OFTEN] * 7, id="many", marks=pytest.mark.faults)],
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(disks, lanes, argv, whole, where):
    expected = [whole(*OFTEN[name]) for name in where]
    places = list(zip(disks(len(where)), where, range(len(where)), strict=True))
    found = lanes.each(lambda lane, place: filled(lane, argv, *place), places)
    for one, other in zip(expected, found, strict=True):
        check_same(one, other)


def limited(lane, argv, workdir, where):
    given = argv(workdir, *OFTEN[where])
    child = lane.start(*given)
    assert until(lambda: newest(workdir) > 5, child), child.err()
    kept = newest(workdir)
    child.send(signal.SIGSTOP)
    size = (workdir / "metrics.jsonl").stat().st_size if where == "log" else 1000
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (size + 100, size + 100))
    child.send(signal.SIGCONT)
    child.wait(BOUND)
    complain(child, 3, "metrics.jsonl" if where == "log" else "cannot save checkpoint", "start the same command again")
    goes_on(lane, given, workdir, kept)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
@pytest.mark.parametrize("where", ["save", pytest.param("log", marks=pytest.mark.faults)])
def test_a_file_that_may_not_grow_is_like_a_full_disk(tmp_path, lanes, argv, whole, where):
    workdir = tmp_path / "run"
    with lanes.hold() as lane:
        limited(lane, argv, workdir, where)
    check_same(whole(*OFTEN[where]), workdir)


def read_only(lane, argv, disk):
    """Interrupts a run, and starts it on a disk that is read-only, then on the disk as it was."""
    workdir = disk / "run"
    given = argv(workdir, *OFTEN["all"])
    child = lane.start(*given)
    assert until(lambda: newest(workdir) > 15, child), child.err()
    child.send(signal.SIGTERM)
    assert child.wait(BOUND) == 143
    kept = newest(workdir)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for arguments, words in ((given, str(workdir)), (argv(disk / "new", *OFTEN["all"]), "choose another --workdir")):
        child = lane.start(*arguments)
        child.wait(BOUND)
        complain(child, 3, "Read-only file system", words)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    goes_on(lane, given, workdir, kept)
    return workdir


@pytest.mark.faults
def test_a_disk_that_became_read_only_is_one_line_and_nothing_is_lost(disks, lanes, argv, whole):
    with lanes.hold() as lane:
        workdir = read_only(lane, argv, *disks(1))
    check_same(whole(*OFTEN["all"]), workdir)


def vanished(lane, argv, workdir, how, wait):
    """Deletes or renames the workdir of a run that goes on."""
    child = lane.start(*argv(workdir, 5000))
    assert until(lambda: newest(workdir) > 0, child), child.err()
    time.sleep(wait)
    elsewhere = workdir.with_name(workdir.name + "-moved")
    if how == "renamed":
        workdir.rename(elsewhere)
    else:
        gone = workdir.with_name(workdir.name + "-gone")
        workdir.rename(gone)  # else a file that is made meanwhile stops the deletion
        shutil.rmtree(gone)
    child.wait(BOUND)
    complain(child, 3, str(workdir))
    assert not (workdir / "config.json").exists()
    if how == "renamed":
        assert newest(elsewhere) > 0
        check_whole(elsewhere)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.faults)])
def test_a_workdir_that_vanishes_is_told_soon(tmp_path, lanes, argv, times):
    rng = random.Random(times)
    cases = [(tmp_path / f"{how}{i}", how, rng.random() * 0.3) for i in range(times) for how in ("renamed", "deleted")]
    lanes.each(lambda lane, case: vanished(lane, argv, *case), cases)
