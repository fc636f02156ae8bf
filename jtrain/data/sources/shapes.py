"""A procedural image set: ten kinds of drawn shapes, for machines without a download. It is not CIFAR-10."""

from collections.abc import Callable
from typing import Annotated

import numpy as np

from jtrain.data.examples import ArrayExamples, DataSet, Wanted
from jtrain.table import Natural, NonNegative, Range

Examples = Annotated[int, Range(1, 200_000)]
Pixels = Annotated[int, Range(8, 128)]
NOTE = "shapes is a procedural set, not CIFAR-10"
_CHUNK = 512  # images drawn at a time, so that the work stays in the processor's cache


def shapes(
    wanted: Wanted,
    *,
    examples: Examples = 20_000,
    test_examples: Examples = 4_000,
    noise: NonNegative = 0.1,
    size: Pixels = 32,
    data_seed: Natural = 0,
) -> DataSet:
    """Ten classes of shapes and patterns in random colours, places, sizes and angles, on a shaded ground with noise.

    Args:
      wanted: not used; the examples depend on `data_seed` alone.
      examples: in train; each class as often as the others, or once more.
      test_examples: in test, drawn from another stream.
      noise: standard deviation of the pixel noise; 1 is from black to white.
      size: height and width in pixels.
      data_seed: another one is another set.
    """
    return DataSet(
        name="shapes",
        train=ArrayExamples(*_draw_split(examples, size, noise, (data_seed, 0))),
        val=None,
        test=ArrayExamples(*_draw_split(test_examples, size, noise, (data_seed, 1))),
        num_outputs=len(SHAPES),
        class_names=tuple(SHAPES),
        note=NOTE,
    )


# Each gives how far points are inside, in the shape's own units: above 0 is inside. u to the right, v down,
# [n, size, size]; a shape spans about -1 to 1.


def _box(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float) -> np.ndarray:
    return np.minimum(half_u - np.abs(u), half_v - np.abs(v))


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 1 - np.hypot(u, v)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.22 - np.abs(np.hypot(u, v) - 0.78)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, 0.86, 0.86)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    side = 0.5 * v + 0.5 - 0.866 * np.abs(u)  # distance to the two upper sides; the tip is at v = -1
    return np.minimum(side, 0.75 - v)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(_box(u, v, 0.95, 0.28), _box(u, v, 0.28, 0.95))


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.62 + 0.38 * np.cos(5 * np.arctan2(u, -v)) - np.hypot(u, v)


def _waves(along: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Stripes across `along`, about five to a shape, in a disc."""
    return np.minimum(np.sin(7.5 * along) / 7.5, 1 - np.hypot(u, v))


def _rows(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _waves(v, u, v)


def _columns(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _waves(u, u, v)


def _diagonal(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _waves((u + v) * 0.7071, u, v)


def _checkerboard(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(np.sin(5 * u) * np.sin(5 * v) / 5, 1 - np.hypot(u, v))


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "rows": _rows,
    "columns": _columns,
    "diagonal": _diagonal,
    "checkerboard": _checkerboard,
}


def _draw_split(examples: int, size: int, noise: float, stream: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(images [n, size, size, 3] uint8, labels [n] int32)."""
    generator = np.random.Generator(np.random.Philox(key=np.array(stream, np.uint64)))
    labels = generator.permutation(np.arange(examples, dtype=np.int32) % len(SHAPES))
    images = np.empty((examples, size, size, 3), np.uint8)
    for label, shape in enumerate(SHAPES.values()):
        rows = np.flatnonzero(labels == label)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            images[part] = _draw(generator, shape, len(part), size, noise)
    return images, labels


def _draw(
    generator: np.random.Generator,
    shape: Callable[[np.ndarray, np.ndarray], np.ndarray],
    count: int,
    size: int,
    noise: float,
) -> np.ndarray:
    """[count, size, size, 3] uint8 of one class."""

    def uniform(low: float, high: float, *rest: int) -> np.ndarray:
        return generator.uniform(low, high, (count, *(rest or (1, 1)))).astype(np.float32)

    radius, angle = uniform(0.42, 0.85), uniform(-0.26, 0.26)  # of half an image; 15 degrees
    centre_x, centre_y = (uniform(-1, 1) * (1.05 - radius) for _ in range(2))
    grid = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1)[None]
    x, y = (grid[:, None, :] - centre_x) / radius, (grid[:, :, None] - centre_y) / radius
    u = np.cos(angle) * x + np.sin(angle) * y
    v = np.cos(angle) * y - np.sin(angle) * x
    # Edges are one pixel soft: a pixel is 2 / size wide.
    cover = np.clip(0.5 + shape(u, v) * radius * (size / 2), 0, 1)[..., None]

    ground = uniform(0, 1, 1, 1, 3)
    # A colour that differs clearly from the ground, brighter and darker alike, so that no pixel tells the class alone.
    change = uniform(-1, 1, 1, 1, 3)
    change *= uniform(0.5, 0.9, 1, 1, 1) / np.abs(change).max(axis=-1, keepdims=True)
    colour = ground + np.where((ground + change > 1) | (ground + change < 0), -change, change)
    shade = uniform(-0.2, 0.2, 1, 1, 1) * grid[:, None, :, None] + uniform(-0.2, 0.2, 1, 1, 1) * grid[:, :, None, None]
    image = ground + cover * (colour - ground) + shade
    image += np.float32(noise) * generator.standard_normal(image.shape, np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
