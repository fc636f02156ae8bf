"""What ResNet-50 on ImageNet asks of 256 and of 4,096 chips: bytes, times, failures; the tables of docs/scale.md.

    python benchmarks/scale.py

Three kinds of numbers go in, and are kept apart: what was MEASURED of jtrain's own step, what is PUBLISHED about chips,
networks and training, and what is ASSUMED. Everything else is a function of these; nothing is compiled here.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

# Printed by scale_measure.py: of jtrain's own step of configs/imagenet.py at 224×224, bfloat16, jax 0.10.2 on CPU.
MEASURED: dict[str, Any] = {
    "parameters": 25557032,
    "parameter bytes": 102228128,
    "optimizer bytes": 102228128,
    "statistics bytes": 212504,
    "flops an image": 23772379136.0,
    "convolution outputs an image": 10311168,
    "temporary bytes an image": 150764672,
    "data-parallel": {
        "gradient bytes": 102121644, "large all-reduces": 1, "small bytes": 425224, "small all-reduces": 99,
    },
    "fsdp": {"all-gather": (54, 102011648), "all-reduce": (154, 102547084)},
    "decoded a core second": 427.0,
    "order seconds an example": 7.9e-08,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chip:
    """A published accelerator.

    Attributes:
      flops: bfloat16 operations a second at best.
      memory: bytes of HBM.
      hbm: bytes a second of HBM.
      link: bytes a second that a chip sends to all its neighbours together, while it receives as many.
      torus: sides of the torus that so many chips are wired in; () where they are not of one network of this kind.
      host: chips a host.
      source: where the numbers are published.
    """

    flops: float
    memory: float
    hbm: float
    link: float
    torus: dict[int, tuple[int, ...]]
    host: int
    source: str


@dataclasses.dataclass(frozen=True)
class Network:
    """Between hosts, where chips are wired in islands: bytes a second of each chip's own adapter."""

    island: int
    adapter: float


# bfloat16 without sparsity; GB are 10^9 bytes.
PUBLISHED: dict[str, Chip] = {
    "TPU v5e": Chip(197e12, 16e9, 819e9, 200e9, {256: (16, 16)}, 8, "Google Cloud documentation, TPU v5e"),
    "TPU v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9, {256: (4, 8, 8), 4096: (16, 16, 16)}, 4,
                   "Google Cloud documentation, TPU v4; Jouppi et al. 2023"),
    "TPU v5p": Chip(459e12, 95e9, 2765e9, 600e9, {256: (4, 8, 8), 4096: (16, 16, 16)}, 4,
                    "Google Cloud documentation, TPU v5p"),
    "H100": Chip(989e12, 80e9, 3350e9, 450e9, {}, 8, "NVIDIA H100 SXM data sheet; DGX H100 (400 Gb/s a GPU)"),
    "H200": Chip(989e12, 141e9, 4800e9, 450e9, {}, 8, "NVIDIA H200 SXM data sheet; DGX H200 (400 Gb/s a GPU)"),
}  # fmt: skip
NETWORK = Network(island=8, adapter=50e9)
IMAGES, IMAGE_BYTES = 1_281_167, 110_000  # training images of ImageNet 2012, and bytes of one (144 GB in all)
EPOCHS = 90
# Unexpected interruptions of 16,384 H100 in 54 days (The Llama 3 Herd of Models, 2024, section 3.3.4): hours a chip.
CHIP_HOURS = 54 * 24 * 16_384 / 419
CRITICAL = 8192  # images a batch up to which steps fall as the batch grows (Goyal et al. 2017, figure 1)


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What nobody published and no machine here could measure.

    Attributes:
      batch: images a chip.
      efficiency: share of the peak that convolutions reach.
      hop: seconds a message takes to a neighbour chip.
      host_hop: seconds between hosts, over a switched network.
      write: bytes a second that a host writes to shared storage.
      storage: bytes a second that shared storage gives to all hosts together.
      restart: seconds from a fault to the first step: the scheduler, the start of Python and JAX, compiling.
      filled: share of a chip's memory that parameters, gradients and the optimizer's state may take.
    """

    batch: int = 32
    efficiency: float = 0.4
    hop: float = 1e-6
    host_hop: float = 5e-6
    write: float = 1e9
    storage: float = 100e9
    restart: float = 180.0
    filled: float = 0.6


ASSUMED = Assumed()
SIZES = (256, 4096)


def all_reduce(chip: Chip, n: int, size: float, given: Assumed = ASSUMED) -> float:
    """Seconds to add up `size` bytes over n chips and give all of them the sum, by rings.

    Each chip sends and receives 2 (n - 1) / n of the bytes; a ring along each side d of a torus takes 2 (d - 1) hops.
    Between islands of chips, every chip takes its share of the bytes through its own adapter, and small messages go
    along a tree of hosts.
    """
    if n in chip.torus:
        hops = sum(side - 1 for side in chip.torus[n])
        return 2 * (n - 1) / n * size / chip.link + 2 * hops * given.hop
    inner, outer = NETWORK.island, n // NETWORK.island
    inside = 2 * (inner - 1) / inner * size / chip.link + 2 * (inner - 1) * given.hop
    between = 2 * (outer - 1) / outer * size / inner / NETWORK.adapter
    return inside + between + 2 * math.ceil(math.log2(outer)) * given.host_hop


@dataclasses.dataclass(frozen=True)
class Step:
    """Where the time of a step goes, in seconds; what a chip does at once is not added up."""

    compute: float
    memory: float
    gradients: float
    statistics: float

    @property
    def seconds(self) -> float:
        """With none of the gradients' all-reduce hidden behind the backward pass."""
        return max(self.compute, self.memory) + self.gradients + self.statistics


