"""Which process this is: variables as the launchers themselves set them, and what is wrong with others."""

import contextlib
import http.server
import socket
import threading

import pytest

from jtrain import launchers
from jtrain.errors import ConfigError
from jtrain.launchers import Cluster, detect, hosts, split_address

# What SLURM 22.05 was seen to set, by `env` in each place.
SALLOC = {
    "SLURM_JOB_ID": "2",
    "SLURM_JOB_NODELIST": "tux[3-4]",
    "SLURM_NTASKS": "2",
    "SLURM_NPROCS": "2",
    "SLURM_NNODES": "2",
    "SLURM_TASKS_PER_NODE": "1(x2)",
}
BATCH = {**SALLOC, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_GTIDS": "0", "SLURM_NODEID": "0"}
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "tux[3-4]",
    "SLURM_SRUN_COMM_HOST": "10.0.0.1",
}
MPIRUN = {  # Open MPI 4.1
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1464008704.0;tcp://192.0.2.2,10.1.0.2:45789;tcp6://[fd00::2]:53683",
    "PMIX_NAMESPACE": "1464008705",
}
GKE = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "job-0.tpu,job-1.tpu", "JOB_COMPLETION_INDEX": "1"}
POD = {"JTRAIN_COORDINATOR": "train-0.train:8481", "JTRAIN_PROCESSES": "4", "JOB_COMPLETION_INDEX": "2"}
OURS = {"JTRAIN_COORDINATOR": "node1:8481", "JTRAIN_PROCESSES": "3", "JTRAIN_PROCESS": "2"}


@pytest.fixture(autouse=True)
def no_tpu_devices(monkeypatch):
    """As if this machine had no TPU, so that no test asks a real metadata server."""
    monkeypatch.setattr(launchers.glob, "glob", lambda pattern: [])


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (OURS, Cluster("node1:8481", 3, 2, "environment")),
        (STEP, Cluster("tux3:61444", 2, 0, "SLURM")),
        ({**STEP, "SLURM_PROCID": "1"}, Cluster("tux3:61444", 2, 1, "SLURM")),
        ({**STEP, "JTRAIN_COORDINATOR": "ib3:9000"}, Cluster("ib3:9000", 2, 0, "SLURM")),
        ({**MPIRUN, "JTRAIN_COORDINATOR": "ib3:9000"}, Cluster("ib3:9000", 4, 3, "Open MPI")),
        (POD, Cluster("train-0.train:8481", 4, 2, "Kubernetes")),
        (GKE, Cluster("job-0.tpu:8481", 2, 1, "TPU")),
        ({**GKE, **POD, "JOB_COMPLETION_INDEX": "3"}, Cluster("train-0.train:8481", 4, 3, "Kubernetes")),
        ({**STEP, **OURS}, Cluster("node1:8481", 3, 2, "environment")),
    ],
)
def test_launcher_is_recognised_by_what_it_sets(environ, expected):
    assert detect(environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {},
        SALLOC,
        BATCH,  # python in a batch script, without srun
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},  # srun --pty bash
        {**STEP, "SLURM_NTASKS": "1"},  # a batch script that a task of srun has submitted
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"JOB_COMPLETION_INDEX": "2"},  # an indexed job of runs of their own
        {**GKE, "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        {**GKE, "JAX_PLATFORMS": "cpu"},
        {**STEP, "JTRAIN_PROCESSES": "1"},  # every task a run of its own
    ],
)
def test_one_process_is_alone(environ):
    assert detect(environ) is None


def test_flags_come_before_variables_and_may_complete_them():
    assert detect(OURS, coordinator="a:1", processes="2", process="0") == Cluster("a:1", 2, 0, "flags")
    assert detect(OURS, process=1) == Cluster("node1:8481", 3, 1, "flags")
    assert detect(STEP, processes=1) is None
    assert detect(STEP, coordinator="a:1", processes=2) == Cluster("a:1", 2, 0, "SLURM")


