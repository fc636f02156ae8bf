"""Filters that whiten the patches of images, measured on images."""

from collections.abc import Iterable

import numpy as np


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
    """
    total, square, count = np.zeros(()), np.zeros(()), 0
    for images in parts:
        windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
        patches = np.moveaxis(windows, 3, -1).reshape(-1, size * size * images.shape[-1]).astype(np.float64)
        total, square, count = total + patches.sum(axis=0), square + patches.T @ patches, count + len(patches)
    mean = total / count
    values, vectors = np.linalg.eigh(square / count - np.outer(mean, mean))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    greatest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0, keepdims=True), axis=0)
    filters = vectors * np.sign(greatest) / np.sqrt(values + eps)
    channels = len(filters) // size**2
    return np.concatenate([filters, -filters], axis=1).reshape(size, size, channels, 2 * len(filters))
