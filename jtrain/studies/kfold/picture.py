"""The picture of `kfold`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LINES, _MARKERS = ("-", "--", ":", "-."), "osv^Dx"


def draw(
    figure: Any, watch: str, folds: Sequence[Mapping[str, Any]], values: np.ndarray, mean: float, sd: float
) -> None:
    """Draws each fold's curve, and beside it where the folds end.

    Args:
      figure: of matplotlib, empty.
      watch: the metric.
      folds: what their pieces tell.
      values: [folds] of the metric at the end, NaN of a fold that failed.
      mean: of these.
      sd: of these.
    """
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    shades = [f"{0.6 * number / max(1, len(folds) - 1):.2f}" for number in range(len(folds))]
    for number, fold in enumerate(folds):
        points = [(step, value) for step, value in fold["curves"].get("val", ()) if value is not None]
        if points:
            look: dict[str, Any] = {"linestyle": _LINES[number % 4], "color": shades[number], "linewidth": 1.2}
            look |= {"marker": _MARKERS[number % 6], "markersize": 4, "markevery": 0.15}
            label = f"fold {number}" if len(folds) <= 12 else None
            left.plot([x for x, _ in points], [y for _, y in points], label=label, **look)
    left.margins(x=0.04)  # else the markers at the ends are cut
    left.locator_params(axis="x", nbins=6, integer=True)
    left.set_xlabel("update")
    left.set_ylabel(f"{watch.replace('_', ' ')} of the examples left out")
    left.set_title("curve of each fold", fontsize="medium")
    if left.lines and len(folds) <= 12:
        left.legend(fontsize="small")
    for number, value in enumerate(values):
        if math.isfinite(value):
            right.plot(number, value, marker=_MARKERS[number % 6], color=shades[number], linestyle="none")
        else:
            right.axvline(number, color="0.7", linestyle=":")
            right.text(number, 0.02, "failed", rotation=90, ha="right", transform=right.get_xaxis_transform())
    if math.isfinite(mean):
        right.axhline(mean, color="black", linewidth=1, label=f"mean {mean:.4g}")
    if math.isfinite(sd):
        right.axhspan(mean - sd, mean + sd, facecolor="0.9", edgecolor="0.6", hatch="//", label=f"± sd {sd:.2g}")
    right.set_xlabel("fold")
    right.set_xticks(range(0, len(values), -(-len(values) // 8)))
    right.set_title("at the end", fontsize="medium")
    if math.isfinite(mean):
        right.legend(fontsize="small")
    figure.suptitle(f"kfold: {watch} {mean:.4g} ± {sd:.2g}")
