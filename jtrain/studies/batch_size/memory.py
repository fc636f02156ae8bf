"""What a batch of some size needs of a device's memory, by the compiled step's own analysis, and what there is."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain.data import augment
from jtrain.data.broken import Tolerant
from jtrain.data.feed import AHEAD
from jtrain.errors import ConfigError
from jtrain.run import Run

GIB, MIB = 2**30, 2**20
CPU_SHARE = 0.8  # of the memory that is available: the rest is for what else the machine does
DEVICE_SHARE = 0.95  # of an accelerator's: the allocator cannot use the gaps between arrays


@dataclasses.dataclass(frozen=True)
class Limit:
    """Bytes that a run may use on a device, and where the number comes from."""

    bytes: float
    words: str


def limit_of(run: Run, asked: float) -> Limit:
    """What may be used on each device.

    Args:
      run: on whose mesh it is measured; what is in use there already is not free.
      asked: GiB; 0: what there is.

    Raises:
      ConfigError: neither the device nor the machine tells what it has.
    """
    if asked:
        return Limit(asked * GIB, f"the {asked:g} GiB of study.batch_size.memory")
    devices = list(run.mesh.devices.flat)
    if not meshes.is_cpu(run.mesh):
        free = []
        for device in devices:
            stats = device.memory_stats() or {}
            if "bytes_limit" in stats:
                free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
        if len(free) == len(devices):
            least = DEVICE_SHARE * min(free)
            return Limit(least, f"{_gib(least)}, {DEVICE_SHARE:.0%} of what is free on the {devices[0].device_kind}")
    else:
        available = available_memory()
        if available is not None:
            each = CPU_SHARE * available / len(devices)
            shared = f", for each of {len(devices)} simulated devices" if len(devices) > 1 else ""
            return Limit(each, f"{_gib(each)}, {CPU_SHARE:.0%} of what is available on this machine{shared}")
    raise ConfigError(
        "study.batch_size.memory: this device does not tell how much memory it has; give the GiB that may be used"
    )


def available_memory(root: Path = Path("/")) -> float | None:
    """Bytes that a new process could use: of the machine, or of the container where that allows less; None where the
    system does not tell."""
    found = []
    meminfo = _text(root / "proc/meminfo")
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            found.append(1024.0 * int(line.split()[1]))
    if not found and "SC_AVPHYS_PAGES" in os.sysconf_names and root == Path("/"):
        found.append(float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    # A limit holds for all groups below its own; the file of version 2 is absent in the topmost one.
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if kinds else "")
        limit, used = ("limit_in_bytes", "usage_in_bytes") if kinds else ("max", "current")
        own = Path(path.strip("/"))
        # Inside a container the path may be the host's, and the container's own group the top.
        for folder in {top, *(top / part for part in (own, *own.parents))}:
            most, now = _text(folder / f"memory.{limit}").strip(), _text(folder / f"memory.{used}").strip()
            if most.isdigit() and now.isdigit():
                # What files are cached in counts as used, and is given back when it is needed.
                stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
                cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
                found.append(float(int(most) - int(now) + cached))
    return max(min(found), 0.0) if found else None


def unit_of(run: Run) -> int:
    """What sizes must be multiples of, so that micro-batches, virtual shards and devices get equal parts."""
    return run.config.train.accumulate * (run.config.mesh.shards or run.mesh.size)


def with_batch(run: Run, size: int) -> Run:
    """The run with another batch size, on the same feeds: nothing is placed twice, and the splits stay.

    Its length is such that every duration of the config keeps its sense, be it in updates or in epochs.
    """
    total = math.ceil(run.clock.total * max(1.0, run.batch_size / size))
    total = min(total, 2**31 - 1)
    other = run.again(configs.changed(run.config, train__batch_size=size, train__total=f"{total}steps"), run.data)
    return dataclasses.replace(other, feeds=run.feeds)


def compiled(run: Run) -> jax.stages.Compiled:
    """The step of the last phase, in which most is trained, compiled from shapes alone: nothing is allocated."""
    phase, size = run.phases[-1], run.batch_size
    feed = run.feeds["train"]
    inputs, targets = run.data.train.fetch(np.arange(1))
    count = len(run.data.train) if feed.resident else size
    whole, cut = meshes.replicated(run.mesh), meshes.for_batch(run.mesh, size)

    def array(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype), sharding=sharding)

    placed = whole if feed.resident else cut
    data = {
        "inputs": array((count, *inputs.shape[1:]), inputs.dtype, placed),
        "targets": array((count, *targets.shape[1:]), targets.dtype, placed),
    }
    rows = None
    if feed.resident:
        rows = array((run.per_call, size), np.int32, meshes.for_batches(run.mesh, size))
        if isinstance(run.data.train, Tolerant) and not run.data.train.weights(np.arange(count)).all():
            data["weight"] = array((count,), np.float32, placed)
    else:
        data["weight"] = array((count,), np.float32, placed)
        if augment.visits(run.config.augment):
            data["row"] = array((count,), np.int32, placed)
    state = jax.tree.map(lambda leaf, lies: array(leaf.shape, leaf.dtype, lies), phase.shapes, phase.shardings)
    step: Any = phase.train_steps  # compiled by jax.jit, which its type does not say
    return step.lower(state, data, rows).compile()


def needed(run: Run, program: jax.stages.Compiled) -> dict[str, int]:
    """Bytes on each device while a run trains by a program of `compiled`, in parts and in all.

    The step's arguments (state, data), what lies between them and its outputs, its outputs that do not take an
    argument's place, its code; and beside the step the splits that are kept there for evaluation, or batches that are
    placed ahead.

    Raises:
      ConfigError: the compiler does not tell.
    """
    analysis = program.memory_analysis()
    if analysis is None:
        raise ConfigError("batch_size: the compiler of this platform does not tell what memory a program needs")
    parts = {
        "arguments": analysis.argument_size_in_bytes,
        "between": analysis.temp_size_in_bytes,
        "outputs": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
        "beside": sum(feed.examples.nbytes for name, feed in run.feeds.items() if feed.resident and name != "train"),
    }
    feed = run.feeds["train"]
    if not feed.resident:
        ahead = max(AHEAD, feed.loaders + 1)
        each = run.data.train.nbytes / len(run.data.train) * run.batch_size
        parts["beside"] += int(ahead * each / (run.mesh.size if run.batch_size % run.mesh.size == 0 else 1))
    return {name: int(value) for name, value in parts.items()} | {"all": int(sum(parts.values()))}


def _text(path: Path) -> str:
    """What a file of the system says; nothing where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _gib(count: float) -> str:
    return f"{count / GIB:.3g} GiB"
