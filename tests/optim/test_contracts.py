"""What every optimizer, and every optimizer with every clipping, must hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtrain.optim.chain import build
from jtrain.optim.clip import CLIPS
from jtrain.optim.groups import build_groups
from jtrain.optim.optimizers import OPTIMIZERS
from jtrain.optim.schedules import SCHEDULES
from jtrain.state import from_flat, new_state, to_flat
from jtrain.table import options
from jtrain.tree import flatten, split

SHAPES = {"conv": {"bias": (3,), "kernel": (2, 2, 2, 3)}, "embed": {"embedding": (5, 3)}, "head": {"kernel": (3, 2)}}
PATHS = ["conv/bias", "conv/kernel", "embed/embedding", "head/kernel"]
RULES = (("conv/.*", 0.5), (".*", 1.0))
LR = 0.1


def draw(seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def chain(name, clip="none", rules=RULES, **core_options):
    core = OPTIMIZERS[name](**core_options)
    make_clip = functools.partial(CLIPS[clip], **({"steps": 2} if clip == "percentile" else {}))
    return build(core, SCHEDULES["constant"](LR, 10), build_groups(rules, PATHS), set(PATHS), make_clip())[0]


@functools.cache
def compiled(name):
    """(tx, its update under jit, the list that a tracing adds to)."""
    tx, traces = chain(name), []

    def update(grads, state, params, step, lr_scale):
        traces.append(1)
        return tx.update(grads, state, params, step=step, lr_scale=lr_scale)

    return tx, jax.jit(update), traces


def run(name, grads, params, *, steps=1, lr_scale=1.0):
    tx, update, _ = compiled(name)
    state = tx.init(params)
    for step in range(steps):
        updates, state = update(grads, state, params, jnp.int32(step), jnp.float32(lr_scale))
    return updates, state


def once(tx, grads, params):
    return tx.update(grads, tx.init(params), params, step=jnp.int32(0), lr_scale=jnp.float32(1))[0]


def spec(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_keeps_its_shapes_and_is_of_arrays(name):
    params = draw(0)
    before = compiled(name)[0].init(params)
    updates, after = run(name, draw(1), params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(before))
    assert spec(after) == spec(before)
    assert spec(updates) == spec(params)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(before)} <= {"float32", "int32"}
    assert all(leaf.dtype == jnp.float32 or leaf.ndim == 0 for leaf in jax.tree.leaves(before))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_goes_downhill_at_first(name):
    grads = draw(1)
    updates, _ = run(name, grads, draw(0))
    for path, update in flatten(updates).items():
        # Decay, and muon's directions, may turn single entries, but not a leaf as a whole.
        assert float(jnp.sum(update * flatten(grads)[path])) < 0, path


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_many_lr_scales_need_one_compilation_and_zero_moves_nothing(name):
    grads, params = draw(1), draw(0)
    full, _ = run(name, grads, params)
    traced = len(compiled(name)[2])
    for lr_scale in (0.5, 3.0):
        scaled, _ = run(name, grads, params, lr_scale=lr_scale)
        jax.tree.map(lambda s, f, by=lr_scale: np.testing.assert_allclose(s, by * f, rtol=1e-6), scaled, full)
    still, _ = run(name, grads, params, lr_scale=0.0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(still))
    assert len(compiled(name)[2]) == traced == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_finite_with_gradients_of_zero_and_parameters_of_zero(name):
    zeros = jax.tree.map(jnp.zeros_like, draw(0))
    for params in (draw(0), zeros):
        updates, state = run(name, zeros, params, steps=3)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_leaf_has_no_state(name):
    rules = (("conv/kernel|embed/.*", None), (".*", 1.0))
    trained, frozen = split(draw(0), {"conv/bias", "head/kernel"})
    tx = chain(name, rules=rules)
    state = tx.init(trained)
    assert {leaf.shape for leaf in jax.tree.leaves(state)} <= {(), (3,), (3, 2)}
    assert len(jax.tree.leaves(state)) == len({id(leaf) for leaf in jax.tree.leaves(state)})  # else donated twice
    updates = once(tx, split(draw(1), set(flatten(trained)))[0], trained)
    assert set(flatten(updates)) == set(flatten(trained))
    assert not set(flatten(updates)) & set(flatten(frozen))


def decays_of(name):
    return options(OPTIMIZERS[name])["decay"].kind.__args__


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if "coupled" in decays_of(n)])
def test_coupled_decay_is_a_larger_gradient(name):
    params, grads = draw(0), draw(1)
    coupled = once(chain(name, weight_decay=0.2, decay="coupled"), grads, params)
    larger = jax.tree.map(lambda g, p: g + 0.2 * p, grads, params)
    plain = once(chain(name, weight_decay=0.0), larger, params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), coupled, plain)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_independent_decay_ignores_lr_and_multiplier(name):
    params, grads = draw(0), draw(1)
    plain = once(chain(name, weight_decay=0.0), grads, params)
    independent = once(chain(name, weight_decay=0.2, decay="independent"), grads, params)
    expected = jax.tree.map(lambda u, p: u - 0.2 * p, plain, params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), independent, expected)


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n != "lamb"])  # lamb scales it, see test_optimizers
def test_decoupled_decay_is_multiplied_by_lr_and_multiplier(name):
    params, grads = draw(0), draw(1)
    plain = once(chain(name, weight_decay=0.0), grads, params)
    decoupled = once(chain(name, weight_decay=0.2, decay="decoupled"), grads, params)
    for path, update in flatten(decoupled).items():
        lr = LR * (0.5 if path.startswith("conv/") else 1.0)
        expected = flatten(plain)[path] - lr * 0.2 * flatten(params)[path]
        np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_survives_a_checkpoint(name, clip):
    params, grads, tx = draw(0), draw(1), chain(name, clip)
    update = functools.partial(tx.update, params=params, lr_scale=jnp.float32(1))
    _, opt_state = update(grads, tx.init(params), step=jnp.int32(0))
    state = new_state(params, {}, opt_state, key=np.zeros(2, np.uint32), lr_scale=1.0, ema=False, extra={})
    kept = {path: np.asarray(leaf) for path, leaf in to_flat(state).items()}
    assert len(kept) == len(jax.tree.leaves(state))
    fresh = new_state(
        params, {}, jax.eval_shape(tx.init, params), key=np.zeros(2, np.uint32), lr_scale=1.0, ema=False, extra={}
    )
    restored = from_flat(kept, fresh).opt_state
    assert jax.tree.structure(restored) == jax.tree.structure(opt_state)
    for path, leaf in to_flat(fresh).items():
        assert (kept[path].shape, kept[path].dtype) == (leaf.shape, leaf.dtype), path
    straight, _ = update(grads, opt_state, step=jnp.int32(1))
    resumed, _ = update(grads, jax.tree.map(jnp.asarray, restored), step=jnp.int32(1))
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains(name):
    """A least-squares problem, at 3 times the default lr: the loss falls by at least a tenth."""
    target, params = draw(5), draw(0)
    core = OPTIMIZERS[name](weight_decay=0.0)
    schedule = SCHEDULES["constant"](3 * core.default_lr, 300)
    tx, _ = build(core, schedule, build_groups(((".*", 1.0),), PATHS), set(), CLIPS["none"]())

    def loss(params):
        return sum(jax.tree.leaves(jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params, target)))

    def update(carry, step):
        params, opt_state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params, step=step, lr_scale=jnp.float32(1))
        return (optax.apply_updates(params, updates), opt_state), value

    values = jax.jit(jax.lax.scan, static_argnums=0)(update, (params, tx.init(params)), jnp.arange(300))[1]
    assert float(values[-1]) < 0.9 * float(values[0])
