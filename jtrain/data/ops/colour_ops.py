"""Image ops that change values in place: brightness, contrast, saturation, hue, gray, noise.

But for noise they know no black-to-white range: they scale and blend, so that floats of any scale are served. Zero is
black.
"""

import math
from typing import Annotated

import jax
import jax.numpy as jnp

from jtrain.data.ops.draws import fold_in, halves, normals, symmetric, uniforms, words
from jtrain.data.ops.pixels import as_dtype, as_float, blend, luma, mean_luma, per_image, white
from jtrain.table import NonNegative, Range, Share

Turn = Annotated[float, Range(0, 0.5)]
RGB_ONLY = ("saturation", "hue", "gray")  # ops that need 3 channels


def brightness(images: jax.Array, key: jax.Array, *, amount: NonNegative = 0.4, p: Share = 1.0) -> jax.Array:
    """Multiplies each image by a factor uniform in [1 − amount, 1 + amount), not below 0.

    Args:
      images: [batch, height, width, channels], uint8 or floats.
      key: of this step and op.
      amount: of the change.
      p: share of the images that this happens to.
    """
    return as_dtype(as_float(images) * factors(key, len(images), amount, p), images.dtype)


def contrast(images: jax.Array, key: jax.Array, *, amount: NonNegative = 0.4, p: Share = 1.0) -> jax.Array:
    """Stretches each image about its mean luma by a factor uniform in [1 − amount, 1 + amount), not below 0.

    Args:
      images: [batch, height, width, channels], uint8 or floats.
      key: of this step and op.
      amount: of the change.
      p: share of the images that this happens to.
    """
    values = as_float(images)
    return as_dtype(blend(values, mean_luma(values), factors(key, len(images), amount, p)), images.dtype)


def saturation(images: jax.Array, key: jax.Array, *, amount: NonNegative = 0.4, p: Share = 1.0) -> jax.Array:
    """Stretches each pixel's colour about its luma by a factor uniform in [1 − amount, 1 + amount), not below 0.

    Args:
      images: RGB [batch, height, width, 3], uint8 or floats.
      key: of this step and op.
      amount: of the change.
      p: share of the images that this happens to.
    """
    values = as_float(images)
    return as_dtype(blend(values, luma(values), factors(key, len(images), amount, p)), images.dtype)


def factors(key: jax.Array, batch: int, amount: float, p: float) -> jax.Array:
    """The factor of each example, [batch, 1, 1, 1]; 1 where nothing is to happen."""
    draws = uniforms(key, batch, 2)
    drawn = jnp.maximum(1 + symmetric(draws[:, 0], amount), 0.0)
    return per_image(jnp.where(draws[:, 1] < p, drawn, 1.0))


def hue(images: jax.Array, key: jax.Array, *, amount: Turn = 0.1, p: Share = 1.0) -> jax.Array:
    """Moves the hue of each image, in HSV, by a part of the colour circle uniform in [−amount, amount).

    Args:
      images: RGB [batch, height, width, 3], uint8 or floats.
      key: of this step and op.
      amount: of the circle: 1/3 takes red to green, 0.5 to the opposite colour.
      p: share of the images that this happens to.
    """
    return as_dtype(turn_hue(as_float(images), turns(key, len(images), amount, p)), images.dtype)


def turns(key: jax.Array, batch: int, amount: float, p: float) -> jax.Array:
    """How far each example's hue moves, [batch], in turns; 0 where nothing is to happen."""
    draws = uniforms(key, batch, 2)
    return jnp.where(draws[:, 1] < p, symmetric(draws[:, 0], amount), 0.0)


def turn_hue(values: jax.Array, turns: jax.Array) -> jax.Array:
    """RGB values [batch, height, width, 3] with their hues moved by turns [batch].

    A pixel keeps its greatest channel (HSV's value) and its spread (value · saturation), so nothing leaves the range;
    any scale and any offset of the values turn alike (Smith 1978, "Color gamut transform pairs", the hexcone model).
    """
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    top = jnp.maximum(jnp.maximum(red, green), blue)
    spread = top - jnp.minimum(jnp.minimum(red, green), blue)
    is_red, is_green = top == red, top == green
    difference = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    first = jnp.where(is_red, 0.0, jnp.where(is_green, 2.0, 4.0))
    sector = first + difference / jnp.where(spread > 0, spread, 1.0)
    sector = sector + 6 * turns[:, None, None]
    channels = []
    for offset in (5, 3, 1):
        place = sector + offset
        place = place - 6 * jnp.floor(place / 6)  # twice as fast as a modulo
        channels.append(top - spread * jnp.clip(jnp.minimum(place, 4 - place), 0.0, 1.0))
    turned = jnp.stack(channels, axis=-1)
    return jnp.where(per_image(turns == 0), values, turned)


def gray(images: jax.Array, key: jax.Array, *, p: Share = 0.2) -> jax.Array:
    """Gives some images no colour: every channel becomes the luma.

    Args:
      images: RGB [batch, height, width, 3], uint8 or floats.
      key: of this step and op.
      p: share of the images that this happens to; 0.2 is SimCLR's (Chen et al. 2020, appendix A).
    """
    chosen = per_image(uniforms(key, len(images), 1)[:, 0] < p)
    return jnp.where(chosen, as_dtype(luma(as_float(images)), images.dtype), images)


def noise(images: jax.Array, key: jax.Array, *, std: NonNegative = 0.05, p: Share = 1.0) -> jax.Array:
    """Adds Gaussian noise to every pixel and channel. Floats are not clipped.

    Args:
      images: [batch, height, width, channels], uint8 or floats.
      key: of this step and op.
      std: standard deviation, where white is 1: 0.05 is 12.75 of uint8's 255, and 0.05 for floats.
      p: share of the images that this happens to.
    """
    return as_dtype(as_float(images) + deviations(key, images.shape, std, p) * white(images.dtype), images.dtype)


def deviations(key: jax.Array, shape: tuple[int, ...], std: float, p: float) -> jax.Array:
    """The noise of images of `shape`, where white is 1; 0 where nothing is to happen."""
    coin_key, noise_key = fold_in(key, 0), fold_in(key, 1)
    scale = jnp.where(uniforms(coin_key, shape[0], 1)[:, 0] < p, std, 0.0)
    size = math.prod(shape[1:])
    drawn = words(noise_key, shape[0], -(-size // 2))  # two numbers of each: random words are what this op costs
    return per_image(scale) * normals(halves(drawn)[:, :size]).reshape(shape)
