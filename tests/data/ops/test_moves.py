"""Moves of whole pixels, against slices of images that NumPy pads."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrain.data.augment import AUGMENTATIONS, build, parse
from jtrain.data.ops import moves

KEY = jax.random.key(3)


def images(batch, height=4, width=3, dtype=np.float32):
    values = np.random.default_rng(0).integers(1, 250, (batch, height, width, 2))
    return values % 2 > 0 if dtype is bool else values.astype(dtype)


def by_hand(image, turned, corner, pad, mode, mirrored):
    """One image after a move, by slices."""
    image = image[::-1] if turned else image
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    top, left = corner
    window = padded[top : top + image.shape[0], left : left + image.shape[1]]
    return window[:, ::-1] if mirrored else window


@pytest.mark.parametrize(
    ("mode", "pad", "dtype"),
    [
        ("constant", 2, np.uint8),
        ("constant", 4, np.float32),  # more than the width: into the line before the last
        ("constant", 1, bool),
        ("constant", 2, np.int32),
        ("reflect", 2, np.uint8),  # all but one column
        ("edge", 4, np.uint8),
        ("edge", 1, jnp.bfloat16),
    ],
)
def test_every_window_is_that_of_a_padded_image_turned_and_mirrored(mode, pad, dtype):
    side = range(2 * pad + 1)
    cases = list(itertools.product((False, True), itertools.product(side, side), (False, True)))
    before = images(len(cases), dtype=dtype)
    turned, corners, mirrored = (jnp.array(values) for values in zip(*cases, strict=True))

    @jax.jit
    def run(images, turned, corners, mirrored):
        return moves.moved(images, moves.Move(turned, corners, pad, mode, mirrored), KEY)

    after = np.asarray(run(before, turned, corners, mirrored))
    expected = [by_hand(i, t, c, pad, mode, m) for i, (t, c, m) in zip(before, cases, strict=True)]
    assert after.dtype == before.dtype
    assert np.array_equal(after, np.stack(expected))


@pytest.mark.parametrize(
    "text",
    [
        "flip_lr|flip_ud|pad_crop(2, 'reflect')|flip_lr|flip_ud",
        "pad_crop(1)|flip_ud|pad_crop(2)|flip_lr",  # two crops: two moves
        "flip_ud|gray|flip_lr|flip_lr|cutmix",
    ],
)
def test_a_chain_does_what_its_ops_do_one_after_another(text):
    before = np.random.default_rng(1).integers(0, 256, (24, 5, 4, 3)).astype(np.uint8)

    def one_by_one(images, key):
        for position, (name, given) in enumerate(parse(text)):
            if name in AUGMENTATIONS:
                images = AUGMENTATIONS[name](images, jax.random.fold_in(key, position), **given)
        return images

    expected = jax.jit(one_by_one)(before, KEY)
    assert np.array_equal(jax.jit(build(text))(before, KEY), expected)
    assert not np.array_equal(expected, before)


def test_ops_in_a_row_that_move_pixels_are_one_pass():
    texts = "pad_crop(1)", "pad_crop(1)|flip_lr"
    compiled = [jax.jit(build(text)).lower(images(8), KEY).compile().as_text() for text in texts]
    assert [c.count(" conditional(") for c in compiled] == [3, 4]  # a draw of each op; lines and places; the images


def test_moves_of_a_sharded_batch_need_nothing_from_other_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put(images(16), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    for mode in ("constant", "reflect", "edge"):
        text = jax.jit(build(f"pad_crop(2, {mode!r})|flip_lr")).lower(placed, KEY).compile().as_text()
        assert "f32[2,4,3,2]" in text  # a device's own share
        assert not any(word in text for word in ("all-gather(", "all-reduce(", "all-to-all(", "collective-permute("))


def test_corners_are_drawn_equally_often_and_independently_of_each_other():
    corners = np.asarray(functools.partial(moves.crop, pad=4, mode="edge")(KEY, 8100).corners)
    counts = np.zeros((9, 9))
    np.add.at(counts, tuple(corners.T), 1)
    assert ((counts - 100) ** 2 / 100).sum() < 130  # chi-square, 80 degrees of freedom: p < 4e-4
