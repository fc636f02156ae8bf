"""What a run that acted on its diagnosis came to: the sentence, a row for each leg, the picture."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtrain.run import Run
from jtrain.studies.act.legs import Ended, Leg, typed_lr
from jtrain.studies.study import Study

ENDS = {"finished": "finished", "stopped": "stopped", "given_up": "given up", "failed": "not finite"}


def report(
    run: Run,
    legs: Sequence[tuple[Leg, Ended]],
    acts: Sequence[Mapping[str, Any]],
    chosen: tuple[Leg, int] | None,
    metrics: Mapping[str, Mapping[str, float]],
    folder: Path | None,
) -> Study:
    """The study of `act`.

    Args:
      run: as it was asked for.
      legs: all, in turn.
      acts: what was done between them.
      chosen: (attempt, update) of the best state; None: there is none.
      metrics: of that state, by split.
      folder: where it is; None: it is not kept.
    """
    spent = sum(max(0, ended.step - leg.begin) for leg, ended in legs)
    rows = [_row(run, leg, ended) for leg, ended in legs]
    found: dict[str, Any] = {
        "attempt": None, "step": None, "metric": None, "value": None, **metrics, "folder": None,
        "updates": spent, "total": run.clock.total, "acts": [dict(one) for one in acts],
    }  # fmt: skip
    if chosen is not None:
        leg, step = chosen
        best = next(ended.best for other, ended in reversed(legs) if other.attempt == leg.attempt)
        found |= {"attempt": leg.name, "step": step, "folder": str(folder) if folder else None}
        found |= {"metric": best["metric"], "value": best["value"]} if best else {}
        found["lr"] = run.optimizer.lr * leg.factor
        found["typed_lr"] = typed_lr(run, leg.factor)
    words = _conclusion(run, legs, acts, chosen, metrics, found)
    picture = functools.partial(_draw, watch=run.watch, legs=list(legs), acts=list(acts))
    return Study("act", words, rows, found, picture, ok=chosen is not None)


def _row(run: Run, leg: Leg, ended: Ended) -> dict[str, Any]:
    best = ended.best or {}
    return {
        "attempt": leg.name, "from": leg.begin, "to": ended.step, "of": leg.total,
        "lr": run.optimizer.lr * leg.factor, f"best {run.watch}": best.get("value"), "at": best.get("step"),
        "ended": ENDS[ended.status], "why": ended.why,
    }  # fmt: skip


def _conclusion(
    run: Run, legs: Sequence[tuple[Leg, Ended]], acts: Sequence[Mapping[str, Any]], chosen: tuple[Leg, int] | None,
    metrics: Mapping[str, Mapping[str, float]], found: Mapping[str, Any],
) -> str:  # fmt: skip
    done = [one for one in acts if one["kind"] == "act"]
    taken = "nothing was to be done" if not done else "; ".join(one["text"] for one in acts)
    spent = f"{found['updates']:,} of {found['total']:,} updates"
    if chosen is None:
        return (
            f"no answer: no state is left that is finite: {legs[-1][1].why or 'nothing was saved'} ({taken}; {spent})"
        )
    told = ""
    if found["value"] is not None:
        told = f"best {found['metric']} {found['value']:.4g} at update {found['step']} of {found['attempt']}"
    else:
        told = f"update {found['step']} of {found['attempt']} (there is no validation split to choose by)"
    test = metrics.get("test", {}).get(run.watch.removeprefix("ema/"), metrics.get("test", {}).get(run.watch))
    told += f", test {run.watch} {test:.4g}" if test is not None else ""
    where = f"; the state is in {found['folder']}" if found["folder"] else ""
    return f"{told} ({spent}); {taken}{where}"


def _draw(figure: Any, watch: str, legs: Sequence[tuple[Leg, Ended]], acts: Sequence[Mapping[str, Any]]) -> None:
    """The watched metric of every leg over all updates that were spent."""
    axes = figure.subplots()
    spent = 0
    for number, (leg, ended) in enumerate(legs):
        own = [(step, value) for step, value, _ in ended.curve if value is not None and leg.begin <= step <= ended.step]
        xs = [spent + step - leg.begin for step, _ in own]
        label = f"{leg.name} from update {leg.begin}, {ENDS[ended.status]}"
        axes.plot(xs, [value for _, value in own], marker="osv^Dx"[number % 6], markersize=4, label=label)
        spent += max(0, ended.step - leg.begin)
    for one in acts:
        axes.axvline(one["after"], color="0.4", linestyle=":")
        axes.text(one["after"], 1.0, f" {one['verdict']}", va="bottom", transform=axes.get_xaxis_transform())
    axes.set_xlabel("updates spent in all")
    axes.set_ylabel(f"validation {watch.replace('_', ' ')}")
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.grid(visible=True, alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small")
