"""Mixup and CutMix, against plain NumPy on the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jtrain.data.ops import mix
from jtrain.errors import ConfigError

KEY = jax.random.key(2)
HEIGHT, WIDTH, CLASSES = 8, 6, 4
MIXUP, CUTMIX = jax.jit(mix.mixup), jax.jit(mix.cutmix)
SHARES = jax.jit(mix.shares, static_argnums=1)


def batch(count=9, dtype=np.float32, shape=(HEIGHT, WIDTH, 3)):
    """(inputs, one-hot targets, weight) with padding at the places 3 and 8."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (count, *shape)).astype(dtype)
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, count)]
    return inputs, targets, (np.arange(count) % 5 != 3).astype(np.float32)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH, 3), (7,), ()])
def test_mixup_is_the_weighted_mean_with_the_next_example(shape):
    inputs, targets, weight = batch(shape=shape)
    lam = np.asarray(SHARES(KEY, 9, 0.7, weight), np.float64)
    mixed, mixed_targets = MIXUP(inputs, targets, weight, KEY, alpha=0.7)
    for i in range(9):
        partner = (i + 1) % 9
        expected = lam[i] * inputs[i] + (1 - lam[i]) * inputs[partner]
        np.testing.assert_allclose(mixed[i], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mixed_targets[i], lam[i] * targets[i] + (1 - lam[i]) * targets[partner], atol=1e-6)


def test_mixup_of_uint8_is_rounded_to_the_nearest():
    inputs, targets, weight = batch(dtype=np.uint8)
    lam = np.asarray(SHARES(KEY, 9, 1.0, weight), np.float64)[:, None, None, None]
    mixed, _ = MIXUP(inputs, targets, weight, KEY, alpha=1.0)
    assert mixed.dtype == np.uint8
    assert np.abs(mixed - (lam * inputs + (1 - lam) * np.roll(inputs, -1, axis=0))).max() < 0.51


@pytest.mark.parametrize("op", [MIXUP, CUTMIX])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_padding_and_those_who_would_meet_it_are_left_alone_to_the_bit(op, dtype):
    inputs, targets, weight = batch(dtype=dtype)
    mixed, mixed_targets = (np.asarray(a) for a in op(inputs, targets, weight, KEY, alpha=1.0))
    alone = np.array([2, 3, 7, 8])
    assert np.array_equal(mixed[alone], inputs[alone])
    assert np.array_equal(mixed_targets[alone], targets[alone])
    others = np.setdiff1d(np.arange(9), alone)
    assert (mixed[others] != inputs[others]).any(axis=(1, 2, 3)).sum() >= 3
    np.testing.assert_allclose(mixed_targets.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("op", [MIXUP, CUTMIX])
def test_a_batch_of_one_has_itself_as_partner(op):
    inputs, targets, weight = batch(1, np.uint8)
    mixed, mixed_targets = op(inputs, targets, weight, KEY)
    assert np.array_equal(mixed, inputs)
    np.testing.assert_allclose(mixed_targets, targets, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_cutmix_puts_a_box_of_the_next_example_in_and_weighs_by_its_area(dtype):
    inputs, targets, _ = batch(9, dtype)
    weight = np.ones(9, np.float32)
    boxes = np.asarray(mix.boxes(KEY, 9, 1.0, weight, HEIGHT, WIDTH))
    mixed, mixed_targets = CUTMIX(inputs, targets, weight, KEY, alpha=1.0)
    for i, (top, left, rows, columns) in enumerate(boxes.tolist()):
        expected, kept, partner = inputs[i].copy(), HEIGHT * WIDTH, (i + 1) % 9
        for y in range(max(top, 0), min(top + rows, HEIGHT)):
            for x in range(max(left, 0), min(left + columns, WIDTH)):
                expected[y, x] = inputs[partner, y, x]
                kept -= 1
        assert np.array_equal(mixed[i], expected)
        lam = kept / (HEIGHT * WIDTH)
        np.testing.assert_allclose(mixed_targets[i], lam * targets[i] + (1 - lam) * targets[partner], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_their_beta_distribution(alpha):
    lam = np.asarray(SHARES(KEY, 4000, alpha, np.ones(4000, np.float32)), np.float64)
    assert ((lam >= 0) & (lam <= 1)).all()
    # The least and the greatest float32 stand for many reals when alpha is small: compare where they are apart.
    grid = np.linspace(0.01, 0.99, 99)
    seen = np.searchsorted(np.sort(lam), grid, side="right") / len(lam)
    assert np.abs(seen - stats.beta(alpha, alpha).cdf(grid)).max() < 1.63 / np.sqrt(len(lam))  # KS bound at 1 %


def test_cutmix_boxes_have_the_sides_and_centres_of_the_paper():
    side, count = 200, 4000
    boxes = np.asarray(mix.boxes(KEY, count, 1.0, np.ones(count), side, 2 * side))
    top, left, rows, columns = boxes.T.astype(np.float64)
    assert np.abs(columns - 2 * rows).max() <= 2  # the image's shape, rounded
    assert stats.kstest((rows / side) ** 2, "uniform").pvalue > 0.01  # 1 − λ, and λ is uniform for alpha 1
    assert stats.kstest((top + rows // 2 + 0.5) / side, "uniform").pvalue > 0.01
    assert stats.kstest((left + columns // 2 + 0.5) / (2 * side), "uniform").pvalue > 0.01


def test_the_mean_share_that_cutmix_keeps_is_that_of_boxes_cut_by_the_border():
    count = 4000
    inputs = np.zeros((count, 40, 40, 1), np.uint8)
    targets = np.tile(np.float32([[1], [0]]), (count // 2, 1))
    _, mixed = CUTMIX(inputs, targets, np.ones(count, np.float32), KEY, alpha=1.0)
    kept = np.where(targets == 1, mixed, 1 - mixed)  # every second target is 0, so that what is kept can be read
    # Of a side a, a − a²/4 lies within the image on average; 1 − λ = a² is uniform, and the two axes are independent.
    u = (np.arange(100_000) + 0.5) / 100_000
    expected = 1 - ((np.sqrt(u) - u / 4) ** 2).mean()
    assert abs(kept.mean() - expected) < 4 * kept.std() / np.sqrt(count)


def test_draws_belong_to_the_place_in_the_batch():
    inputs, targets, _ = batch(9)
    weight = np.ones(9, np.float32)
    for op in (MIXUP, CUTMIX):
        whole, _ = op(inputs, targets, weight, KEY)
        part, _ = op(inputs[:5], targets[:5], weight[:5], KEY)
        np.testing.assert_allclose(part[:4], whole[:4], rtol=1e-6)  # the fifth meets another partner
        assert not np.array_equal(op(inputs, targets, weight, jax.random.key(9))[0], whole)


def test_eight_devices_mix_as_one_does():
    inputs, targets, _ = batch(16, np.uint8)
    weight = (np.arange(16) != 9).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    for op in (MIXUP, CUTMIX):
        expected = op(inputs, targets, weight, KEY)
        placed = jax.device_put((inputs, targets, weight), sharding)
        for ours, theirs in zip(op(*placed, KEY), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_targets_and_inputs_of_other_kinds_are_refused():
    inputs, targets, weight = batch()
    with pytest.raises(ConfigError, match=r"augment: mixing needs float targets.* int32"):
        MIXUP(inputs, jnp.zeros(9, jnp.int32), weight, KEY)
    with pytest.raises(ConfigError, match=r"augment: cutmix needs images .* \[7\]"):
        mix.cutmix(np.zeros((9, 7), np.float32), targets, weight, KEY)
