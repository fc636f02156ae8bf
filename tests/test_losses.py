import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrain.errors import ConfigError
from jtrain.losses import LOSSES, MIXES, TAKES
from jtrain.table import options

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "losses.npz")
CASES = [
    case | {"options": {k: tuple(v) if isinstance(v, list) else v for k, v in case["options"].items()}}
    for case in json.loads(str(GOLDEN["cases"]))
]
RANDOM = np.random.default_rng(3)
OF_VALUES = sorted(name for name, kinds in TAKES.items() if kinds == {"values"})
OF_LABELS = sorted(name for name, kinds in TAKES.items() if kinds == {"classes"})
OF_CLASSES = sorted(name for name, kinds in TAKES.items() if "class" in kinds)
WEIGHTS = (0.5, 2.0, 1.0, 3.0)


def draw(*shape):
    return jnp.asarray(RANDOM.normal(scale=2.0, size=shape), jnp.float32)


def arrays(name):
    """Outputs and targets that a loss takes."""
    if name in OF_CLASSES:
        return draw(6, 4), jnp.asarray(RANDOM.integers(0, 4, size=6), jnp.int32)
    if name in OF_LABELS:
        return draw(6, 3), jnp.asarray(RANDOM.integers(0, 2, size=(6, 3)), jnp.int32)
    return draw(6, 3), draw(6, 3)


@functools.cache
def golden_results():
    """Loss and slope of every case, from one compiled program."""

    def results(arrays):
        found = []
        for case in CASES:
            outputs, targets = arrays[case["data"]]
            loss = functools.partial(LOSSES[case["name"]], **case["options"])
            values, pull = jax.vjp(lambda x, loss=loss, targets=targets: loss(x, targets), outputs)
            found.append((values, pull(jnp.ones_like(values))[0]))
        return found

    names = {case["data"] for case in CASES}
    return jax.jit(results)({name: (GOLDEN[f"{name}/outputs"], GOLDEN[f"{name}/targets"]) for name in names})


def label(number):
    case = CASES[number]
    return "-".join([case["name"], case["data"], *(f"{k}={v}" for k, v in case["options"].items())])


