"""One piece of what benchmarks/gpu.py measures, of jtrain; prints what it found as JSON.

python benchmarks/gpu_pieces.py cifar FIRST COUNT | resnet | members | steps | save   --pack FILE --out DIR [--tiny]
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gpu_data import read_pack

import jtrain
from jtrain import config_files
from jtrain.data.order import Order
from jtrain.run import Run
from jtrain.state import TrainState, to_flat

ROUNDS = 7
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # FLOP/s, dense bfloat16, of NVIDIA's data sheets
# Multiplications and additions of one image, forward: of the layers of ResNet-18's CIFAR form; backward is twice that.
RESNET_FLOPS = 3 * 2 * 555_422_720


def cifar(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds from drawn weights to the last update, and test accuracy, of each seed."""
    first, count = map(int, given.more)
    data, config = read_pack(given.pack), config_files.load(f"{Path(__file__).parents[1]}/configs/cifar_fast.py")
    config.data = jtrain.config.base().data
    config.data.validation, config.data.whiten = 0.0, 2
    config.data.name = "digits"  # not read: the pack is given
    if given.tiny:
        config.model.fast_cnn.features, config.train.batch_size, config.train.total = (4, 4, 4), 16, "4steps"
        data = {split: (images[:64], labels[:64]) for split, (images, labels) in data.items()}
    begun = time.perf_counter()
    run = jtrain.assemble(config, data=data)
    state = trained(run, run.init_state(), 0)  # compiles
    run.evaluate(state, "test")
    before = time.perf_counter() - begun
    seconds, accuracy = [], []
    for seed in range(first, first + count):
        config.seed = seed
        own = jtrain.assemble(config, data=data)
        state = jax.block_until_ready(own.init_state())
        begun = time.perf_counter()
        state = trained(run, state, seed)
        seconds.append(time.perf_counter() - begun)
        found = run.evaluate(state, "test")
        accuracy.append(found.get("ema/accuracy", found["accuracy"]))
    return {"seconds": seconds, "accuracy": accuracy, "compiling": before, "updates": run.clock.total}


def resnet(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds an image of ResNet-18's training, and the share of the GPU's arithmetic that it uses."""
    config = jtrain.config.base()
    batch, updates = (8, 2) if given.tiny else (1024, 48)
    config.model.name, config.precision, config.train.batch_size = "resnet", "bfloat16", batch
    config.model.resnet.width = 4 if given.tiny else 0
    config.optimizer.name, config.optimizer.sgd.nesterov = "sgd", True
    run = make_run(config, (32, 32, 3), 2 * batch)
    seconds = [taken / updates / batch for taken in blocks(run, updates)]
    peak = next((peak for name, peak in PEAK.items() if name in jax.devices()[0].device_kind), None)
    mfu = RESNET_FLOPS / float(np.median(seconds)) / peak if peak and not given.tiny else None
    return {"seconds": seconds, "mfu": mfu}


def members(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of 8 learning rates, one run after the other and as one program; their losses agree."""
    config = jtrain.config.base()
    config.model.name, config.model.cnn.features = "cnn", (4,) * 3 if given.tiny else (32, 64, 128)
    config.train.batch_size, config.optimizer.name = (8 if given.tiny else 128), "sgd"
    run = make_run(config, (32, 32, 3), 1024)
    scales, updates = [0.5**k for k in range(8)], 2 if given.tiny else 64
    begin = [dataclasses.replace(run.init_state(), lr_scale=jnp.float32(scale)) for scale in scales]
    together = jax.jit(jax.vmap(run.train_steps, in_axes=(0, None, None)), donate_argnums=0)

    def in_turn(states: list[TrainState]) -> tuple[list[TrainState], Any]:
        states, sums, _ = jtrain.advance(run.train_steps, states, [run.give], 0, updates, most=run.per_call)
        return states, np.array([float(per_member[-1][1]["loss"][0, 0]) for per_member in sums])

    def as_one(states: list[TrainState]) -> tuple[list[TrainState], Any]:
        stacked, sums, _ = jtrain.advance(together, states, [run.give], 0, updates, most=run.per_call)
        return stacked, np.asarray(sums[0][-1][1]["loss"][:, 0, 0])

    alone = [jax.tree.map(jnp.copy, state) for state in begin]
    one = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *begin)]
    (alone, losses), (one, found) = in_turn(alone), as_one(one)
    np.testing.assert_allclose(found, losses, rtol=0.02)  # tens of updates part what rounds differently
    # A second time, since the states are placed otherwise now, for which all is compiled anew.
    alone, one = in_turn(alone)[0], as_one(one)[0]
    taken: dict[str, list[float]] = {"in turn": [], "one program": []}
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        alone = jax.block_until_ready(in_turn(alone)[0])
        middle = time.perf_counter()
        one = jax.block_until_ready(as_one(one)[0])
        taken["in turn"].append((middle - begun) / updates)
        taken["one program"].append((time.perf_counter() - middle) / updates)
    return taken


