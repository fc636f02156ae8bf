"""The final runs of autopilot: by `act`; which state is taken, and whether another run would pay."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtrain.io import shelf
from jtrain.run import Run
from jtrain.studies.act import act
from jtrain.studies.act.final import coach_of
from jtrain.studies.act.legs import rank, with_total
from jtrain.studies.autopilot.recipe import Decision, few_to_judge, put
from jtrain.studies.journal import Journal
from jtrain.studies.short import is_higher_better


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What may still be done.

    Attributes:
      updates: that are left of the budget, before the run.
      time: there is some for another run.
      lr: may be changed.
      length: is settled: by folds, which see more than the validation split does.
    """

    updates: int
    time: bool
    lr: bool
    length: bool = False


def final_run(
    journal: Journal, run: Run, folder: Path, updates: int, change: Mapping[str, Any], may: Allowed
) -> dict[str, Any]:
    """A final run: where its state is, its decisions, and in "more" the updates of another one that would pay, with
    "next" on top of the recipe.

    Args:
      journal: of autopilot.
      run: the recipe.
      folder: of the run.
      updates: it may do.
      change: options on top of the recipe; {} for the first.
      may: what may be done after it.
    """
    own = with_total(run, put(run.config, dict(change)), updates)
    study = act(own, folder, screen=journal.screen)
    found = study.found
    told: dict[str, Any] = {
        "folder": folder.name,
        "updates": found["updates"],
        "more": 0,
        "next": {},
        "failed": study.conclusion,
    }
    told |= {"change": dict(change)} | {key: found[key] for key in ("attempt", "step", "value")}
    if not study.ok:
        return told | {"decisions": [Decision("train", "no state is left", study.conclusion)]}
    names = [one["name"] for one in coach_of(folder / found["attempt"]).get("diagnosis", ())]
    last, best = max(shelf.steps(folder / found["attempt"] / "checkpoints")), found["step"]
    acted = "; ".join(one["text"] for one in found["acts"]) or "it was trained in one go"
    value = "" if found["value"] is None else f" ({found['metric']} {found['value']:.4g})"
    step, reason = best, f"it is the best of all on the validation split{value}; {acted}"
    sound = may.length or "overfitting" not in names
    if few_to_judge(run) and last != best and study.rows[-1]["ended"] == "finished" and sound:
        step = last
        why = "a shorter run was tried over folds" if may.length else "nothing overfits"
        reason = (
            f"on so few validation examples the best of many looks (update {best:,}) is mostly luck, and {why}; {acted}"
        )
    reason += f"; {found['advice']}" if found["advice"] else ""
    decisions = [Decision("train", f"update {step:,} of {updates:,}", reason)]
    if not change:
        left = dataclasses.replace(may, updates=may.updates - found["updates"])
        more = _once_more(found["late"], "still_improving" in names, updates, left)
        decisions += more.pop("decisions", [])
        told |= more
    return told | {"step": step, "decisions": decisions}


def _once_more(late: Mapping[str, Any] | None, improving: bool, updates: int, may: Allowed) -> dict[str, Any]:
    """Another run with what diagnose has said of the end of the first, where the budget has the updates; what to type
    where it has not."""
    if late is not None:
        lr, why = late["typed_lr"], f"diagnose says {late['verdict']} of the whole run: {late['text']}"
        if may.lr and may.time and may.updates >= updates:
            words = Decision("train", f"once more, with lr {lr:g}", why)
            return {"more": updates, "next": {"optimizer.lr": lr}, "decisions": [words]}
        what = f"only {may.updates:,} updates or too little time are left" if may.lr else "the lr is yours"
        return {"decisions": [Decision("train", f"no run with --config.optimizer.lr={lr:g}", f"{what}, but {why}")]}
    if improving and may.updates >= 2 * updates and may.time:
        total = f"{2 * updates}steps"
        why = "diagnose says still_improving, and the budget has them"
        words = Decision("train", f"once more, with {2 * updates:,} updates", why)
        return {"more": 2 * updates, "next": {"train.total": total}, "decisions": [words]}
    return {}


def is_better(run: Run, new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether a final run has a better best value on the validation split than another."""
    if new["attempt"] is None or new["value"] is None:
        return False
    if old["attempt"] is None or old["value"] is None:
        return True
    higher = is_higher_better(run, run.watch)
    new_score, old_score = (rank(float(one["value"]), float("nan"), higher) for one in (new, old))
    return new_score > old_score
