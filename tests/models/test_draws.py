"""Draws on the host: as the program says, by keys alone; what is no plain draw is left to the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import linen as nn
from flax import nnx
from helpers import blobs, put, tiny, tiny_run

from jtrain.assembly import assemble
from jtrain.models import draws
from jtrain.models.initializers import INITIALIZERS
from jtrain.state import to_flat

SHAPE = (200, 100)
JAX = jax.nn.initializers
DRAWN = {
    "lecun_normal": JAX.lecun_normal(),
    "he_normal": JAX.he_normal(),
    "glorot_uniform": JAX.glorot_uniform(),
    "normal": JAX.normal(0.3),
    "uniform": JAX.uniform(0.2),
    "truncated_normal": JAX.truncated_normal(0.1),
    "fan_out": JAX.variance_scaling(2.0, "fan_out", "normal"),
    "embedding": nn.linear.default_embed_init,
    "shifted": lambda key, shape, dtype: 3.0 + jnp.exp(jax.random.normal(key, shape, dtype)),
}


def drawn(function, *more, root=b"0", names=("out",)):
    program = jax.make_jaxpr(function)(jax.random.key(0), *more)
    return dict(draws.draw(program, root, names))


@pytest.mark.parametrize("name", DRAWN)
def test_values_are_distributed_as_those_of_the_device(name):
    function = functools.partial(DRAWN[name], shape=SHAPE, dtype=jnp.float32)
    found = drawn(lambda key: function(key))["out"]
    there = np.asarray(function(jax.random.key(1)))
    assert (found.dtype, found.shape) == (np.float32, SHAPE)
    assert scipy.stats.ks_2samp(found.ravel(), there.ravel()).pvalue > 1e-3
    assert len(np.unique(found)) > 0.99 * found.size
    assert not np.array_equal(drawn(lambda key: function(key), root=b"1")["out"], found)
    # another, wider distribution would be noticed
    assert scipy.stats.ks_2samp(1.2 * found.ravel(), there.ravel()).pvalue < 1e-3


def test_the_inverse_error_function_is_scipys():
    values = np.concatenate([np.linspace(-0.999, 0.999, 70_001), 1 - np.logspace(-7, -3, 50)]).astype(np.float32)
    np.testing.assert_allclose(draws._erf_inv(values), scipy.special.erfinv(values.astype(float)), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(draws._erf_inv(-values), -draws._erf_inv(values))


def test_every_initializer_of_the_table_is_drawn_here_but_those_that_need_linear_algebra():
    left = set()
    for name, make in INITIALIZERS.items():
        initializer = make()
        if initializer is not None and not drawn(lambda key: initializer(key, (4, 4), jnp.float32)):  # noqa: B023
            left.add(name)
    assert left <= {"orthogonal", "dirac"}


def test_bits_depend_on_the_key_alone():
    def function(key):
        one, two = jax.random.split(key)
        shape = (3,)
        return (
            jax.random.normal(one, shape), jax.random.normal(one, shape), jax.random.normal(two, shape),
            jax.random.normal(jax.random.fold_in(key, 1), shape), jax.random.normal(jax.random.fold_in(key, 2), shape),
            jax.jit(lambda k: jax.random.normal(k, shape))(one),
        )  # fmt: skip

    found = list(drawn(function, names="abcdef").values())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[5])
    different = [found[0], found[2], found[3], found[4]]
    assert len({values.tobytes() for values in different}) == 4


def test_constants_are_kept_and_what_depends_on_the_inputs_or_on_linear_algebra_is_left():
    def function(key, inputs):
        return (
            jnp.ones((2, 3)), jnp.asarray(np.float32([1, 2])), inputs.sum() + jax.random.normal(key),
            JAX.orthogonal()(key, (3, 3)), jnp.zeros((), jnp.int32),
        )  # fmt: skip

    found = drawn(function, jnp.ones(4), names=("ones", "two", "sum", "orthogonal", "count"))
    assert sorted(found) == ["count", "ones", "two"]
    np.testing.assert_array_equal(found["ones"], np.ones((2, 3)))
    np.testing.assert_array_equal(found["two"], [1, 2])
    assert found["count"].dtype == np.int32


class Net(nn.Module):
    layers: tuple[str, ...]

    @nn.compact
    def __call__(self, x):
        for name in self.layers:
            x = nn.Dense(6, name=name)(x)
        return nn.Dense(3, name="head")(x)


def test_another_layer_leaves_the_draws_of_the_others_as_they_are():
    few, more = (
        to_flat(assemble(tiny(), model=Net(layers), data=blobs()).init_state()) for layers in (("a",), ("new", "a"))
    )
    np.testing.assert_array_equal(few["params/a/kernel"], more["params/a/kernel"])
    assert not np.array_equal(more["params/new/kernel"], more["params/a/kernel"])


class Own(nnx.Module):
    def __init__(self, *, rngs):
        self.inner = nnx.Linear(6, 5, rngs=rngs)
        self.head = nnx.Linear(5, 3, kernel_init=JAX.orthogonal(), rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.inner(x)))


def test_a_state_is_made_of_both_kinds_and_of_the_seed():
    runs = [assemble(tiny(seed=seed), model=Own, data=blobs()) for seed in (0, 0, 1)]
    here = dict(runs[0].make({}))
    assert "params/inner/kernel" in here
    assert "params/head/kernel" not in here
    one, same, other = (to_flat(run.init_state()) for run in runs)
    kernel = np.asarray(one["params/head/kernel"])
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(3), atol=1e-5)
    for path in ("params/inner/kernel", "params/head/kernel"):
        np.testing.assert_array_equal(one[path], same[path])
        assert not np.array_equal(one[path], other[path])


def test_whole_and_cut_states_are_the_same_and_nothing_is_compiled_to_draw():
    c = put(tiny(batch_size=16), mesh__devices=8, mesh__fsdp=4, model__mlp__features=(64,))
    c.mesh.rules = (("dense.*kernel", 1), (".*", None))
    cut = assemble(c, data=blobs()).init_state()
    whole = tiny_run(batch_size=16, model__mlp__features=(64,))
    assert dict(whole.make({})).keys() == to_flat(whole.shapes).keys()
    for path, leaf in to_flat(whole.init_state()).items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(to_flat(cut)[path]), err_msg=path)
