"""Initializers against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrain.errors import ConfigError
from jtrain.models.initializers import INITIALIZERS, reinitialise
from jtrain.table import options

KEY = jax.random.key(0)
DENSE, CONV = (300, 500), (3, 3, 64, 128)
FANS = {DENSE: (300, 500), CONV: (9 * 64, 9 * 128)}


@pytest.mark.parametrize("shape", [DENSE, CONV])
@pytest.mark.parametrize("gain", [1.0, 1.7])
@pytest.mark.parametrize("name", [n for n in INITIALIZERS if n != "model"])
def test_variance_and_shape_of_the_distribution(name, gain, shape):
    fan_in, fan_out = FANS[shape]
    variance = gain**2 * (2 / fan_in if "kaiming" in name else 2 / (fan_in + fan_out))
    drawn = np.asarray(INITIALIZERS[name](gain=gain)(KEY, shape, jnp.float32)).ravel()
    assert abs(drawn.mean()) < 5 * np.sqrt(variance / drawn.size)
    np.testing.assert_allclose(drawn.var(), variance, rtol=0.03)
    kurtosis = (drawn**4).mean() / drawn.var() ** 2
    np.testing.assert_allclose(kurtosis, 1.8 if "uniform" in name else 3.0, rtol=0.05)
    if "uniform" in name:
        assert np.abs(drawn).max() <= np.sqrt(3 * variance) * 1.00001


def test_only_matching_leaves_are_redrawn():
    params = {"head": {"kernel": jnp.zeros((4, 5)), "bias": jnp.full((5,), 7.0)}, "kernel": jnp.zeros((2, 3))}
    new = reinitialise(params, KEY, INITIALIZERS["kaiming_normal"]())
    np.testing.assert_array_equal(new["head"]["bias"], params["head"]["bias"])
    assert np.abs(new["head"]["kernel"]).min() > 0
    assert np.abs(new["kernel"]).min() > 0
    only = reinitialise(params, KEY, INITIALIZERS["kaiming_normal"](), ("head/.*l",))
    np.testing.assert_array_equal(only["kernel"], params["kernel"])
    np.testing.assert_array_equal(only["head"]["kernel"], new["head"]["kernel"])


def test_a_leaf_does_not_depend_on_the_others():
    one = {"b": {"kernel": jnp.zeros((4, 4))}}
    two = {"a": {"kernel": jnp.zeros((4, 4))}, **one, "c": {"kernel": jnp.zeros((4, 4))}}
    draw = INITIALIZERS["xavier_uniform"]()
    alone, beside = reinitialise(one, KEY, draw), jax.jit(lambda p: reinitialise(p, KEY, draw))(two)
    np.testing.assert_allclose(alone["b"]["kernel"], beside["b"]["kernel"], rtol=1e-6)
    assert np.abs(beside["a"]["kernel"] - beside["c"]["kernel"]).max() > 0.1
    other = reinitialise(one, jax.random.key(1), draw)
    assert np.abs(alone["b"]["kernel"] - other["b"]["kernel"]).max() > 0.1


def test_model_keeps_what_the_model_drew():
    params = {"kernel": jnp.ones((2, 2))}
    assert reinitialise(params, KEY, INITIALIZERS["model"]()) is params


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("stem/kernel", "matches no parameter"),
        ("ker", "matches no parameter"),
        ("(", "regular expression"),
        ("bias", "cannot draw 'bias'"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_an_error_that_names_the_key(pattern, word):
    params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros((2,))}
    with pytest.raises(ConfigError, match=rf"^init\.params: .*{word}"):
        reinitialise(params, KEY, INITIALIZERS["xavier_normal"](), ("kernel", pattern))


def test_options_are_checked_by_the_table():
    for name, part in INITIALIZERS.items():
        assert set(options(part)) == (set() if name == "model" else {"gain"})
    with pytest.raises(ValueError, match="above 0"):
        options(INITIALIZERS["kaiming_normal"])["gain"].check(0.0)
