"""A picture sheet of augmentation: each image beside what the ops make of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jtrain.errors import DataError
from jtrain.io.workdir import write_atomic

_CELL = 1.1  # inches of an image


def sheet(originals: np.ndarray, draws: Sequence[np.ndarray], path: Path, *, title: str) -> None:
    """Draws a row per image: the original, then each draw of it.

    uint8 is shown from 0 to 255; floats from the least to the greatest value of the originals, one scale for all, and
    cut off beyond it. Images of 3 channels are RGB; of others the first channel is shown in gray.

    Args:
      originals: [images, height, width, channels], uint8 or floats.
      draws: arrays of the same shape and dtype.
      path: the PNG, replaced as a whole.
      title: above the picture.

    Raises:
      DataError: these are no images, a draw has another shape, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [np.asarray(values) for values in (originals, *draws)]
    shape = columns[0].shape
    if len(shape) != 4 or 0 in shape:
        raise DataError(f"sheet: needs images [images, height, width, channels], got {list(shape)}")
    for number, values in enumerate(columns):
        if values.shape != shape:
            raise DataError(f"sheet: draw {number} has the shape {list(values.shape)}, the originals {list(shape)}")
    low, high = _scale(columns[0])
    aspect = shape[1] / shape[2]
    figure = Figure(figsize=(_CELL * len(columns), _CELL * aspect * shape[0] + 0.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="medium", wrap=True)
    axes = figure.subplots(shape[0], len(columns), squeeze=False)
    for column, values in enumerate(columns):
        axes[0, column].set_title(f"draw {column}" if column else "original", fontsize="small")
        for row, image in enumerate(_shown(values, low, high)):
            axis = axes[row, column]
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
    write_atomic(path, canvas.print_png)


def _scale(originals: np.ndarray) -> tuple[float, float]:
    """The values that are shown black and white."""
    if originals.dtype == np.uint8:
        return 0.0, 255.0
    finite = originals[np.isfinite(originals)].astype(np.float64)
    if finite.size == 0:
        raise DataError("sheet: the originals hold no finite value")
    low, high = float(finite.min()), float(finite.max())
    return low, high if high > low else low + 1.0


def _shown(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from 0 to 1: [images, height, width, 3], or [images, height, width] where there is one gray."""
    scaled = (np.nan_to_num(values.astype(np.float64), nan=low) - low) / (high - low)
    scaled = np.clip(scaled, 0.0, 1.0)
    return scaled if values.shape[-1] == 3 else scaled[..., 0]
