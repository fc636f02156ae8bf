"""What a run that acted on its diagnosis came to: the sentence, a row for each leg, the picture."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtrain.run import Run
from jtrain.studies.act.choice import Chosen
from jtrain.studies.act.legs import Ended, Leg, typed_lr
from jtrain.studies.study import Study

NO_BETTER = 0.95  # × the loss of a guess: a state that is above it knows nothing
ENDS = {"finished": "finished", "stopped": "stopped", "given_up": "given up", "failed": "not finite"}


def report(
    run: Run,
    legs: Sequence[tuple[Leg, Ended]],
    acts: Sequence[Mapping[str, Any]],
    chosen: Chosen | None,
    metrics: Mapping[str, Mapping[str, float]],
    folder: Path | None,
) -> Study:
    """The study of `act`.

    Args:
      run: as it was asked for.
      legs: all, in turn.
      acts: what was done between them.
      chosen: the best state; None: there is none.
      metrics: of that state, by split.
      folder: where it is; None: it is not kept.
    """
    spent = sum(max(0, ended.step - leg.begin) for leg, ended in legs)
    rows = [_row(run, leg, ended) for leg, ended in legs]
    found: dict[str, Any] = {
        "attempt": None, "step": None, "metric": None, "value": None, **metrics, "folder": None,
        "updates": spent, "total": run.clock.total, "acts": [dict(one) for one in acts], "late": late(run, *legs[-1]),
        "advice": "",
    }  # fmt: skip
    if chosen is not None:
        found |= {"attempt": chosen.name, "step": chosen.step, "folder": str(folder) if folder else None}
        found |= {"metric": f"val/{run.watch}", "value": chosen.value} if chosen.value is not None else {}
        found["lr"] = run.optimizer.lr * chosen.factor
        found["typed_lr"] = typed_lr(run, chosen.factor)
        found["advice"] = advise(run, legs, chosen, metrics, found["late"])
    words = _conclusion(run, legs, chosen, metrics, found)
    picture = functools.partial(_draw, watch=run.watch, legs=list(legs), acts=list(acts))
    return Study("act", words, rows, found, picture, ok=chosen is not None)


def late(run: Run, leg: Leg, ended: Ended) -> dict[str, Any] | None:
    """What diagnose said of the whole of the last leg, that an lr can mend and nothing was done about: {"verdict",
    "text", "typed_lr"}; None: nothing."""
    for said in ended.said:
        if said.get("act"):
            lr = float(f"{typed_lr(run, leg.factor * said['act']['factor']):.3g}")
            return {"verdict": said["name"], "text": said["text"], "typed_lr": lr}
    return None


def advise(
    run: Run, legs: Sequence[tuple[Leg, Ended]], chosen: Chosen, metrics: Mapping[str, Mapping[str, float]],
    seen: Mapping[str, Any] | None,
) -> str:  # fmt: skip
    """What to type where the state that is left is no better than a guess, or its run was still improving; else ""."""
    val, last = metrics.get("val", {}), legs[-1][1]
    loss, guess = chosen.loss, last.guess
    useless = (loss is not None and guess is not None and loss >= NO_BETTER * guess) or val.get("r2", 1.0) <= 0.0
    improving = any(said["name"] == "still_improving" for said in last.said)
    if not useless and not improving:
        return ""
    words = ["still improving at its end"] if improving else []
    if useless:
        against = f" (validation loss {loss:.3g}, a guess {guess:.3g})" if loss is not None and guess else ""
        words.insert(0, f"this state is of no use, being no better than a guess{against}")
    lr = seen["typed_lr"] if seen else typed_lr(run, chosen.factor) if chosen.factor > 1 else None
    if lr is not None:
        do = f"start again with --config.optimizer.lr={lr:g}, from the first update on"
    elif useless:
        do = "let the study ladder find an lr, or overfit a mistake"
    else:
        do = "a larger --config.train.total would be better"
    return f"{' and '.join(words)}: {do}"


def _row(run: Run, leg: Leg, ended: Ended) -> dict[str, Any]:
    best = ended.best or {}
    return {
        "attempt": leg.name, "from": leg.begin, "to": ended.step, "of": leg.total,
        "lr": run.optimizer.lr * leg.factor, f"best {run.watch}": best.get("value"), "at": best.get("step"),
        "ended": ENDS[ended.status], "why": ended.why,
    }  # fmt: skip


def _conclusion(
    run: Run, legs: Sequence[tuple[Leg, Ended]], chosen: Chosen | None, metrics: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Any],
) -> str:  # fmt: skip
    taken = was_done(run, legs, found)
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
    advice = f"; {found['advice']}" if found["advice"] else ""
    where = f"; the state is in {found['folder']}" if found["folder"] else ""
    return f"{told} ({spent}); {taken}{advice}{where}"


def was_done(run: Run, legs: Sequence[tuple[Leg, Ended]], found: Mapping[str, Any]) -> str:
    """What was done about the verdicts, and what was not."""
    done = [one["text"] for one in found["acts"]]
    seen = found["late"]
    if seen is not None:
        asked = run.config.diagnose.attempts
        used = sum(one["kind"] == "act" for one in found["acts"]) >= asked
        why = (
            f"not acted on (diagnose.attempts is {asked})"
            if used
            else "seen too late to act on (after the last update)"
        )
        done.append(
            f"{why}: {seen['verdict']}: {seen['text']}; start again with --config.optimizer.lr={seen['typed_lr']:g}"
        )
    if done:
        return "; ".join(done)
    warnings = [said for said in legs[-1][1].said if said.get("level") == "warning"]
    if warnings:
        return f"nothing that another lr would mend, but {warnings[0]['name']}: {warnings[0]['action']}"
    return "nothing was to be done"


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
