"""What a search has found: the sentence, the table and the picture."""

import collections
import functools
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtrain.studies.search.space import Axis, Point
from jtrain.studies.search.trial import Trial, ranked
from jtrain.studies.study import Study

PANELS = 9  # axes that are drawn, the most important first
NAMES = {  # how a trial ended: (marker, filled, in the legend)
    "done": ("o", True, "in full"),
    "pruned": ("v", False, "given up, where it stood then"),
}


def report(
    axes: Sequence[Axis],
    trials: Sequence[Trial],
    metric: str,
    maximize: bool,
    importance: Mapping[str, float],
    *,
    own: Point | None,
    validation: int,
    folder: Path | None = None,
) -> Study:
    """The result of a search.

    Args:
      axes: that were searched.
      trials: all of them.
      metric: of the validation split, by which they were judged.
      maximize: more of it is better.
      importance: of each key, from 0 to 1; {} where it is not known.
      own: the values of the config as it is, None where they are not all on the axes.
      validation: examples that the metric is of.
      folder: where the trials' own folders are; None where there are none, or a command could not test what is in them.
    """
    order = ranked(trials, maximize)
    counts = dict(collections.Counter(str(trial.answer.status) for trial in trials))
    whys = {trial.number: trial.answer.why for trial in trials if trial.answer.why}
    found: dict[str, Any] = {"metric": f"val/{metric}", "trials": len(trials), "ended": counts, "why": whys}
    if not order:
        return Study(
            "search", _no_answer(trials), _rows(axes, trials, metric), found, functools.partial(_draw_none), False
        )
    best = order[0]
    untuned = next((t for t in order if t.point == own), None)
    having = [axis for axis in axes if axis.key in best.point]
    edges = {axis.key: edge for axis in having if (edge := axis.edge(best.point[axis.key]))}
    found |= {
        "best": best.point,
        "trial": best.number,
        "value": best.answer.value,
        "untuned": None if untuned is None else untuned.answer.value,
        "edges": edges,
        "importance": dict(importance),
        "command": command(best.point),
    }
    rest = [trial for trial in trials if trial.answer.value is None]
    text = _sentence(axes, order, untuned, edges, counts, metric, validation)
    if folder is not None:
        where = shlex.quote(str(folder / "trials" / str(best.number)))
        text += f" The test split is unseen so far: jtrain eval --workdir={where}"
    draw = functools.partial(_draw, axes=axes, trials=trials, best=best, own=own, metric=metric, importance=importance)
    return Study("search", text, _rows(axes, [*order, *rest], metric), found, draw)


def command(point: Point) -> str:
    """What to add to a command line to have the values of a point."""
    return " ".join(shlex.quote(f"--config.{key}={value}") for key, value in point.items())


def point_words(point: Point) -> str:
    """The values of a point in a line."""
    return ", ".join(f"{key} {value}" for key, value in point.items())


def _sentence(
    axes: Sequence[Axis], order: Sequence[Trial], untuned: Trial | None, edges: Mapping[str, str],
    counts: Mapping[str, int], metric: str, validation: int,
) -> str:  # fmt: skip
    best = order[0]
    value = best.answer.value or 0.0
    others = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if status != "done")
    head = f"val/{metric} {value:.4g} in trial {best.number} of {sum(counts.values())}" + (
        f" ({others})" if others else ""
    )
    if untuned is best:
        text = f"{head}: no trial is better than the config as it is; nothing to change."
    elif untuned is not None and untuned.answer.value == best.answer.value:
        text = f"{head}, and as the config is: none is better by this metric; " + (
            "nothing to change." if best.answer.tie is None else f"{command(best.point)} has the least loss."
        )
    else:
        before = f", {untuned.answer.value:.4g} as the config is" if untuned is not None else ""
        text = f"{head}{before}: to take its values over, add {command(best.point)}."
        text += _noise(best, untuned, metric, validation)
    for key, edge in edges.items():
        axis = next(axis for axis in axes if axis.key == key)
        text += f" {key} is best at the {edge} edge of its range ({axis.range}): widen it there and search again."
    return text


def _noise(best: Trial, untuned: Trial | None, metric: str, count: int) -> str:
    """A warning where what was gained is no more than chance; known for a share of examples alone."""
    if untuned is None or not metric.endswith("accuracy"):
        return ""
    value, before = best.answer.value or 0.0, untuned.answer.value or 0.0
    p = (value + before) / 2
    chance = 2 * math.sqrt(2 * max(p * (1 - p), 1 / count) / count)
    if abs(value - before) >= chance:
        return ""
    return (
        f" The difference is within what {count} validation examples can tell (± {chance:.2g}): confirm it with other "
        "seeds."
    )


def _no_answer(trials: Sequence[Trial]) -> str:
    whys = {trial.answer.status: trial.answer.why for trial in reversed(trials)}
    told = "; ".join(f"{status}: {why}" for status, why in whys.items())
    return f"no answer: none of {len(trials)} trials came to its end with a finite metric ({told})."


