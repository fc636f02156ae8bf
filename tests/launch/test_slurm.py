"""launch/slurm.sbatch under a real SLURM on this machine: it runs, is stopped, killed and requeued, and resumes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from helpers import timeless

from jtrain.io.checkpoint import Checkpoints
from jtrain.launchers import hosts
from launch import slurm_here

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(bool(slurm_here.missing()), reason=f"a real SLURM {slurm_here.missing()}"),
]
SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch/slurm.sbatch"
ASK = "import os; from jtrain.launchers import detect; print(detect(os.environ), flush=True)"
TOTAL = 400
RUN = ("--config=digits", f"--config.train.total={TOTAL}steps", "--config.train.eval_every=50steps")
EVERY = ("--config.checkpoint.every=25steps", "--config.log.every=10steps", "--config.mesh.heartbeat=3")
PATIENCE = 300  # seconds for one part of the run


@pytest.fixture(scope="module")
def slurm():
    # Not pytest's folder: the path of a socket has at most 108 bytes.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm_here.slurm(pathlib.Path(folder)) as env:
        yield env | {"PYTHON": sys.executable, "GRACE": "5"}


def submit(env, tmp_path, workdir):
    """The number of a job of two processes that trains in `workdir`."""
    options = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", f"--output={tmp_path}/%j.txt")
    words = (*options, str(SCRIPT), *RUN, *EVERY, f"--workdir={workdir}")
    return slurm_here.run(env, "sbatch", "--parsable", f"--chdir={tmp_path}", *words).strip()


def until(true, what):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


def newest(workdir):
    folder = workdir / "checkpoints"
    return max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) if folder.is_dir() else 0


def ended(env, tmp_path, job):
    """What SLURM says of the job once it is over, and what it printed."""
    text = tmp_path / f"{job}.txt"
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    until(lambda: slurm_here.job_state(env, job).get("JobState") in over, lambda: text.read_text())
    return slurm_here.job_state(env, job), text.read_text()


def process_of(job, task):
    """The number of the process that is this task of the job."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={task}".encode(), b"SLURM_STEP_NUM_TASKS=2"}
        if b"jtrain.main" in command and command[0] == os.fsencode(sys.executable) and wanted <= set(variables):
            return int(folder.name)
    raise AssertionError(f"task {task} of job {job} does not run")


def result(workdir):
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1, event=print, read_only=True)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return checkpoints.restore(), timeless(rows)


def test_processes_of_srun_are_one_run_and_scripts_are_alone(slurm, tmp_path):
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n#SBATCH --ntasks=2\nexec {sys.executable} -c '{ASK}'\n")
    step = slurm_here.run(slurm, "srun", "--ntasks=2", "--label", sys.executable, "-c", ASK).splitlines()
    first, second = sorted(step)
    host = slurm_here.run(slurm, "scontrol", "show", "hostnames", os.uname().nodename.split(".")[0]).strip()
    assert first.startswith(f"0: Cluster(coordinator='{host}:")
    assert first.endswith("processes=2, process=0, launcher='SLURM')")
    assert second == first.replace("0: ", "1: ").replace("process=0", "process=1")
    assert slurm_here.run(slurm, "srun", "--ntasks=1", sys.executable, "-c", ASK) == "None\n"
    assert slurm_here.run(slurm, "salloc", "--ntasks=2", "--quiet", sys.executable, "-c", ASK) == "None\n"
    slurm_here.run(slurm, "sbatch", "--wait", f"--output={tmp_path}/alone", str(script))
    assert (tmp_path / "alone").read_text() == "None\n"
    within = ("sbatch", "--wait", "--ntasks=1", f"--output={tmp_path}/within", str(script))
    subprocess.run(
        ["srun", "--ntasks=2", "sh", "-c", f"[ $SLURM_PROCID = 0 ] || {' '.join(within)}"], env=slurm, timeout=60
    )
    assert (tmp_path / "within").read_text() == "None\n"


@pytest.mark.parametrize("text", ["tux[08-10,3],login", "r[1-2]n[09-11],a-b7", "n[001,003-004]", "one"])
def test_host_lists_are_those_of_scontrol(slurm, text):
    assert list(hosts(text)) == slurm_here.run(slurm, "scontrol", "show", "hostnames", text).split()


def test_run_that_is_stopped_killed_frozen_and_requeued_ends_as_one_that_was_not(slurm, tmp_path):
    reference, workdir = tmp_path / "reference", tmp_path / "run"
    state, text = ended(slurm, tmp_path, submit(slurm, tmp_path, reference))
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "0"), text
    assert "devices   2 × cpu in 2 processes" in text

    def stop(job):  # as SLURM does two minutes before the time is over
        slurm_here.run(slurm, "scancel", "--signal=TERM", job)

    def kill(job):
        os.kill(process_of(job, 1), signal.SIGKILL)

    def freeze(job):
        os.kill(process_of(job, 1), signal.SIGSTOP)

    def requeue(job):  # as an administrator does, or SLURM itself when a job with more right comes
        slurm_here.run(slurm, "scontrol", "requeue", job)

    job = submit(slurm, tmp_path, workdir)
    for times, fault in enumerate((stop, kill, freeze, requeue)):
        begun = newest(workdir)
        until(lambda begun=begun: newest(workdir) > begun, lambda: (tmp_path / f"{job}.txt").read_text())
        assert newest(workdir) < TOTAL, "too fast to be disturbed"
        fault(job)
        until(
            lambda times=times: slurm_here.job_state(slurm, job)["Restarts"] == str(times + 1),
            lambda: (tmp_path / f"{job}.txt").read_text(),
        )
    state, text = ended(slurm, tmp_path, job)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("COMPLETED", "0:0", "4"), text
    assert "exit code 143, back into the queue" in text
    assert "exit code 137, back into the queue" in text
    assert "process 1 (" in text.partition("died; it was at")[0].splitlines()[-1], "the killed one is named"
    assert re.search(r"has not been heard of for \d+ s", text), "so is the frozen one"

    (first, rows), (second, others) = result(reference), result(workdir)
    assert rows == others
    assert first.step == second.step == TOTAL
    assert first.state.keys() == second.state.keys()
    for path, array in first.state.items():
        np.testing.assert_array_equal(array, second.state[path], err_msg=path)


def test_job_whose_config_is_wrong_fails_at_once(slurm, tmp_path):
    job = slurm_here.run(
        slurm, "sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1",
        f"--output={tmp_path}/%j.txt", f"--chdir={tmp_path}", str(SCRIPT),
        "--config=digits", "--config.optimizer.lrr=1",
    ).strip()  # fmt: skip
    state, text = ended(slurm, tmp_path, job)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "2:0", "0"), text
    assert "optimizer.lrr: no such option" in text
