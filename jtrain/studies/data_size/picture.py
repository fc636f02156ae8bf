"""The pictures of `data_size`: error and loss against the number of examples, the scores, and the worst images."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.io.workdir import write_atomic
from jtrain.studies.data_size.curve import Curve, rounded
from jtrain.studies.suspects import Doubt

ACROSS = 8  # images in a row of the sheet
LEAST_SIDE = 4  # pixels of what is taken for an image
Points = Sequence[tuple[int, float]]  # (examples, value) of each run


def draw_error(axes: Any, curve: Curve, error: str, points: Points) -> None:
    """The error of each run, the curve, what it foretells, and where more data stops to pay."""
    axes.plot([n for n, _ in points], [value for _, value in points], "ko", fillstyle="none", label="a run each")
    if not curve.trouble and points:
        far = curve.now * np.array([2.0, 10.0])
        n = np.geomspace(min(size for size, _ in points), far[-1], 200)
        axes.fill_between(n, *curve.between(n), color="0.85", linewidth=0, label="80 % of refits")
        axes.plot(n, curve.at(n), "k-", label=curve.words())
        axes.plot(far, curve.at(far), "kD", label="×2, ×10")
        if math.isfinite(curve.stops):
            axes.axvline(curve.stops, color="k", linestyle=":", label=f"stops to pay, {rounded(curve.stops)}")
    axes.axvline(curve.now, color="0.5", linestyle="--", label=f"all, {curve.now:,}")
    if curve.trouble:
        axes.set_title("no curve that tells anything", fontsize="medium")
    _scale(axes, f"{error} (validation, best of a run)", [value for _, value in points])


def draw_loss(axes: Any, points: Points) -> None:
    """The loss of each run."""
    sizes = sorted({n for n, _ in points})
    axes.plot([n for n, _ in points], [loss for _, loss in points], "ko", fillstyle="none", label="a run each")
    axes.plot(sizes, [np.mean([loss for n, loss in points if n == size]) for size in sizes], "k--", label="mean")
    _scale(axes, "loss (validation, best of a run)", [loss for _, loss in points])


def draw_scores(axes: Any, doubt: Doubt, numbers: bool) -> None:
    """How many examples have which score; `numbers` are judged by their residuals."""
    known = np.isfinite(doubt.score)
    bins = np.linspace(doubt.score[known].min(), doubt.score[known].max() + 1e-9, 41) if known.any() else 10
    flagged = doubt.score[known & doubt.flagged]
    label = f"look mislabelled, {len(flagged):,}"
    axes.hist(doubt.score[known], bins=bins, color="0.85", edgecolor="0.5", label="all")
    axes.hist(flagged, bins=bins, color="0.4", edgecolor="k", hatch="xx", label=label)
    what = "−|residual| [robust standard deviations]" if numbers else "p(given) − p(another)"
    axes.set(xlabel=f"score: {what}", ylabel="examples", yscale="log")
    axes.legend(fontsize="x-small")


def sheet(path: Path, images: np.ndarray, titles: Sequence[str]) -> None:
    """Writes a PNG of images [n, height, width(, 1 or 3)], a title above each; what are no images it leaves.

    uint8 is shown from 0 to 255, floats from the least to the greatest of these images.

    Raises:
      DataError: it cannot be written.
    """
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.ndim not in (3, 4) or channels not in (1, 3) or min(images.shape[1:3]) < LEAST_SIDE:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    down = -(-len(images) // ACROSS)
    figure = Figure(figsize=(1.3 * ACROSS, 1.65 * down + 0.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    text = "the examples that most look mislabelled: row, given → suggested (?: less sure than it takes to count)"
    figure.suptitle(text, fontsize="medium")
    low, high = (0.0, 255.0) if images.dtype == np.uint8 else (float(images.min()), float(images.max()))
    shown = np.clip((images.astype(np.float32) - low) / (high - low if high > low else 1.0), 0, 1)
    shown = shown if channels == 3 else shown.reshape(shown.shape[:3])
    axes = figure.subplots(down, ACROSS, squeeze=False).reshape(-1)
    for axis in axes:
        axis.set_axis_off()
    for axis, title, image in zip(axes, titles, shown, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(title, fontsize="x-small")
    write_atomic(path, canvas.print_png)


def _scale(axes: Any, label: str, values: Sequence[float]) -> None:
    """Log scales, but of values that are 0, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(xlabel="training examples", ylabel=label, xscale="log")
    logged = [(axes.xaxis, "{x:,.0f}")]
    if values and min(values) > 0:
        axes.set_yscale("log")
        logged.append((axes.yaxis, "{x:.3g}"))
    for axis, form in logged:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(form)
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelrotation=30)
    axes.legend(fontsize="x-small")
