"""Two real processes of two devices each, with cut parameters: the training of one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from test_sharding import clouds, config

from jtrain.assembly import assemble
from jtrain.state import to_flat

CHILD = Path(__file__).with_name("process_child.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(process, processes, port, out):
    environ = {**os.environ, "PYTHONPATH": str(CHILD.parent), "JAX_COMPILATION_CACHE_DIR": ""}
    return subprocess.Popen(
        [sys.executable, CHILD, str(process), str(processes), str(port), str(out)],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_two_processes_train_cut_parameters_as_one(tmp_path):
    state = assemble(config(1, mesh__devices=1), data=clouds()).init_state()
    np.savez(tmp_path / "start.npz", **{path: np.asarray(leaf) for path, leaf in to_flat(state).items()})
    port = free_port()
    children = [start(i, 2, port, tmp_path) for i in range(2)] + [start(0, 1, port, tmp_path)]
    try:
        said = [child.communicate(timeout=240)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    for child, text in zip(children, said, strict=True):
        assert child.returncode == 0, text
    alone, one, other = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("1-0", "2-0", "2-1"))
    for path, leaf in alone.items():
        np.testing.assert_allclose(one[path], leaf, rtol=0, atol=1e-5, err_msg=path)
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)
