"""What autopilot came to: the sentence, a row for each decision, the picture."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from jtrain.io.progress import duration_words
from jtrain.run import Run
from jtrain.studies.study import Study


def report(run: Run, decisions: Sequence[Mapping[str, Any]], found: Mapping[str, Any], failed: str) -> Study:
    """The study of `autopilot`.

    Args:
      run: as it was asked for.
      decisions: {"stage", "decision", "reason", "updates", "seconds"}, in turn, with the "keys" that each sets,
        and whether it is "always" told.
      found: what is known of the state that was chosen, and of the budget.
      failed: why there is none; "" where there is one.
    """
    updates, seconds = (sum(one[name] for one in decisions) for name in ("updates", "seconds"))
    spent = f"{updates:,} of {found['budget']:,} updates, {duration_words(seconds)}"
    if failed:
        words = f"stopped: {failed} ({spent})"
    else:
        test = (found.get("test") or {}).get(run.watch)
        words = f"{run.watch} {_told((found.get('val') or {}).get(run.watch))} on the validation split"
        words += f", {_told(test)} on the test split" if test is not None else ""
        words += f" ({spent}); decided: " + "; ".join(_in_force(decisions))
        words += f"; the state is in {found['folder']}" if found.get("folder") else ""
    rows = [{name: one[name] for name in ("stage", "decision", "reason", "updates", "seconds")} for one in decisions]
    rows = [row | {"seconds": round(float(row["seconds"]), 1)} for row in rows]
    all_found = dict(found) | {"decisions": rows, "updates": updates, "seconds": round(float(seconds), 1)}
    return Study("autopilot", words, rows, all_found, functools.partial(_draw, rows=rows), ok=not failed)


def _in_force(decisions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The decisions that hold in the end: what a later one has set otherwise is not told."""
    found: list[str] = []
    later: set[str] = set()
    for one in reversed(decisions):
        if one["always"] or set(one["keys"]) - later:
            found.insert(0, one["decision"])
        later |= set(one["keys"])
    return found


def _told(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _draw(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """How many updates every stage took."""
    axes = figure.subplots()
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    spent = [sum(row["updates"] for row in rows if row["stage"] == stage) for stage in stages]
    axes.barh(stages, spent, color="0.6", edgecolor="black")
    axes.invert_yaxis()
    axes.set_xlabel("updates")
    for stage, count in zip(stages, spent, strict=True):
        took = sum(row["seconds"] for row in rows if row["stage"] == stage)
        axes.text(count, stage, f" {count:,} in {duration_words(took)}", va="center")
    axes.margins(x=0.25)
