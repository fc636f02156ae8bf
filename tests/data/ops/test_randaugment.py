"""RandAugment's ops, each against Pillow's or a plain loop; and its draws."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from plain_images import resampled
from scipy import stats

from jtrain.data.augment import build
from jtrain.data.ops import randaugment

HEIGHT, WIDTH = 30, 26  # equalize rounds by half a step, which needs some 500 pixels to be one
MAGNITUDE = 21.0
STRENGTH = 0.7  # of 30
OPS = randaugment.OPS
APPLY = jax.jit(randaugment.apply, static_argnames=("magnitude", "fill"))
KEY = jax.random.key(0)
PLACES = {
    "rotate": lambda y, x, s: (
        np.cos(s * np.pi / 6) * y + np.sin(s * np.pi / 6) * x,
        np.cos(s * np.pi / 6) * x - np.sin(s * np.pi / 6) * y,
    ),
    "shear_x": lambda y, x, s: (y, x + 0.3 * s * y),
    "shear_y": lambda y, x, s: (y + 0.3 * s * x, x),
    "translate_x": lambda y, x, s: (y, x + s * 150 / 331 * WIDTH),
    "translate_y": lambda y, x, s: (y + s * 150 / 331 * HEIGHT, x),
}
PILLOW = {
    "identity": lambda image, s: image,
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "equalize": lambda image, s: ImageOps.equalize(image),
    "solarize": lambda image, s: ImageOps.solarize(image, 256 * (1 - STRENGTH)),
    "posterize": lambda image, s: ImageOps.posterize(image, 5),  # 8 − 4 · 0.7, rounded
    "color": lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.9 * s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s),
}
# Pillow cuts decimals off where these round, and the gray of contrast and color is rounded before.
LEVELS_APART = {"autocontrast": 1, "color": 2, "contrast": 2, "brightness": 1, "sharpness": 2}


@pytest.fixture(scope="module")
def applied():
    """(an image that spans no whole range, (op, sign) -> the image after it)."""
    rng = np.random.default_rng(0)
    image = (40 + 25 * rng.normal(size=(HEIGHT, WIDTH, 3)).cumsum(axis=1)).clip(20, 210).astype(np.uint8)
    chosen, negative = np.tile(np.arange(len(OPS), dtype=np.int32), 2), np.repeat([False, True], len(OPS))
    batch = np.broadcast_to(image, (len(chosen), *image.shape))
    results = np.asarray(APPLY(batch, chosen, negative, KEY, magnitude=MAGNITUDE, fill="zero"))
    keys = [(OPS[number], -1 if below else 1) for number, below in zip(chosen, negative, strict=True)]
    return image, dict(zip(keys, results, strict=True))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", PILLOW)
def test_an_op_that_changes_values_is_pillows(applied, name, sign):
    image, results = applied
    expected = np.asarray(PILLOW[name](Image.fromarray(image), sign * STRENGTH)).astype(int)
    assert np.abs(results[name, sign] - expected).max() <= LEVELS_APART.get(name, 0)
    assert np.array_equal(expected, image) == (name == "identity")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", PLACES)
def test_an_op_that_moves_pixels_samples_where_its_definition_says(applied, name, sign):
    image, results = applied
    expected = resampled(image, lambda y, x: PLACES[name](y, x, sign * STRENGTH), "zero")
    assert np.abs(results[name, sign] - expected).max() < 0.51


def test_every_op_is_checked_above():
    assert len(OPS) == 14
    assert set(OPS) == {*PLACES, *PILLOW}


def test_a_channel_of_one_value_is_left_alone_by_stretching_and_equalizing():
    images = np.full((len(OPS), HEIGHT, WIDTH, 3), 90, np.uint8)
    after = np.asarray(
        APPLY(images, np.arange(len(OPS), dtype=np.int32), np.zeros(len(OPS), bool), KEY, magnitude=0.0, fill="zero")
    )
    assert np.array_equal(after, images)


def test_ops_and_signs_are_drawn_equally_often():
    chosen, negative = (np.asarray(drawn) for drawn in randaugment.choices(jax.random.key(0), 7000))
    assert stats.chisquare(np.bincount(chosen, minlength=14)).pvalue > 0.01
    assert stats.binomtest(int(negative.sum()), 7000).pvalue > 0.01


def batch(count=24):
    return np.random.default_rng(1).integers(0, 256, (count, HEIGHT, WIDTH, 3)).astype(np.uint8)


def test_rounds_follow_one_another_with_draws_of_their_own():
    key = jax.random.fold_in(jax.random.key(0), 0)
    expected = batch()
    for number in range(2):
        chosen, negative = randaugment.choices(jax.random.fold_in(key, number), len(expected))
        expected = APPLY(expected, chosen, negative, KEY, magnitude=9.0, fill="mean")
    ours = np.asarray(jax.jit(build("randaugment(2, 9, 'mean')"))(batch(), jax.random.key(0)))
    assert np.abs(ours.astype(int) - np.asarray(expected)).max() <= 1  # two programs may round apart


def test_floats_are_the_levels_of_uint8_clipped_to_black_and_white():
    levels = batch()
    op = jax.jit(build("randaugment(1)"))
    expected = np.asarray(op(levels, jax.random.key(0))) / np.float32(255)
    np.testing.assert_allclose(op(levels / np.float32(255), jax.random.key(0)), expected, atol=1e-6)
    beyond = np.where(levels == 255, 3, np.where(levels == 0, -3, levels / np.float32(255))).astype(np.float32)
    np.testing.assert_allclose(op(beyond, jax.random.key(0)), expected, atol=1e-6)


def test_no_strength_changes_nothing_but_by_what_has_none():
    before, chosen = batch(len(OPS)), np.arange(len(OPS), dtype=np.int32)
    after = np.asarray(APPLY(before, chosen, np.zeros(len(OPS), bool), KEY, magnitude=0.0, fill="zero"))
    changed = {name for name, a, b in zip(OPS, after, before, strict=True) if not np.array_equal(a, b)}
    assert changed <= {"autocontrast", "equalize"}
    assert "equalize" in changed
