"""Ops that move whole pixels, as data, so that the crop and the mirrors of a chain cost one pass over the images."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jtrain.data.ops.draws import uniforms
from jtrain.data.ops.pixels import apart, per_image

Border = Literal["constant", "reflect", "edge"]


class Move(NamedTuple):
    """What is done to each image of a batch, in this order; None is nothing.

    Attributes:
      turned: top to bottom, bool [batch].
      corners: (top, left) of a window in the image padded by `pad`, int32 [batch, 2], from 0 to 2 · pad.
      pad: pixels at every side.
      mode: what is there: see `image_ops.pad_crop`.
      mirrored: left to right, bool [batch].
    """

    turned: jax.Array | None = None
    corners: jax.Array | None = None
    pad: int = 0
    mode: Border = "constant"
    mirrored: jax.Array | None = None


def crop(key: jax.Array, batch: int, *, pad: int, mode: Border) -> Move:
    """The windows of `pad_crop`: every corner equally likely."""
    corners = jnp.floor(uniforms(key, batch, 2) * (2 * pad + 1)).astype(jnp.int32)
    return Move(corners=corners, pad=pad, mode=mode)


def mirror(key: jax.Array, batch: int) -> Move:
    """The mirrors of `flip_lr`."""
    return Move(mirrored=flips(key, batch))


def turn(key: jax.Array, batch: int) -> Move:
    """The mirrors of `flip_ud`."""
    return Move(turned=flips(key, batch))


def flips(key: jax.Array, batch: int) -> jax.Array:
    """A fair coin per example: bool [batch]."""
    return uniforms(key, batch, 1)[:, 0] < 0.5


def joined(first: Move, second: Move) -> Move:
    """One move that does `first`, then `second`; one of them at most has a window."""
    one = second if first.corners is None else first
    corners = one.corners
    # A mirror before a window is the opposite window before the mirror.
    if first.corners is not None and second.turned is not None:
        corners = _opposite(first.corners, first.pad, second.turned, axis=0)
    if second.corners is not None and first.mirrored is not None:
        corners = _opposite(second.corners, second.pad, first.mirrored, axis=1)
    turned, mirrored = _either(first.turned, second.turned), _either(first.mirrored, second.mirrored)
    return Move(turned, corners, one.pad, one.mode, mirrored)


def _opposite(corners: jax.Array, pad: int, where: jax.Array, axis: int) -> jax.Array:
    """Corners, measured from the other end of `axis` for the examples `where` [batch] says so."""
    chosen = where[:, None] & (jnp.arange(2) == axis)[None]
    return jnp.where(chosen, 2 * pad - corners, corners)


def _either(first: jax.Array | None, second: jax.Array | None) -> jax.Array | None:
    if first is None or second is None:
        return second if first is None else first
    return first ^ second


def moved(images: jax.Array, move: Move, key: jax.Array) -> jax.Array:
    """Images [batch, height, width, channels], of any dtype, after a move.

    With the pixels of an image in one row, a window that reaches over the border is a stretch of them, as long as the
    image, that starts earlier or later: only columns that it takes from a neighbouring line are wrong, and are put
    right. On CPU such a stretch is copied several times as fast as pixels by their numbers, or as a window of a padded
    image.

    Args:
      images: [batch, height, width, channels].
      move: what is done.
      key: any; nothing depends on it (see `apart`).
    """
    if move.turned is not None:
        images = jnp.where(per_image(move.turned), images[:, ::-1], images)
    if move.corners is None:
        return _mirrored(images, move.mirrored)
    height, width, channels = images.shape[1:]
    pad, mode = move.pad, move.mode
    spare = math.ceil(pad / width)  # lines at each end, so that every stretch lies within the lines
    is_whole = jnp.issubdtype(images.dtype, jnp.integer)

    def located(images: jax.Array, corners: jax.Array, mirrored: jax.Array | None) -> tuple[jax.Array, ...]:
        """Lines with the border, where the stretches start, which columns are right, and what the others are."""
        top, left = corners[:, 0], corners[:, 1] - pad
        lines = _with_border(images, pad, mode, spare)
        start = (spare + top) * width + left
        columns = left[:, None] + jnp.arange(width)[None]
        right = (columns >= 0) & (columns < width)
        if mirrored is not None:
            right = jnp.where(mirrored[:, None], right[:, ::-1], right)
        # For each channel, as it is read: on CPU twice as fast.
        right = jnp.repeat(right, channels, axis=1).reshape(-1, 1, width, channels)
        if mode == "constant":
            return lines, start, -right.astype(images.dtype) if is_whole else right
        if mode == "reflect":  # another stretch, backwards: about column 0, or about the last one
            return lines, start, right, start - 2 * left + jnp.where(left < 0, 1 - width, width - 1)
        border = jnp.where(per_image(left < 0), images[:, :, :1], images[:, :, -1:])
        numbers = jnp.clip(top[:, None] - pad + jnp.arange(height)[None], 0, height - 1)
        return lines, start, right, jnp.take_along_axis(border, numbers[:, :, None, None], axis=1)

    lines, start, right, *others = apart(located, key, images, move.corners, move.mirrored)
    result = _mirrored(_stretches(lines, start, height), move.mirrored)
    if mode == "constant":
        if is_whole:  # all bits of the columns that are right: a third faster than a choice
            return result & right
        return jnp.where(right, result, jnp.zeros((), images.dtype))
    if mode == "reflect":
        backwards = _stretches(lines, others[0], height)[:, :, ::-1]
        return jnp.where(right, result, _mirrored(backwards, move.mirrored))
    return jnp.where(right, result, others[0])


def _mirrored(images: jax.Array, mirrored: jax.Array | None) -> jax.Array:
    return images if mirrored is None else jnp.where(per_image(mirrored), images[:, :, ::-1], images)


def _with_border(images: jax.Array, pad: int, mode: Border, spare: int) -> jax.Array:
    """Images with `pad` lines of the border and `spare` blank ones above, and likewise below."""
    batch, _, width, channels = images.shape
    blank = jnp.zeros((batch, spare, width, channels), images.dtype)
    shape = (batch, pad, width, channels)
    if mode == "reflect":
        above, below = images[:, pad:0:-1], images[:, -2 : -pad - 2 : -1]
    elif mode == "edge":
        above, below = jnp.broadcast_to(images[:, :1], shape), jnp.broadcast_to(images[:, -1:], shape)
    else:
        above = below = jnp.zeros(shape, images.dtype)
    return jnp.concatenate([blank, above, images, below, blank], axis=1)


def _stretches(lines: jax.Array, start: jax.Array, height: int) -> jax.Array:
    """Images of `height` lines: the pixels of lines [batch, more, width, channels] from number `start` [batch] on."""
    batch, more, width, channels = lines.shape
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=(1, 2),
        collapsed_slice_dims=(),
        start_index_map=(1,),
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    )
    pixels = lines.reshape(batch, more * width, channels)
    found = jax.lax.gather(
        pixels,
        start[:, None],
        numbers,
        (1, height * width, channels),
        mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )
    return found.reshape(batch, height, width, channels)
