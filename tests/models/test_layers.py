"""Fast layers against Flax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jtrain.models.layers import ACTIVATIONS, Conv, conv_by_patches, hidden_init, max_pool, max_pool_3x3, upsample

KEY = jax.random.key(0)


def normal(seed, shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_max_pool_and_its_gradient_equal_those_of_flax(size):
    x, weight = normal(0, (3, *size, 4)), normal(1, (3, size[0] // 2, size[1] // 2, 4))

    def gradient(pool):
        return jax.jit(jax.grad(lambda x: (pool(x) * weight).sum()))(x)

    def slow(x):
        return nn.max_pool(x, (2, 2), (2, 2))

    np.testing.assert_array_equal(max_pool(x), slow(x))
    np.testing.assert_array_equal(gradient(max_pool), gradient(slow))


@pytest.mark.parametrize("size", [(8, 7), (5, 2), (1, 1)])
def test_max_pool_3x3_and_its_gradient_equal_those_of_flax(size):
    x = normal(0, (2, *size, 3))

    def both(pool):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sin(pool(x)).sum()))(x), pool(x)

    (loss, gradient), pooled = both(max_pool_3x3)
    (want_loss, want_gradient), want = both(lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))
    np.testing.assert_array_equal(pooled, want)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-5)


def test_upsample_repeats_each_value_and_an_odd_last_line():
    x = normal(0, (2, 3, 2, 4))
    for height, width in ((6, 4), (7, 4), (6, 5), (7, 5)):
        want = np.pad(np.repeat(np.repeat(x, 2, 1), 2, 2), ((0, 0), (0, height - 6), (0, width - 4), (0, 0)), "edge")
        np.testing.assert_array_equal(upsample(x, (height, width)), want)


def test_tied_maxima_share_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient, np.full((1, 2, 2, 1), 0.25))


@pytest.mark.parametrize(
    ("channels", "size", "stride", "pad"),
    [
        (3, (3, 3), (1, 1), ((1, 1), (1, 1))),
        (1, (3, 2), (2, 1), ((1, 1), (0, 1))),
        (4, (1, 1), (2, 2), ((0, 0), (0, 0))),
        (5, (3, 3), (2, 2), ((1, 1), (1, 1))),
    ],
)
def test_conv_has_the_values_and_gradients_of_flax(channels, size, stride, pad):
    x = normal(0, (2, 9, 8, channels))
    variables = {"params": {"kernel": normal(1, (*size, channels, 6)), "bias": normal(2, (6,))}}

    def both(module):
        def loss(variables, x):
            outputs = module.apply(variables, x)
            return jnp.sin(outputs).sum(), outputs

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, x)

    (_, got), got_gradients = both(Conv(6, size, stride, pad))
    (_, want), want_gradients = both(nn.Conv(6, size, stride, pad))
    np.testing.assert_allclose(got, want, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5), got_gradients, want_gradients)


def test_conv_is_drawn_as_flax_draws_it():
    ours, theirs = (jax.jit(m.init)(KEY, jnp.zeros((1, 4, 4, 3))) for m in (Conv(6), nn.Conv(6, (3, 3))))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_few_channels_take_the_product_of_patches_and_many_the_convolution():
    def primitives(channels):
        x = jnp.zeros((1, 4, 4, channels))
        module = Conv(2)
        return str(jax.make_jaxpr(lambda x: module.init_with_output(KEY, x)[0])(x))

    assert "conv_general_dilated" not in primitives(3)
    assert "conv_general_dilated" in primitives(5)


def test_patches_are_right_on_a_hand_made_case():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    got = conv_by_patches(x, jnp.ones((3, 3, 1, 1)), (1, 1), ((0, 0), (0, 0)))
    np.testing.assert_array_equal(got[0, :, :, 0], [[45.0, 54.0], [81.0, 90.0]])


def test_activations_at_known_points():
    x = jnp.array([-1.0, 0.0, 2.0])
    known = {
        "relu": [0, 0, 2], "leaky_relu": [-0.01, 0, 2], "gelu": [-0.15865525, 0, 1.9544997],
        "tanh": [-0.7615942, 0, 0.9640276], "sigmoid": [0.26894143, 0.5, 0.880797],
    }  # fmt: skip
    assert known.keys() == ACTIVATIONS.keys()
    for name, want in known.items():
        np.testing.assert_allclose(ACTIVATIONS[name](x), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("activation", "variance"), [("relu", 2 / 200), ("tanh", 2 / 600)])
def test_hidden_layers_are_drawn_for_their_activation(activation, variance):
    drawn = hidden_init(activation)(KEY, (200, 400), jnp.float32)
    np.testing.assert_allclose(drawn.var(), variance, rtol=0.03)
