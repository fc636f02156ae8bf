"""The device mesh and how arrays lie on it: the one file that knows about devices."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtrain.errors import ConfigError

DATA, FSDP = "data", "fsdp"


def make_mesh(devices: int = 0, fsdp: int = 1) -> Mesh:
    """A mesh of the first `devices` devices (0: all) of all processes, with the axes `data` and `fsdp`.

    A batch is cut over both axes; parameters are copied along `data` and may be cut along `fsdp`.

    Args:
      devices: how many; of several processes all or none are taken.
      fsdp: devices that share one copy of the parameters.

    Raises:
      ConfigError: there are fewer devices than asked for, `fsdp` does not divide them, several processes are to use
        some of their devices only, or JAX cannot use the platform that it is told to.
    """
    try:
        available = jax.devices()
    except RuntimeError as error:
        reason, given = " ".join(str(error).split()), os.environ.get("JAX_PLATFORMS")
        hint = f"JAX_PLATFORMS={given}" if given else "JAX finds no device"
        raise ConfigError(f"{hint}: {reason}; JAX_PLATFORMS=cpu computes on the processor") from error
    there = f"{len(available)} there ({available[0].platform})"
    if devices > len(available):
        raise ConfigError(f"mesh.devices: {devices} asked for, {there}")
    if jax.process_count() > 1 and devices not in (0, len(available)):
        raise ConfigError(
            f"mesh.devices: {devices} asked for, {there} in {jax.process_count()} processes, of which none may stay "
            "without; leave it 0 for all"
        )
    chosen = available[: devices or len(available)]
    if len(chosen) % fsdp:
        whole = [n for n in range(1, len(chosen) + 1) if len(chosen) % n == 0]
        raise ConfigError(f"mesh.fsdp: {fsdp} does not divide the {len(chosen)} devices; use one of {whole}")
    # Auto, not the default Explicit: Linen's Dropout fails under explicit axes.
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((len(chosen) // fsdp, fsdp), (DATA, FSDP), axis_types=auto, devices=chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_data(mesh: Mesh) -> NamedSharding:
    """The leading axis is cut over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def place(tree: Any, shardings: Any, *, copy: bool = False) -> Any:
    """Puts host arrays onto the mesh. Without `copy` a CPU device may share their memory: never write there again.

    Args:
      tree: of arrays; where there are several processes each holds all of them, whole.
      shardings: one for all leaves, or a tree of them whose leaves stand for all that is below.
      copy: first copy the arrays.
    """
    if copy:  # by NumPy: device_put(may_alias=False) still shared it (jax 0.10)
        tree = jax.tree.map(lambda x: np.array(x, copy=True), tree)
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(sharding: NamedSharding, part: Any) -> Any:
        return jax.tree.map(lambda leaf: _put_whole(np.asarray(leaf), sharding), part)

    return jax.tree.map(put, shardings, tree)


def place_local(local: Mapping[str, np.ndarray], mesh: Mesh, size: int) -> dict[str, jax.Array]:
    """A batch on the mesh of which this process holds its own examples alone.

    Args:
      local: by name the examples [n, …] at the positions `local_rows(mesh, size)`, in their order.
      mesh: the devices of all processes.
      size: examples of the whole batch.
    """
    sharding, positions = for_batch(mesh, size), local_rows(mesh, size)
    if len(positions) == size and jax.process_count() == 1:
        return jax.device_put(dict(local), sharding)

    def put(values: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            first = int(np.searchsorted(positions, start))  # a device's positions are in a row, and all here
            return values[first : first + stop - start]

        return jax.make_array_from_callback((size, *values.shape[1:]), sharding, part)

    return {name: put(np.asarray(values)) for name, values in local.items()}


def local_rows(mesh: Mesh, size: int) -> np.ndarray:
    """Positions [n] in a batch of `size` examples that the devices of this process hold, in ascending order.

    All of them where the batch does not divide by the devices, as each then holds it whole.
    """
    held = np.zeros(size, bool)
    for index in for_batch(mesh, size).addressable_devices_indices_map((size,)).values():
        held[index] = True
    return np.flatnonzero(held)


def for_batch(mesh: Mesh, size: int) -> NamedSharding:
    """How a batch of `size` examples is placed: cut over the devices where it divides, else whole on each."""
    return by_data(mesh) if size % mesh.size == 0 else replicated(mesh)


def for_batches(mesh: Mesh, size: int) -> NamedSharding:
    """The same for rows of many batches [updates, size]."""
    return NamedSharding(mesh, PartitionSpec(None, *for_batch(mesh, size).spec))


def make_constrain(mesh: Mesh) -> Callable[[Any], Any]:
    """Inside a compiled step: cuts a batch over the devices, evenly or not.

    Unlike an argument, a value inside a program may be cut unevenly; no example is added, so that batch
    statistics are those of one device. On one device there is nothing to cut, and the step can be part of a program
    over others.
    """
    if mesh.size == 1:
        return lambda batch: batch
    return lambda batch: jax.lax.with_sharding_constraint(batch, by_data(mesh))


def is_cpu(mesh: Mesh) -> bool:
    """True where the devices are processors."""
    return mesh.devices.flat[0].platform == "cpu"


def must_block(mesh: Mesh) -> bool:
    """True on simulated devices, where a second step in flight can deadlock (XLA then aborts)."""
    return mesh.size > 1 and is_cpu(mesh)


def describe(mesh: Mesh) -> str:
    """Words for the header: '1 × cpu', '8 × NVIDIA H200, data-parallel', '8 × cpu in 2 processes, data 4 × fsdp 2'."""
    first = mesh.devices.flat[0]
    kind = first.device_kind if first.platform != "cpu" else "cpu"
    processes = len({device.process_index for device in mesh.devices.flat})
    words = f"{mesh.size} × {kind}" + (f" in {processes} processes" if processes > 1 else "")
    if mesh.shape[FSDP] > 1:
        return f"{words}, data {mesh.shape[DATA]} × fsdp {mesh.shape[FSDP]}"
    return words + (", data-parallel" if mesh.size > 1 else "")


def _put_whole(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
