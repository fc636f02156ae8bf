"""The picture of a diagnosis: curves of the loss and what was seen in them, readable in black and white."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.io.workdir import write_atomic

WIDE = 5.0  # times the least value that the greatest must be for a log axis
LOGGED = ("loss", "gradient norm", "learning rate")
FARTHEST = 30.0  # times its usual height above which a curve is cut off, so that the rest can be seen
LINES = ("-", "--", ":", "-.")
Line = tuple[np.ndarray, np.ndarray]  # (updates done, values)


def draw_diagnosis(
    path: Path,
    *,
    title: str,
    panels: Sequence[tuple[str, Mapping[str, Line]]],
    levels: Mapping[str, float] = {},
    marks: Sequence[tuple[int, str]] = (),
    stretches: Sequence[tuple[float, float, str]] = (),
) -> None:
    """Writes a PNG: a panel above the other over the same updates; marks and stretches go through all of them.

    Args:
      path: the file, replaced as a whole.
      title: of the picture, one line for each verdict.
      panels: (name, {name of a line: (updates done, values)}); 'train' is drawn thin, 'val' with markers.
      levels: horizontal lines of the first panel, by name.
      marks: (updates done, words) of vertical lines.
      stretches: (from, to, words) of what is shaded.

    Raises:
      DataError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 2.3 * len(panels) + 0.2 * title.count("\n")), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="medium", x=0.01, horizontalalignment="left")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, lines) in zip(axes, panels, strict=True):
        _panel(axis, name, lines, levels if axis is axes[0] else {}, named=axis is axes[0])
        for first, last, words in stretches:
            label = words if axis is axes[0] else None
            axis.axvspan(first, last, facecolor="0.94", edgecolor="0.8", hatch="/", linewidth=0, zorder=0, label=label)
        kinds = list(dict.fromkeys(words for _, words in marks))
        for number, (step, words) in enumerate(marks):
            look: dict[str, Any] = {"color": "black", "linestyle": LINES[-1 - kinds.index(words) % len(LINES)]}
            again = words in [earlier for _, earlier in marks[:number]]
            axis.axvline(step, label=words if axis is axes[0] and not again else None, linewidth=1.2, **look)
    axes[-1].set_xlabel("step (optimizer updates)")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    write_atomic(path, canvas.print_png)


def _panel(axis: Any, name: str, lines: Mapping[str, Line], levels: Mapping[str, float], *, named: bool) -> None:
    shown = {label: (steps, _cut(values)) for label, (steps, values) in lines.items()}
    for label, (steps, values) in shown.items():
        if label != "val":
            look: dict[str, Any] = {"color": "0.45", "linewidth": 1.2, "marker": "s" if len(steps) == 1 else ""}
        else:
            look = {"color": "black", "linestyle": "--", "marker": "o", "markersize": 4, "markerfacecolor": "white"}
        axis.plot(steps, values, label=label if named else None, **look)
    for label, level in levels.items():
        axis.axhline(level, color="0.3", linestyle=":", linewidth=1, label=label)
    values = np.concatenate([values[np.isfinite(values)] for _, values in shown.values()] or [np.zeros(0)])
    if name in LOGGED and len(values) and values.min() > 0 and values.max() > WIDE * values.min():
        axis.set_yscale("log")
    axis.set_ylabel(name)
    axis.grid(True, alpha=0.3)


def _cut(values: np.ndarray) -> np.ndarray:
    """The values, those that are far above the usual ones at FARTHEST times these; gaps where they are not finite."""
    finite = values[np.isfinite(values)]
    if not len(finite) or np.median(finite) <= 0:
        return values
    return np.minimum(values, FARTHEST * max(float(np.median(finite)), float(finite[0])))
