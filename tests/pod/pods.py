"""Starts several processes on this machine as one pod."""

import os
import socket
import subprocess
import sys
from pathlib import Path

CHILD = Path(__file__).with_name("pod_child.py")
TESTS = Path(__file__).parents[1]


def free_port():
    """A port of the loopback with a free one after it."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        if port < 65535:
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return port
            except OSError:
                continue


def environment(devices):
    """Of a child with so many simulated devices."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    flags = f"--xla_force_host_platform_device_count={devices}"
    # Two processes that load the same programs from a cache while they write it are no subject of these tests.
    return os.environ | {"PYTHONPATH": path, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def start(processes, devices, command, *, only=None, **popen):
    """The processes of a pod: `command(process, port)` gives the arguments of Python for each."""
    port = free_port()
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | popen
    return [
        subprocess.Popen([sys.executable, *command(i, port)], env=environment(devices), **options)
        for i in (range(processes) if only is None else only)
    ]


def finish(children, timeout=180):
    """(codes, standard errors) of all once they have ended; kills what has not ended in time."""
    try:
        errors = [child.communicate(timeout=timeout)[1] for child in children]
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.communicate()
    return [child.returncode for child in children], errors
