"""Flax modules as pure functions: equal to running the module itself."""

import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jtrain.errors import ConfigError
from jtrain.models.pure import Model, as_model
from jtrain.tree import flatten

KEY = jax.random.key(3)
INPUTS = jax.random.normal(jax.random.key(4), (6, 5))


def equal(one, other) -> None:
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_allclose(one[path], other[path], rtol=1e-6, atol=1e-6, err_msg=path)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(7, name="first")(x)
        self.sow("intermediates", "hidden", x)
        self.sow("penalties", "hidden", x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(2, name="last")(x)


class Outer(nn.Module):
    inner: nn.Module

    def __call__(self, x, *, training=False):
        return self.inner(x, training)


class NnxNet(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs, dropout: float = 0.5):
        self.layers = nnx.List([nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 7, rngs=rngs)])
        self.norm = nnx.BatchNorm(7, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.again = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(7, 2, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        self.seen = nnx.Intermediate(x)
        return self.head(self.again(self.dropout(self.norm(x))))


def test_linen_init_and_both_modes_equal_the_module():
    module, model = LinenNet(), as_model(LinenNet())
    params, state = jax.jit(model.init)(KEY, INPUTS)
    variables = module.init(KEY, INPUTS, train=False)
    equal(params, variables["params"])
    assert set(flatten(state)) == {"batch_stats/norm/mean", "batch_stats/norm/var"}  # nothing that was sown

    variables = {"params": params, **state}
    want, changed = module.apply(variables, INPUTS, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"])
    outputs, new_state = jax.jit(partial(model.apply, train=True))(params, state, INPUTS, key=KEY)
    equal({"outputs": outputs, **new_state}, {"outputs": want, **changed})

    outputs, same = model.apply(params, new_state, INPUTS, key=None, train=False)
    equal({"outputs": outputs}, {"outputs": module.apply({"params": params, **changed}, INPUTS, train=False)})
    equal(same, new_state)


def test_linen_module_that_wraps_another_has_nested_paths_and_trains_it():
    model = as_model(Outer(LinenNet()))
    params, state = model.init(KEY, INPUTS)
    assert "inner/first/kernel" in flatten(params)
    _, new_state = model.apply(params, state, INPUTS, key=KEY, train=True)
    changed = np.abs(new_state["batch_stats"]["inner"]["norm"]["mean"]).max()
    assert changed > 0


@pytest.mark.parametrize(
    ("name", "value"), [("train", 1.0), ("training", 1.0), ("is_training", 1.0), ("deterministic", 0.0)]
)
def test_train_is_passed_under_the_name_that_the_module_uses(name, value):
    scope: dict = {}
    exec(f"def call(self, x, *, {name}): return self.scale * float({name})", scope)

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones_init(), ())

    linen = as_model(type("Net", (nn.Module,), {"setup": setup, "__call__": scope["call"]})())
    params, state = linen.init(KEY, INPUTS)
    assert [float(linen.apply(params, state, INPUTS, key=KEY, train=t)[0]) for t in (True, False)] == [value, 1 - value]

    def make(self, *, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    direct = as_model(type("Net", (nnx.Module,), {"__init__": make, "__call__": scope["call"]}))
    params, state = direct.init(KEY, INPUTS)
    assert [float(direct.apply(params, state, INPUTS, key=KEY, train=t)[0]) for t in (True, False)] == [
        value,
        1 - value,
    ]


def test_module_without_a_train_argument_is_called_without_one():
    model = as_model(nn.Sequential([nn.Dense(3), nn.relu]))
    params, state = model.init(KEY, INPUTS)
    assert state == {}
    want = np.maximum(INPUTS @ params["layers_0"]["kernel"], 0)
    np.testing.assert_allclose(model.apply(params, state, INPUTS, key=KEY, train=True)[0], want, rtol=1e-5)


def test_linen_streams_of_other_names_are_drawn_from_the_key():
    class Noise(nn.Module):
        def __call__(self, x, train):
            return x + jax.random.normal(self.make_rng("noise"), x.shape) if train else x

    model = as_model(Noise())
    first, again, other = (model.apply({}, {}, INPUTS, key=jax.random.key(k), train=True)[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_nnx_init_and_both_modes_equal_the_module():
    model, module = as_model(NnxNet), NnxNet(rngs=nnx.Rngs(KEY))
    params, state = jax.jit(model.init)(KEY, INPUTS)
    assert {"layers/0/kernel", "layers/1/bias", "norm/scale"} <= set(flatten(params))
    assert set(flatten(state)) == {"norm/mean", "norm/var"}
    np.testing.assert_allclose(params["layers"]["1"]["kernel"], module.layers[1].kernel[...], rtol=1e-6)

    module.train()
    nnx.reseed(module, default=jax.random.fold_in(KEY, zlib.crc32(b"default")))
    want = module(INPUTS)
    outputs, new_state = jax.jit(partial(model.apply, train=True))(params, state, INPUTS, key=KEY)
    np.testing.assert_allclose(outputs, want, rtol=1e-5, atol=1e-6)
    equal(new_state, {"norm": {"mean": module.norm.mean[...], "var": module.norm.var[...]}})

    module.eval()
    outputs, same = model.apply(params, new_state, INPUTS, key=None, train=False)
    np.testing.assert_allclose(outputs, module(INPUTS), rtol=1e-5, atol=1e-6)
    equal(same, new_state)


def test_nnx_gradient_equals_finite_differences():
    model = as_model(partial(NnxNet, dropout=0.0))
    params, state = model.init(KEY, INPUTS)

    @jax.jit
    def loss(bias):
        changed = {**params, "layers": {**params["layers"], "0": {**params["layers"]["0"], "bias": bias}}}
        return (model.apply(changed, state, INPUTS, key=KEY, train=False)[0] ** 2).mean()

    bias, step = params["layers"]["0"]["bias"], 1e-2
    found = jax.grad(loss)(bias)
    for i in range(bias.shape[0]):
        slope = (loss(bias.at[i].add(step)) - loss(bias.at[i].add(-step))) / (2 * step)
        np.testing.assert_allclose(found[i], slope, rtol=1e-2, atol=1e-3)


def test_nnx_dropout_follows_the_key_alone():
    model = as_model(NnxNet)
    params, state = model.init(KEY, INPUTS)
    apply = jax.jit(lambda key: model.apply(params, state, INPUTS, key=key, train=True)[0])
    first, again, other = (apply(jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_nnx_instance_starts_from_its_own_values_and_stays_as_it_is():
    module = NnxNet(rngs=nnx.Rngs(9))
    module(INPUTS)  # leaves an Intermediate in it
    before = np.array(module.head.kernel[...])
    mean = np.array(module.norm.mean[...])
    model = as_model(module)
    params, state = model.init(KEY, INPUTS)
    np.testing.assert_array_equal(params["head"]["kernel"], before)
    np.testing.assert_array_equal(state["norm"]["mean"], mean)
    assert set(flatten(state)) == {"norm/mean", "norm/var"}
    assert params["head"]["kernel"].unsafe_buffer_pointer() != module.head.kernel[...].unsafe_buffer_pointer()
    _, new_state = model.apply(params, state, INPUTS, key=KEY, train=True)
    assert np.abs(new_state["norm"]["mean"] - mean).max() > 0
    np.testing.assert_array_equal(module.norm.mean[...], mean)


def test_nnx_lists_of_more_than_ten_keep_their_order():
    class Deep(nnx.Module):
        def __init__(self, *, rngs):
            self.shift = nnx.List([nnx.Param(jnp.full((1,), 0.5 + i)) for i in range(12)])

        def __call__(self, x):
            for shift in self.shift:
                x = x * 0.5 + shift[...]
            return x

    model = as_model(Deep)
    params, state = model.init(KEY, INPUTS)
    want = 1.0
    for i in range(12):
        want = want * 0.5 + 0.5 + i
    outputs, _ = model.apply(params, state, jnp.ones((1,)), key=None, train=False)
    np.testing.assert_allclose(outputs, want)


def test_training_keeps_the_dtypes_of_the_model_state():
    class Average(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            mean = self.variable("stats", "mean", jnp.zeros, (5,))
            if train:
                mean.value = (mean.value + x.mean(axis=0)).astype(x.dtype)
            return x

    model = as_model(Average())
    _, state = model.apply({}, model.init(KEY, INPUTS)[1], INPUTS.astype(jnp.bfloat16), key=KEY, train=True)
    assert state["stats"]["mean"].dtype == jnp.float32
    assert np.abs(state["stats"]["mean"]).max() > 0


def test_collections_are_mutable_in_training_alone():
    mutable: list[bool] = []

    class Watch(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("stats", "calls", jnp.zeros, ())
            mutable.append(self.is_mutable_collection("stats"))
            return x

    model = as_model(Watch())
    _, state = model.init(KEY, INPUTS)
    mutable.clear()
    for train in (True, False, True):
        model.apply({}, state, INPUTS, key=KEY, train=train)
    assert mutable == [True, False, True]


def test_a_model_passes_through():
    model = Model(init=lambda key, inputs: ({}, {}), apply=lambda *args, **kwargs: (0, {}))
    assert as_model(model) is model


@pytest.mark.parametrize(
    ("thing", "word"),
    [
        (3, "int is no model"),
        (LinenNet, "LinenNet is a Linen class"),
        (lambda: 3, "unexpected keyword argument 'rngs'"),
        (lambda rngs: 3, "makes no nnx.Module, but int"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(thing, word):
    with pytest.raises(ConfigError, match=rf"^model: .*{word}") as caught:
        as_model(thing)
    assert "\n" not in str(caught.value)
