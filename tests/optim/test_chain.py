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
from jtrain.tree import flatten, split

PARAMS = {
    "head": {"kernel": jnp.arange(1.0, 7.0).reshape(2, 3), "bias": jnp.array([0.5, -1.0, 2.0])},
    "stem": {"kernel": jnp.array([[3.0, -4.0]]), "scale": jnp.array([1.0, 1.5])},
}
GRADS = jax.tree.map(lambda p: jnp.cos(p) + 0.25, PARAMS)
PATHS = list(flatten(PARAMS))
ALL = ((".*", 1.0),)
PLAIN = OPTIMIZERS["sgd"](momentum=0.0, weight_decay=0.0)


def constant(lr):
    return SCHEDULES["constant"](lr, 100)


def one_update(core, rules=ALL, *, decays=(), clip=None, lr=0.1, lr_scale=1.0, step=0, schedule=None):
    """The updates of the trainable parameters by path."""
    groups = build_groups(rules, PATHS)
    tx, _ = build(core, schedule or constant(lr), groups, set(decays), clip or CLIPS["none"]())
    params, grads = split(PARAMS, set(groups.labels))[0], split(GRADS, set(groups.labels))[0]
    updates, _ = tx.update(grads, tx.init(params), params, step=jnp.int32(step), lr_scale=jnp.float32(lr_scale))
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    return flatten(updates)


def sgd(weight_decay, decay):
    return OPTIMIZERS["sgd"](momentum=0.0, weight_decay=weight_decay, decay=decay)


def test_step_is_lr_times_gradient_downhill():
    for path, update in one_update(PLAIN).items():
        np.testing.assert_allclose(update, -0.1 * flatten(GRADS)[path], rtol=1e-6)


@pytest.mark.parametrize("decay", ["coupled", "decoupled", "independent"])
@pytest.mark.parametrize("lr_scale", [1.0, 0.5])
def test_decay_of_adam_in_closed_form(decay, lr_scale):
    # The first update of Adam with eps → 0 is the sign of its gradient, up to the rounding of 1 - b2 (7e-6).
    core = OPTIMIZERS["adam"](eps=1e-12, weight_decay=0.2, decay=decay)
    updates = one_update(core, ((".*", 3.0),), decays=["head/kernel", "stem/scale"], lr=0.1, lr_scale=lr_scale)
    lr = 0.1 * 3.0 * lr_scale
    for path, update in updates.items():
        p, g = np.asarray(flatten(PARAMS)[path]), np.asarray(flatten(GRADS)[path])
        wd = 0.2 if path in ("head/kernel", "stem/scale") else 0.0
        expected = {
            "coupled": -lr * np.sign(g + wd * p),
            "decoupled": -lr * (np.sign(g) + wd * p),
            "independent": -lr * np.sign(g) - wd * p,
        }
        np.testing.assert_allclose(update, expected[decay], rtol=1e-5, atol=5e-6, err_msg=path)


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_coupled_and_decoupled_decay_agree_for_plain_sgd(decay):
    updates = one_update(sgd(0.2, decay), decays=PATHS)
    for path, update in updates.items():
        expected = -0.1 * (flatten(GRADS)[path] + 0.2 * flatten(PARAMS)[path])
        np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_momentum_gathers_coupled_decay_but_not_decoupled():
    moved = {}
    for decay in ("coupled", "decoupled", "independent"):
        core = OPTIMIZERS["sgd"](momentum=0.5, weight_decay=0.1, decay=decay)
        tx, _ = build(core, constant(0.1), build_groups(ALL, ["w"]), {"w"}, CLIPS["none"]())
        params = {"w": jnp.float32(1.0)}
        state = tx.init(params)
        for step in range(2):
            grads = {"w": jnp.float32(2.0)}
            updates, state = tx.update(grads, state, params, step=jnp.int32(step), lr_scale=jnp.float32(1))
            params = optax.apply_updates(params, updates)
        moved[decay] = float(params["w"])
    # coupled: v 2.1, w 0.79, v 0.5·2.1 + 2 + 0.079, w 0.79 - 0.3129
    # decoupled: w 1 - 0.2 - 0.01, then 0.79 - 0.3 - 0.0079; independent: w 1 - 0.2 - 0.1, then 0.7 - 0.3 - 0.07
    expected = {"coupled": 0.4771, "decoupled": 0.4821, "independent": 0.33}
    assert moved == pytest.approx(expected, rel=1e-6)


def test_multiplier_scales_the_lr_of_its_group():
    updates = one_update(PLAIN, (("head/.*", 2.0), (".*/scale", 0), (".*", 0.1)))
    times = {"head/kernel": 2.0, "head/bias": 2.0, "stem/scale": 0.0, "stem/kernel": 0.1}
    for path, update in updates.items():
        np.testing.assert_allclose(update, -0.1 * times[path] * flatten(GRADS)[path], rtol=1e-6)