def steps(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of a tiny MLP, by the number of steps a call; in turn."""
    runs = {}
    for count in (1, 4, 16, 64):
        config = jtrain.config.base()
        config.model.mlp.features, config.train.batch_size, config.train.steps_per_call = (64,), 32, count
        runs[str(count)] = make_run(config, (64,), 1024)
    updates = 64 if given.tiny else 2048
    states = {name: trained(run, run.init_state(), 0, updates) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begun = time.perf_counter()
            states[name] = trained(run, states[name], 0, updates)
            taken[name].append((time.perf_counter() - begun) / updates)
    return {"seconds": taken}


def save(given: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds until a save of 90 MB hands the state back; needs orbax."""
    import orbax.checkpoint  # noqa: F401  a save without it would fail in the background

    from jtrain.io.progress import Screen
    from jtrain.io.record import Record

    config = jtrain.config.base()
    config.train.batch_size, config.model.mlp.features = 16, (64,) if given.tiny else (2048, 2048, 512)
    run = make_run(config, (1024,), 512)
    state, taken = trained(run, run.init_state(), 0, 8), []
    with tempfile.TemporaryDirectory() as folder:
        record = Record(Path(folder), screen=Screen.quiet())
        record.keep_rows(0, 0)
        for number in range(ROUNDS + 1):
            begun = time.perf_counter()
            record.save(number, to_flat(state), {}, best_step=None, block=False)
            taken.append(1000 * (time.perf_counter() - begun))
            state = trained(run, state, 0, 8)
            record.wait()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    return {"milliseconds": taken[1:], "megabytes": size / 1e6}  # the first makes folders


def make_run(config: Any, shape: tuple[int, ...], examples: int) -> Run:
    """A run on random numbers that the device holds."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (examples, *shape)).astype(np.uint8)
    config.data.validation, config.train.total, config.schedule.name = 0.0, "1e6steps", "constant"
    return jtrain.assemble(config, data=(inputs, rng.integers(0, 10, examples).astype(np.int32)))


def trained(run: Run, state: TrainState, seed: int, updates: int = 0) -> TrainState:
    """The state after so many updates (all of the run's) on the batches of a seed, when the device has done them."""
    order = Order(len(run.data.train), run.batch_size, seed)
    give = dataclasses.replace(run, order=order).give
    states, _, _ = jtrain.advance(run.train_steps, [state], [give], 0, updates or run.clock.total, most=run.per_call)
    return jax.block_until_ready(states[0])


def blocks(run: Run, updates: int) -> list[float]:
    """Seconds of each of several blocks of updates, after a first one."""
    state, taken = trained(run, run.init_state(), 0, updates), []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        state = trained(run, state, 0, updates)
        taken.append(time.perf_counter() - begun)
    return taken


PIECES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "cifar": cifar, "resnet": resnet, "members": members, "steps": steps, "save": save,
}  # fmt: skip


def main() -> None:
    """Measures one piece."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("more", nargs="*")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    found = PIECES[given.piece](given)
    device = jax.devices()[0]
    # The name of the GPU that measured it; none for what is only tried.
    kind = device.device_kind if device.platform == "gpu" and not given.tiny else ""
    print(json.dumps(found | {"device": kind, "versions": {"jax": jax.__version__}}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
