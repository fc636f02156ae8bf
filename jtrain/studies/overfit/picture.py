"""The picture of `overfit`: the loss on its way to the floor, and the gradients that it began with."""

from typing import Any

import numpy as np

_LOOKS = {
    1.0: {"color": "black", "linestyle": "-", "linewidth": 1.8},
    0.1: {"color": "#1f4e9c", "linestyle": "--", "linewidth": 1.2},
    10.0: {"color": "#b03a2e", "linestyle": ":", "linewidth": 1.6},
}
LEAST = 1e-8  # loss that a logarithmic axis still shows
MOST = 24  # parameters of which gradients are shown


def draw(figure: Any, *, case: Any, goal: Any, title: str) -> None:
    """Draws on an empty Figure."""
    figure.set_size_inches(11, 4.5)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1.0))
    for factor, fit in case.fits.items():
        steps = [step for step, loss in fit["curve"] if loss is not None]
        losses = [max(loss, LEAST) for _, loss in fit["curve"] if loss is not None]
        left.plot(steps, losses, label=f"lr {case.lr * factor:.3g}", **_LOOKS[factor])
        if fit["learnt"] and losses:
            left.plot(steps[-1:], losses[-1:], "*", color="black", markersize=14)
        if fit["diverged"] and losses:
            left.plot(steps[-1:], losses[-1:], "x", color="black", markersize=10)
    left.axhline(
        max(goal.guess, LEAST), color="#555555", linewidth=0.8, linestyle="-.", label=f"a guess {goal.guess:.3g}"
    )
    left.axhline(
        max(goal.line, LEAST), color="#2e7d32", linewidth=1.2, linestyle=(0, (6, 2)), label=f"needed {goal.line:.3g}"
    )
    if goal.floor > LEAST:
        left.axhline(goal.floor, color="#555555", linewidth=0.8, linestyle=":", label=f"floor {goal.floor:.3g}")
    left.set_yscale("log")
    left.set_xlabel("updates (★ learnt, × not finite)")
    left.set_ylabel("training loss")
    left.grid(True, alpha=0.3)
    left.legend(fontsize=8)
    _gradients(right, case)


def _gradients(axis: Any, case: Any) -> None:
    """The gradient of every kernel at the start, from the input on: hollow what is not trained, crossed what has not
    changed; at the left edge what is 0."""
    order = [layer["name"] for layer in case.start.layers]
    last = len(order)
    paths = sorted(
        case.kernels, key=lambda path: order.index(name) if (name := path.rpartition("/")[0]) in order else last
    )
    paths = paths if len(paths) <= MOST else [paths[i] for i in np.linspace(0, len(paths) - 1, MOST).astype(int)]
    unmoved = case.fits[1.0]["unmoved"]
    sizes = [case.start.params[path]["grad_rms"] or 0.0 for path in paths]
    for place, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        frozen, stuck = path in case.frozen, path in unmoved
        axis.plot(
            [size or 0.02], [len(paths) - 1 - place], linestyle="none", color="black",
            marker="x" if stuck and not frozen else "o", markerfacecolor="none" if frozen else "black",
            transform=axis.transData if size else axis.get_yaxis_transform(),
        )  # fmt: skip
    names = [path if size else f"{path} (0)" for path, size in zip(paths, sizes, strict=True)]
    axis.set_yticks(range(len(paths) - 1, -1, -1), names, fontsize=7)
    axis.set_ylim(-0.6, len(paths) - 0.4)
    if any(sizes):
        axis.set_xscale("log")
        axis.grid(True, axis="x", alpha=0.3)
    else:
        axis.set_xticks([])
    axis.set_xlabel("rms of gradient before the first update\n(× has not changed since, hollow: frozen)")
