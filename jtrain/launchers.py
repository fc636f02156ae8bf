"""Which process of how many this is, and where process 0 listens: by flags, by environment, or as the launcher says."""

import contextlib
import glob
import http.client
import itertools
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from jtrain.errors import ConfigError

TPU_PORT = 8481
METADATA_TIMEOUT = 1.0  # seconds
# Where nothing says which port, one of 2,048 pairs above what Linux hands out to clients (32768 to 60999).
FIRST_PORT, PORT_PAIRS = 61440, 2048


@dataclass(frozen=True)
class Cluster:
    """The processes of one run.

    Attributes:
      coordinator: HOST:PORT where process 0 listens; jax.distributed has the port after it.
      processes: how many there are, at least 2.
      process: which one this is, from 0.
      launcher: who said so.
    """

    coordinator: str
    processes: int
    process: int
    launcher: str


def detect(
    environ: Mapping[str, str], *, coordinator: str = "", processes: str | int = "", process: str | int = ""
) -> Cluster | None:
    """The cluster that this process belongs to; None where it is alone.

    Each of the three values is taken from its flag, else from its variable (JTRAIN_COORDINATOR, …), else from the first
    launcher that has started more than one process. JTRAIN_PROCESSES=1 makes every process a run of its own.

    Args:
      environ: the variables of the process.
      coordinator: of the flag --coordinator, HOST:PORT; '' where it is not given.
      processes: of the flag --processes.
      process: of the flag --process.

    Raises:
      ConfigError: a value is missing, malformed or contradicts another; the message begins with its flag or variable.
    """
    given: dict[str, tuple[str, str]] = {}  # {name: (where it is given, text)}
    for name, flag in (("coordinator", coordinator), ("processes", processes), ("process", process)):
        variable = f"JTRAIN_{name.upper()}"
        if flag != "":
            given[name] = (f"--{name}", str(flag))
        elif variable in environ:
            given[name] = (variable, environ[variable])
    for where, text in given.values():
        if not text:
            raise ConfigError(f"{where}: is empty; give it a value, or leave all of its kind out")
    count = _number(*given["processes"], least=1) if "processes" in given else 0
    rank = _number(*given["process"]) if "process" in given else None
    address = given["coordinator"][1] if "coordinator" in given else ""
    if address:
        split_address(address, given["coordinator"][0])
    if count and rank is not None:
        _check_rank(given["process"][0], rank, count)
    if count == 1:
        return None
    if rank is not None:
        for name in ("coordinator", "processes"):
            if name not in given:
                raise ConfigError(_missing(name, given["process"][0]))
        by_flag = any(where.startswith("--") for where, _ in given.values())
        return Cluster(address, count, rank, "flags" if by_flag else "environment")
    for ask in LAUNCHERS.values():
        found = ask(environ, address, count)
        if found is not None and found.processes > 1:
            if count and count != found.processes:
                where = given["processes"][0]
                raise ConfigError(f"{where}: is {count}, but {found.launcher} has started {found.processes} processes")
            return found
    if given:
        raise ConfigError(_missing("process", next(iter(given.values()))[0]))
    return None


