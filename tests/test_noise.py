import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import put, tiny, tiny_run

from jtrain import metrics
from jtrain.assembly import assemble
from jtrain.coach.noise_scale import Noise, add
from jtrain.noise import NoiseProbe, chunks_of, make_noise_probe
from jtrain.state import to_flat

HOUSE = {"data__validation": 0.0, "train__batch_size": 16}


@functools.cache
def run_of(*fields):
    return tiny_run(**(HOUSE | dict(fields)))


def plain(run, state, rows):
    """The mean gradient of examples `rows`, written out by hand."""
    return _plain(run.model.apply, run.task.loss)(state.params, state.model_state, *run.data.train.fetch(rows))


@functools.cache
def _plain(apply, per_example):
    def loss(params, model_state, inputs, targets):
        outputs, _ = apply(params, model_state, inputs, key=None, train=False)
        return per_example(outputs, targets).mean()

    return jax.jit(jax.grad(loss))


def square(grads):
    return sum(float((np.asarray(leaf, np.float64) ** 2).sum()) for leaf in jax.tree.leaves(grads))


def expected(run, state, chunks, rows=None):
    """[4], as the probe gives it, of one example after another by hand."""
    rows = run.order.rows(0) if rows is None else rows
    parts = [plain(run, state, rows[i::chunks]) for i in range(chunks)]
    whole = jax.tree.map(lambda *g: sum(g) / chunks, *parts)
    return [np.mean([square(g) for g in parts]), square(whole), len(rows), chunks]


def found(run, step=0, state=None):
    state = run.init_state() if state is None else state
    return np.asarray(make_noise_probe(run, run.phase(step))(state, *run.give(step, 1)))


def test_a_probe_is_the_norm_of_chunks_and_of_the_whole():
    run = run_of()
    state = run.init_state()
    np.testing.assert_allclose(found(run, state=state), expected(run, state, 4), rtol=1e-5)
    grads, sums, _ = run.gradient(state, *(lambda data, rows: (data, rows[0]))(*run.give(0, 1)))
    assert expected(run, state, 4)[1] == pytest.approx(square(grads), rel=1e-5)  # that of the step itself
    assert float(sums["loss"][1]) == 16


@pytest.mark.parametrize(
    "fields",
    [
        {"data__placement": "streamed"},
        {"train__steps_per_call": 1},
        {"train__accumulate": 2},
        {"mesh__devices": 4},
        {"mesh__devices": 8, "data__placement": "streamed"},
        {"mesh__devices": 4, "mesh__fsdp": 2},
        {"mesh__devices": 2, "mesh__shards": 4},
    ],
    ids=str,
)
def test_wherever_data_and_parameters_lie_it_is_the_same(fields):
    run = run_of(*fields.items())
    state = run.init_state()
    np.testing.assert_allclose(found(run, state=state), expected(run, state, 4), rtol=1e-5)


def test_examples_beyond_whole_chunks_are_left_out():
    run = run_of(("train__batch_size", 15), ("train__accumulate", 3))  # 4 chunks of 3; then 3 are left
    state = run.init_state()
    np.testing.assert_allclose(found(run, state=state), expected(run, state, 4, run.order.rows(0)[:12]), rtol=1e-5)


def test_a_batch_too_small_for_chunks_is_not_probed():
    assert [chunks_of(run_of(("train__batch_size", n))) for n in (1, 2, 3, 4, 16)] == [0, 2, 2, 4, 4]
    run = run_of(("train__batch_size", 3))
    probe = NoiseProbe(run_of(("train__batch_size", 1)))
    probe.put(run.init_state(), 0, run.give(0, 1))
    assert (probe.chunks, probe.read()) == (0, None)


def test_examples_without_weight_count_for_nothing():
    run = run_of()
    state = run.init_state()
    data, rows = run.give(0, 1)
    rows = np.array(rows)
    rows[0, 1::4] = -1  # a whole chunk
    rows[0, 4] = -1  # and one example of another
    probed = np.asarray(make_noise_probe(run, run.phase(0))(state, data, jnp.asarray(rows)))
    parts = [rows[0, i::4] for i in (0, 2, 3)]
    parts = [part[part >= 0] for part in parts]
    grads = [plain(run, state, part) for part in parts]
    whole = plain(run, state, np.concatenate(parts))
    chunk_sq = sum(len(part) * square(g) for part, g in zip(parts, grads, strict=True)) / 11
    np.testing.assert_allclose(probed, [chunk_sq, square(whole), 11, 3], rtol=1e-5)


def test_a_phase_is_probed_for_what_it_trains():
    phases = (("0", "head/.*"), ("10steps", ".*"))
    run = run_of(("phases", phases))
    state = run.init_state()
    probe = NoiseProbe(run)
    probe.put(state, 0, run.give(0, 1))
    head = probe.read()
    parts = [plain(run, state, run.order.rows(0)[i::4])["head"] for i in range(4)]
    assert head.chunk_sq == pytest.approx(np.mean([square(g) for g in parts]), rel=1e-5)
    later = run.phases[1].begin(state)
    probe.put(later, 10, run.give(10, 1))
    assert probe.read().chunk_sq > 0


