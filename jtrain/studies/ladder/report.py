"""A ladder in words, as a table and as a picture."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jtrain.run import Run
from jtrain.studies.ladder.answer import CLOSE, Answer, Judge, Rung, learned
from jtrain.studies.short import typed
from jtrain.studies.study import Study

_LINES = ("-", "--", ":", "-.")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_ENDS = {"diverged": ("x", "diverged"), "hopeless": ("v", "given up")}


def report(
    run: Run,
    rungs: Sequence[Rung],
    judge: Judge,
    found: Answer | None,
    *,
    start: float,
    bar: float,
    total: int,
    words: str,
) -> Study:
    """The study of a ladder.

    Args:
      run: that it is about.
      rungs: all, by lr.
      judge: tells them apart.
      found: the answer, or None.
      start: the loss before the first update.
      bar: the loss of who has learned nothing.
      total: updates of a rung.
      words: what it is judged by.
    """
    text = _sentence(run, rungs, judge, found, bar, total, words)
    if found is not None and not learned(found.best, bar):
        found = None  # what is best of nothing is chance
    told: dict[str, Any] = {"lr": None, "low": None, "high": None, "unstable": None}
    if found is not None:
        told = {
            "lr": typed(run, found.best["lr"]), "low": typed(run, found.low), "high": typed(run, found.high),
            "unstable": None if found.unstable is None else typed(run, found.unstable), "metric": judge.metric,
            "value": _mean(judge, found.best), "sd": found.noise, "edge": found.edge,
        }  # fmt: skip
    told |= {"updates": total, "rungs": len(rungs), "start_loss": start}
    rows = [_row(run, rung, judge, found) for rung in rungs]
    draw = functools.partial(
        _draw, run=run, rungs=rungs, judge=judge, found=found, start=start, words=words, total=total
    )
    return Study("ladder", text, rows, told, draw, ok=found is not None and not found.edge)


def _sentence(
    run: Run, rungs: Sequence[Rung], judge: Judge, found: Answer | None, bar: float, total: int, words: str
) -> str:
    lrs = f"from {typed(run, rungs[0]['lr']):g} to {typed(run, rungs[-1]['lr']):g}"
    if found is None:
        return (
            f"no answer: every lr {lrs} diverges within {total} updates ({rungs[0]['why']}); suspect the data, the "
            "loss or the first weights rather than the lr"
        )
    if not learned(found.best, bar):
        return (
            f"no answer: no lr {lrs} brings the training loss below that of having learned nothing ({bar:.4g}) within "
            f"{total} updates; "
            "train longer (--config.study.ladder.total), or see whether the model can learn a few examples"
        )
    lr = typed(run, found.best["lr"])
    value = f"{words} {_mean(judge, found.best):.4g}"
    spread = "" if found.noise is None else f" over {len(judge.values(found.best))} seeds, sd {found.noise:.2g}"
    parts = [f"lr {lr:g}: {value}{spread}"]
    if found.edge:
        parts.append(
            f"but this is no answer yet: the best mean is that of {typed(run, found.edge_lr):g}, the {found.edge} of "
            f"{len(rungs)} rungs, and no more were allowed; in a new --workdir, raise --config.study.ladder.most, or "
            f"begin there (--config.study.ladder.start={found.edge_lr:g})"
        )
        return "; ".join(parts)
    if found.low < found.high:
        within = "within the seeds' spread" if found.noise is not None else "exactly"
        span = f"{typed(run, found.low):g} to {typed(run, found.high):g}"
        parts.append(f"{span} are as good {within} (of equals the middle is taken, of two the lower)")
    elif found.noise is None:
        parts.append("one seed, so a tie could not be told")
    parts += [_unstable(run, rungs, found), f"type --config.optimizer.lr={lr:g}"]
    return "; ".join(parts)


def _unstable(run: Run, rungs: Sequence[Rung], found: Answer) -> str:
    """How far the first unstable rung is, and what that means."""
    if found.unstable is None:
        return f"none is unstable up to {typed(run, rungs[-1]['lr']):g}"
    times = found.unstable / found.best["lr"]
    text = f"{typed(run, found.unstable):g} is unstable, ×{times:.3g} above"
    if times >= CLOSE:
        return text
    config = run.config
    warmup = "a longer warm-up" if config.schedule.warmup not in ("0", "") else "warm-up (--config.schedule.warmup=5%)"
    clip = "tighter clipping" if config.clip.name != "none" else "clipping (--config.clip.name=norm)"
    return f"{text}, which is close: try {warmup} or {clip} before a smaller lr"


def _row(run: Run, rung: Rung, judge: Judge, found: Answer | None) -> dict[str, Any]:
    values = judge.values(rung)
    mark = ""
    if found is not None and values:
        mark = "best" if rung is found.best else "as good" if found.low <= rung["lr"] <= found.high else ""
    return {
        "lr": typed(run, rung["lr"]), judge.metric: _mean(judge, rung) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None, "runs": 1 + len(rung.get("seeds", ())),
        "train loss": rung["end"], "updates": rung["updates"], "": mark or ("" if values else rung["status"]),
        "why": rung["why"],
    }  # fmt: skip


def _mean(judge: Judge, rung: Rung) -> float:
    return float(np.mean(judge.values(rung)))


def _draw(
    figure: Any, *, run: Run, rungs: Sequence[Rung], judge: Judge, found: Answer | None, start: float, words: str,
    total: int,
) -> None:  # fmt: skip
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"Learning rate ladder: rungs of {total} updates")
    _draw_metric(left, run, rungs, judge, found, words)
    _draw_losses(right, run, rungs, found, start)


def _draw_metric(axis: Any, run: Run, rungs: Sequence[Rung], judge: Judge, found: Answer | None, words: str) -> None:
    done = [rung for rung in rungs if judge.values(rung)]
    lrs = [typed(run, rung["lr"]) for rung in done]
    axis.plot(
        lrs, [_mean(judge, rung) for rung in done], "-o", color="black", markersize=5, label="rung (mean of its seeds)"
    )
    singles = [
        (typed(run, rung["lr"]), value) for rung in done if len(judge.values(rung)) > 1 for value in judge.values(rung)
    ]
    if singles:
        axis.plot(
            *zip(*singles, strict=True), linestyle="none", marker="_", markersize=10, color="#666666", label="one seed"
        )
    if found is not None:
        best = typed(run, found.best["lr"])
        axis.plot(
            [best],
            [_mean(judge, found.best)],
            "*",
            color="#1f4e9c",
            markersize=14,
            zorder=5,
            label=f"recommended: {best:g}",
        )
        if found.low < found.high:
            axis.axvspan(
                typed(run, found.low),
                typed(run, found.high),
                hatch="//",
                facecolor="none",
                edgecolor="#bbbbbb",
                zorder=0,
                label="as good",
            )
    axis.margins(y=0.12)
    for status, (mark, label) in _ENDS.items():
        at = [typed(run, rung["lr"]) for rung in rungs if rung["status"] == status]
        if at:
            axis.plot(
                at,
                [0.03 if judge.higher else 0.97] * len(at),
                mark,
                color="#b03a2e",
                markersize=9,
                label=label,
                transform=axis.get_xaxis_transform(),
            )
    axis.set_xscale("log")
    axis.set_xlabel("learning rate (optimizer.lr)")
    axis.set_ylabel(words.partition(" (")[0].replace("_", " ") + " at the end")
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize="x-small", loc="best")


def _draw_losses(axis: Any, run: Run, rungs: Sequence[Rung], found: Answer | None, start: float) -> None:
    ends = [rung["end"] for rung in rungs if rung["status"] == "finished" and rung["end"] is not None]
    lowest = min(ends, default=start)
    ceiling = start + 0.5 * max(start - lowest, 0.1 * abs(start))
    for number, rung in enumerate(rungs):
        updates, losses = rung["curve"]
        shade = 0.75 * (1 - number / max(len(rungs) - 1, 1))
        best = found is not None and rung is found.best
        end = "" if rung["status"] == "finished" else f" {_ENDS[rung['status']][1]}"
        axis.plot(
            updates,
            np.minimum(losses, ceiling),
            color="#1f4e9c" if best else str(shade),
            linewidth=2.4 if best else 1.1,
            linestyle=_LINES[number % len(_LINES)],
            marker=_MARKS[number % len(_MARKS)],
            markevery=(number % 5, 8),
            markersize=4,
            label=f"{typed(run, rung['lr']):g}{' ★' if best else ''}{end}",
        )
    if lowest > 0 and math.isfinite(start) and start > 3 * lowest:
        axis.set_yscale("log")
    axis.set_xlabel("update")
    axis.set_ylabel("training loss (cut at the top)")
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize="x-small", loc="best", title="lr", title_fontsize="x-small", ncols=1 + (len(rungs) > 7))
