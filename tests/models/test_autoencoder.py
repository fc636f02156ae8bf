"""Autoencoder: it gives back its inputs' shape, and its encoder is that of a cnn or mlp."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import applied, drawn, normal, shapes, size

from jtrain.errors import ConfigError
from jtrain.models import MODELS
from jtrain.models.pure import as_model
from jtrain.tree import flatten, unflatten

make = functools.partial(MODELS["autoencoder"], 10)


@pytest.mark.parametrize("code", [0, 5])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((8, 8, 1), {}),
        ((29, 22, 3), {}),
        ((9, 7, 2), {"features": (8, 4), "pools": 0}),
        ((9, 7, 2), {"encoder": "mlp", "features": (8,)}),
        ((13,), {}),
        ((4, 6), {"features": (8, 4, 6)}),
    ],
)
def test_outputs_have_the_shape_of_the_inputs(shape, options, code):
    model = as_model(make(code=code, **options))

    def run(inputs):
        params, state = model.init(jax.random.key(0), inputs)
        return model.apply(params, state, inputs, key=None, train=False)[0]

    assert jax.eval_shape(run, jax.ShapeDtypeStruct((2, *shape), jnp.float32)).shape == (2, *shape)


@pytest.mark.parametrize(
    ("encoder", "shape", "options"),
    [("cnn", (9, 8, 3), {"features": (4, 6, 5), "pools": 2}), ("mlp", (7,), {"features": (6, 5)})],
)
def test_the_encoder_is_that_of_a_cnn_or_mlp_up_to_its_head(encoder, shape, options):
    own = make(code=3, **options)
    like = MODELS[encoder](10, **options)
    inputs = normal(0, (4, *shape))
    params, state = drawn(own, shape)
    run = functools.partial(own.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    _, captured = jax.jit(run)({"params": params, **state}, inputs)
    encoded = captured["intermediates"]["encoder"]["__call__"][0]

    def renamed(tree):
        return {path.replace("encoder/", ""): leaf for path, leaf in flatten(tree).items() if "encoder/" in path}

    fresh, fresh_state = drawn(like, shape)
    taken = renamed(params)
    assert flatten(fresh).keys() - taken.keys() == {"head/kernel", "head/bias"}
    assert taken.keys() <= flatten(fresh).keys()
    assert renamed(state).keys() == flatten(fresh_state).keys()
    whole = unflatten(taken | {f"head/{name}": leaf for name, leaf in fresh["head"].items()})
    logits, _ = applied(as_model(like), False)(whole, unflatten(renamed(state)), inputs, key=None)
    pooled = encoded.mean(axis=(1, 2)) if encoder == "cnn" else encoded
    head = jax.tree.map(np.asarray, fresh["head"])
    np.testing.assert_allclose(np.asarray(pooled) @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-5)


def test_the_code_has_its_width_and_the_decoder_mirrors_the_encoder():
    dense = shapes(make(features=(8, 4), code=3), (13,))[0]
    encoder, decoder = 14 * 8 + 9 * 4, 5 * 8 + 9 * 13
    assert size(dense) == encoder + (5 * 3 + 4 * 4) + decoder
    assert size(shapes(make(features=(8, 4)), (13,))[0]) == encoder + decoder
    images = flatten(shapes(make(features=(8, 4), pools=2, code=3), (9, 7, 2))[0])
    assert images["code/kernel"].shape == (2 * 1 * 4, 3)
    assert images["expand/kernel"].shape == (3, 8)
    assert images["decoder/conv0/kernel"].shape == (3, 3, 4, 8)
    assert images["decoder/head/kernel"].shape == (3, 3, 8, 2)
    assert math.prod(images["decoder/norm0/scale"].shape) == 8


def test_only_the_code_carries_what_the_decoder_sees():
    module = make(features=(8,), code=2, pools=1, norm="none")
    params, state = drawn(module, (4, 4, 1))
    blind = params | {"code": jax.tree.map(jnp.zeros_like, params["code"])}
    run = applied(as_model(module), False)
    outputs, _ = run(blind, state, normal(0, (3, 4, 4, 1)), key=None)
    np.testing.assert_allclose(outputs - outputs[:1], np.zeros(outputs.shape), atol=1e-6)
    seeing, _ = run(params, state, normal(0, (3, 4, 4, 1)), key=None)
    assert np.abs(seeing - seeing[:1]).max() > 0.01


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "message"),
    [
        ((7,), jnp.int32, {}, r": gives back numbers, and cannot give back tokens \[7\]"),
        ((7,), jnp.float32, {"encoder": "cnn"}, r"\.encoder: 'cnn' takes images .* got \[7\]"),
        ((7, 9, 1), jnp.float32, {}, r"\.pools: .*images 7×9; use at most 2"),
        ((8, 8, 1), jnp.float32, {"features": (4,)}, r"\.pools: 3 poolings, but model\.autoencoder\.features"),
    ],
)
def test_what_does_not_fit_is_refused(shape, dtype, options, message):
    with pytest.raises(ConfigError, match=rf"^model\.autoencoder{message}"):
        shapes(make(**options), shape, dtype)
