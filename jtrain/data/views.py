"""Views for test-time augmentation: each image seen in several ways, whose predictions are then averaged.

Written as one string, "flip_lr|crops(2)": each op multiplies the views by its own. A view op is
`op(images [batch, height, width, channels], *, options) -> list of images`, all of the same shape and dtype, the first
the images themselves. Nothing is random.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jtrain.data.calls import Call, read
from jtrain.errors import ConfigError
from jtrain.table import Size

Views = Callable[[jax.Array], list[jax.Array]]  # images -> [images, …]


def flip_lr(images: jax.Array) -> list[jax.Array]:
    """The images, and them mirrored left to right."""
    return [images, images[:, :, ::-1]]


def flip_ud(images: jax.Array) -> list[jax.Array]:
    """The images, and them mirrored top to bottom."""
    return [images, images[:, ::-1]]


def crops(images: jax.Array, *, pixels: Size = 2, corners: Literal[2, 4] = 4) -> list[jax.Array]:
    """The images, and them shifted towards each of the four corners, or towards two.

    The images are padded by repeating the border pixel, and cut out again at the centre and at the corners of what
    results (ten-crop testing of Krizhevsky et al. 2012, section 4.1, without the flips).

    Args:
      images: [batch, height, width, channels].
      pixels: of the padding, so of each shift.
      corners: all four, or two that lie opposite, which take three views in place of five.
    """
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    far = 2 * pixels
    places = [(0, 0), (0, far), (far, 0), (far, far)] if corners == 4 else [(0, 0), (far, far)]
    return [images, *(padded[:, top : top + height, left : left + width] for top, left in places)]


VIEWS: dict[str, Callable[..., list[jax.Array]]] = {"flip_lr": flip_lr, "flip_ud": flip_ud, "crops": crops}


def parse_views(text: str, key: str = "views") -> tuple[Call, ...]:
    """The ops of a string such as "flip_lr|crops(2)", all options filled in; "" is no op.

    Args:
      text: the string.
      key: of the config, with which a message begins.

    Raises:
      ConfigError: what is wrong and what is valid; also for an op that is named twice.
    """
    ops = read(text, VIEWS, key, "flip_lr|crops(2)")
    names = [name for name, _ in ops]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{key}: {name} is named twice, which would only repeat views; name it once")
    return ops


def build_views(text: str) -> Views:
    """images [batch, …] -> list of views, the images themselves first; "" gives them alone."""
    ops = parse_views(text)

    def views(images: jax.Array) -> list[jax.Array]:
        found = [images]
        for name, given in ops:
            found = [view for seen in found for view in VIEWS[name](seen, **given)]
        return found

    return views


def check_view_inputs(text: str, input_shape: tuple[int, ...], key: str = "views") -> None:
    """Checks that the view ops suit examples of shape `input_shape` (without the batch).

    Raises:
      ConfigError: they are no images, or a shift leaves nothing of them.
    """
    for name, given in parse_views(text, key):
        if len(input_shape) != 3:
            raise ConfigError(
                f"{key}: {name} needs images [height, width, channels], the inputs are {list(input_shape)}"
            )
        if "pixels" in given and given["pixels"] >= min(input_shape[:2]):
            raise ConfigError(
                f"{key}: {name} cannot shift images {list(input_shape)} by {given['pixels']} pixels; "
                f"must be below {min(input_shape[:2])}"
            )
