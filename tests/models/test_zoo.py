"""Shipped models: sizes, PyTorch's numbers, and that each learns."""

import functools
import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtrain.errors import ConfigError
from jtrain.models import MODELS
from jtrain.models.layers import ACTIVATIONS
from jtrain.models.pure import as_model
from jtrain.models.resnet import ResNet
from jtrain.precision import cast
from jtrain.table import options
from jtrain.tree import flatten, map_with_path

KEY = jax.random.key(0)
IMAGES = jax.random.normal(jax.random.key(1), (16, 8, 8, 3))
LABELS = jnp.arange(16) % 4
GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "resnet18.json").read_text())

TINY = {
    "mlp": functools.partial(MODELS["mlp"], 4, features=(32, 32), dropout=0.0),
    "cnn": functools.partial(MODELS["cnn"], 4, features=(8, 16), pools=1),
    "resnet": lambda activation="relu": ResNet(4, (1,), 8, activation),
}


def shapes(module, shape):
    return jax.eval_shape(as_model(module).init, KEY, jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def size(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def golden_value(path, leaf):  # as in tests/golden/make_resnet18.py
    noise = np.random.RandomState(zlib.crc32(path.encode())).standard_normal(leaf.shape)
    if path.endswith("kernel"):
        noise = noise * np.sqrt(2.0 / np.prod(leaf.shape[:-1]))
    else:
        noise = 0.1 * noise + (1.0 if path.endswith("scale") else 0.0)
    return jnp.asarray(noise, jnp.float32)


def drawn(module, shape=IMAGES.shape[1:]):
    """Values without compiling `init`: those of `golden_value`, and statistics of mean 0 and variance 1."""
    params, state = shapes(module, shape)
    state = map_with_path(lambda path, leaf: jnp.full(leaf.shape, float(path.endswith("var"))), state)
    return map_with_path(golden_value, params), state


def applied(model, train):
    return jax.jit(functools.partial(model.apply, train=train))


def test_mlp_has_the_parameters_of_its_layers():
    params, state = shapes(MODELS["mlp"](10), (8, 8, 1))
    assert size(params) == (64 + 1) * 256 + (256 + 1) * 256 + (256 + 1) * 10
    assert {path.split("/")[0] for path in flatten(params)} == {"dense0", "dense1", "head"}
    assert state == {}
    linear, _ = shapes(MODELS["mlp"](3, features=()), (7,))
    assert size(linear) == 8 * 3


def test_cnn_has_the_parameters_of_its_layers():
    params, state = shapes(MODELS["cnn"](10), (32, 32, 3))
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 128)
    assert size(params) == convolutions + 2 * (32 + 64 + 128 + 128) + (128 + 1) * 10
    assert {"conv0/kernel", "norm0/scale", "head/bias"} <= set(flatten(params))
    assert "batch_stats/norm3/mean" in flatten(state)
    plain, none = shapes(MODELS["cnn"](10, norm="none", head="flatten"), (33, 32, 3))
    assert size(plain) == convolutions + (32 + 64 + 128 + 128) + (4 * 4 * 128 + 1) * 10
    assert none == {}


def test_resnet_has_the_published_number_of_parameters():
    params, _ = shapes(MODELS["resnet"](10), (32, 32, 3))
    assert size(params) == GOLDEN["parameters"] == 11_173_962
    assert {"stem/kernel", "stage4_block2/conv2/kernel", "stage2_block1/shortcut_norm/scale"} <= set(flatten(params))
    deeper, _ = shapes(MODELS["resnet"](10, depth=34), (32, 32, 3))
    assert size(deeper) == 21_282_122


def test_resnet_convolutions_are_drawn_by_fan_out():
    params = jax.jit(as_model(ResNet(4, (1,), 64, "relu")).init)(KEY, IMAGES)[0]
    np.testing.assert_allclose(params["stem"]["kernel"].var(), 2 / (9 * 64), rtol=0.1)
    np.testing.assert_allclose(params["stage1_block1"]["conv1"]["kernel"].var(), 2 / (9 * 64), rtol=0.03)


def test_resnet18_equals_pytorch():
    model = as_model(MODELS["resnet"](10))
    images = jnp.asarray(np.random.RandomState(1).standard_normal((4, 17, 16, 3)), jnp.float32)
    params, state = drawn(MODELS["resnet"](10), images.shape[1:])
    outputs, state = applied(model, True)(params, state, images, key=None)
    np.testing.assert_allclose(outputs, GOLDEN["train_logits"], rtol=1e-4, atol=2e-4)
    statistics = state["batch_stats"]
    mean = statistics["stage3_block1"]["norm1"]["mean"][:16]
    np.testing.assert_allclose(mean, GOLDEN["stage3_block1/norm1/mean"], rtol=1e-4, atol=1e-5)
    # torch keeps the unbiased variance of the batch, Flax the biased one.
    places = images[..., 0].size
    unbiased = (statistics["stem_norm"]["var"][:16] - 0.9) * places / (places - 1) + 0.9
    np.testing.assert_allclose(unbiased, GOLDEN["stem_norm/var"], rtol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"given"}))