def split_address(text: str, where: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT or [IPv6]:PORT.

    Args:
      text: the address.
      where: the flag or variable that holds it, for the message.

    Raises:
      ConfigError: it has another form, or no port from 1 to 65534 (the one after it is used as well).
    """
    form = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", text)
    if form is None or not 1 <= int(form[3]) <= 65534:
        raise ConfigError(f"{where}: {text!r} must be HOST:PORT with a port from 1 to 65534, such as node1:8481")
    return form[1] or form[2], int(form[3])


def hosts(text: str, where: str = "SLURM_STEP_NODELIST") -> Iterator[str]:
    """The hosts of a SLURM list, in order: `tux[08-10],login` gives tux08, tux09, tux10, login.

    Args:
      text: host names and ranges of numbers in brackets, as in `scontrol show hostnames`.
      where: the variable that holds it, for the message.

    Raises:
      ConfigError: it is no such list.
    """
    for item in re.split(r",(?![^\[]*\])", text):
        pieces = re.findall(r"\[[0-9,-]+\]|[^\[\],\s]+", item)
        if not item or "".join(pieces) != item:
            raise ConfigError(f"{where}: {text!r} is not a list of hosts such as tux[01-03],login")
        for name in itertools.product(*[_numbers(p, where, text) if p[0] == "[" else [p] for p in pieces]):
            yield "".join(name)


def _numbers(brackets: str, where: str, text: str) -> list[str]:
    numbers = []
    for part in brackets[1:-1].split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and (not last.isdecimal() or int(last) < int(first))):
            raise ConfigError(f"{where}: {text!r} has the range {part!r}, which must be such as 01-03")
        numbers += [f"{i:0{len(first)}d}" for i in range(int(first), int(last or first) + 1)]
    return numbers


def _open_mpi(environ: Mapping[str, str], coordinator: str, processes: int) -> Cluster | None:
    if "OMPI_COMM_WORLD_SIZE" not in environ:
        return None
    count, rank = _of_variables(environ, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
    if count > 1 and not coordinator:
        job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_orte_hnp_uri") or ""
        # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911 or …;tcp6://[2620:10d::2,fe80::1]:43370: where mpirun runs
        uri = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
        if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(count):
            host = "127.0.0.1"
        elif uri:
            host = uri[1] or f"[{uri[2]}]"
        else:
            raise ConfigError(
                "JTRAIN_COORDINATOR: is missing, as this Open MPI does not say where process 0 runs: "
                "mpirun -x JTRAIN_COORDINATOR=HOST:PORT …"
            )
        coordinator = f"{host}:{_port(zlib.crc32(job.encode()))}"
    return Cluster(coordinator, count, rank, "Open MPI")


def _slurm(environ: Mapping[str, str], coordinator: str, processes: int) -> Cluster | None:
    # Batch scripts and salloc have SLURM_NTASKS, and the script SLURM_PROCID=0; the tasks of srun alone have a step.
    # A script that such a task submits inherits its SLURM_STEP_*, but has a SLURM_NTASKS of its own.
    tasks = environ.get("SLURM_STEP_NUM_TASKS")
    if tasks is None or environ.get("SLURM_NTASKS", tasks) != tasks:
        return None
    count, rank = _of_variables(environ, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if count > 1 and not coordinator:
        nodes = next((v for v in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST") if environ.get(v)), "")
        if not nodes:
            raise ConfigError("SLURM_STEP_NODELIST: is missing; give --coordinator=HOST:PORT")
        job, step = (_variable(environ, name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        # By number, not by a hash: jobs and steps that follow one another on a host never share a port.
        coordinator = f"{next(hosts(environ[nodes], nodes))}:{_port(job + 1009 * step)}"
    return Cluster(coordinator, count, rank, "SLURM")


def _kubernetes(environ: Mapping[str, str], coordinator: str, processes: int) -> Cluster | None:
    # A job of independent runs is indexed as well, and nothing in a pod says how many there are.
    if "JOB_COMPLETION_INDEX" not in environ or not (coordinator and processes):
        return None
    rank = _variable(environ, "JOB_COMPLETION_INDEX")
    _check_rank("JOB_COMPLETION_INDEX", rank, processes)
    return Cluster(coordinator, processes, rank, "Kubernetes")


def _gke(environ: Mapping[str, str], coordinator: str, processes: int) -> Cluster | None:
    if not environ.get("TPU_WORKER_HOSTNAMES") or not _uses_tpu(environ):
        return None
    workers = environ["TPU_WORKER_HOSTNAMES"].split(",")
    rank = _variable(environ, "TPU_WORKER_ID") if len(workers) > 1 else 0
    return _tpu(workers, rank, ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"), environ, coordinator)


def _tpu_vm(environ: Mapping[str, str], coordinator: str, processes: int) -> Cluster | None:
    on_tpu = "TPU_NAME" in environ or "TPU_ACCELERATOR_TYPE" in environ
    on_tpu = on_tpu or bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
    if not on_tpu or not _uses_tpu(environ) or "TPU_SKIP_MDS_QUERY" in environ:
        return None
    host = environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    rank = _metadata(host, "agent-worker-number")
    endpoints = _metadata(host, "worker-network-endpoints")
    if not rank or not endpoints:
        return None
    # Newer machines give host names or addresses, older ones name:id:address
    workers = [endpoint.split(":")[-1] for endpoint in endpoints.split(",")]
    return _tpu(
        workers,
        _number("agent-worker-number of the TPU's metadata", rank),
        ("worker-network-endpoints", "agent-worker-number"),
        environ,
        coordinator,
    )


def _tpu(
    workers: list[str], rank: int, names: tuple[str, str], environ: Mapping[str, str], coordinator: str
) -> Cluster | None:
    if any(not worker.strip() for worker in workers):
        raise ConfigError(f"{names[0]}: has an empty name in {','.join(workers)!r}")
    _check_rank(names[1], rank, len(workers))
    if environ.get("MEGASCALE_NUM_SLICES", "1") != "1":
        raise ConfigError(
            "MEGASCALE_NUM_SLICES: runs over several TPU slices are not found by themselves; "
            "give --coordinator=HOST:PORT --processes=N --process=I"
        )
    return Cluster(coordinator or f"{workers[0].strip()}:{TPU_PORT}", len(workers), rank, "TPU")


# Open MPI before SLURM: inside a SLURM job mpirun starts a helper per node by srun, so its processes see that step too.
LAUNCHERS: dict[str, Callable[[Mapping[str, str], str, int], Cluster | None]] = {
    "open_mpi": _open_mpi,
    "slurm": _slurm,
    "kubernetes": _kubernetes,
    "gke": _gke,
    "tpu_vm": _tpu_vm,
}


def _metadata(host: str, name: str) -> str:
    """The attribute of this machine; '' where there is no such attribute or no metadata server."""
    helped = "give --coordinator=HOST:PORT --processes=N --process=I (--processes=1 for this machine alone)"
    path, headers = f"/computeMetadata/v1/instance/attributes/{name}", {"Metadata-Flavor": "Google"}
    try:
        # Not urllib: the server must be asked directly, whatever proxy the environment names.
        with contextlib.closing(http.client.HTTPConnection(host, timeout=METADATA_TIMEOUT)) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            text = answer.read(1 << 20).decode(errors="replace").strip()
    except TimeoutError as error:
        raise ConfigError(f"GCE_METADATA_HOST: {host} does not answer within {METADATA_TIMEOUT} s; {helped}") from error
    except (OSError, http.client.HTTPException):
        return ""
    if answer.status == 404 or answer.getheader("Metadata-Flavor") != "Google":
        return ""
    if answer.status != 200:
        raise ConfigError(f"GCE_METADATA_HOST: {host} answers {answer.status} when asked for {name}; {helped}")
    return text


def _uses_tpu(environ: Mapping[str, str]) -> bool:
    platforms = environ.get("JAX_PLATFORMS", "")
    return not platforms or "tpu" in platforms.split(",")


def _of_variables(environ: Mapping[str, str], count_name: str, rank_name: str) -> tuple[int, int]:
    count = _number(count_name, environ[count_name], least=1)
    rank = _variable(environ, rank_name)
    _check_rank(rank_name, rank, count)
    return count, rank


def _variable(environ: Mapping[str, str], name: str) -> int:
    if name not in environ:
        raise ConfigError(f"{name}: is missing, though other variables of its launcher are set; give --process=I …")
    return _number(name, environ[name])


def _number(where: str, text: str, least: int = 0) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text) or int(text) < least:
        raise ConfigError(f"{where}: {text!r} must be a whole number from {least}")
    return int(text)


def _check_rank(where: str, rank: int, count: int) -> None:
    if rank >= count:
        raise ConfigError(f"{where}: is {rank}, but of {count} processes the last is {count - 1}")


def _port(number: int) -> int:
    return FIRST_PORT + 2 * (number % PORT_PAIRS)


def _missing(name: str, where: str) -> str:
    return (
        f"--{name}: is missing, though {where} is given; give --coordinator=HOST:PORT, --processes=N and --process=I, "
        "or JTRAIN_COORDINATOR, JTRAIN_PROCESSES and JTRAIN_PROCESS"
    )