def _rows(axes: Sequence[Axis], trials: Sequence[Trial], metric: str) -> list[dict[str, Any]]:
    return [
        {
            "trial": trial.number,
            "ended": trial.answer.status,
            f"val/{metric}": trial.shown,
            "val/loss": trial.answer.tie if metric != "loss" else None,
            **{axis.key: _plain(trial.point.get(axis.key)) for axis in axes},
            "part": f"{trial.part:.0%}",
            "seconds": round(trial.seconds, 1),
        }
        for trial in trials
    ]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _draw_none(figure: Any) -> None:
    figure.text(0.5, 0.5, "search: no trial came to its end with a finite metric", ha="center")


def _draw(
    figure: Any, *, axes: Sequence[Axis], trials: Sequence[Trial], best: Trial, own: Point | None, metric: str,
    importance: Mapping[str, float],
) -> None:  # fmt: skip
    """A panel for each axis: the metric against its values, all trials in each."""
    shown = sorted(axes, key=lambda axis: -importance.get(axis.key, 0.0))[:PANELS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure.set_size_inches(max(6.0, 4.2 * columns), 0.9 + 3.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    low, high = _limits(trials)
    for panel, axis in zip(grid.flat, shown, strict=False):
        _panel(panel, axis, trials, best, own, (low, high))
        share = f", importance {importance[axis.key]:.0%}" if axis.key in importance else ""
        panel.set_xlabel(axis.key + share)
    for panel in grid.flat[len(shown) :]:
        panel.set_visible(False)
    for row in grid:
        row[0].set_ylabel(f"val/{metric}")
    figure.suptitle(f"search: {len(trials)} trials, best val/{metric} {best.answer.value:.4g} in trial {best.number}")
    handles: dict[str, Any] = {}
    for panel in grid.flat:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8
    )


def _limits(trials: Sequence[Trial]) -> tuple[float, float]:
    """Of the metric; what lies far out, a trial all but diverged, does not squeeze the rest."""
    done = sorted(trial.answer.value for trial in trials if trial.answer.value is not None)
    seen = sorted(trial.shown for trial in trials if trial.shown is not None)
    middle, spread = done[len(done) // 2], done[-1] - done[0] or abs(done[0]) * 0.01 or 1.0
    low, high = max(seen[0], middle - 3 * spread), min(seen[-1], middle + 3 * spread)
    return low - 0.12 * (high - low or spread), high + 0.06 * (high - low or spread)


def _panel(
    panel: Any, axis: Axis, trials: Sequence[Trial], best: Trial, own: Point | None, limits: tuple[float, float]
) -> None:  # fmt: skip
    low, high = limits
    names = list(axis.labels()) if axis.choices else []
    floor = low + 0.04 * (high - low)

    def place(trial: Trial) -> Any:
        value = trial.point[axis.key]
        return axis.choices.index(value) if axis.choices else value

    def put(chosen: Sequence[Trial], heights: Sequence[float], **style: Any) -> None:
        if chosen:
            panel.plot([place(trial) for trial in chosen], heights, linestyle="none", clip_on=False, **style)

    with_point = [trial for trial in trials if axis.key in trial.point]
    for status, (marker, filled, words) in NAMES.items():
        chosen = [t for t in with_point if t.answer.status == status and t.shown is not None and t is not best]
        heights = [min(max(trial.shown or 0.0, low), high) for trial in chosen]
        put(
            chosen,
            heights,
            marker=marker,
            color="0.35",
            fillstyle="full" if filled else "none",
            markersize=6,
            label=words,
        )
    failed = [trial for trial in with_point if trial.shown is None or trial.answer.status not in NAMES]
    put(failed, [floor] * len(failed), marker="x", color="black", markersize=7, label="diverged or failed")
    asis = [trial for trial in with_point if trial.point == own and trial.answer.value is not None]
    put(
        asis, [trial.answer.value or 0.0 for trial in asis], marker="s", color="black", fillstyle="none", markersize=12,
        label="the config as it is",
    )  # fmt: skip
    chosen = [best] if axis.key in best.point else []
    put(chosen, [best.answer.value or 0.0 for _ in chosen], marker="*", color="black", markersize=16, label="best")
    panel.axhline(best.answer.value, color="0.7", linewidth=0.8, linestyle=":")
    panel.set_ylim(low, high)
    if axis.choices:
        panel.set_xticks(range(len(names)), names, rotation=20 if max(map(len, names)) > 8 else 0)
        panel.set_xlim(-0.5, len(names) - 0.5)
    else:
        panel.set_xlim(axis.low, axis.high)
        if axis.log:
            panel.set_xscale("log")
            if axis.high < 100 * axis.low:  # few powers of ten to mark
                ticks = [float(f"{axis.low * (axis.high / axis.low) ** share:.2g}") for share in (0, 1 / 3, 2 / 3, 1)]
                panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                panel.minorticks_off()
        else:
            panel.locator_params(axis="x", nbins=5)
    panel.grid(alpha=0.3)
