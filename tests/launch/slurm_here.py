"""A real SLURM of one node on this machine: its keys, state and logs in one folder, its ports on the loopback."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=10
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
"""


def missing() -> str:
    """'' where a SLURM can be started here, else what stands in its way."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "needs root: slurmd starts the tasks of others"
    return ""


@contextlib.contextmanager
def slurm(folder: pathlib.Path, *, cpus: int = 4) -> Iterator[dict[str, str]]:
    """Starts munged, slurmctld and slurmd; gives the environment for sbatch, srun and the others; ends what it started.

    Args:
      folder: an empty folder with a short path (its sockets' paths have at most 108 bytes).
      cpus: how many CPUs the node says it has.
    """
    host = socket.gethostname().split(".")[0]
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o755)
    key = folder / "munge/key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    ctld, slurmd = _free_ports(2)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, ctld=ctld, slurmd=slurmd, cpus=cpus))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    env = {**_clean_environment(), "SLURM_CONF": str(conf), "PATH": _path()}
    munge = folder / "munge"
    daemons = (
        [
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket"),
            *(f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
        ],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", host],
    )
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "daemons.log").open("wb") as log:
        try:
            for command in daemons:
                started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))
                time.sleep(0.5)  # slurmctld asks munged for its first credential
            _wait_for(lambda: "idle" in _ask(env, "sinfo", "--noheader", "--format=%t"), 60, folder, started)
            yield env
        finally:
            if len(started) == len(daemons):
                _ask(env, "scancel", "--user=root", "--signal=KILL", "--full")
                _ask(env, "scancel", "--user=root")
                with contextlib.suppress(TimeoutError):  # the daemons go all the same
                    _wait_for(lambda: not _ask(env, "squeue", "--noheader"), 30, folder, [])
            for process in reversed(started):
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def job_state(env: dict[str, str], job: str) -> dict[str, str]:
    """What `scontrol show job` says, {field: text}: JobState, ExitCode ('0:0'), Restarts, …"""
    words = _ask(env, "scontrol", "--oneliner", "show", "job", job).split()
    return dict(word.partition("=")[::2] for word in words if "=" in word)


def run(env: dict[str, str], *command: str) -> str:
    """The command's standard output.

    Raises:
      RuntimeError: it failed; the message is what it said.
    """
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def _ask(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60).stdout.strip()


def _wait_for(true, seconds: float, folder: pathlib.Path, daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + seconds
    while not true():
        gone = [d.args for d in daemons if d.poll() is not None]
        if gone or time.monotonic() > end:
            logs = "\n".join(p.read_text(errors="replace")[-2000:] for p in sorted(folder.rglob("*log")))
            raise TimeoutError(f"SLURM did not get ready in {seconds} s; ended early: {gone}\n{logs}")
        time.sleep(0.2)


def _clean_environment() -> dict[str, str]:
    others = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "JTRAIN_"))}
    return others | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}  # one device for each process


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
