import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtrain.optim.clip import CLIPS
from jtrain.table import options
from jtrain.tree import flatten, unflatten

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "optimizers.json").read_text())


def first_gradients():
    return unflatten({path: jnp.asarray(values[0], jnp.float32) for path, values in GOLDEN["gradients"].items()})


def clip_all(tx, gradients):
    """The gradients [updates, …] of one parameter after clipping, and the state at the end."""

    def update(state, g):
        updates, state = tx.update({"w": g}, state, {"w": g})
        return state, updates["w"]

    state, clipped = jax.jit(jax.lax.scan, static_argnums=0)(update, tx.init({"w": gradients[0]}), gradients)
    return clipped, state


@pytest.mark.parametrize("case", GOLDEN["clip"], ids=lambda case: f"{case['name']}-{case['limit']}")
def test_clipping_equals_pytorch(case):
    clip = CLIPS[case["name"]](**{f"max_{case['name']}": case["limit"]})
    clipped, _ = clip.update(first_gradients(), clip.init(None))
    for path, leaf in flatten(clipped).items():
        np.testing.assert_allclose(leaf, case["gradients"][path], rtol=2e-6)


@pytest.mark.parametrize("name", CLIPS)
def test_gradient_of_zero_stays(name):
    clip, zeros = CLIPS[name](), {"w": jnp.zeros((3, 2))}
    clipped, _ = clip.update(zeros, clip.init(zeros), {"w": jnp.ones((3, 2))})
    np.testing.assert_array_equal(clipped["w"], np.zeros((3, 2)))


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4, 5)])
def test_adaptive_bounds_each_unit_by_its_weights(shape):
    random = np.random.default_rng(3)
    p = random.normal(size=shape)
    p[..., 0] = 0.0  # weights of zero count as 0.1
    g = random.normal(size=shape) * random.choice([1.0, 0.01], size=shape[-1])
    axes = tuple(range(len(shape) - 1)) or (0,)
    limit = 0.1 * np.maximum(np.sqrt((p**2).sum(axes, keepdims=True)), 0.1)
    norm = np.sqrt((g**2).sum(axes, keepdims=True))
    assert (norm > limit).any()
    clip = CLIPS["adaptive"](clipping=0.1, eps=0.1)
    params = {"w": jnp.asarray(p, jnp.float32)}
    clipped, _ = clip.update({"w": jnp.asarray(g, jnp.float32)}, clip.init(params), params)
    np.testing.assert_allclose(clipped["w"], np.where(norm > limit, g * limit / norm, g), rtol=1e-5)


@pytest.mark.parametrize("percent", [90.0, 50.0, 100.0])
def test_percentile_passes_the_first_gradients_and_then_clips_to_a_frozen_norm(percent):
    random = np.random.default_rng(4)
    gradients = random.normal(size=(40, 3)).astype(np.float32) * random.uniform(0.1, 5, size=(40, 1)).astype(np.float32)
    gradients[20] *= 9
    clipped, state = clip_all(CLIPS["percentile"](percentile=percent, steps=10), jnp.asarray(gradients))
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    threshold = np.percentile(norms[:10], percent)
    np.testing.assert_array_equal(clipped[:10], gradients[:10])
    assert (norms[10:] > threshold).any()
    assert (norms[10:] < threshold).any()
    np.testing.assert_allclose(clipped[10:], gradients[10:] * np.minimum(1, threshold / norms[10:]), rtol=1e-5)
    np.testing.assert_allclose(state.norms, norms[:10, 0], rtol=1e-6)
    np.testing.assert_allclose(state.threshold, threshold, rtol=1e-6)


def test_percentile_takes_the_norm_over_all_parameters():
    clip = CLIPS["percentile"](percentile=100.0, steps=1)
    params = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    same, state = clip.update(params, clip.init(params))
    assert float(state.threshold) == 5.0
    np.testing.assert_array_equal(same["a"], params["a"])
    halved, _ = clip.update(jax.tree.map(lambda g: 2 * g, params), state)
    np.testing.assert_allclose([halved["a"][0], halved["b"][0, 0]], [3.0, 4.0], rtol=1e-6)


def test_percentile_state_is_float32_of_the_length_asked_for():
    state = CLIPS["percentile"](steps=7).init({"w": jnp.zeros(3)})
    assert [(leaf.shape, str(leaf.dtype)) for leaf in state] == [((), "int32"), ((7,), "float32"), ((), "float32")]


def test_percentile_of_no_gradients_does_not_end_the_training():
    gradients = jnp.concatenate([jnp.zeros((5, 2)), jnp.ones((2, 2))])
    clipped, _ = clip_all(CLIPS["percentile"](steps=5), gradients)
    np.testing.assert_array_equal(clipped, gradients)


@pytest.mark.parametrize("name", ["norm", "value", "percentile"])
def test_gradient_that_is_not_a_number_stays_so(name):
    clip, grads = CLIPS[name](), {"w": jnp.array([1.0, jnp.nan])}
    clipped, _ = clip.update(grads, clip.init(grads))
    assert np.isnan(clipped["w"][1])


@pytest.mark.parametrize(
    ("name", "option", "wrong"),
    [("norm", "max_norm", 0.0), ("value", "max_value", -1.0), ("adaptive", "clipping", 0.0), ("adaptive", "eps", 0.0),
     ("percentile", "percentile", 0.0), ("percentile", "percentile", 100.5), ("percentile", "steps", 0)],
)  # fmt: skip
def test_option_out_of_range_is_refused(name, option, wrong):
    with pytest.raises(ValueError, match=r"must be"):
        options(CLIPS[name])[option].check(wrong)


def test_no_clipping_has_no_state():
    assert jax.tree.leaves(CLIPS["none"]().init({"w": jnp.zeros(3)})) == []
    assert isinstance(CLIPS["norm"]().init({}), optax.EmptyState)
