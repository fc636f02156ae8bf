"""The picture of `inits`: the metric of every seed, and how large values and gradients are layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*")
_COLOURS = ("#1f4e9c", "#b03a2e", "#2e7d32", "#6a1b9a", "#555555", "#c77700", "#00796b", "#000000")


def draw(
    figure: Any,
    *,
    values: Mapping[str, Sequence[float | None]],
    signals: Mapping[str, Any],
    metric: str,
    own: str,
    verdict: Any,
    title: str,
) -> None:
    """Draws on an empty Figure; what differs from the best is hollow, the config's own initializer is named so, and the
    best is marked where any differs."""
    figure.set_size_inches(11, 5)
    figure.suptitle(title)
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.15))
    _metrics(left.subplots(), values, metric, own, verdict)
    top, bottom = right.subplots(2, 1, sharex=True)
    for axis, key, label in (
        (top, "rms", "rms of values"),
        (bottom, "grad_rms", "rms of gradient"),
    ):
        for place, (name, one) in enumerate(signals.items()):
            line = [layer[key] or np.nan for layer in one.layers]
            axis.plot(
                np.arange(1, len(line) + 1), line, label=name, color=_COLOURS[place % 8], marker=_MARKERS[place % 8],
                linestyle=_LINES[place % 4], markersize=4, linewidth=1.2,
            )  # fmt: skip
        if any(layer[key] for one in signals.values() for layer in one.layers):
            axis.set_yscale("log")
        axis.set_ylabel(label)
        axis.grid(True, alpha=0.3)
    bottom.set_xlabel("layer, from the input on (before the first update)")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    top.legend(fontsize=7, ncols=4, loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False)


def _metrics(axis: Any, values: Mapping[str, Sequence[float | None]], metric: str, own: str, verdict: Any) -> None:
    names = list(values)
    for place, name in enumerate(names):
        steady = [v for v in values[name] if v is not None]
        y, colour = len(names) - 1 - place, _COLOURS[place % 8]
        filled = colour if name in verdict.tied else "none"
        axis.plot(
            steady, [y] * len(steady), linestyle="none", marker=_MARKERS[place % 8], markersize=7, color=colour,
            markerfacecolor=filled,
        )  # fmt: skip
        if steady:
            axis.plot([float(np.mean(steady))] * 2, [y - 0.3, y + 0.3], color="black", linewidth=1.5)
        lost = len(values[name]) - len(steady)
        if lost:
            axis.annotate(f" {lost} diverged", (0.02, y + 0.2), xycoords=("axes fraction", "data"), fontsize=8)
    told = verdict.worse or verdict.diverged
    labels = [
        f"{name}{' (yours)' if name == own else ''}{' ✓' if told and name == verdict.best else ''}" for name in names
    ]
    axis.set_yticks(range(len(names) - 1, -1, -1), labels)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_xlabel(f"{metric} (a mark a seed, line: mean; filled: no worse than the best)")
    axis.grid(True, axis="x", alpha=0.3)