def test_schedule_is_read_at_the_step_that_is_passed():
    schedule = SCHEDULES["linear"](1.0, 10)
    for path, update in one_update(PLAIN, schedule=schedule, step=4).items():
        np.testing.assert_allclose(update, -0.6 * flatten(GRADS)[path], rtol=1e-6)


def test_frozen_leaf_has_no_update_and_no_state():
    groups = build_groups((("stem/.*", None), (".*", 1.0)), PATHS)
    tx, _ = build(OPTIMIZERS["adam"](), constant(0.1), groups, set(), CLIPS["none"]())
    trained, frozen = split(PARAMS, set(groups.labels))
    state = tx.init(trained)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state))
    assert sizes == [1, 3, 3, 6, 6]  # the counter of Adam, two moments of head/bias and of head/kernel
    assert set(flatten(frozen)) == groups.frozen
    assert set(one_update(PLAIN, (("stem/.*", None), (".*", 1.0)))) == {"head/bias", "head/kernel"}


def test_clip_takes_the_norm_over_all_groups_but_the_frozen():
    rules = (("stem/scale", None), ("head/.*", 1.0), (".*", 0.5))
    updates = one_update(PLAIN, rules, clip=CLIPS["norm"](max_norm=0.5), lr=1.0)
    trained = {path: np.asarray(g) for path, g in flatten(GRADS).items() if path != "stem/scale"}
    norm = np.sqrt(sum((g**2).sum() for g in trained.values()))
    assert norm > 0.5
    for path, update in updates.items():
        times = 1.0 if path.startswith("head/") else 0.5
        np.testing.assert_allclose(update, -times * trained[path] * 0.5 / norm, rtol=1e-5)


def test_clip_comes_before_coupled_decay():
    updates = one_update(sgd(0.5, "coupled"), decays=PATHS, clip=CLIPS["norm"](max_norm=1e-6), lr=1.0)
    for path, update in updates.items():
        np.testing.assert_allclose(update, -0.5 * flatten(PARAMS)[path], rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_lr_scale_multiplies_the_finished_update(decay):
    full = one_update(sgd(0.2, decay), decays=PATHS)
    for path, update in one_update(sgd(0.2, decay), decays=PATHS, lr_scale=0.25).items():
        np.testing.assert_array_equal(update, 0.25 * full[path])


def test_lr_scale_zero_leaves_only_independent_decay():
    for path, update in one_update(sgd(0.2, "independent"), decays=PATHS, lr_scale=0.0).items():
        np.testing.assert_allclose(update, -0.2 * flatten(PARAMS)[path], rtol=1e-6)


def test_many_lr_scales_and_steps_need_one_compilation():
    tx, _ = build(
        OPTIMIZERS["adamw"](), SCHEDULES["cosine"](0.1, 10), build_groups(ALL, PATHS), set(PATHS), CLIPS["norm"]()
    )
    traces = []

    @jax.jit
    def update(state, step, lr_scale):
        traces.append(1)
        return tx.update(GRADS, state, PARAMS, step=step, lr_scale=lr_scale)

    state = tx.init(PARAMS)
    for step, lr_scale in enumerate([1.0, 0.1, 3.0, 0.0]):
        updates, state = update(state, jnp.int32(step), jnp.float32(lr_scale))
    assert len(traces) == 1
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))


def test_schedules_tell_the_lr_of_every_trained_group():
    rules = (("stem/scale", None), ("head/.*", 2.0), (".*", 0.5))
    schedule = SCHEDULES["linear"](1.0, 10)
    _, schedules = build(PLAIN, schedule, build_groups(rules, PATHS), set(), CLIPS["none"]())
    assert list(schedules) == ["head/.*", ".*"]
    assert float(schedules["head/.*"](3)) == pytest.approx(1.4)
    assert float(schedules[".*"](3)) == pytest.approx(0.35)
    np.testing.assert_allclose(schedules[".*"](np.arange(3)), [0.5, 0.45, 0.4])


def test_order_of_the_dict_does_not_matter():
    groups = build_groups((("head/.*", 2.0), (".*", 0.5)), PATHS)
    core = OPTIMIZERS["adamw"](weight_decay=0.1)
    tx, _ = build(core, constant(0.1), groups, {"head/kernel"}, CLIPS["none"]())

    def turned(tree):
        return {k: turned(v) if isinstance(v, dict) else v for k, v in reversed(tree.items())}

    now = {"step": jnp.int32(0), "lr_scale": jnp.float32(1)}
    straight, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, **now)
    other, _ = tx.update(turned(GRADS), tx.init(turned(PARAMS)), turned(PARAMS), **now)
    for path, update in flatten(straight).items():
        np.testing.assert_array_equal(flatten(other)[path], update)


def test_state_and_updates_are_float32():
    tx, _ = build(OPTIMIZERS["adam"](), constant(0.1), build_groups(ALL, PATHS), set(), CLIPS["norm"]())
    state = tx.init(PARAMS)
    updates, state = tx.update(GRADS, state, PARAMS, step=jnp.int32(0), lr_scale=jnp.float32(1))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"int32", "float32"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(updates)} == {"float32"}
