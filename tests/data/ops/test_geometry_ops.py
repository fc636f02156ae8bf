"""Ops that resample, against a plain bilinear loop over the same draws, and against Pillow."""

import jax
import numpy as np
import pytest
from PIL import Image
from plain_images import resampled
from scipy import stats

from jtrain.data.augment import build
from jtrain.data.ops import geometry_ops

HEIGHT, WIDTH = 9, 7
KEY = jax.random.fold_in(jax.random.key(3), 0)  # of the first op of a string


def images(batch=6, dtype=np.float32, height=HEIGHT, width=WIDTH):
    values = np.random.default_rng(0).integers(1, 256, (batch, height, width, 3))
    return values.astype(dtype) if dtype == np.uint8 else (values / 255).astype(dtype)


def run(text, before):
    return np.asarray(jax.jit(build(text))(before, jax.random.key(3)))


def places(op, batch):
    """The place function of each example, from the draws of `op`."""
    if op == "rotate":
        drawn = np.asarray(geometry_ops.angles(KEY, batch, 170.0, 0.9), np.float64)
        return [lambda y, x, a=a: (np.cos(a) * y + np.sin(a) * x, np.cos(a) * x - np.sin(a) * y) for a in drawn]
    if op == "translate":
        drawn = np.asarray(geometry_ops.shifts(KEY, batch, 0.4, 0.9), np.float64)
        return [lambda y, x, s=s: (y - s[0] * HEIGHT, x - s[1] * WIDTH) for s in drawn]
    drawn = np.asarray(geometry_ops.slopes(KEY, batch, 0.7, 0.9), np.float64)
    return [lambda y, x, s=s: (y + s[0] * x, x + s[1] * y) for s in drawn]


@pytest.mark.parametrize("fill", ["zero", "mean"])
@pytest.mark.parametrize("text", ["rotate(170", "translate(0.4", "shear(0.7"])
def test_each_pixel_is_the_bilinear_value_at_its_moved_place(text, fill):
    before, name = images(), text.split("(")[0]
    found = places(name, len(before))
    expected = np.stack([resampled(i, place, fill) for i, place in zip(before, found, strict=True)])
    text = f"{text}, fill={fill!r}, p=0.9)"
    np.testing.assert_allclose(run(text, before), expected, atol=2e-5)
    levels = np.rint(before * 255).astype(np.uint8)
    expected = np.stack([resampled(i, place, fill) for i, place in zip(levels, found, strict=True)])
    after = run(text, levels)
    assert np.abs(after - expected).max() < 0.51  # to the nearest, but for the last bits of float32


def test_a_rotation_is_pillows_and_counter_clockwise():
    before = images(1, height=21, width=21)
    angle = 25.0
    matrix = geometry_ops.rotations(np.radians([angle]).astype(np.float32))
    after = np.asarray(geometry_ops.affine(before, matrix, "zero"))
    y, x = np.mgrid[:21, :21] - 10
    inside = np.hypot(y, x) < 9  # at the border Pillow does not blend with the fill
    for channel in range(3):
        theirs = Image.fromarray(before[0, ..., channel]).rotate(angle, Image.Resampling.BILINEAR)
        np.testing.assert_allclose(after[0, ..., channel][inside], np.asarray(theirs)[inside], atol=1e-5)


def test_angles_shifts_and_slopes_are_uniform_over_the_whole_range():
    angles = np.asarray(geometry_ops.angles(KEY, 4000, 30.0, 1.0))
    assert stats.kstest(np.degrees(angles), stats.uniform(-30, 60).cdf).pvalue > 0.01
    shifts = np.asarray(geometry_ops.shifts(KEY, 4000, 0.2, 1.0))
    slopes = np.asarray(geometry_ops.slopes(KEY, 4000, 0.2, 1.0))
    for drawn in (shifts[:, 0], shifts[:, 1], slopes[:, 0], slopes[:, 1]):
        assert stats.kstest(drawn, stats.uniform(-0.2, 0.4).cdf).pvalue > 0.01
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.05


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_resized_crop_is_pillows(dtype):
    before = images(12, dtype)
    boxes = np.asarray(geometry_ops.parts(KEY, 12, (0.08, 1.0), (0.75, 4 / 3), 0.9, HEIGHT, WIDTH))
    after = run("resized_crop((0.08, 1.0), (0.75, 1.3333333333333333), 0.9)", before)
    for image, (top, left, rows, columns), ours in zip(before.astype(np.float32), boxes.tolist(), after, strict=True):
        for channel in range(3):
            part = Image.fromarray(image[top : top + rows, left : left + columns, channel])
            theirs = np.asarray(part.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
            np.testing.assert_allclose(ours[..., channel], theirs, atol=0.51 if dtype == np.uint8 else 1e-5)
    assert len({tuple(box) for box in boxes.tolist()}) > 6


def test_cropped_parts_have_the_area_shape_and_place_asked_for():
    side = 400
    boxes = np.asarray(geometry_ops.parts(KEY, 4000, (0.1, 0.4), (0.5, 2.0), 1.0, side, side))
    top, left, rows, columns = boxes.T
    assert stats.kstest(rows * columns / side**2, stats.uniform(0.1, 0.3).cdf).pvalue > 0.01
    assert stats.kstest(np.log(columns / rows), stats.uniform(np.log(0.5), np.log(4)).cdf).pvalue > 0.01
    assert stats.kstest(top / (side - rows + 1), "uniform").pvalue > 0.01
    assert stats.kstest(left / (side - columns + 1), "uniform").pvalue > 0.01
    assert ((top + rows <= side) & (left + columns <= side) & (top >= 0) & (left >= 0)).all()


@pytest.mark.parametrize(("size", "expected"), [((4, 100), (0, 47, 4, 5)), ((100, 4), (47, 0, 5, 4)), ((10, 10), None)])
def test_where_no_part_fits_the_greatest_central_one_is_taken(size, expected):
    boxes = np.asarray(geometry_ops.parts(KEY, 50, (0.9, 1.0), (0.75, 4 / 3), 1.0, *size))
    if expected:  # nine tenths of a strip cannot have such a ratio
        assert {tuple(box) for box in boxes.tolist()} == {expected}
    else:
        assert len({tuple(box) for box in boxes.tolist()}) > 3