@pytest.mark.parametrize("number", range(len(CASES)), ids=label)
def test_loss_and_slope_equal_pytorch(number):
    loss, slope = golden_results()[number]
    assert loss.dtype == slope.dtype == jnp.float32
    np.testing.assert_allclose(loss, GOLDEN[f"{number}/loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, GOLDEN[f"{number}/slope"], rtol=1e-5, atol=1e-6)


def test_every_loss_is_compared_with_pytorch_in_all_its_options():
    tried = {(case["name"], option) for case in CASES for option in case["options"]}
    assert {case["name"] for case in CASES} == set(LOSSES)
    assert tried == {(name, option) for name, loss in LOSSES.items() for option in options(loss)}


def test_tables_know_every_loss_and_defaults_are_valid():
    assert set(TAKES) == set(LOSSES)
    assert set(LOSSES) - MIXES == {"multi_margin"}
    for loss in LOSSES.values():
        for option in options(loss).values():
            assert option.check(option.default) == option.default


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_outputs_are_measured_in_float32(name):
    outputs, targets = arrays(name)
    short = outputs.astype(jnp.bfloat16)
    found = LOSSES[name](short, targets)
    assert (found.dtype, found.shape) == (jnp.float32, (6,))
    np.testing.assert_array_equal(found, LOSSES[name](short.astype(jnp.float32), targets))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("top", [0.0, 15.0, 40.0, 300.0])
def test_focal_keeps_value_and_slope_where_the_target_is_almost_sure(gamma, top):
    # In two classes everything is a function of m = x_t - x_other: p = σ(m), and 1 - p = σ(-m) keeps its digits.
    x = np.array([[top, 0.0]])
    rest, log_p = 1.0 / (1.0 + np.exp(top)), -np.log1p(np.exp(-top))
    expected = -(rest**gamma) * log_p
    by_margin = gamma * rest**gamma * (1.0 - rest) * log_p - rest ** (gamma + 1.0)
    for targets in (jnp.array([0]), jnp.array([[1.0, 0.0]])):
        loss, slope = jax.value_and_grad(lambda x, y=targets: LOSSES["focal"](x, y, gamma=gamma).sum())(jnp.float32(x))
        np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(slope, [[by_margin, -by_margin]], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_sigmoid_focal_keeps_value_and_slope_where_a_label_is_almost_sure(gamma):
    x = np.array([-300.0, -100.0, -20.0, 0.0, 20.0, 100.0, 300.0])
    y = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    margin = np.where(y == 1, x, -x)
    rest, log_p = np.exp(-np.logaddexp(0, margin)), -np.logaddexp(0, -margin)
    alpha = np.where(y == 1, 0.3, 0.7)
    loss, pull = jax.vjp(lambda x: LOSSES["sigmoid_focal"](x, jnp.float32(y), gamma=gamma, alpha=0.3), jnp.float32(x))
    slope = alpha * (gamma * rest**gamma * (1.0 - rest) * log_p - rest ** (gamma + 1.0)) * np.where(y == 1, 1, -1)
    np.testing.assert_allclose(loss, -alpha * rest**gamma * log_p, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(pull(jnp.ones(7))[0], slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", sorted(set(OF_CLASSES) & MIXES))
def test_class_numbers_and_their_one_hot_floats_have_the_same_loss(name):
    outputs, targets = arrays(name)
    smoothing = {"label_smoothing": 0.1} if name == "cross_entropy" else {}
    loss = functools.partial(LOSSES[name], class_weights=WEIGHTS, **smoothing)
    np.testing.assert_allclose(loss(outputs, targets), loss(outputs, jax.nn.one_hot(targets, 4)), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(MIXES - set(OF_VALUES)))
def test_loss_of_mixed_targets_is_the_mix_of_losses(name):
    outputs, one = arrays(name)
    another = one[::-1]
    if name in OF_CLASSES:
        one, another = (jax.nn.one_hot(t, 4) for t in (one, another))
    share = jnp.float32(RANDOM.uniform(size=6))
    wide = share[:, None]
    mixed = LOSSES[name](outputs, wide * one + (1.0 - wide) * another)
    apart = share * LOSSES[name](outputs, one) + (1.0 - share) * LOSSES[name](outputs, another)
    np.testing.assert_allclose(mixed, apart, rtol=1e-5, atol=1e-6)


def test_multi_margin_refuses_mixed_targets():
    with pytest.raises(ConfigError, match=r"^loss\.name: multi_margin needs class numbers"):
        LOSSES["multi_margin"](draw(2, 3), jnp.full((2, 3), 1 / 3))


@pytest.mark.parametrize("name", [*OF_VALUES, *OF_LABELS])
def test_one_output_is_compared_with_its_own_target_alone(name):
    outputs, targets = draw(5), jnp.float32([0, 1, 1, 0, 1])
    expected = np.stack([LOSSES[name](outputs[i : i + 1], targets[i : i + 1])[0] for i in range(5)])
    for x, y in ((outputs[:, None], targets), (outputs, targets[:, None]), (outputs[:, None], targets[:, None])):
        np.testing.assert_allclose(LOSSES[name](x, y), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [*OF_VALUES, *OF_LABELS])
@pytest.mark.parametrize("shapes", [((4, 3), (4,)), ((4,), (4, 4)), ((4, 1), (3,)), ((4, 2), (4, 1)), ((4, 4), (4,))])
def test_shapes_that_do_not_fit_are_an_error_and_never_broadcast(name, shapes):
    with pytest.raises(ConfigError, match=r"^model: outputs of shape \[4"):
        LOSSES[name](jnp.zeros(shapes[0]), jnp.zeros(shapes[1]))


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize(
    "targets", [jnp.zeros((4, 1), int), jnp.zeros(4), jnp.zeros((4, 2)), jnp.zeros(3, int)], ids=str
)
def test_class_targets_that_do_not_fit_are_an_error(name, targets):
    with pytest.raises(ConfigError, match=r"^model: outputs of shape \[4, 3\] do not fit targets"):
        LOSSES[name](jnp.zeros((4, 3)), targets)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_class_weights_of_a_wrong_number_are_an_error(name):
    outputs, targets = arrays(name)
    with pytest.raises(ConfigError, match=rf"^loss\.{name}\.class_weights: has 3 weights for 4 classes"):
        LOSSES[name](outputs, targets, class_weights=(1.0, 2.0, 1.0))
    with pytest.raises(ValueError, match="above 0"):
        options(LOSSES[name])["class_weights"].check((1.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize("name", LOSSES)
def test_slope_is_finite_at_zeros_and_at_great_outputs(name):
    for size in (0.0, 100.0, 1e4):
        outputs, targets = arrays(name)
        outputs = size * jnp.sign(outputs)
        targets = outputs if name in OF_VALUES and size == 0 else targets
        loss, slope = jax.value_and_grad(lambda x, y=targets: LOSSES[name](x, y).sum())(outputs)
        assert np.isfinite(loss)
        assert np.isfinite(slope).all()
