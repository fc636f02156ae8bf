"""Filters that whiten the patches of images, measured on images."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from jtrain.errors import ConfigError

_PLACES = 1024  # of an image, evenly spaced, of which patches are taken
_NUMBERS = 1 << 23  # in patches at a time
_ROUNDING = 1e-12  # of sums of squares in float64: what varies less does not vary


def whitening_filters(parts: Iterable[np.ndarray], size: int, eps: float) -> np.ndarray:
    """Filters [size, size, channels, 2 · size² · channels] whose first half of outputs is white over these images.

    Patches p of all places have the covariance V diag(λ) Vᵀ; the filters are the columns of V diag(λ + eps)^-½ by
    falling λ, and after them their negatives, since an activation such as a rectifier passes one sign alone. A filter's
    greatest weight is positive. Source: Page, How to train your ResNet 8 (2019); Jordan 2024, arXiv 2404.00498, section
    3.2.

    Args:
      parts: images [n, height, width, channels], prepared as the filters will see them; height and width are at least
        `size`.
      size: side of a patch.
      eps: added to every λ, so that directions in which images hardly vary do not become mere noise.

    Raises:
      ConfigError: all patches are equal.
    """
    total, square, count = np.zeros(()), np.zeros(()), 0
    for images in _few(parts, size):
        windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
        every = math.ceil(math.sqrt(windows.shape[1] * windows.shape[2] / _PLACES))
        windows = windows[:, ::every, ::every]
        patches = np.moveaxis(windows, 3, -1).reshape(-1, size * size * images.shape[-1]).astype(np.float64, copy=False)
        total, square, count = total + patches.sum(axis=0), square + patches.T @ patches, count + len(patches)
    mean = total / count
    second = square / count
    values, vectors = np.linalg.eigh(second - np.outer(mean, mean))
    if values[-1] <= _ROUNDING * np.trace(second):
        raise ConfigError(
            "data.whiten: all images are of one plain colour, the same in all, so that there is nothing to whiten; "
            "look at what the data hold, or set it to 0, which whitens nothing"
        )
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    greatest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0, keepdims=True), axis=0)
    filters = vectors * np.sign(greatest) / np.sqrt(values + eps)
    channels = len(filters) // size**2
    return np.concatenate([filters, -filters], axis=1).reshape(size, size, channels, 2 * len(filters))


def _few(parts: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same images, few at a time: their patches are size² times as many numbers."""
    for images in parts:
        each = min(_PLACES * images.shape[-1], images[0].size) * size**2
        step = max(1, _NUMBERS // each)
        for start in range(0, len(images), step):
            yield images[start : start + step]