def step_time(chip: Chip, n: int, measured: dict[str, Any] = MEASURED, given: Assumed = ASSUMED) -> Step:
    """The times of one step of n chips."""
    found = measured["data-parallel"]
    small = found["small all-reduces"]
    return Step(
        compute=measured["flops an image"] * given.batch / (chip.flops * given.efficiency),
        memory=measured["convolution outputs an image"] * 2 * PASSES * given.batch / chip.hbm,
        gradients=all_reduce(chip, n, found["gradient bytes"], given),
        statistics=small * all_reduce(chip, n, found["small bytes"] / small, given),
    )


# Times that a convolution's output crosses HBM in a step, if norm and activation are fused: written, read for its
# statistics, read to be normalised, written, read by the next convolution; and in the backward pass about twice that.
PASSES = 15


def state_bytes(measured: dict[str, Any] = MEASURED) -> int:
    """Of a checkpoint: parameters, momentum, running statistics."""
    return sum(measured[f"{part} bytes"] for part in ("parameter", "optimizer", "statistics"))


def between_failures(n: int) -> float:
    """Seconds between two failures of n chips, each by itself as rare as published."""
    return CHIP_HOURS * 3600 / n


def save_every(write: float, mtbf: float) -> float:
    """Seconds between checkpoints that lose least (Young 1974; Daly 2006, equation 37).

    Args:
      write: seconds that a save takes from training.
      mtbf: seconds between failures.
    """
    if write >= 2 * mtbf:
        return mtbf
    ratio = write / (2 * mtbf)
    return math.sqrt(2 * write * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - write


def lost(write: float, every: float, mtbf: float, restart: float) -> float:
    """Share of the time that saves, repeated work and restarts take, to first order."""
    return write / every + (every / 2 + restart) / mtbf


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def measured_table() -> str:
    """What a step is made of."""
    m, parallel, sharded = MEASURED, MEASURED["data-parallel"], MEASURED["fsdp"]
    outputs = m["convolution outputs an image"]
    rows = [
        ("parameters", f"{m['parameters']:,}, {m['parameter bytes'] / 1e6:.0f} MB in float32"),
        ("optimizer state (momentum)", f"{m['optimizer bytes'] / 1e6:.0f} MB"),
        ("running statistics", f"{m['statistics bytes'] / 1e6:.1f} MB"),
        ("arithmetic of a step", f"{m['flops an image'] / 1e9:.1f} GFLOP an image"),
        ("outputs of convolutions, kept for the backward pass",
         f"{outputs / 1e6:.1f} M numbers, {outputs * 2 / 1e6:.0f} MB an image in bfloat16"),
        ("temporary memory of the step as compiled for CPU", f"{m['temporary bytes an image'] / 1e6:.0f} MB an image"),
        ("data-parallel: all-reduce of gradients", f"{parallel['gradient bytes'] / 1e6:.0f} MB a step"),
        ("data-parallel: all-reduces of batch statistics and metrics",
         f"{parallel['small all-reduces']} a step, {parallel['small bytes'] / 1e3:.0f} kB together"),
        *((f"mesh.fsdp=8: {kind}", f"{count} a step, {size / 1e6:.0f} MB of results")
          for kind, (count, size) in sharded.items()),
        ("decoding a JPEG of 110 kB and 500×375 to 224×224", f"{m['decoded a core second']:.0f} images/s a core"),
        ("drawing the order of an epoch", f"{m['order seconds an example'] * 1e9:.0f} ns an example"),
    ]  # fmt: skip
    return table(("measured", ""), rows)


def chips_table() -> str:
    """The published numbers."""
    rows = [
        (name, f"{c.flops / 1e12:.0f}", *(f"{v / 1e9:,.0f}" for v in (c.memory, c.hbm, c.link)), c.source)
        for name, c in PUBLISHED.items()
    ]
    return table(("chip", "bf16 TFLOP/s", "HBM GB", "HBM GB/s", "GB/s out to neighbours", "published in"), rows)


def fits(chip: Chip, n: int) -> bool:
    """Whether so many chips are of one network, as published."""
    return not chip.torus or n in chip.torus


def steps_table() -> str:
    """Times of a step."""
    rows = []
    for n in SIZES:
        for name, chip in PUBLISHED.items():
            if not fits(chip, n):
                rows.append((f"{n:,} × {name}", *["more than a pod"] * 6))
                continue
            s = step_time(chip, n)
            times = [f"{t * 1e3:.2f}" for t in (s.compute, s.memory, s.gradients, s.statistics, s.seconds)]
            rows.append((f"{n:,} × {name}", *times, f"{max(s.compute, s.memory) / s.seconds:.0%}"))
    head = ("chips", "arithmetic ms", "HBM ms", "gradients ms", "statistics ms", "step ms", "share of useful time")
    return table(head, rows)


def input_table() -> str:
    """What the loaders of a host must do."""
    rows = []
    for n in SIZES:
        for name, chip in PUBLISHED.items():
            if not fits(chip, n):
                continue
            total = n * ASSUMED.batch / step_time(chip, n).seconds
            host = total / n * chip.host
            cores = host / MEASURED["decoded a core second"]
            read = total * IMAGE_BYTES
            rows.append((
                f"{n:,} × {name}", f"{total / 1e6:.2f} M", f"{read / 1e9:,.0f}",
                f"{min(1, ASSUMED.storage / read):.0%}", f"{host:,.0f}", f"{host * IMAGE_BYTES / 1e9:.1f}",
                f"{cores:,.0f}",
            ))  # fmt: skip
    head = (
        "chips", "images/s", "GB/s from storage", f"speed at {ASSUMED.storage / 1e9:.0f} GB/s", "images/s a host",
        "GB/s a host", "cores a host to decode",
    )  # fmt: skip
    return table(head, rows)


def faults_table() -> str:
    """Failures, saves and starts."""
    rows = []
    for n in SIZES:
        hosts, mtbf, size = n // 4, between_failures(n), state_bytes()
        for words, write in (
            ("one process writes all", size / ASSUMED.write),
            (f"each of {hosts:,} hosts writes its part", size / min(hosts * ASSUMED.write, ASSUMED.storage)),
        ):
            every = save_every(write, mtbf)
            share = lost(write, every, mtbf, ASSUMED.restart)
            rows.append((
                f"{n:,}", words, f"{mtbf / 3600:,.1f} h", f"{write * 1e3:,.0f} ms", f"{every:,.0f} s", f"{share:.2%}",
                f"{hosts * size / ASSUMED.storage:,.1f} s",
            ))  # fmt: skip
    head = ("chips", "save", "between failures", "a save takes", "save every", "time lost", "all hosts read it back in")
    return table(head, rows)


def batch_table() -> str:
    """What large batches cost."""
    rows = []
    for n in SIZES:
        for batch in (4, 8, 16, 32):
            whole = n * batch
            more = 1 + whole / CRITICAL
            updates = f"{EPOCHS * IMAGES / whole:,.0f}"
            rows.append((f"{n:,}", batch, f"{whole:,}", updates, f"× {more:.1f}", f"{1 / more:.0%}"))
    head = ("chips", "images a chip", "batch", f"updates in {EPOCHS} epochs", "examples needed", "share that helps")
    return table(head, rows)


def memory_table() -> str:
    """The largest model that the memory of a chip holds, by how many chips share one copy."""
    each = 4 * 4  # bytes of a parameter, its gradient and Adam's two moments
    rows = [
        (name, *(f"{c.memory * ASSUMED.filled / each * fsdp / 1e9:,.1f} G" for fsdp in (1, 8, 256)))
        for name, c in PUBLISHED.items()
    ]
    return table(("chip", "parameters, whole on each", "mesh.fsdp=8", "mesh.fsdp=256"), rows)


def data_table() -> str:
    """What the order of the examples costs each host."""
    rows = []
    for examples in (IMAGES, 100_000_000, 1_000_000_000, 2**31 - 1):
        seconds = examples * MEASURED["order seconds an example"]
        rows.append((f"{examples:,}", f"{2 * 4 * examples / 1e9:.2f} GB", f"{seconds:,.1f} s"))
    return table(("examples", "memory of two epochs' orders", "time to draw one"), rows)


def tables() -> dict[str, str]:
    """Every table of docs/scale.md by name."""
    return {
        "measured": measured_table(), "chips": chips_table(), "steps": steps_table(), "input": input_table(),
        "faults": faults_table(), "batch": batch_table(), "memory": memory_table(), "data": data_table(),
    }  # fmt: skip


def main() -> None:
    """Prints the tables."""
    for name, text in tables().items():
        print(f"\n{name}\n\n{text}")


if __name__ == "__main__":
    main()
