"""What the guard against gradients that are not finite costs, of a step of jtrain.

    python benchmarks/step_cost.py [--rounds 15] [--model mlp|cnn]

jtrain's step and the same with the guard folded away take turns on the same batches; printed is the median of paired
ratios with its range. Their parameters are first checked to be the same. What a step costs beside a bare one is
measured by mlp_step.py and resnet20.py.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jtrain
from jtrain import step as steps
from jtrain.data.examples import ArrayExamples, DataSet

SIZES = {"mlp": ((64,), 256, 400), "cnn": ((32, 32, 3), 128, 6)}  # example shape, batch, steps a block


def make_run(model: str) -> Any:
    """A run of plain SGD with momentum at a constant lr."""
    shape, batch, _ = SIZES[model]
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(batch * 8, *shape)).astype(np.float32)
    targets = rng.integers(0, 10, len(inputs)).astype(np.int32)
    c = jtrain.config.base()
    c.data.validation, c.data.normalize = 0.0, False
    c.model.name = model
    if model == "mlp":
        c.model.mlp.features, c.model.mlp.dropout = (512, 512), 0.0
    c.optimizer.name, c.optimizer.lr = "sgd", 0.01
    c.optimizer.sgd.weight_decay = 0.0
    c.schedule.name = "constant"
    c.train.batch_size = batch
    return jtrain.assemble(c, data=DataSet("random", ArrayExamples(inputs, targets), None, None, num_outputs=10))


def make_unguarded(model: str) -> Callable[..., Any]:
    """jtrain's step compiled with a guard that is constant, so that XLA folds it away."""
    judged = steps._judged
    steps._judged = lambda state, good, *rest: (state.extra, jnp.asarray(True), ~good)
    try:
        run = make_run(model)
        run.train_step.lower(run.init_state(), *run.feeds["train"].train_batch(run.order, 0))  # traced here
        return run.train_step
    finally:
        steps._judged = judged


def main() -> None:
    """Measures and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", choices=sorted(SIZES), default="mlp")
    arguments = parser.parse_args()
    run = make_run(arguments.model)
    contenders = {"jtrain": run.train_step, "unguarded": make_unguarded(arguments.model)}
    states = {name: run.init_state() for name in contenders}
    given = [run.feeds["train"].train_batch(run.order, step) for step in range(8)]
    for name, step in contenders.items():
        for data, rows in given:
            states[name], _ = step(states[name], data, rows)
    for ours, other in zip(*(jax.tree.leaves(states[name].params) for name in contenders), strict=True):
        np.testing.assert_allclose(ours, other, rtol=2e-3, atol=2e-5)

    def block(name: str) -> float:
        begun = time.perf_counter()
        for i in range(SIZES[arguments.model][2]):
            states[name], out = contenders[name](states[name], *given[i % len(given)])
        jax.block_until_ready((states[name], out))
        return time.perf_counter() - begun

    ratios = []
    for i in range(arguments.rounds):
        times = {name: block(name) for name in (list(contenders) if i % 2 else list(contenders)[::-1])}
        ratios.append(times["jtrain"] / times["unguarded"])
    load = os.getloadavg()[0]
    print(f"jax {jax.__version__}, {jnp.zeros(()).devices()}, {os.cpu_count()} cores, load {load:.1f}")
    spread = f"{min(ratios):.3f}–{max(ratios):.3f}"
    print(f"{arguments.model}: {statistics.median(ratios):.3f} ({spread}) of the unguarded step, {len(ratios)} rounds")


if __name__ == "__main__":
    main()