def test_every_model_overfits_with_every_activation(name, activation):
    module = TINY[name](activation=activation)
    model, (params, state) = as_model(module), drawn(module)

    @jax.jit
    def step(params, state, momentum):
        def loss_fn(params):
            logits, new_state = model.apply(params, state, IMAGES, key=KEY, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), new_state

        (loss, new_state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradient)
        return jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum), new_state, momentum, loss

    losses, momentum = [], jax.tree.map(jnp.zeros_like, params)
    for _ in range(200):
        params, state, momentum, loss = step(params, state, momentum)
        losses.append(float(loss))
        if loss < 0.05:
            break
    assert losses[0] > 0.5
    assert losses[-1] < 0.05


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"given"}))
def test_bfloat16_in_gives_bfloat16_out_and_float32_statistics(name):
    module = TINY[name]()
    model, (params, state) = as_model(module), drawn(module)
    assert {leaf.dtype.name for leaf in flatten(shapes(module, IMAGES.shape[1:])[0]).values()} == {"float32"}
    run = applied(model, True)
    outputs, new_state = run(cast(params, jnp.bfloat16), state, IMAGES.astype(jnp.bfloat16), key=KEY)
    assert outputs.dtype == jnp.bfloat16
    wide, _ = run(params, state, IMAGES, key=KEY)
    np.testing.assert_allclose(outputs.astype(jnp.float32), wide, atol=0.15)
    assert all(leaf.dtype == jnp.float32 for leaf in flatten(new_state).values())


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_dropout_acts_in_training_alone(name):
    make = functools.partial(MODELS[name], 4, features=(64,), **({"pools": 1} if name == "cnn" else {}))
    params, state = drawn(make())
    model, without = as_model(make(dropout=0.5)), as_model(make(dropout=0.0))
    training, plain, evaluation = applied(model, True), applied(without, True), applied(model, False)

    def run(function, key):
        return np.asarray(function(params, state, IMAGES, key=key)[0])

    np.testing.assert_array_equal(run(evaluation, None), run(applied(without, False), None))
    np.testing.assert_array_equal(run(evaluation, KEY), run(evaluation, jax.random.key(5)))
    np.testing.assert_array_equal(run(plain, KEY), run(plain, jax.random.key(5)))
    assert np.abs(run(training, KEY) - run(training, jax.random.key(5))).max() > 0.01
    np.testing.assert_array_equal(run(training, KEY), run(training, KEY))


def test_evaluation_treats_each_example_alone():
    model, (params, state) = as_model(TINY["cnn"]()), drawn(TINY["cnn"]())
    run = applied(model, False)
    whole, same = run(params, state, IMAGES, key=None)
    alone, _ = run(params, state, IMAGES[5:6], key=None)
    np.testing.assert_allclose(alone[0], whole[5], rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_running_statistics_move_by_a_tenth():
    module = MODELS["cnn"](4, features=(8,), pools=0)
    params, state = drawn(module)
    _, new = applied(as_model(module), True)(params, state, IMAGES, key=KEY)
    out = jax.lax.conv_general_dilated(
        IMAGES, params["conv0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(new["batch_stats"]["norm0"]["mean"], 0.1 * out.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["norm0"]["var"], 0.9 + 0.1 * out.var(axis=(0, 1, 2)), rtol=1e-4)


def test_images_too_small_for_the_poolings_are_refused():
    shapes(MODELS["cnn"](10), (8, 8, 1))
    with pytest.raises(ConfigError, match=r"^model\.cnn\.pools: .*images 7×9; use at most 2"):
        shapes(MODELS["cnn"](10), (7, 9, 1))


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_inputs_that_are_no_images_are_refused(name):
    with pytest.raises(ConfigError, match=rf"^model\.{name}: takes images .* got \[13\]"):
        shapes(MODELS[name](10), (13,))


def test_cnn_options_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match=r"^model\.cnn\.pools: 3 poolings"):
        MODELS["cnn"](10, features=(8, 8))
    with pytest.raises(ConfigError, match=r"^model\.cnn\.features"):
        MODELS["cnn"](10, features=())


def test_every_default_is_valid_by_the_table():
    for name, factory in MODELS.items():
        for option in options(factory).values():
            assert option.check(option.default) == option.default, name
