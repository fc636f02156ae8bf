"""Faults among processes, on the command line: who is lost is named, the others leave in time, and nothing is lost."""

import json
import os
import re
import signal
import time

import numpy as np
import pytest
from helpers import timeless
from pod.pods import finish, start

from jtrain.io.checkpoint import Checkpoints

SETTINGS = (
    "--config=digits", "--config.train.total=200steps", "--config.train.batch_size=32", "--config.log.every=10steps",
    "--config.checkpoint.every=20steps", "--config.checkpoint.keep=3", "--config.train.eval_every=100steps",
    "--config.mesh.heartbeat=4", "--config.mesh.fsdp=2", "--config.augment=",
)  # fmt: skip


def pod(workdir, *more, only=None, processes=2):
    """Two processes of one device each; parameters are cut over them."""

    def command(i, port):
        where = (f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={i}")
        return ["-m", "jtrain.main", *SETTINGS, f"--workdir={workdir}", *where, *(more[i] if i < len(more) else ())]

    return start(processes, 1, command, only=only)


def newest(workdir):
    folder = workdir / "checkpoints"
    return max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) if folder.is_dir() else 0


def wait_for(workdir, step, children, seconds=120):
    """Until a checkpoint of `step` or later is there."""
    until = time.monotonic() + seconds
    while newest(workdir) < step:
        assert time.monotonic() < until
        assert all(child.poll() is None for child in children), finish(children)
        time.sleep(0.01)


def result(workdir):
    restored = Checkpoints(workdir / "checkpoints", keep=1, event=print, read_only=True).restore()
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return restored, timeless(rows)


def same(one, other):
    (first, rows), (second, more) = one, other
    assert first.step == second.step
    assert first.control == second.control
    assert first.state.keys() == second.state.keys()
    for path, leaf in first.state.items():
        np.testing.assert_array_equal(leaf, second.state[path], err_msg=path)
    assert rows == more


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    """The workdir of a pod that nothing happens to."""
    workdir = tmp_path_factory.mktemp("whole") / "w"
    codes, errors = finish(pod(workdir))
    assert codes == [0, 0], errors
    return workdir


@pytest.fixture(scope="module")
def whole(whole_folder):
    """What it comes to."""
    return result(whole_folder)


def ends_equal(workdir, whole):
    """The same commands again, to the end."""
    codes, errors = finish(pod(workdir))
    assert codes == [0, 0], errors
    same(result(workdir), whole)
    assert not list((workdir / "checkpoints").glob(".tmp-*"))


@pytest.mark.parametrize(
    ("number", "victim"),
    [
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGTERM, 0, marks=pytest.mark.faults),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.faults),
        pytest.param(signal.SIGINT, 0, marks=pytest.mark.faults),
    ],
)
def test_a_signal_to_one_process_saves_and_ends_all(tmp_path, whole, number, victim):
    workdir = tmp_path / "w"
    children = pod(workdir)
    wait_for(workdir, 40, children)
    children[victim].send_signal(number)
    codes, errors = finish(children, timeout=30)
    assert codes == [128 + number] * 2, errors
    step = int(re.search(r"stopped after update (\d+) of 200, saved", errors[0])[1])
    assert newest(workdir) == step
    assert "jtrain:" not in errors[1]  # the first process has told it
    ends_equal(workdir, whole)


@pytest.mark.parametrize(
    ("number", "victim"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGKILL, 0, marks=pytest.mark.faults),
        pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.faults),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.faults),
    ],
)
def test_a_killed_or_stopped_process_is_named_and_the_others_leave(tmp_path, whole, number, victim):
    workdir = tmp_path / "w"
    children = pod(workdir)
    wait_for(workdir, 40, children)
    children[victim].send_signal(number)
    began = time.monotonic()
    codes, errors = finish([children[1 - victim]], timeout=30)
    assert time.monotonic() - began < 15
    children[victim].kill()
    finish([children[victim]])
    assert codes == [4], errors
    word = "died" if number == signal.SIGKILL else "has not been heard of"
    assert re.search(rf"process {victim}.*{word}", errors[0]), errors[0]
    assert "Traceback" not in errors[0]
    assert newest(workdir) >= 40
    ends_equal(workdir, whole)


@pytest.mark.faults
def test_a_slow_process_is_waited_for(tmp_path, whole):
    workdir = tmp_path / "w"
    children = pod(workdir)
    wait_for(workdir, 25, children)
    for i in (1, 0, 1):
        children[i].send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        children[i].send_signal(signal.SIGCONT)
        time.sleep(0.2)
    codes, errors = finish(children)
    assert codes == [0, 0], errors
    same(result(workdir), whole)


@pytest.mark.parametrize("there", [0, 1])
def test_a_process_that_never_starts_is_named(tmp_path, there):
    began = time.monotonic()
    late = ("--config.mesh.start_timeout=3",)
    codes, errors = finish(pod(tmp_path / "w", late, late, only=[there]), timeout=60)
    assert time.monotonic() - began < 45
    assert codes == [4]
    words = "process 1 of 2 did not come within 3 s" if there == 0 else "process 0 cannot be reached at 127.0.0.1"
    assert words in errors[0]
    assert not (tmp_path / "w").exists()


def test_processes_of_different_configs_are_refused(tmp_path):
    codes, errors = finish(pod(tmp_path / "w", (), ("--config.optimizer.lr=0.5",)), timeout=60)
    assert codes == [2, 2], errors
    assert "optimizer.lr: process 0 has 0.003, process 1 has 0.5; all processes need the same config" in errors[0]
    assert not (tmp_path / "w").exists()


