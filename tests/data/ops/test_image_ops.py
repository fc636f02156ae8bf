"""Ops that move or remove whole pixels, against plain loops over the same draws."""

import jax
import numpy as np
import pytest
from scipy import stats

from jtrain.data.augment import build
from jtrain.data.ops import image_ops, moves

HEIGHT, WIDTH = 9, 7
KEY = jax.random.fold_in(jax.random.key(3), 0)  # of the first op of a string


def images(batch=24, dtype=np.float32):
    return np.random.default_rng(0).integers(1, 256, (batch, HEIGHT, WIDTH, 3)).astype(dtype)


def run(text, before):
    return np.asarray(jax.jit(build(text))(before, jax.random.key(3)))


def blanked(image, box, values):
    """`image` with the pixels of `box` replaced by those of `values`, one by one."""
    top, left, rows, columns = (int(number) for number in box)
    image = image.copy()
    for y in range(top, top + rows):
        for x in range(left, left + columns):
            if 0 <= y < HEIGHT and 0 <= x < WIDTH:
                image[y, x] = values[y, x]
    return image


def test_mirrors_turn_over_the_images_that_a_fair_coin_names():
    flipped = np.asarray(moves.flips(KEY, 2000))
    assert stats.binomtest(int(flipped.sum()), 2000).pvalue > 0.01
    before = images(2000, np.uint8)
    expected = np.stack([i[::-1] if f else i for i, f in zip(before, flipped, strict=True)])
    assert np.array_equal(run("flip_ud", before), expected)
    expected = np.stack([i[:, ::-1] if f else i for i, f in zip(before, flipped, strict=True)])
    assert np.array_equal(run("flip_lr", before), expected)


@pytest.mark.parametrize("size", [3, 4, 12])
@pytest.mark.parametrize("fill", ["zero", "mean"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_cutout_blanks_a_square_that_the_border_cuts(size, fill, dtype):
    before = images(dtype=dtype)
    boxes = np.asarray(image_ops.squares(KEY, len(before), size, 0.9, HEIGHT, WIDTH))
    means = before.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    means = np.rint(means) if dtype == np.uint8 else means
    values = np.broadcast_to(means if fill == "mean" else 0, before.shape)
    expected = np.stack([blanked(*given) for given in zip(before, boxes, values, strict=True)])
    after = run(f"cutout({size}, fill={fill!r}, p=0.9)", before)
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    assert 0 < (boxes[:, 2] == 0).sum() < len(before)


def test_cutout_has_its_centre_at_every_pixel_equally_often():
    boxes = np.asarray(image_ops.squares(KEY, 6300, 4, 1.0, HEIGHT, WIDTH))
    assert set(boxes[:, 2]) == set(boxes[:, 3]) == {4}
    counts = np.zeros((HEIGHT, WIDTH))
    np.add.at(counts, (boxes[:, 0] + 2, boxes[:, 1] + 2), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 0.01


@pytest.mark.parametrize("fill", ["zero", "mean", "noise"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_erase_blanks_a_rectangle(fill, dtype):
    before = images(dtype=dtype)
    box_key, noise_key = jax.random.split(KEY)
    boxes = np.asarray(image_ops.rectangles(box_key, len(before), 0.5, (0.02, 0.4), (0.3, 3.0), HEIGHT, WIDTH))
    means = before.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    values = {
        "zero": np.zeros(before.shape),
        "mean": np.broadcast_to(np.rint(means) if dtype == np.uint8 else means, before.shape),
        "noise": np.asarray(image_ops.noise_pixels(noise_key, before)),
    }[fill]
    expected = np.stack([blanked(*given) for given in zip(before, boxes, values, strict=True)])
    np.testing.assert_allclose(run(f"erase(0.5, (0.02, 0.4), (0.3, 3.0), {fill!r})", before), expected, rtol=1e-6)


def test_erased_rectangles_have_the_area_shape_and_place_asked_for():
    side = 400
    boxes = np.asarray(image_ops.rectangles(KEY, 4000, 0.5, (0.02, 0.4), (0.5, 2.0), side, side))
    drawn = boxes[boxes[:, 2] > 0]
    assert stats.binomtest(len(drawn), 4000).pvalue > 0.01
    top, left, rows, columns = drawn.T
    area = rows * columns / side**2
    # Of whole pixels; every such rectangle fits, so that both are as drawn.
    assert stats.kstest(area, stats.uniform(0.02, 0.38).cdf).pvalue > 0.01
    assert stats.kstest(np.log(columns / rows), stats.uniform(np.log(0.5), np.log(4)).cdf).pvalue > 0.01
    assert stats.kstest(top / (side - rows + 1), "uniform").pvalue > 0.01
    assert stats.kstest(left / (side - columns + 1), "uniform").pvalue > 0.01
    assert ((top + rows <= side) & (left + columns <= side) & (top >= 0) & (left >= 0)).all()


def test_an_image_that_no_rectangle_fits_is_left_alone():
    before = np.ones((8, 2, 50, 3), np.uint8)  # every rectangle of the area is at least 4 rows high
    assert np.array_equal(jax.jit(build("erase(1.0, (0.9, 1.0), (0.5, 2.0))"))(before, jax.random.key(0)), before)


def test_erasing_noise_is_uniform_and_differs_from_pixel_to_pixel():
    levels = np.asarray(image_ops.noise_pixels(KEY, images(200, np.uint8)))
    assert stats.chisquare(np.bincount(levels.ravel(), minlength=256)).pvalue > 0.01
    assert len(np.unique(levels[:, 0, :3].reshape(200, -1), axis=0)) == 200
    floats = np.asarray(image_ops.noise_pixels(KEY, images(200)))
    np.testing.assert_allclose(floats, levels / 255, rtol=1e-6)
