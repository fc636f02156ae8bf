"""The device mesh and how arrays lie on it: the one file that knows about devices."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtrain.errors import ConfigError


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh of the first `devices` devices (0: all) with one axis, `data`.

    Raises:
      ConfigError: there are fewer devices than asked for, or several processes, or JAX cannot use the platform that
        it is told to.
    """
    try:
        available = jax.devices()
    except RuntimeError as error:
        reason, given = " ".join(str(error).split()), os.environ.get("JAX_PLATFORMS")
        hint = f"JAX_PLATFORMS={given}" if given else "JAX finds no device"
        raise ConfigError(f"{hint}: {reason}; JAX_PLATFORMS=cpu computes on the processor") from error
    if jax.process_count() > 1:  # a save is a collective, and each process would read all data
        raise ConfigError(f"mesh: {jax.process_count()} processes; a run is trained by one process, on all its devices")
    if devices > len(available):
        raise ConfigError(f"mesh.devices: {devices} asked for, {len(available)} there ({available[0].platform})")
    chosen = available[: devices or len(available)]
    # Auto, not the default Explicit: Linen's Dropout fails under explicit axes.
    return jax.make_mesh((len(chosen),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_data(mesh: Mesh) -> NamedSharding:
    """The leading axis is cut over the `data` axis of the mesh."""
    return NamedSharding(mesh, PartitionSpec("data"))


def place(tree: Any, sharding: NamedSharding, *, copy: bool = False) -> Any:
    """Puts host arrays onto the mesh. Without `copy` a CPU device may share their memory: never write there again."""
    if copy:  # by NumPy: device_put(may_alias=False) still shared it (jax 0.10)
        tree = jax.tree.map(lambda x: np.array(x, copy=True), tree)
    return jax.device_put(tree, sharding)


def for_batch(mesh: Mesh, size: int) -> NamedSharding:
    """How a batch of `size` examples is placed: cut over the devices where it divides, else whole on each."""
    return by_data(mesh) if size % mesh.size == 0 else replicated(mesh)


def make_constrain(mesh: Mesh) -> Callable[[Any], Any]:
    """Inside a compiled step: cuts a batch over the devices, evenly or not.

    Unlike an argument, a value inside a program may be cut unevenly; no example is added, so that batch
    statistics are those of one device.
    """
    return lambda batch: jax.lax.with_sharding_constraint(batch, by_data(mesh))


def is_cpu(mesh: Mesh) -> bool:
    """True where the devices are processors."""
    return mesh.devices.flat[0].platform == "cpu"


def must_block(mesh: Mesh) -> bool:
    """True on simulated devices, where a second step in flight can deadlock (XLA then aborts)."""
    return mesh.size > 1 and is_cpu(mesh)


def describe(mesh: Mesh) -> str:
    """Words for the header: '1 × cpu', '8 × NVIDIA H200, data-parallel'."""
    first = mesh.devices.flat[0]
    kind = first.device_kind if first.platform != "cpu" else "cpu"
    return f"{mesh.size} × {kind}" + (", data-parallel" if mesh.size > 1 else "")
