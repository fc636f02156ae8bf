"""Initializers against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jtrain.errors import ConfigError
from jtrain.models.initializers import INITIALIZERS, reinitialise
from jtrain.table import options

KEY = jax.random.key(0)
DENSE, CONV = (300, 500), (3, 3, 64, 128)
FANS = {DENSE: (300, 500), CONV: (9 * 64, 9 * 128)}


# name -> variance for a gain, of the fans
VARIANCES = {
    "kaiming": lambda gain, fan_in, fan_out: gain**2 * 2 / fan_in,
    "xavier": lambda gain, fan_in, fan_out: gain**2 * 2 / (fan_in + fan_out),
    "lecun": lambda gain, fan_in, fan_out: gain**2 / fan_in,
}
SCALED = sorted(f"{family}_{kind}" for family in VARIANCES for kind in ("normal", "uniform"))


def check_moments(drawn, variance, kurtosis):
    drawn = np.asarray(drawn, np.float64).ravel()
    assert abs(drawn.mean()) < 5 * np.sqrt(variance / drawn.size)
    np.testing.assert_allclose(drawn.var(), variance, rtol=0.03)
    np.testing.assert_allclose((drawn**4).mean() / drawn.var() ** 2, kurtosis, rtol=0.05)


@pytest.mark.parametrize("shape", [DENSE, CONV])
@pytest.mark.parametrize("gain", [1.0, 1.7])
@pytest.mark.parametrize("name", SCALED)
def test_variance_and_shape_of_the_distribution(name, gain, shape):
    family, kind = name.split("_")
    variance = VARIANCES[family](gain, *FANS[shape])
    drawn = np.asarray(INITIALIZERS[name](gain=gain)(KEY, shape, jnp.float32))
    check_moments(drawn, variance, 1.8 if kind == "uniform" else 3.0)
    if kind == "uniform":
        assert np.abs(drawn).max() <= np.sqrt(3 * variance) * 1.00001


def test_normal_has_its_standard_deviation_whatever_the_fans():
    for shape in (DENSE, CONV):
        check_moments(INITIALIZERS["normal"](std=0.3)(KEY, shape, jnp.float32), 0.09, 3.0)


def test_truncated_normal_is_cut_at_two_standard_deviations():
    drawn = INITIALIZERS["truncated_normal"](std=0.3)(KEY, DENSE, jnp.float32)
    assert 0.59 < np.abs(drawn).max() <= 0.6
    law = scipy.stats.truncnorm(-2, 2)
    check_moments(drawn, 0.09 * law.var(), 3 + float(law.stats("k")))
    np.testing.assert_allclose(law.var(), 0.774, atol=5e-4)  # as its docstring says


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (3, 3, 4, 16)])
def test_orthogonal_matrices_are_orthogonal(shape):
    drawn = np.asarray(INITIALIZERS["orthogonal"](gain=1.7)(KEY, shape, jnp.float32)).reshape(-1, shape[-1])
    narrow = drawn if drawn.shape[0] >= drawn.shape[1] else drawn.T
    np.testing.assert_allclose(narrow.T @ narrow, 1.7**2 * np.eye(narrow.shape[1]), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 4, 16), (2, 2, 5, 3), (3, 4), (4, 3)])
def test_dirac_passes_its_inputs_on_in_its_first_outputs(shape):
    *sizes, inside, outside = shape
    kernel = INITIALIZERS["dirac"](rest=0.0)(KEY, shape, jnp.float32)
    x = np.random.default_rng(0).normal(size=(2, *(6 for _ in sizes), inside)).astype(np.float32)
    if sizes:  # odd kernels keep the place, an even one's centre is after the middle, as torch's
        padding = [(size // 2, (size - 1) // 2) for size in sizes]
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    else:
        y = x @ kernel
    same = min(inside, outside)
    np.testing.assert_array_equal(y[..., :same], x[..., :same])
    np.testing.assert_array_equal(y[..., same:], 0.0)


def test_dirac_draws_the_outputs_beyond_the_inputs():
    drawn = np.asarray(INITIALIZERS["dirac"](rest=0.5)(KEY, CONV, jnp.float32))
    check_moments(drawn[..., CONV[2] :], 0.25 / FANS[CONV][0], 1.8)
    assert set(np.unique(drawn[..., : CONV[2]])) == {0.0, 1.0}


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
    assert {"model", "orthogonal", "normal", "truncated_normal", "dirac", *SCALED} == INITIALIZERS.keys()
    for name, part in INITIALIZERS.items():
        other = {"model": set(), "normal": {"std"}, "truncated_normal": {"std"}, "dirac": {"rest"}}
        expected = other.get(name, {"gain"})
        assert set(options(part)) == expected
    with pytest.raises(ValueError, match="above 0"):
        options(INITIALIZERS["kaiming_normal"])["gain"].check(0.0)
