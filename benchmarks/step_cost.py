"""What the NaN guard, metrics and lr as data cost in a step, against a bare `jax.jit` step of the same arithmetic.

    python benchmarks/step_cost.py [--rounds 9] [--model mlp|cnn]

Both take turns on the same batches; printed is the median of paired ratios (jtrain / bare) with its range. The
bare step has no guard, no metrics and its lr compiled in; its parameters are first checked to be jtrain's.
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
import optax

import jtrain
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
    return jtrain.assemble(c, data=DataSet("random", ArrayExamples(inputs, targets), None, None, num_classes=10))


def make_bare(run: Any) -> tuple[Callable[..., Any], Any]:
    """The same update as a plain function of (params, model_state, opt_state)."""
    tx = optax.sgd(0.01, momentum=0.9)

    def step(carry: Any, data: Any, rows: Any) -> tuple[Any, Any]:
        params, model_state, opt_state = carry
        inputs, targets = data["inputs"][rows], data["targets"][rows]

        def loss_fn(params: Any) -> Any:
            outputs, new = run.model.apply(params, model_state, inputs, key=None, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean(), new

        (loss, model_state), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), model_state, opt_state), loss

    state = run.init_state()
    return jax.jit(step, donate_argnums=0), (state.params, state.model_state, tx.init(state.params))


def main() -> None:
    """Measures and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", choices=sorted(SIZES), default="mlp")
    arguments = parser.parse_args()
    run = make_run(arguments.model)
    bare, carry = make_bare(run)
    state = run.init_state()
    given = [run.feeds["train"].train_batch(run.order, step) for step in range(8)]
    for data, rows in given:
        state, _ = run.train_step(state, data, rows)
        carry, _ = bare(carry, data, rows)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(carry[0]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-5)

    def block(step: Callable[..., Any], state: Any) -> tuple[float, Any]:
        begun = time.perf_counter()
        for i in range(SIZES[arguments.model][2]):
            state, out = step(state, *given[i % len(given)])
        jax.block_until_ready((state, out))
        return time.perf_counter() - begun, state

    ratios = []
    for i in range(arguments.rounds):
        pair = {}
        for name in ("jtrain", "bare") if i % 2 else ("bare", "jtrain"):
            if name == "jtrain":
                pair[name], state = block(run.train_step, state)
            else:
                pair[name], carry = block(bare, carry)
        ratios.append(pair["jtrain"] / pair["bare"])
    print(f"jax {jax.__version__}, {jnp.zeros(()).devices()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{arguments.model}: {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) of a bare step")


if __name__ == "__main__":
    main()
