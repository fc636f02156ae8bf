"""Measures what benchmarks/scale.py reckons with, of jtrain's own step for configs/imagenet.py; takes minutes.

    python benchmarks/scale_measure.py

Lowers and compiles the step on small batches of zeros, for one and for 8 simulated devices; prints a dict for MEASURED.
"""

import math
import os
import pprint
import re
import time
from collections.abc import Iterable
from typing import Any

IMAGE_BYTES = 110_000  # of a JPEG in ImageNet


_COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8, "f64": 8}


def collectives(hlo: str) -> list[tuple[str, int]]:
    """(kind, bytes of the result) of every collective operation in the text of a partitioned program."""
    found = []
    for line in hlo.splitlines():
        if match := _COLLECTIVE.search(line):
            shapes = _SHAPE.findall(match[1])
            sizes = [_BYTES[kind] * math.prod(int(side) for side in sides.split(",") if side) for kind, sides in shapes]
            found.append((match[2], sum(sizes)))
    return found


def measure() -> dict[str, Any]:
    """The numbers, each by a name that says its unit."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    import jax
    import numpy as np

    import jtrain
    from jtrain.data.examples import ArrayExamples, DataSet

    def lowered(devices: int, batch: int, fsdp: int = 1) -> tuple[Any, Any]:
        config = jtrain.load("imagenet")
        plain = jtrain.config.base()
        config.data.name, config.data.tfds = plain.data.name, plain.data.tfds
        config.data.validation, config.data.broken, config.data.placement = 0.0, 0, "streamed"
        config.mesh.devices, config.mesh.fsdp, config.train.batch_size = devices, fsdp, batch
        images = np.zeros((64, 224, 224, 3), np.uint8)
        data = DataSet("zeros", ArrayExamples(images, np.zeros(64, np.int32)), None, None, num_outputs=1000)
        run = jtrain.assemble(config, data=data)
        phase = run.phases[0]
        state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            phase.shapes, phase.shardings,
        )  # fmt: skip
        return run, phase.train_step.lower(state, *run.feeds["train"].train_batch(run.order, 0))

    def size(part: Any) -> int:
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(part))

    run, small = lowered(1, 8)
    shapes = run.phases[0].shapes
    found: dict[str, Any] = {
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params)),
        "parameter bytes": size(shapes.params),
        "optimizer bytes": size(shapes.opt_state),
        "statistics bytes": size(shapes.model_state),
        "flops an image": (lowered(1, 16)[1].cost_analysis()["flops"] - small.cost_analysis()["flops"]) / 8,
    }
    program = jax.make_jaxpr(lambda s, x: run.model.apply(s.params, s.model_state, x, key=None, train=True))
    outputs = program(shapes, jax.ShapeDtypeStruct((1, 224, 224, 3), np.uint8)).jaxpr
    found["convolution outputs an image"] = sum(math.prod(shape) for shape in _convolutions(outputs))
    two, four = (lowered(1, batch)[1].compile().memory_analysis().temp_size_in_bytes for batch in (2, 4))
    found["temporary bytes an image"] = (four - two) // 2
    parallel = collectives(lowered(8, 8)[1].compile().as_text())
    # The gradients are one sum, or some few; those of batch statistics and metrics are as many as there are norms.
    large = [nbytes for _, nbytes in parallel if nbytes > 2**20]
    rest = [nbytes for _, nbytes in parallel if nbytes <= 2**20]
    found["data-parallel"] = {
        "gradient bytes": sum(large), "large all-reduces": len(large),
        "small bytes": sum(rest), "small all-reduces": len(rest),
    }  # fmt: skip
    sharded = collectives(lowered(8, 8, 8)[1].compile().as_text())
    kinds = sorted({kind for kind, _ in sharded})
    sizes = {kind: [nbytes for other, nbytes in sharded if other == kind] for kind in kinds}
    found["fsdp"] = {kind: (len(each), sum(each)) for kind, each in sizes.items()}
    return found | {"decoded a core second": _decoded(), "order seconds an example": _order()}


def _convolutions(program: Any) -> Iterable[tuple[int, ...]]:
    """Shapes of the outputs of all convolutions in a program and in those that it calls."""
    for equation in program.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation.outvars[0].aval.shape
        for inner in equation.params.values():
            for each in inner if isinstance(inner, list | tuple) else (inner,):
                each = getattr(each, "jaxpr", each)
                if hasattr(each, "eqns"):
                    yield from _convolutions(each)


def _decoded(images: int = 200) -> float:
    """Images that a core decodes, cuts and resizes in a second of processor time."""
    import io
    from importlib import resources

    from PIL import Image

    from jtrain.data.sources.images import decode

    photo = Image.open(io.BytesIO(resources.files("sklearn.datasets.images").joinpath("china.jpg").read_bytes()))
    photo = photo.resize((500, 375))
    sizes = {}
    for quality in range(70, 99):
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=quality)
        sizes[abs(len(file.getvalue()) - IMAGE_BYTES)] = file.getvalue()
    begun = time.process_time()
    for _ in range(images):
        decode(sizes[min(sizes)], channels=3, size=224)
    return images / (time.process_time() - begun)


def _order(examples: int = 20_000_000) -> float:
    """Seconds of processor time an example to draw an epoch's order."""
    from jtrain.data.order import Order

    begun = time.process_time()
    Order(examples, 1024, seed=0).rows(0)
    return (time.process_time() - begun) / examples


if __name__ == "__main__":
    pprint.pprint(measure(), sort_dicts=False)
