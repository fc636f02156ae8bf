"""Learning curves of a run as one picture, readable in black and white."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtrain.io.workdir import write_atomic

_NOT_METRICS = {"step", "epoch", "split", "loss", "lr", "grad_norm", "examples_per_second", "data_wait"}
_LOOKS: dict[str, dict[str, Any]] = {
    "train": {"color": "#888888", "linestyle": "-", "linewidth": 1.2},
    "val": {"color": "#1f4e9c", "linestyle": "--", "marker": "o", "markersize": 4},
    "test": {"color": "#b03a2e", "linestyle": "none", "marker": "*", "markersize": 12},
}
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("", "o", "s", "^", "v", "x")
Row = Mapping[str, Any]


def curves(rows: Sequence[Row], path: Path, *, title: str, metric: str | None = None) -> None:
    """Draws loss, main metric and learning rate over the steps of a run; panels without data are left out.

    Args:
      rows: rows of metrics.jsonl; null and NaN values are gaps.
      path: the PNG, replaced as a whole.
      title: above the picture.
      metric: the main metric; None: the first one that the rows hold.

    Raises:
      DataError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = metric or _first_metric(rows)
    panels = [
        panel
        for panel in (
            ("loss", _splits(rows, "loss")),
            (metric, _splits(rows, metric) if metric else {}),
            ("learning rate", _rates(rows)),
        )
        if panel[1]
    ]
    figure = Figure(figsize=(8, 1.2 + 2.6 * max(1, len(panels))), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, lines) in zip(axes, panels, strict=False):
        _draw(axis, str(name), lines)
    if not panels:
        axes[0].text(0.5, 0.5, "no finite values yet", ha="center", transform=axes[0].transAxes)
    axes[-1].set_xlabel("step (optimizer updates)")
    per_step = _epochs_per_step(rows)
    if per_step:
        top = axes[0].secondary_xaxis("top", functions=(lambda x: x * per_step, lambda x: x / per_step))
        top.set_xlabel("epoch")
    write_atomic(path, canvas.print_png)


def schedule(
    lrs: Mapping[str, tuple[Sequence[int], Sequence[float]]], path: Path, *, title: str, marks: Mapping[str, int]
) -> None:
    """Draws the learning rate of every group over the updates of a run, with marks such as the end of the warm-up.

    Args:
      lrs: name -> (updates, lr of each).
      path: the PNG, replaced as a whole.
      title: above the picture.
      marks: words -> the update at which a line is drawn.

    Raises:
      DataError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    for number, (name, (steps, values)) in enumerate(lrs.items()):
        look = _rate_look(number) | {"marker": ""}
        axis.plot(steps, values, label=name, drawstyle="steps-post", **look)
    for number, (words, step) in enumerate(marks.items()):
        axis.axvline(step, color="#888888", linestyle=_LINES[-1 - number % len(_LINES)], linewidth=1, label=words)
    axis.set_ylim(bottom=0)
    axis.set_title(title)
    axis.set_xlabel("step (optimizer updates)")
    axis.set_ylabel("learning rate")
    axis.grid(True, alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    write_atomic(path, canvas.print_png)


def _draw(axis: Any, name: str, lines: Mapping[str, tuple[list[float], list[float]]]) -> None:
    for number, (label, (steps, values)) in enumerate(lines.items()):
        look = dict(_LOOKS.get(label) or _rate_look(number))
        if len(steps) == 1:  # a line of one point is invisible
            look |= {"marker": look.get("marker") or "s", "markevery": 1}
        axis.plot(steps, values, label=label, **look)
    everything = [v for _, values in lines.values() for v in values]
    if min(everything) > 0 and (name == "loss" or max(everything) > 10 * min(everything)):
        axis.set_yscale("log")
    axis.set_ylabel({"loss": "loss", "learning rate": "learning rate"}.get(name, name.replace("_", " ")))
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(loc="best", fontsize="small")


def _rate_look(number: int) -> dict[str, Any]:
    shade = ("black", "#1f4e9c", "#b03a2e", "#5b7f2b")[number % 4]
    marker = _MARKERS[number // len(_LINES) % len(_MARKERS)]
    return {"color": shade, "linestyle": _LINES[number % len(_LINES)], "marker": marker, "markevery": 0.1}


def _splits(rows: Sequence[Row], key: str) -> dict[str, tuple[list[float], list[float]]]:
    lines = {split: _line([r for r in rows if r.get("split") == split], key) for split in _LOOKS}
    return {split: line for split, line in lines.items() if line[0]}


def _rates(rows: Sequence[Row]) -> dict[str, tuple[list[float], list[float]]]:
    rows = [r for r in rows if r.get("split") == "train"]
    groups = list(dict.fromkeys(k for r in rows for k in r if k.startswith("lr/")))
    lines = {key.removeprefix("lr/"): _line(rows, key) for key in groups} or {"lr": _line(rows, "lr")}
    return {name: line for name, line in lines.items() if line[0]}


def _line(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    points = [(r["step"], r[key]) for r in rows if _is_number(r.get(key))]
    return [float(s) for s, _ in points], [float(v) for _, v in points]


def _first_metric(rows: Sequence[Row]) -> str | None:
    for split in ("val", "test", "train"):
        for row in rows:
            if row.get("split") == split:
                for key, value in row.items():
                    if key not in _NOT_METRICS and "/" not in key and _is_number(value):
                        return key
    return None


def _epochs_per_step(rows: Sequence[Row]) -> float:
    known = [r["epoch"] / r["step"] for r in rows if r.get("step") and _is_number(r.get("epoch"))]
    return known[-1] if known else 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
