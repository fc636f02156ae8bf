"""One of several processes: python process_child.py PROCESS PROCESSES PORT OUT. Trains with cut parameters.

Alone (PROCESSES 1) it does the same on as many devices; the parent compares what they write.
"""

import os
import sys

PROCESS, PROCESSES, PORT, OUT = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // PROCESSES}"

import jax

if PROCESSES > 1:
    jax.distributed.initialize(f"127.0.0.1:{PORT}", PROCESSES, PROCESS, initialization_timeout=60)

import numpy as np
from test_sharding import clouds, config

from jtrain import mesh as meshes
from jtrain.assembly import assemble
from jtrain.state import to_flat

SIZE, STEPS = 16, 5


def check_placing(mesh):
    """Numbers go out by row and come back whole, however the batch is cut."""
    for size in (SIZE, SIZE + 1):
        held = meshes.local_rows(mesh, size)
        expected = np.arange(size) if size % mesh.size else np.arange(size)[PROCESS * size // PROCESSES :][: len(held)]
        np.testing.assert_array_equal(held, expected)
        rows = np.arange(2 * size).reshape(size, 2)
        placed = meshes.place_local({"rows": rows[held]}, mesh, size)["rows"]
        whole = jax.jit(lambda x: x, out_shardings=meshes.replicated(mesh))(placed)
        np.testing.assert_array_equal(np.asarray(whole), rows)
        other = meshes.place({"rows": rows}, {"rows": meshes.for_batch(mesh, size)})["rows"]
        assert other.sharding == placed.sharding


def main():
    run = assemble(config(4, mesh__devices=0), data=clouds())
    check_placing(run.mesh)
    if PROCESSES > 1:
        assert meshes.describe(run.mesh) == f"4 × cpu in {PROCESSES} processes, data 1 × fsdp 4"
    start = {path: np.asarray(leaf) for path, leaf in np.load(f"{OUT}/start.npz").items()}
    shardings = to_flat(run.phases[0].shardings)
    form = jax.tree.structure(run.shapes)
    state = run.init_state()
    drawn = jax.jit(lambda state: state, out_shardings=meshes.replicated(run.mesh))(state)
    for path, leaf in to_flat(drawn).items():
        np.testing.assert_array_equal(np.asarray(leaf), start[path], err_msg=path)
    state = jax.tree.unflatten(
        form, meshes.place([start[path] for path in shardings], list(shardings.values()), copy=True)
    )
    held = meshes.local_rows(run.mesh, SIZE)
    for step in range(STEPS):
        rows = run.order.rows(step)[held]
        inputs, targets = run.data.train.fetch(rows)
        batch = {"inputs": inputs, "targets": targets, "weight": np.ones(len(rows), np.float32)}
        state, sums = run.train_step(state, meshes.place_local(batch, run.mesh, SIZE), None)
        jax.block_until_ready(state)
    whole = jax.jit(lambda state: state, out_shardings=meshes.replicated(run.mesh))(state)
    found = {path: np.asarray(leaf) for path, leaf in to_flat(whole).items()} | {"loss": np.asarray(sums["loss"])}
    np.savez(f"{OUT}/{PROCESSES}-{PROCESS}.npz", **found)


if __name__ == "__main__":
    main()
