"""Ops that change values in place, against plain NumPy, `colorsys` and Pillow."""

import colorsys

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats

from jtrain.data.augment import build
from jtrain.data.ops import colour_ops, pixels

KEY = jax.random.fold_in(jax.random.key(3), 0)  # of the first op of a string
LUMA = np.array([0.299, 0.587, 0.114])


def images(batch=8, dtype=np.float32):
    values = np.random.default_rng(0).integers(0, 256, (batch, 6, 5, 3))
    values[:, 0] = values[:, 0, :, :1]  # gray pixels have no hue
    return values.astype(dtype) if dtype == np.uint8 else (values / 255).astype(dtype)


def run(text, before):
    return np.asarray(jax.jit(build(text))(before, jax.random.key(3)))


def toward(name, image):
    """What an image is blended with, in float64."""
    image = image.astype(np.float64)
    return {"brightness": 0.0, "contrast": (image @ LUMA).mean(), "saturation": (image @ LUMA)[..., None]}[name]


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_an_image_is_blended_by_its_factor(name):
    before, levels = images(), images(dtype=np.uint8)
    factors = np.asarray(colour_ops.factors(KEY, 8, 1.5, 0.5), np.float64).ravel()
    assert 0 < (factors == 1).sum() < 8
    after, rounded = run(f"{name}(1.5, 0.5)", before), run(f"{name}(1.5, 0.5)", levels)
    for i, factor in enumerate(factors):
        expected = factor * before[i].astype(np.float64) + (1 - factor) * toward(name, before[i])
        np.testing.assert_allclose(after[i], expected, atol=1e-5)  # not clipped
        expected = factor * levels[i] + (1 - factor) * toward(name, levels[i])
        assert np.abs(rounded[i] - np.clip(expected, 0, 255)).max() < 0.51
    assert after.max() > 1.1


@pytest.mark.parametrize(
    ("name", "theirs"), [("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")]
)
def test_enhancing_is_pillows(name, theirs):
    levels = images(dtype=np.uint8)
    factors = np.asarray(colour_ops.factors(KEY, 8, 0.6, 1.0)).ravel()
    for ours, image, factor in zip(run(f"{name}(0.6)", levels), levels, factors, strict=True):
        expected = getattr(ImageEnhance, theirs)(Image.fromarray(image)).enhance(float(factor))
        # Pillow rounds the gray that it blends with, and cuts decimals off: up to one level each.
        assert np.abs(ours.astype(int) - np.asarray(expected)).max() <= 2


def test_factors_are_uniform_about_one_and_never_negative():
    factors = np.asarray(colour_ops.factors(KEY, 4000, 0.4, 1.0)).ravel()
    assert stats.kstest(factors, stats.uniform(0.6, 0.8).cdf).pvalue > 0.01
    assert np.asarray(colour_ops.factors(KEY, 400, 3.0, 1.0)).min() == 0


def test_hue_is_turned_as_colorsys_does():
    before = images()
    turns = np.asarray(colour_ops.turns(KEY, 8, 0.5, 0.8), np.float64)
    assert np.ptp(turns) > 0.5
    after = run("hue(0.5, 0.8)", before)
    for image, turn, ours in zip(before.astype(np.float64), turns, after, strict=True):
        for pixel, our in zip(image.reshape(-1, 3), ours.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            np.testing.assert_allclose(our, colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), atol=1e-5)
    assert stats.kstest(np.asarray(colour_ops.turns(KEY, 4000, 0.2, 1.0)), stats.uniform(-0.2, 0.4).cdf).pvalue > 0.01


def test_hue_keeps_uint8_within_its_range_and_follows_any_scale_and_offset():
    levels = images(dtype=np.uint8)
    floats = levels.astype(np.float32)
    turned = run("hue(0.5)", floats)
    assert np.array_equal(run("hue(0.5)", levels), np.rint(turned))
    np.testing.assert_allclose(run("hue(0.5)", floats / 50 - 3), turned / 50 - 3, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_gray_images_have_their_luma_in_every_channel(dtype):
    before = images(400, dtype)
    after = run("gray(0.2)", before)
    grayed = (after == after[..., :1]).all(axis=(1, 2, 3))
    assert stats.binomtest(int(grayed.sum()), 400, 0.2).pvalue > 0.01
    assert np.array_equal(after[~grayed], before[~grayed])
    expected = (before[grayed].astype(np.float64) @ LUMA)[..., None]
    assert np.abs(after[grayed] - expected).max() < (0.51 if dtype == np.uint8 else 1e-6)


def test_noise_is_gaussian_in_shares_of_white():
    before = images(60)
    drawn = np.asarray(colour_ops.deviations(KEY, before.shape, 0.1, 0.5))
    noisy = (drawn != 0).any(axis=(1, 2, 3))
    assert 15 < noisy.sum() < 45
    assert not drawn[~noisy].any()
    assert stats.kstest(drawn[noisy].ravel(), stats.norm(0, 0.1).cdf).pvalue > 0.01
    np.testing.assert_allclose(run("noise(0.1, 0.5)", before), before + drawn, atol=1e-6)  # not clipped
    levels = images(60, np.uint8)
    expected = np.clip(levels + 255 * drawn.astype(np.float64), 0, 255)
    assert np.abs(run("noise(0.1, 0.5)", levels) - expected).max() < 0.51


def test_bytes_are_rounded_to_the_nearest_and_clipped():
    values = np.array([-3.0, 0.4, 0.6, 254.4, 254.6, 300.0], np.float32)
    assert np.asarray(pixels.as_dtype(values, np.dtype(np.uint8))).tolist() == [0, 0, 1, 254, 255, 255]
    assert np.array_equal(pixels.as_dtype(values, np.dtype(np.float32)), values)
