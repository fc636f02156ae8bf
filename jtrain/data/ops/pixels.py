"""What image ops share: arithmetic on uint8 and float pixels, boxes, and how a result is stored."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.errors import ConfigError

# What stands where an image has no pixels: 0, or the image's own mean of each channel.
Fill = Literal["zero", "mean"]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, section 2.5.1


def _is_interval(low: float, high: float) -> Callable[[tuple[float, ...]], None]:
    def check(pair: tuple[float, ...]) -> None:
        if len(pair) != 2 or not low < pair[0] <= pair[1] <= high:
            raise ValueError(f"must be (low, high) with {low:g} < low <= high <= {high:g}, got {pair}")

    return check


Shares = Annotated[tuple[float, ...], _is_interval(0.0, 1.0)]
Ratios = Annotated[tuple[float, ...], _is_interval(0.0, 100.0)]


def apart(function: Callable[..., Any], key: jax.Array, *operands: Any) -> Any:
    """function(*operands), whose result is stored on CPU before anything reads it.

    XLA fuses what comes one after another into one loop, and on CPU computes a pixel anew for everything that reads it:
    a rotation before a change of hue took 13 ms for 128 images of 32 x 32 x 3 instead of 1.6, and would be computed
    nine times by a 3 x 3 convolution. A barrier does not prevent that there; a branch does, whose condition, that 31 of
    32 bits are below 2³¹, is always true and unknown to the compiler. Elsewhere the function is called as it is.

    Args:
      function: of arrays, or trees of them, pure.
      key: any; nothing depends on it.
      operands: of the function.
    """

    def stored(key: jax.Array, *operands: Any) -> Any:
        always = (jax.random.key_data(key).ravel()[0] >> 1) < jnp.uint32(1 << 31)
        shapes = jax.eval_shape(function, *operands)
        return jax.lax.cond(
            always, function, lambda *_: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), *operands
        )

    return jax.lax.platform_dependent(key, *operands, cpu=stored, default=lambda _key, *operands: function(*operands))


def per_image(values: jax.Array) -> jax.Array:
    """Values [batch] as [batch, 1, 1, 1], to meet images."""
    return values[:, None, None, None]


def white(dtype: jnp.dtype) -> float:
    """The value of white: 255 for uint8, 1 for floats.

    Raises:
      ConfigError: other dtypes, such as the int32 of tokens.
    """
    if dtype == jnp.uint8:
        return 255.0
    if jnp.issubdtype(dtype, jnp.floating):
        return 1.0
    raise ConfigError(f"augment: takes images of uint8 or floats, the inputs are {dtype}")


def as_float(images: jax.Array) -> jax.Array:
    """The images in float32, on their own scale."""
    white(images.dtype)
    return images.astype(jnp.float32)


def as_dtype(values: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Float32 values back in `dtype`: uint8 to the nearest (halves to even) of 0 to 255, floats as they are."""
    if dtype == jnp.uint8:
        values = jnp.clip(jnp.round(values), 0.0, 255.0)
    return values.astype(dtype)


def blend(values: jax.Array, other: jax.Array | float, factor: jax.Array) -> jax.Array:
    """factor · values + (1 − factor) · other: a factor of 1 gives the values back, exactly; above 1 it leads away."""
    return factor * values + (1 - factor) * other


def luma(values: jax.Array) -> jax.Array:
    """The brightness of each pixel, [batch, height, width, 1]: luma of RGB, the mean of any other channels."""
    if values.shape[-1] != 3:
        return values.mean(axis=-1, keepdims=True)
    red, green, blue = (values[..., i : i + 1] for i in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def mean_luma(values: jax.Array) -> jax.Array:
    """The mean of `luma` over each image, [batch, 1, 1, 1]."""
    channels = values.shape[-1]
    pixels = values.shape[1] * values.shape[2]
    weights = np.tile(np.array(LUMA if channels == 3 else [1 / channels] * channels, np.float32), pixels) / pixels
    # A product with weights: on CPU a seventh of the time of a sum.
    return per_image(jnp.matmul(values.reshape(len(values), -1), weights, precision="highest"))


def filling(values: jax.Array, fill: Fill) -> jax.Array:
    """What `fill` means for float images [batch, height, width, channels]: [batch, 1, 1, channels]."""
    if fill == "mean":
        return values.mean(axis=(1, 2), keepdims=True)
    return jnp.zeros((len(values), 1, 1, values.shape[-1]), values.dtype)


def first_fitting_boxes(
    draws: jax.Array, height: int, width: int, area: Shares, ratio: Ratios
) -> tuple[jax.Array, jax.Array]:
    """Random boxes of whole pixels, (top, left, height, width) as int32 [batch, 4], and which were found, bool [batch].

    An attempt draws a share of the image's area, uniform, and a ratio width / height, log-uniform, and rounds the
    sides; the first attempt that fits is taken, at a uniform place (torchvision's random_resized_crop does the same).

    Args:
      draws: uniform in [0, 1), [batch, 2 · attempts + 2]: areas, ratios, place.
      height: of the image.
      width: of the image.
      area: least and greatest share.
      ratio: least and greatest.
    """
    attempts = (draws.shape[1] - 2) // 2
    areas = (area[0] + (area[1] - area[0]) * draws[:, :attempts]) * (height * width)
    low, high = jnp.log(jnp.float32(ratio[0])), jnp.log(jnp.float32(ratio[1]))
    ratios = jnp.exp(low + (high - low) * draws[:, attempts : 2 * attempts])
    rows, columns = jnp.round(jnp.sqrt(areas / ratios)), jnp.round(jnp.sqrt(areas * ratios))
    fits = (rows >= 1) & (rows <= height) & (columns >= 1) & (columns <= width)
    first = jnp.argmax(fits, axis=1, keepdims=True)
    row_count = jnp.take_along_axis(rows, first, axis=1)[:, 0]
    column_count = jnp.take_along_axis(columns, first, axis=1)[:, 0]
    top = jnp.floor(draws[:, -2] * (height - row_count + 1))
    left = jnp.floor(draws[:, -1] * (width - column_count + 1))
    boxes = jnp.stack([top, left, row_count, column_count], axis=1).astype(jnp.int32)
    return boxes, fits.any(axis=1)


def inside(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels lie in boxes (top, left, height, width) [batch, 4]: bool [batch, height, width, 1]."""
    top, left, rows, columns = (boxes[:, i, None] for i in range(4))
    y, x = jnp.arange(height)[None], jnp.arange(width)[None]
    in_rows, in_columns = (y >= top) & (y < top + rows), (x >= left) & (x < left + columns)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
