"""Image ops that move or remove whole pixels: crops, mirrors, cutout, random erasing."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from jtrain.data.ops.draws import fold_in, uniforms, words
from jtrain.data.ops.moves import Border, crop, mirror, moved, turn
from jtrain.data.ops.pixels import (
    Fill,
    Ratios,
    Shares,
    as_dtype,
    as_float,
    filling,
    first_fitting_boxes,
    inside,
    white,
)
from jtrain.table import Share, Size

_ATTEMPTS = 10  # at a box that fits, as torchvision's


def pad_crop(images: jax.Array, key: jax.Array, *, pad: Size = 4, mode: Border = "constant") -> jax.Array:
    """Pads every side by `pad` pixels and cuts the old size out again at a random place.

    Args:
      images: [batch, height, width, channels].
      key: of this step and op.
      pad: pixels at every side.
      mode: what is there: "constant" is 0, "reflect" mirrors without the border pixel, "edge" repeats it.
    """
    return moved(images, crop(key, len(images), pad=pad, mode=mode), key)


def flip_lr(images: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors half of the images [batch, height, width, channels], left to right."""
    return moved(images, mirror(key, len(images)), key)


def flip_ud(images: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors half of the images [batch, height, width, channels], top to bottom."""
    return moved(images, turn(key, len(images)), key)


def cutout(images: jax.Array, key: jax.Array, *, size: Size = 8, fill: Fill = "zero", p: Share = 1.0) -> jax.Array:
    """Blanks a square with its centre anywhere in the image, whose border may cut it.

    From DeVries & Taylor 2017, section 3.

    Args:
      images: [batch, height, width, channels], uint8 or floats.
      key: of this step and op.
      size: pixels of a side; the paper's best are 16 for CIFAR-10 and 8 for CIFAR-100.
      fill: "zero", or the image's own "mean" of each channel. The paper fills normalized images with 0, their mean.
      p: share of the images that this happens to.
    """
    height, width = images.shape[1:3]
    hole = inside(squares(key, len(images), size, p, height, width), height, width)
    return jnp.where(hole, as_dtype(filling(as_float(images), fill), images.dtype), images)


def squares(key: jax.Array, batch: int, size: int, p: float, height: int, width: int) -> jax.Array:
    """Cutout's boxes (top, left, height, width) in pixels, int32 [batch, 4]; of no size where nothing is to happen."""
    draws = uniforms(key, batch, 3)
    top = jnp.floor(draws[:, 0] * height).astype(jnp.int32) - size // 2
    left = jnp.floor(draws[:, 1] * width).astype(jnp.int32) - size // 2
    side = jnp.where(draws[:, 2] < p, size, 0)
    return jnp.stack([top, left, side, side], axis=1)


def erase(
    images: jax.Array,
    key: jax.Array,
    *,
    p: Share = 0.5,
    area: Shares = (0.02, 0.4),
    ratio: Ratios = (0.3, 10 / 3),
    fill: Literal["noise", "zero", "mean"] = "noise",
) -> jax.Array:
    """Random erasing: blanks a rectangle of random size, shape and place (Zhong et al. 2020, algorithm 1).

    Unlike the paper's, the ratio is log-uniform, so that tall and wide are equally likely; as in torchvision, an image
    is left alone where ten rectangles in a row do not fit.

    Args:
      images: [batch, height, width, channels], uint8 or floats.
      key: of this step and op.
      p: share of the images that this happens to.
      area: least and greatest share of the image's area.
      ratio: least and greatest width / height.
      fill: "noise", uniform over 256 levels from black to white (0 to 255, or 0 to 1 for floats), for each pixel and
        channel, which the paper finds best; "zero"; or the image's own "mean" of each channel.
    """
    batch, height, width, _ = images.shape
    box_key, noise_key = fold_in(key, 0), fold_in(key, 1)
    hole = inside(rectangles(box_key, batch, p, area, ratio, height, width), height, width)
    if fill == "noise":
        return jnp.where(hole, noise_pixels(noise_key, images), images)
    return jnp.where(hole, as_dtype(filling(as_float(images), fill), images.dtype), images)


def rectangles(key: jax.Array, batch: int, p: float, area: Shares, ratio: Ratios, height: int, width: int) -> jax.Array:
    """Boxes (top, left, height, width) to erase, in pixels, int32 [batch, 4]; of no size where nothing is to happen."""
    draws = uniforms(key, batch, 2 * _ATTEMPTS + 3)
    boxes, found = first_fitting_boxes(draws[:, 1:], height, width, area, ratio)
    return jnp.where((found & (draws[:, 0] < p))[:, None], boxes, 0)


def noise_pixels(key: jax.Array, images: jax.Array) -> jax.Array:
    """Pixels uniform over 256 levels from black to white, of the images' shape and dtype."""
    size = math.prod(images.shape[1:])

    # Four levels of each random word: random numbers are what this op costs.
    drawn = words(key, len(images), -(-size // 4))
    levels = jax.lax.bitcast_convert_type(drawn, jnp.uint8).reshape(len(images), -1)[:, :size].reshape(images.shape)
    return as_dtype(levels.astype(jnp.float32) * (white(images.dtype) / 255), images.dtype)