def test_open_mpi_listens_on_the_loopback_on_one_host_and_where_mpirun_runs_on_several():
    on_one = detect({**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
    on_two = detect(MPIRUN)
    assert (on_one.coordinator.split(":")[0], on_two.coordinator.split(":")[0]) == ("127.0.0.1", "192.0.2.2")
    assert detect({**MPIRUN, "OMPI_COMM_WORLD_RANK": "0"}).coordinator == on_two.coordinator
    v6 = {**MPIRUN, "OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b:ac5d,2620:10d::2]:43370"}
    assert split_address(detect(v6).coordinator, "x")[0] == "fe80::b9b:ac5d"


def test_mpirun_inside_a_slurm_job_is_not_taken_for_srun():
    """mpirun starts its helper on each node by srun: the processes then see a step with as many tasks as nodes."""
    assert detect({**STEP, **MPIRUN}).launcher == "Open MPI"


def test_jobs_and_steps_that_follow_one_another_never_share_a_port():
    ports = [
        split_address(detect({**STEP, "SLURM_JOB_ID": str(70_000 + job), "SLURM_STEP_ID": step}).coordinator, "x")[1]
        for job in range(50)
        for step in ("0", "1")
    ]
    taken = {port + i for port in ports for i in (0, 1)}  # the next one is jax's
    assert len(taken) == 200
    assert min(taken) > 60999  # above what Linux hands out to clients
    assert max(taken) <= 65535


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vm", ["vm"]),
        ("tux[08-10,3],login", ["tux08", "tux09", "tux10", "tux3", "login"]),
        ("r[1-2]n[09-10]", ["r1n09", "r1n10", "r2n09", "r2n10"]),
        ("a-b[7]", ["a-b7"]),
    ],
)
def test_host_lists_are_spelled_out_as_slurm_does(text, expected):
    assert list(hosts(text)) == expected


@pytest.mark.parametrize(
    ("environ", "flags", "says"),
    [
        ({}, {"coordinator": "a:1"}, "--process: is missing, though --coordinator"),
        ({}, {"process": "0"}, "--coordinator: is missing, though --process"),
        ({"JTRAIN_COORDINATOR": "a:1", "JTRAIN_PROCESS": "0"}, {}, "--processes: is missing, though JTRAIN_PROCESS"),
        ({"JTRAIN_PROCESSES": "2"}, {}, "--process: is missing, though JTRAIN_PROCESSES"),
        ({**OURS, "JTRAIN_COORDINATOR": ""}, {}, "JTRAIN_COORDINATOR: is empty"),
        ({**OURS, "JTRAIN_COORDINATOR": "node1"}, {}, "JTRAIN_COORDINATOR: 'node1' must be HOST:PORT"),
        ({**OURS, "JTRAIN_COORDINATOR": "node1:65535"}, {}, "JTRAIN_COORDINATOR: 'node1:65535' must be HOST:PORT"),
        ({**OURS, "JTRAIN_COORDINATOR": "no de:1"}, {}, "JTRAIN_COORDINATOR: 'no de:1' must be HOST:PORT"),
        ({**OURS, "JTRAIN_COORDINATOR": "::1:80"}, {}, "JTRAIN_COORDINATOR: '::1:80' must be HOST:PORT"),
        (OURS, {"coordinator": ":80"}, "--coordinator: ':80' must be HOST:PORT"),
        ({**OURS, "JTRAIN_PROCESSES": "two"}, {}, "JTRAIN_PROCESSES: 'two' must be a whole number from 1"),
        ({**OURS, "JTRAIN_PROCESSES": "0"}, {}, "JTRAIN_PROCESSES: '0' must be a whole number from 1"),
        ({**OURS, "JTRAIN_PROCESS": "-1"}, {}, "JTRAIN_PROCESS: '-1' must be a whole number from 0"),
        ({**OURS, "JTRAIN_PROCESS": "3"}, {}, "JTRAIN_PROCESS: is 3, but of 3 processes the last is 2"),
        (OURS, {"process": 7}, "--process: is 7, but of 3 processes the last is 2"),
        ({"JTRAIN_PROCESSES": "1", "JTRAIN_PROCESS": "1"}, {}, "JTRAIN_PROCESS: is 1, but"),
        ({**STEP, "SLURM_PROCID": "2"}, {}, "SLURM_PROCID: is 2, but of 2 processes"),
        ({k: v for k, v in STEP.items() if k != "SLURM_PROCID"}, {}, "SLURM_PROCID: is missing"),
        ({k: v for k, v in STEP.items() if "NODELIST" not in k}, {}, "SLURM_STEP_NODELIST: is missing"),
        ({**STEP, "SLURM_JOB_ID": "x"}, {}, "SLURM_JOB_ID: 'x' must be a whole number"),
        ({**STEP, "SLURM_STEP_NODELIST": "tux[3-1]"}, {}, "SLURM_STEP_NODELIST: 'tux[3-1]' has the range '3-1'"),
        ({**STEP, "SLURM_STEP_NODELIST": "tux[3"}, {}, "SLURM_STEP_NODELIST: 'tux[3' is not a list of hosts"),
        ({**STEP, "JTRAIN_PROCESSES": "4"}, {}, "JTRAIN_PROCESSES: is 4, but SLURM has started 2"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}, "OMPI_COMM_WORLD_RANK: is missing"),
        (
            {k: v for k, v in MPIRUN.items() if k != "OMPI_MCA_orte_hnp_uri"},
            {},
            "JTRAIN_COORDINATOR: is missing, as this Open MPI",
        ),
        ({**POD, "JOB_COMPLETION_INDEX": "4"}, {}, "JOB_COMPLETION_INDEX: is 4, but of 4"),
        ({**GKE, "TPU_WORKER_ID": "2"}, {}, "TPU_WORKER_ID: is 2, but of 2"),
        ({k: v for k, v in GKE.items() if k != "TPU_WORKER_ID"}, {}, "TPU_WORKER_ID: is missing"),
        ({**GKE, "TPU_WORKER_HOSTNAMES": "a,,b"}, {}, "TPU_WORKER_HOSTNAMES: has an empty name"),
        ({**GKE, "MEGASCALE_NUM_SLICES": "2"}, {}, "MEGASCALE_NUM_SLICES: runs over several TPU slices"),
    ],
)
def test_half_given_malformed_or_contradictory_values_name_their_variable(environ, flags, says):
    with pytest.raises(ConfigError) as caught:
        detect(environ, **flags)
    assert str(caught.value).startswith(says)


