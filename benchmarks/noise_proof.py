"""The noise scale that probes tell, against what it is: in closed form, and the long way by every example's gradient.

    python benchmarks/noise_proof.py [--quick]

1. Least squares with inputs of a normal distribution. The gradient of ((x, 1)·e - noise)² has |G|² and tr(Σ) in closed
   form. At a fixed state and along a training, through a run.
2. A small net on digits, the long way: the gradient of every training example by vmap, at a fixed state and, along a
   training, at every state that is probed.

Along a training the truth is the quotient of averages too, of the exact values at the states that were probed, with
the weights that the probes have. A row passes within 20 %; where the interval never was narrow the estimate is silent,
and the row says so.

3. What a probe costs, in updates of the same run, timed in turn with them.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain.assembly import assemble
from jtrain.coach.noise_scale import Noise, add, estimate, interval
from jtrain.config_files import load
from jtrain.io.cache import use_compile_cache
from jtrain.noise import NoiseProbe
from jtrain.run import Run
from jtrain.state import TrainState
from jtrain.studies.study import table

WITHIN = 0.2
FEATURES = 20


def quadratic(spread: float, batch: int, lr: float) -> tuple[Run, Any]:
    """(a run of least squares, state -> (tr Σ, |G|²) in closed form); targets spread so much about the plane."""
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(50_000, FEATURES)).astype(np.float32)
    truth = rng.normal(size=FEATURES) / FEATURES**0.5
    targets = (inputs @ truth + spread * rng.normal(size=len(inputs))).astype(np.float32)
    config = configs.changed(
        configs.base(), task__name="regression", loss__name="mse", model__mlp__features=(), data__normalize=False,
        data__validation=0.0, train__batch_size=batch, train__total="20epochs", mesh__devices=1,
        optimizer__name="sgd", optimizer__lr=lr, schedule__name="constant", schedule__warmup="0steps",
    )  # fmt: skip
    run = assemble(config, data={"train": (inputs, targets)})
    corners = np.concatenate([np.zeros((1, FEATURES)), np.eye(FEATURES)]).astype(np.float32)

    def exact(state: TrainState) -> tuple[float, float]:
        outputs, _ = run.model.apply(state.params, state.model_state, corners, key=None, train=False)
        bias, *ends = np.asarray(outputs, np.float64)[:, 0]
        slope = ((np.array(ends) - bias - truth) ** 2).sum()
        other = bias**2
        moment = 4 * ((FEATURES + 3) * slope + (FEATURES + 1) * (other + spread**2))
        g = 4 * (slope + other)
        return moment - g, g

    return run, exact


def digits(batch: int, lr: float = 1e-3) -> tuple[Run, Any]:
    """(a run of a small net on digits, state -> (tr Σ, |G|²) of all training examples' gradients)."""
    config = configs.changed(
        configs.base(), data__name="digits", model__name="mlp", model__mlp__features=(32,), model__mlp__dropout=0.0,
        train__batch_size=batch, train__total="60epochs", mesh__devices=1, optimizer__lr=lr,
    )  # fmt: skip
    run = assemble(config)
    inputs, targets = run.data.train.arrays()

    @jax.jit
    def exact(params: Any, model_state: Any) -> tuple[jax.Array, jax.Array]:
        def loss(params: Any, one: jax.Array, target: jax.Array) -> jax.Array:
            outputs, _ = run.model.apply(params, model_state, one[None], key=None, train=True)
            return run.task.loss(run.task.shown(outputs), target[None])[0]

        def gradient(pair: Any) -> jax.Array:
            return jax.flatten_util.ravel_pytree(jax.grad(loss)(params, *pair))[0]

        each = jax.lax.map(gradient, (inputs, targets), batch_size=256)
        mean = each.mean(axis=0)
        spread = jnp.square(each - mean[None]).sum() / (len(inputs) - 1)
        return spread, jnp.square(mean).sum()

    return run, lambda state: tuple(map(float, exact(state.params, state.model_state)))


def fixed(run: Run, exact: Any, after: int, probes: int) -> tuple[Noise, float]:
    """(probes at the state after so many updates, the true noise scale there)."""
    state = trained(run, run.init_state(), 0, after)
    probe, noise = NoiseProbe(run), Noise()
    for step in range(after, after + probes):
        probe.put(state, step, run.give(step, 1))
        noise = add(noise, *probe.read())
    s, g = exact(state)
    return noise, s / g


def along(run: Run, exact: Any, every: int, probes: int) -> tuple[Noise, float]:
    """(probes every so many updates of a training, the true quotient of averages)."""
    state, noise, truth = run.init_state(), Noise(), Noise()
    probe = NoiseProbe(run)
    for step in range(0, every * probes, every):
        probe.put(state, step, run.give(step, 1))
        noise = add(noise, *probe.read())
        s, g = exact(state)
        truth = add(truth, g + s, g, 1.0, np.inf)
        state = trained(run, state, step, step + every)
    return noise, truth.s / truth.g


def trained(run: Run, state: TrainState, start: int, stop: int) -> TrainState:
    """The state after update `stop`."""
    for step in range(start, stop):
        state, _ = run.train_steps(state, *run.give(step, 1))
    return state


def row(words: str, noise: Noise, truth: float) -> dict[str, Any]:
    """What one case came to."""
    told, wide = estimate(noise), interval(noise)
    off = noise.s / noise.g / truth - 1.0
    ends = f"{wide.low:.4g} to {wide.high:.4g}" if wide else "none"
    verdict = "silent" if told is None else "passed" if abs(off) <= WITHIN else "FAILED"
    return {
        "case": words, "probes": noise.probes, "true": f"{truth:.4g}", "told": f"{noise.s / noise.g:.4g}",
        "off": f"{off:+.1%}", "interval": ends, "": verdict,
    }  # fmt: skip


def cost(words: str, config: Any, rounds: int, **data: Any) -> dict[str, Any]:
    """Seconds of a probe and of an update, in turn."""
    run = assemble(config, **data)
    state, probe = run.init_state(), NoiseProbe(run)
    seconds: dict[str, list[float]] = {"update": [], "probe": []}
    for step in range(rounds + 2):
        given = jax.block_until_ready(run.give(step, 1))
        start = time.perf_counter()
        probe.put(state, step, given)
        probe.read()
        between = time.perf_counter()
        state, sums = run.train_steps(state, *given)
        jax.block_until_ready(sums)
        if step >= 2:  # the first ones compile
            seconds["probe"].append(between - start)
            seconds["update"].append(time.perf_counter() - between)
    update, one = (statistics.median(seconds[name]) for name in ("update", "probe"))
    ratio = one / update
    return {
        "run": words, "batch": run.batch_size, "update, ms": f"{update * 1e3:.4g}", "probe, ms": f"{one * 1e3:.4g}",
        "probe / update": f"{ratio:.2f}", "a probe every 200 updates": f"{ratio / 200:.2%}",
    }  # fmt: skip


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    quick = parser.parse_args().quick
    use_compile_cache()
    rows = []
    for spread, batch, after in ((1.0, 64, 0), (3.0, 16, 0), (1.0, 64, 30), (3.0, 64, 30))[: 2 if quick else None]:
        run, exact = quadratic(spread, batch, lr=1e-3)
        name = f"quadratic, noise {spread:g}, batch {batch}"
        rows.append(row(f"{name}, fixed after {after} updates", *fixed(run, exact, after, 100)))
    for spread, batch, lr in ((1.0, 64, 1e-4), (3.0, 256, 1e-4)):
        run, exact = quadratic(spread, batch, lr)
        rows.append(row(f"quadratic, noise {spread:g}, batch {batch}, along {100 * 5}", *along(run, exact, 5, 100)))
    for batch, after in ((32, 0), (32, 50), (32, 100), (128, 100), (128, 200))[: 2 if quick else None]:
        run, exact = digits(batch)
        rows.append(row(f"digits net, batch {batch}, fixed after {after} updates", *fixed(run, exact, after, 400)))
    for batch, every, lr in ((32, 4, 1e-4), (32, 10, 1e-4), (128, 4, 1e-4), (128, 1, 1e-3)):
        run, exact = digits(batch, lr)
        rows.append(row(f"digits net, batch {batch}, lr {lr:g}, along {every * 200}", *along(run, exact, every, 200)))
    print(table(rows))
    print()
    one_device = {"mesh__devices": 1}
    costs = [cost("digits", configs.changed(load("digits"), **one_device), 100)]
    if not quick:
        cnn = configs.changed(load("cifar:shapes"), **one_device)
        costs.append(cost("small CNN, 32×32×3", cnn, 15))
    print(table(costs))
    print(f"\non {meshes.describe(assemble(load('digits')).mesh)}, jax {jax.__version__}")


if __name__ == "__main__":
    main()
