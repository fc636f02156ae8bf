"""Shipped models: sizes, formulas, and that each learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_helpers import KEY, applied, drawn, normal, shapes, size

from jtrain.errors import ConfigError
from jtrain.models import MODELS
from jtrain.models.highway import HighwayLayer
from jtrain.models.layers import ACTIVATIONS
from jtrain.models.pure import as_model
from jtrain.models.resnet import ResNet
from jtrain.models.wide_resnet import WideResNet
from jtrain.precision import cast
from jtrain.table import options
from jtrain.tree import flatten

IMAGES = normal(1, (32, 6, 6, 3))
LABELS = jnp.arange(32) % 4
TOKENS = jnp.asarray(np.random.RandomState(2).randint(0, 9, (32, 5)))
# Few causes, many values: what an autoencoder can press through a code.
MIXTURES = jnp.asarray(np.random.RandomState(3).standard_normal((32, 3)) @ np.eye(3, 75, 1).repeat(25, 1)[:, :75])
MIXTURES = MIXTURES.reshape(32, 5, 5, 3).astype(jnp.float32)

TINY = {
    "mlp": functools.partial(MODELS["mlp"], 4, features=(32, 32), dropout=0.0),
    "cnn": functools.partial(MODELS["cnn"], 4, features=(8, 16), pools=1),
    "fast_cnn": functools.partial(MODELS["fast_cnn"], 4, features=(8, 16)),
    "resnet": lambda activation="relu": ResNet(4, (1,), 8, activation),
    "wide_resnet": lambda activation="relu": WideResNet(4, 1, 1, activation),
    "highway": functools.partial(MODELS["highway"], 4, layers=3, width=16, dropout=0.0),
    "lstm": functools.partial(MODELS["lstm"], 4, vocabulary=9, embedding=8, hidden=16, dropout=0.0, output="last"),
    "gru": functools.partial(MODELS["gru"], 4, vocabulary=9, embedding=8, hidden=16, dropout=0.0, output="last"),
    "autoencoder": functools.partial(MODELS["autoencoder"], 4, features=(8, 8), pools=1, code=16),
}
INPUTS = {"lstm": TOKENS, "gru": TOKENS, "autoencoder": MIXTURES}  # IMAGES for the others
ACTIVATED = [name for name in TINY if "activation" in options(MODELS[name])]


def inputs_of(name):
    return INPUTS.get(name, IMAGES)


def drawn_for(name, module):
    return drawn(module, inputs_of(name).shape[1:], inputs_of(name).dtype)


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


def test_highway_has_the_parameters_of_its_layers():
    params, state = shapes(MODELS["highway"](10), (28, 28, 1))
    assert size(params) == (784 + 1) * 50 + 10 * 2 * (50 + 1) * 50 + (50 + 1) * 10
    assert {"input/bias", "highway0/gate/kernel", "highway9/hidden/bias", "head/kernel"} <= set(flatten(params))
    assert state == {}


def test_highway_layer_is_the_formula_and_its_gate_starts_at_the_bias():
    module, x = HighwayLayer("tanh", -3.0), normal(5, (4, 6))
    outputs, variables = jax.jit(lambda x: module.init_with_output(KEY, x))(x)
    hidden, gate = (jax.tree.map(np.asarray, variables["params"][name]) for name in ("hidden", "gate"))
    np.testing.assert_array_equal(gate["bias"], np.full(6, -3.0))
    transformed = np.tanh(x @ hidden["kernel"] + hidden["bias"][None])
    share = 1 / (1 + np.exp(-(x @ gate["kernel"] + gate["bias"][None])))
    np.testing.assert_allclose(outputs, transformed * share + x * (1 - share), rtol=1e-5, atol=1e-6)


def loss_of(name, outputs):
    if name == "autoencoder":
        return ((outputs - MIXTURES[: len(outputs)]) ** 2).mean() / MIXTURES.var()
    return optax.softmax_cross_entropy_with_integer_labels(outputs, LABELS[: len(outputs)]).mean()


def test_every_model_of_the_table_is_tried_here():
    assert TINY.keys() == MODELS.keys() - {"given"}


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_model_overfits_32_examples(name):
    module, inputs = TINY[name](), inputs_of(name)
    model, (params, state) = as_model(module), drawn_for(name, module)
    tx = optax.adam(0.01)

    @jax.jit
    def step(params, state, opt_state):
        def loss_fn(params):
            outputs, new_state = model.apply(params, state, inputs, key=KEY, train=True)
            return loss_of(name, outputs), new_state

        (loss, new_state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(gradient, opt_state)
        return optax.apply_updates(params, updates), new_state, opt_state, loss

    losses, opt_state = [], tx.init(params)
    for _ in range(400):
        params, state, opt_state, loss = step(params, state, opt_state)
        losses.append(float(loss))
        if loss < 0.05:
            break
    assert losses[0] > 0.5
    assert losses[-1] < 0.05


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ACTIVATED)
def test_every_model_takes_a_step_with_every_activation(name, activation):
    module, inputs = TINY[name](activation=activation), inputs_of(name)[:8]
    model, (params, state) = as_model(module), drawn_for(name, module)

    def loss_fn(params):
        outputs, _ = model.apply(params, state, inputs, key=KEY, train=True)
        return loss_of(name, outputs)

    # Not compiled as a whole: operation by operation, all activations share what they have in common.
    loss, gradient = jax.value_and_grad(loss_fn)(params)
    norms = {path: float(jnp.linalg.norm(leaf)) for path, leaf in flatten(gradient).items()}
    assert all(0 < norm < 1000 for norm in norms.values()), norms
    rate = 0.01 * float(loss) / sum(norm**2 for norm in norms.values())  # to first order, a hundredth less loss
    assert loss_fn(jax.tree.map(lambda p, g: p - rate * g, params, gradient)) < loss


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"given"}))
def test_bfloat16_in_gives_bfloat16_out_and_float32_statistics(name):
    module, inputs = TINY[name](), inputs_of(name)
    model, (params, state) = as_model(module), drawn_for(name, module)
    drawn_shapes = shapes(module, inputs.shape[1:], inputs.dtype)[0]
    assert {leaf.dtype.name for leaf in flatten(drawn_shapes).values()} == {"float32"}
    run = applied(model, True)
    outputs, new_state = run(cast(params, jnp.bfloat16), state, cast(inputs, jnp.bfloat16), key=KEY)
    assert outputs.dtype == jnp.bfloat16
    wide, _ = run(params, state, inputs, key=KEY)
    np.testing.assert_allclose(outputs.astype(jnp.float32), wide, atol=0.15)
    assert all(leaf.dtype == jnp.float32 for leaf in flatten(new_state).values())


DROPPED = {
    "mlp": ("dropout", functools.partial(MODELS["mlp"], 4, features=(16,))),
    "cnn": ("dropout", functools.partial(MODELS["cnn"], 4, features=(8, 8), pools=1)),
    "cnn, convolutions": ("conv_dropout", functools.partial(MODELS["cnn"], 4, features=(8, 8), pools=1)),
    "resnet": ("dropout", functools.partial(ResNet, 4, (1,), 4, "relu")),
    "wide_resnet": ("dropout", functools.partial(WideResNet, 4, 1, 1, "relu")),
    "highway": ("dropout", functools.partial(MODELS["highway"], 4, layers=2, width=16)),
    "lstm": ("dropout", functools.partial(MODELS["lstm"], 4, vocabulary=9, hidden=8)),
    "gru": ("dropout", functools.partial(MODELS["gru"], 4, vocabulary=9, hidden=8)),
}


@pytest.mark.parametrize("case", DROPPED)
def test_dropout_acts_in_training_alone_and_a_rate_of_0_is_none(case):
    option, make = DROPPED[case]
    name = case.split(",")[0]
    inputs, (params, state) = inputs_of(name), drawn_for(name, make())
    model, without = as_model(make(**{option: 0.5})), as_model(make(**{option: 0.0}))

    @jax.jit
    def everything(key):
        dropped = model.apply(params, state, inputs, key=key, train=True)[0]
        plain = without.apply(params, state, inputs, key=key, train=True)[0]
        evaluations = (m.apply(params, state, inputs, key=None, train=False)[0] for m in (model, without))
        return dropped, plain, *evaluations

    dropped, plain, evaluation, evaluation_without = everything(KEY)
    dropped_otherwise, plain_otherwise, *_ = everything(jax.random.key(5))
    np.testing.assert_allclose(evaluation, evaluation_without, rtol=1e-6)
    np.testing.assert_array_equal(plain, plain_otherwise)
    assert np.abs(dropped - dropped_otherwise).max() > 0.01
    np.testing.assert_array_equal(dropped, everything(KEY)[0])


def test_evaluation_treats_each_example_alone():
    model, (params, state) = as_model(TINY["cnn"]()), drawn_for("cnn", TINY["cnn"]())
    run = applied(model, False)
    whole, same = run(params, state, IMAGES, key=None)
    alone, _ = run(params, state, IMAGES[5:6], key=None)
    np.testing.assert_allclose(alone[0], whole[5], rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_running_statistics_move_by_a_tenth():
    module = MODELS["cnn"](4, features=(8,), pools=0)
    params, state = drawn_for("cnn", module)
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


@pytest.mark.parametrize("name", ["cnn", "fast_cnn", "resnet", "wide_resnet"])
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
