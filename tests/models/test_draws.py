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

from jtrain import config as configs
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


class Members(nn.Module):
    @nn.compact
    def __call__(self, x):
        stacked = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3)
        return stacked(3, name="members")(x).mean(axis=0)


class WeightNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        v = self.param("v", JAX.lecun_normal(), (6, 3))
        ortho = self.param("o", JAX.orthogonal(), (3, 3))
        length = self.param("g", lambda key: jnp.sqrt((v * v).sum(axis=0)))
        return x @ (v / jnp.sqrt((v * v).sum(axis=0))[None] * length[None]) @ ortho


def test_remat_does_not_change_what_a_model_begins_with():
    images = np.zeros((16, 8, 8, 3), np.uint8), np.arange(16) % 3
    states = []
    for remat in ("none", "blocks"):
        c = put(tiny(batch_size=8), model__name="resnet", train__remat=remat)
        c.model.mlp = configs.base().model.mlp
        c.model.resnet.depth, c.model.resnet.width = 20, 4
        run = assemble(c, data=images)
        assert dict(run.make({})).keys() == to_flat(run.shapes).keys()
        states.append(to_flat(run.init_state()))
    for path, leaf in states[0].items():
        np.testing.assert_array_equal(leaf, states[1][path], err_msg=path)


def test_members_drawn_under_vmap_differ():
    kernel = assemble(tiny(), model=Members(), data=blobs()).init_state().params["members"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])


def test_what_is_computed_of_a_draw_belongs_to_it():
    params = assemble(tiny(), model=WeightNorm(), data=blobs()).init_state().params
    np.testing.assert_allclose(params["g"], np.linalg.norm(np.asarray(params["v"]), axis=0), rtol=1e-5)


def test_keys_made_in_ways_unknown_here_are_left_to_the_device():
    def function(key):
        raw = jax.random.key_data(key)
        mine = jax.random.wrap_key_data(raw ^ jnp.uint32(1))
        return jax.random.normal(mine, (3,)), jax.random.normal(key, (3,))

    assert list(drawn(function, names=("own", "plain"))) == ["plain"]


def test_a_compiled_initializer_is_evaluated_for_what_is_asked_of_it_alone():
    many = jax.jit(lambda key: tuple(jax.random.normal(jax.random.fold_in(key, i), (2,)) for i in range(300)))
    found = drawn(lambda key: many(key), names=[str(i) for i in range(300)])
    assert len({values.tobytes() for values in found.values()}) == 300


def test_a_finished_module_may_hold_a_mask():
    class Masked(nnx.Module):
        def __init__(self, *, rngs):
            self.inner = nnx.Linear(6, 3, rngs=rngs)
            self.mask = nnx.Variable(jnp.ones(6, bool))

        def __call__(self, x):
            return self.inner(x * self.mask[...][None])

    state = assemble(tiny(), model=Masked(rngs=nnx.Rngs(0)), data=blobs()).init_state()
    assert np.asarray(state.model_state["mask"]).all()


def test_a_state_that_cannot_be_made_here_is_compiled_and_of_the_seed():
    runs = [assemble(tiny(seed=seed), model=Own, data=blobs()) for seed in (0, 0, 1)]
    assert "params/head/kernel" not in dict(runs[0].make({}))
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