@contextlib.contextmanager
def metadata_server(answers, status=200, flavour="Google"):
    """A server of machine attributes on the loopback; gives its HOST:PORT."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = answers.get(self.path.removeprefix("/computeMetadata/v1/instance/attributes/"))
            google = self.headers["Metadata-Flavor"] == "Google"  # the real one refuses others
            self.send_response(403 if not google else 404 if text is None else status)
            self.send_header("Metadata-Flavor", flavour)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def on_a_tpu_vm(host, **others):
    return detect({"TPU_NAME": "pod", "GCE_METADATA_HOST": host, "http_proxy": "http://127.0.0.1:1", **others})


@pytest.mark.parametrize("endpoints", ["10.1.0.2,10.1.0.3,10.1.0.4", "a:1:10.1.0.2,b:2:10.1.0.3,c:3:10.1.0.4"])
def test_tpu_vm_is_told_by_its_metadata_server(endpoints):
    with metadata_server({"agent-worker-number": "2", "worker-network-endpoints": endpoints}) as host:
        assert on_a_tpu_vm(host) == Cluster("10.1.0.2:8481", 3, 2, "TPU")
        assert on_a_tpu_vm(host, JAX_PLATFORMS="cpu") is None
        assert detect({"GCE_METADATA_HOST": host}) is None  # no sign of a TPU: nobody is asked


def test_tpu_vm_of_one_host_is_alone_and_so_is_one_without_a_metadata_server(monkeypatch):
    monkeypatch.setattr(launchers, "METADATA_TIMEOUT", 0.1)
    with metadata_server({"agent-worker-number": "0", "worker-network-endpoints": "10.1.0.2"}) as host:
        assert on_a_tpu_vm(host) is None
    assert on_a_tpu_vm(host) is None  # refused: nobody listens there any more
    with metadata_server({}) as host:
        assert on_a_tpu_vm(host) is None
    with metadata_server({"agent-worker-number": "<html>", "worker-network-endpoints": "x,y"}, flavour="x") as host:
        assert on_a_tpu_vm(host) is None
    assert on_a_tpu_vm("127.0.0.1:http") is None


def test_metadata_server_that_fails_is_an_error_not_a_machine_alone(monkeypatch):
    monkeypatch.setattr(launchers, "METADATA_TIMEOUT", 0.1)
    with (
        metadata_server({"agent-worker-number": "0", "worker-network-endpoints": "x,y"}, status=503) as host,
        pytest.raises(ConfigError, match=r"GCE_METADATA_HOST: .* answers 503"),
    ):
        on_a_tpu_vm(host)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"GCE_METADATA_HOST: .* does not answer within 0\.1 s"):
            on_a_tpu_vm(host)