def test_a_probe_changes_no_bit_of_the_state_and_may_be_read_after_it_is_donated():
    run = run_of()
    state = run.init_state()
    before = {path: np.array(leaf) for path, leaf in to_flat(state).items()}
    probe = NoiseProbe(run)
    assert probe.read() is None
    probe.put(state, 0, run.give(0, 1))
    after = {path: np.asarray(leaf) for path, leaf in to_flat(state).items()}
    assert all(np.array_equal(before[path], after[path]) for path in before)
    del after
    run.train_steps(state, *run.give(0, 1))
    assert probe.read().chunk_sq == pytest.approx(float(found(run)[0]))
    assert probe.read() is None


def test_sizes_allow_for_a_batch_that_holds_no_example_twice():
    run = run_of()  # 72 examples
    probe = NoiseProbe(run)
    probe.put(run.init_state(), 0, run.give(0, 1))
    probed = probe.read()
    assert probed.chunk == pytest.approx(1 / (1 / 4 - 1 / 72))
    assert probed.whole == pytest.approx(1 / (1 / 16 - 1 / 72))
    everything = NoiseProbe(run_of(("train__batch_size", 72)))
    everything.put(run.init_state(), 0, run_of(("train__batch_size", 72)).give(0, 1))
    assert everything.read().whole == np.inf


def test_the_mean_over_batches_is_that_of_all_examples_gradients():
    run = run_of()
    state = run.init_state()
    each = [jax.flatten_util.ravel_pytree(plain(run, state, np.array([i])))[0] for i in range(72)]
    exact_g, exact_s = (np.mean(each, axis=0) ** 2).sum(), np.var(each, axis=0, ddof=1).sum()
    probe, sums = NoiseProbe(run), []
    for step in range(450):  # 100 epochs: every example in as many batches as any other
        probe.put(state, step, run.give(step, 1))
        one = add(Noise(), *probe.read())
        sums.append((one.s, one.g))
    s, g = np.mean(sums, axis=0)
    assert s == pytest.approx(exact_s, rel=0.05)
    assert g == pytest.approx(exact_g, rel=0.05)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, inputs, *, train):
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(64)(inputs)))
        return nn.Dense(3)(x)


def test_every_chunk_draws_its_own_dropout():
    """On examples that are all alike, dropout is the only noise: equal draws would look like none at all."""
    alike = np.ones((16, 6), np.float32), np.zeros(16, np.int32)
    data = {"train": alike, "test": (np.ones((3, 6), np.float32), np.arange(3, dtype=np.int32))}
    run = assemble(put(tiny(), **HOUSE, data__normalize=False), model=Dropped(), data=data)
    chunk_sq, whole_sq, *_ = found(run)
    assert chunk_sq > 1.01 * whole_sq


class Convolved(nn.Module):
    @nn.compact
    def __call__(self, inputs, *, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(inputs))
        return nn.Dense(2)(nn.relu(x).mean(axis=(1, 2)))


def test_a_convolution_is_never_in_a_loop_on_cpu_and_batch_statistics_are_a_chunks():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(32, 6, 6, 1)).astype(np.float32), rng.integers(0, 2, 32).astype(np.int32)
    run = assemble(put(tiny(), **HOUSE), model=Convolved(), data=data)
    state = run.init_state()
    given = run.give(0, 1)
    program = make_noise_probe(run, run.phase(0)).lower(state, *given).as_text()
    assert "stablehlo.convolution" in program
    assert "stablehlo.while" not in program
    inputs, targets = run.data.train.fetch(run.order.rows(0))
    squares = []
    for i in range(4):

        def loss(params, i=i):
            outputs, _ = run.model.apply(params, state.model_state, inputs[i::4], key=None, train=True)
            return metrics.weighted_sums(run.task.per_example(outputs, targets[i::4]), jnp.ones(4))["loss"][0] / 4

        squares.append(square(jax.grad(loss)(state.params)))
    assert found(run, state=state)[0] == pytest.approx(np.mean(squares), rel=1e-4)


def test_known_noise_of_a_quadratic():
    """Least squares on normal inputs: tr(Σ) and |G|² in closed form, through a run, within a fifth."""
    features, spread, count = 6, 2.0, 8192
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(count, features)).astype(np.float32)
    truth = rng.normal(size=features)
    targets = (inputs @ truth + spread * rng.normal(size=count)).astype(np.float32)
    fields = {"task__name": "regression", "loss__name": "mse", "model__mlp__features": (), "data__normalize": False}
    run = assemble(put(tiny(batch_size=64), **fields, data__validation=0.0), data={"train": (inputs, targets)})
    state = run.init_state()
    corners = jnp.eye(features + 1, features, -1)
    outputs, _ = run.model.apply(state.params, state.model_state, corners, key=None, train=False)
    bias, *slopes = np.asarray(outputs)[:, 0]
    error = np.append(np.array(slopes) - bias - truth, bias)
    # The gradient of ((x, 1)·e − noise)² is 2 (x, 1) ((x, 1)·e − noise).
    g = 4 * (error**2).sum()
    d = features
    moment = 4 * ((d + 3) * (error[:-1] ** 2).sum() + (d + 1) * (error[-1] ** 2 + spread**2))
    probe, noise = NoiseProbe(run), Noise()
    for step in range(100):
        probe.put(state, step, run.give(step, 1))
        noise = add(noise, *probe.read())
    assert noise.s / noise.g == pytest.approx((moment - g) / g, rel=0.2)
