"""Joining the processes of a run: who they are, JAX over all their devices, and whether they mean the same run."""

import atexit
import contextlib
import glob
import hashlib
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtrain import launchers
from jtrain.errors import ConfigError, Interrupted, JtrainError
from jtrain.peers import ALONE, Joined, Peers, end_now
from jtrain.wire import is_loopback


def connect(
    *, coordinator: str = "", processes: str | int = "", process: str | int = "",
    heartbeat: float = 10.0, start_timeout: float = 300.0, step_timeout: float = 600.0,
) -> Peers:  # fmt: skip
    """Joins the other processes of this run, if there are any; to be called before JAX is used.

    Without arguments the launcher is found out by its variables: JTRAIN_…, SLURM, Open MPI, Kubernetes, TPU.
    When another process is lost later on, this one prints who it was and ends with exit code 4, wherever it is: it
    may be waiting for the lost one inside a computation that nothing else ends.

    Args:
      coordinator: HOST:PORT where process 0 listens; JAX's own service has the port after it.
      processes: how many there are.
      process: the number of this one, from 0.
      heartbeat: seconds without a sign of life after which a process counts as lost.
      start_timeout: seconds in which all must have come.
      step_timeout: seconds in which every step and every wait for the others must be over.

    Returns:
      What `jtrain.train(run, peers=…)` takes; `ALONE` where this process is the only one.

    Raises:
      ConfigError: arguments or variables are half given or contradict each other. HeldError: not all have come in time.
    """
    cluster = launchers.detect(os.environ, coordinator=coordinator, processes=processes, process=process)
    if cluster is None:
        return ALONE
    host, _, port = cluster.coordinator.rpartition(":")
    host = host.strip("[]")
    peers = Joined(
        host, int(port), cluster.process, cluster.processes, welcome=lambda: {"jax": _port_for_jax(int(port))},
        heartbeat=heartbeat, start=start_timeout, step=step_timeout,
    )  # fmt: skip
    import jax

    address = f"[{host}]:{peers.welcome['jax']}" if ":" in host else f"{host}:{peers.welcome['jax']}"
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    jax.distributed.initialize(
        coordinator_address=address,
        num_processes=cluster.processes,
        process_id=cluster.process,
        local_device_ids=_own_devices(peers.welcome["places"], cluster.process),
        cluster_detection_method="deactivate",
        initialization_timeout=int(start_timeout),
        heartbeat_timeout_seconds=max(100, math.ceil(3 * heartbeat)),  # ours is to notice first
        coordinator_bind_address=address if is_loopback(host) else None,
    )
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():  # JAX has put its own in the place of that for SIGTERM
            signal.signal(number, handler)
    atexit.register(_end_of_program, peers)  # runs before what JAX has registered, which waits for all processes
    return peers


def agree(peers: Peers, what: str, facts: Mapping[str, Any]) -> None:
    """Raises ConfigError where the processes do not hold the same facts; the message names the first that differs.

    Args:
      peers: all call it.
      what: the facts are about.
      facts: by name; of JSON types.
    """
    own = {name: _digest(value) for name, value in facts.items()}
    found = peers.exchange(f"agree/{what}", _digest(own))
    if len(set(found)) == 1:
        return
    every = peers.exchange(f"agree/{what}/facts", {name: str(value)[:200] for name, value in facts.items()})
    for name in sorted(set().union(*every)):
        values = [facts.get(name, "nothing") for facts in every]
        other = next((p for p, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise ConfigError(
                f"{name}: process 0 has {values[0]}, process {other} has {values[other]}; "
                f"all processes need the same {what}"
            )
    raise ConfigError(f"{what}: the processes do not have the same")


def code_version() -> dict[str, str]:
    """Versions of what computes, and a checksum of jtrain's own files."""
    import importlib.metadata
    import platform

    found = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    checksum = hashlib.blake2b(digest_size=8)
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        checksum.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found | {"python": platform.python_version(), "jtrain": checksum.hexdigest()}


def _end_of_program(peers: Peers) -> None:
    error = getattr(sys, "last_value", None)  # that nobody has caught
    if error is None:
        return peers.leave()
    if isinstance(error, Interrupted):  # all of them are
        peers.leave()
    elif isinstance(error, JtrainError):
        peers.leave(str(error), error.exit_code)
    else:
        peers.leave(" ".join(repr(error).split())[:300], 1)
    end_now(error.exit_code if isinstance(error, JtrainError) else 1)


def _digest(value: Any) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()


def _port_for_jax(port: int) -> int:
    for candidate in (port + 1, 0):
        with contextlib.suppress(OSError, OverflowError), socket.create_server(("", candidate)) as free:
            return int(free.getsockname()[1])
    raise ConfigError(f"coordinator: no port is free beside {port}")


def _own_devices(places: list[tuple[str, str]], process: int) -> list[int] | None:
    """Which of the GPUs that it sees this process takes; None: all. Those that several see are dealt out evenly."""
    beside = [p for p, place in enumerate(places) if list(place) == list(places[process])]
    sees = places[process][1]
    count = len(sees.split(",")) if sees else len(glob.glob("/dev/nvidia[0-9]*"))
    if len(beside) == 1 or count == 0:
        return None
    if count % len(beside):
        raise ConfigError(
            f"processes: {len(beside)} on this machine see the same {count} GPUs, which cannot be dealt out evenly; "
            "start as many as divide them, or set CUDA_VISIBLE_DEVICES for each"
        )
    share = count // len(beside)
    return list(range(beside.index(process) * share, (beside.index(process) + 1) * share))