@pytest.mark.faults
def test_a_second_pod_in_the_workdir_is_refused(tmp_path, whole):
    workdir = tmp_path / "w"
    first = pod(workdir)
    wait_for(workdir, 25, first)
    codes, errors = finish(pod(workdir), timeout=60)
    assert codes == [4, 4], errors
    assert f"held by process {first[0].pid}" in errors[0]
    assert "process 0" in errors[1]
    codes, errors = finish(first)
    assert codes == [0, 0], errors
    same(result(workdir), whole)


@pytest.mark.faults
def test_killed_at_many_moments_the_end_is_the_same(tmp_path, whole):
    workdir = tmp_path / "w"
    rng = np.random.default_rng(0)
    for _ in range(8):
        children = pod(workdir)
        before = newest(workdir)
        while newest(workdir) == before and all(child.poll() is None for child in children):
            time.sleep(0.002)
        time.sleep(rng.random() * 0.2)
        children[int(rng.integers(2))].kill()
        codes, errors = finish(children, timeout=30)
        assert set(codes) <= {-9, 4, 0}, errors
        if newest(workdir) == 200:
            break
    ends_equal(workdir, whole)


def test_a_loss_that_is_not_finite_leaves_state_and_batch_behind(tmp_path):
    workdir, wild = tmp_path / "w", ("--config.optimizer.lr=1000", "--config.optimizer.name=sgd")
    codes, errors = finish(pod(workdir, wild, wild))
    assert codes == [1, 1], errors
    events = [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]
    text = next(event["text"] for event in events if event["kind"] == "non_finite")
    assert text in errors[0]
    (batch,) = (workdir / "failures").glob("*-batch.npz")
    assert str(batch) in text
    with np.load(batch) as file:
        assert len(file["inputs"]) == 32
    step = int(batch.name.partition("-")[0])
    kept = Checkpoints(workdir / "failures", keep=9, event=print, read_only=True).restore(step)
    assert kept.state["step"] == step


def test_other_words_on_the_command_line_are_refused(tmp_path, whole_folder):
    def command(i, port):
        where = (f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}")
        return ["-m", "jtrain.main", "eval", f"--workdir={whole_folder}", *where, *(["--split=val"] if i else [])]

    began = time.monotonic()
    codes, errors = finish(start(2, 1, command), timeout=60)
    assert time.monotonic() - began < 45
    assert codes == [2, 2], errors
    assert "--split: process 0 has , process 1 has val; all processes need the same command" in errors[0]


CAUGHT = """
import sys, jtrain
from helpers import blobs, tiny
i, port, foreign = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
peers = jtrain.connect(coordinator=f"127.0.0.1:{port}", processes=2, process=i)
run = lambda: jtrain.assemble(tiny("5steps", 10, mesh__devices=0), data=blobs())
try:
    jtrain.train(run(), foreign, peers=peers)
except jtrain.errors.ConfigError as error:
    print("caught", error)
result = jtrain.train(run(), peers=peers)
print("loss", result.history[-1]["loss"])
"""


def test_an_error_of_the_first_process_is_raised_by_all_and_may_be_caught(tmp_path):
    (tmp_path / "notes.txt").write_text("no run")
    arguments = lambda i, port: ["-c", CAUGHT, str(i), str(port), str(tmp_path)]  # noqa: E731
    children = start(2, 1, arguments)
    told = [child.communicate(timeout=90) for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    for out, _ in told:
        assert "caught --workdir:" in out
        assert "loss" in out


FAILING = """
import sys, time, jtrain
i, port = map(int, sys.argv[1:])
peers = jtrain.connect(coordinator=f"127.0.0.1:{port}", processes=2, process=i)
if i == 1:
    raise RuntimeError("a mistake of the user's own")
time.sleep(60)
"""


def test_a_program_that_fails_beside_training_is_named():
    began = time.monotonic()
    codes, errors = finish(start(2, 1, lambda i, port: ["-c", FAILING, str(i), str(port)]), timeout=60)
    assert time.monotonic() - began < 45
    assert codes == [1, 1]
    assert "process 1" in errors[0]
    assert "a mistake of the user's own" in errors[0]


def test_two_processes_predict_as_one_does(tmp_path, whole_folder):
    def predict(processes, name):
        def command(i, port):
            where = (f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={i}")
            given = ["-m", "jtrain.main", "predict", f"--workdir={whole_folder}", f"--out={tmp_path / name}"]
            return [*given, *(where if processes > 1 else ("--config.mesh.fsdp=1",))]

        codes, errors = finish(start(processes, 1, command))
        assert codes == [0] * processes, errors
        with np.load(tmp_path / f"{name}.npz") as file:
            return file["probabilities"]

    np.testing.assert_allclose(predict(2, "two"), predict(1, "one"), rtol=0, atol=1e-5)


def test_what_two_processes_wrote_one_goes_on_with(tmp_path, whole):
    workdir = tmp_path / "w"
    children = pod(workdir)
    wait_for(workdir, 40, children)
    children[0].send_signal(signal.SIGTERM)
    finish(children, timeout=30)
    begun = newest(workdir)
    one = [f"--config.mesh.fsdp={1}", f"--workdir={workdir}"]
    codes, errors = finish(start(1, 1, lambda i, port: ["-m", "jtrain.main", *SETTINGS[:-2], *one]))
    assert codes == [0], errors
    (_, rows), (_, more) = whole, result(workdir)
    assert [row["step"] for row in rows] == [row["step"] for row in more]
    differences = {r["step"]: abs(r["loss"] - m["loss"]) for r, m in zip(rows, more, strict=True)}
    # The same updates; from there on rounding grows as it does in any training.
    assert max(value for step, value in differences.items() if step <= begun + 30) < 1e-5
    assert max(differences.values()) < 0.02
    assert os.path.isfile(workdir / "curves.png")
