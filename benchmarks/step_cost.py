"""What a step of jtrain costs against a bare `jax.jit` step of the same arithmetic, and what its NaN guard is of that.

    python benchmarks/step_cost.py [--rounds 15] [--model mlp|cnn]

All take turns on the same batches; printed are medians of paired ratios with their range. The bare step has no guard,
no metrics, no gradient norm, its lr compiled in; the unguarded one is jtrain's with the guard folded away. Their
parameters are first checked to be the same.
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


def make_unguarded() -> Callable[..., Any]:
    """jtrain's step compiled with a guard that is constant, so that XLA folds it away."""
    judged = steps._judged
    steps._judged = lambda state, good, *rest: (state.extra, jnp.asarray(True), ~good)
    try:
        run = make_run(ARGUMENTS.model)
        run.train_step.lower(run.init_state(), *run.feeds["train"].train_batch(run.order, 0))  # traced here
        return run.train_step
    finally:
        steps._judged = judged


def main() -> None:
    """Measures and prints the ratios."""
    run = make_run(ARGUMENTS.model)
    bare, carry = make_bare(run)
    contenders = {"jtrain": run.train_step, "bare": bare, "unguarded": make_unguarded()}
    states = {"jtrain": run.init_state(), "bare": carry, "unguarded": run.init_state()}
    given = [run.feeds["train"].train_batch(run.order, step) for step in range(8)]
    for name, step in contenders.items():
        for data, rows in given:
            states[name], _ = step(states[name], data, rows)
    for name, params in (("bare", states["bare"][0]), ("unguarded", states["unguarded"].params)):
        for ours, theirs in zip(jax.tree.leaves(states["jtrain"].params), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-5, err_msg=name)

    def block(name: str) -> float:
        begun = time.perf_counter()
        for i in range(SIZES[ARGUMENTS.model][2]):
            states[name], out = contenders[name](states[name], *given[i % len(given)])
        jax.block_until_ready((states[name], out))
        return time.perf_counter() - begun

    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(ARGUMENTS.rounds):
        for name in names[i % 3 :] + names[: i % 3]:
            times[name].append(block(name))
    load = os.getloadavg()[0]
    print(f"jax {jax.__version__}, {jnp.zeros(()).devices()}, {os.cpu_count()} cores, load {load:.1f}")
    for other in ("bare", "unguarded"):
        ratios = [a / b for a, b in zip(times["jtrain"], times[other], strict=True)]
        spread = f"{min(ratios):.3f}–{max(ratios):.3f}"
        print(
            f"{ARGUMENTS.model}: {statistics.median(ratios):.3f} ({spread}) of the {other} step, {len(ratios)} rounds"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", choices=sorted(SIZES), default="mlp")
    ARGUMENTS = parser.parse_args()
    main()
