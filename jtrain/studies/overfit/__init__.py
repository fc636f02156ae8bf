"""Whether a model can learn a few examples by heart; if not, something is broken, and what is named."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain import tree
from jtrain.io.progress import Screen
from jtrain.models import MODELS
from jtrain.run import Run
from jtrain.state import TrainState
from jtrain.studies.journal import Journal, open_study
from jtrain.studies.members import Members, with_lr_scale
from jtrain.studies.overfit.data import look
from jtrain.studies.overfit.goal import Goal, is_learnt, make_goal, mean_of
from jtrain.studies.overfit.picture import draw
from jtrain.studies.overfit.plain import chosen, first_state, small_run
from jtrain.studies.overfit.suspects import Case, Suspect, suspects
from jtrain.studies.probe import Signals, make_probe, number
from jtrain.studies.short import failures_of, losses_of, typed
from jtrain.studies.study import Study

STRETCH = 25  # updates between two looks at whether the examples are learnt
LAST = 5  # updates, at least, over which that is measured
POINTS = 500  # of a curve
PROBED = 128  # examples, at most, of the look before the first update
FACTORS = (0.1, 10.0)  # of the lr, tried where its own fails


def overfit(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """Trains on a few examples with everything off that regularises, and passes if they are learnt by heart.

    That is so where the training loss comes near its floor: 5 % of the loss of a guess and every class right, an R² of
    0.99, or 10 % of the loss of a guess for tokens and reconstructions. Where it does not, or where the data or the
    first batch show a fault all the same, the suspect is named.

    Args:
      given: a config, or a run of `jtrain.assemble`; it is not changed.
      workdir: folder for study.json, study.png and what is done so far; None writes nothing.
      model: with a config: as `assemble` takes it.
      data: with a config: as `assemble` takes it.
      screen: None shows nothing.

    Returns:
      The study, `ok` where it passes; `found["suspects"]` are those named, the likeliest first.

    Raises:
      ConfigError, DataError: see `open_study`.
    """
    with open_study("overfit", given, workdir, model=model, data=data, screen=screen) as journal:
        run, options = journal.run, journal.options
        updates = configs.updates(run.clock, options.total, "study.overfit.total")
        rows = chosen(run, options.examples)
        facts = journal.piece("data", lambda: look(run, rows, options.neighbours))
        inputs, targets = run.data.train.fetch(rows)
        small, off = small_run(run, inputs, targets, updates)
        try:
            goal = make_goal(small, inputs, targets)
            start = _start(journal, small, inputs, targets)
            case = _case(journal, small, goal, facts, start, updates)
            found = suspects(case)
            ok = case.learnt and not found
            words = _conclusion(run, case, goal, found, off, ok)
            table = [_row(run, factor, fit, goal) for factor, fit in case.fits.items()]
            summary = {
                "learnt": case.learnt, "suspects": [dataclasses.asdict(one) for one in found], "switched_off": off,
                "examples": len(rows), "rows": rows.tolist(), "data": facts, "goal": dataclasses.asdict(goal),
                "start": start.plain(), "fits": {f"{factor:g}": dict(fit) for factor, fit in case.fits.items()},
            }  # fmt: skip
            title = f"{run.model_name}: {len(rows)} examples, {'passes' if ok else 'fails'}" + (
                f": {found[0].name}" if found else ""
            )
            picture = functools.partial(draw, case=case, goal=goal, title=title)
            return journal.finish(Study("overfit", words, table, summary, picture, ok))
        finally:
            small.close()


def _start(journal: Journal, small: Run, inputs: np.ndarray, targets: np.ndarray) -> Signals:
    def measured() -> Any:
        batch = {"inputs": inputs[:PROBED], "targets": targets[:PROBED]}
        return make_probe(small, batch)(first_state(journal.run, small), batch).plain()

    return Signals(**journal.piece("start", measured))


def _case(journal: Journal, small: Run, goal: Goal, facts: Mapping[str, Any], start: Signals, updates: int) -> Case:
    run = journal.run
    groups, params = small.optimizer.groups, tree.flatten(small.shapes.params)
    still = {path for path, label in groups.labels.items() if groups.multipliers[label] == 0}
    fits: dict[float, Mapping[str, Any]] = {}

    def tried(factor: float) -> None:
        key = f"lr × {factor:g}"
        fits[factor] = journal.piece(key, lambda: _fit(run, small, goal, factor, updates))
        fit = fits[factor]
        journal.told(f"{key}: loss {_told(fit['loss'])} after {fit['updates']} updates{', learnt' * fit['learnt']}")

    def case() -> Case:
        return Case(
            data=facts, start=start, learnt=fits[1.0]["learnt"], fits=fits, lr=run.optimizer.lr,
            typed_lr=typed(run, run.optimizer.lr),
            frozen=sorted(groups.frozen | still),
            sizes={path: int(np.prod(leaf.shape)) for path, leaf in params.items()},
            kernels=[path for path, leaf in params.items() if len(leaf.shape) > 1],
            kind=small.task.predictions, given=bool(run.config.transfer.init_from),
        )  # fmt: skip

    tried(1.0)
    if not fits[1.0]["learnt"] and not any(one.certain for one in suspects(case())):
        for factor in FACTORS:
            tried(factor)
    return case()


def _fit(run: Run, small: Run, goal: Goal, factor: float, updates: int) -> dict[str, Any]:
    """Trains until the examples are learnt, or to the end; `curve` is of (updates done, loss)."""
    state = first_state(run, small)
    before = jax.device_get(state.params)
    members = Members(small, [with_lr_scale(small, state, factor * small.config.lr_scale)], strategy="loop")
    window = max(LAST, -(-len(small.data.train) // small.batch_size))
    losses: list[float] = []
    failed: list[bool] = []
    done, last, learnt, diverged = 0, {}, False, False
    while done < updates and not learnt:
        stop = min(done + max(STRETCH, window), updates)
        found = members.advance(done, stop)[0]
        losses += losses_of(found).tolist()
        last = {name: values[-window:] for name, values in found.items()}
        done = stop
        failed += failures_of(found).tolist()
        diverged = any(failed)
        if diverged:
            break
        learnt = is_learnt(small, goal, last, _mean(losses[-window:]))
    state = members.states[0]
    shown = [i for i, loss in enumerate(losses) if failed[i] or math.isfinite(loss)] or [0]
    every = max(1, len(shown) // POINTS)
    fit: dict[str, Any] = {
        "updates": done, "learnt": learnt, "diverged": diverged,
        "loss": None if diverged else number(_mean(losses[-window:])),
        "metric": mean_of(small, last.get(goal.metric), goal.metric),
        "curve": [[i + 1, number(losses[i])] for i in shown[::every]],
        "unmoved": [], "evaluation": None,
    }  # fmt: skip
    if factor == 1.0:
        fit["unmoved"] = _unmoved(before, state) if not diverged else []
        value = small.evaluate(state, "val").get(goal.metric or "loss")
        fit["evaluation"] = number(value) if value is not None else None
    return fit


def _mean(losses: Sequence[float]) -> float:
    """Of the updates whose scaled loss has not overflowed; NaN where there is none."""
    known = [loss for loss in losses if math.isfinite(loss)]
    return float(np.mean(known)) if known else math.nan


def _unmoved(before: Any, state: TrainState) -> list[str]:
    after = tree.flatten(jax.device_get(state.params))
    return [path for path, leaf in tree.flatten(before).items() if np.array_equal(leaf, after[path])]


def _row(run: Run, factor: float, fit: Mapping[str, Any], goal: Goal) -> dict[str, Any]:
    row = {
        "lr": run.optimizer.lr * factor,
        "updates": fit["updates"],
        "first loss": fit["curve"][0][1],
        "last loss": fit["loss"],
        "needed": goal.line,
    }
    more = {goal.metric: fit["metric"], f"{goal.metric} needed": goal.need} if goal.metric else {}
    return row | more | {"learnt": fit["learnt"]}


def _conclusion(run: Run, case: Case, goal: Goal, found: list[Suspect], off: list[str], ok: bool) -> str:
    fit = case.fits[1.0]
    metric = f", {goal.metric} {_told(fit['metric'])} (needed {goal.need:.4g})" if goal.metric else ""
    loss = f"training loss {_told(fit['curve'][0][1])} → {_told(fit['loss'])} (needed {goal.line:.3g})"
    what = f"{loss}{metric} after {fit['updates']} updates at lr {run.optimizer.lr:.3g}"
    examples = f"{case.data['examples']} examples"
    if ok:
        words = f"passes: {examples} are learnt by heart: {what}"
    elif not found:
        words = (
            f"fails: {examples} are not learnt: {what}; none of the known suspects shows: look at the loss, at the "
            "targets, and whether the model is large enough"
        )
    else:
        head = f"fails: {examples} are {'learnt, but' if case.learnt else 'not learnt'}"
        others = "".join(f"; also {one.name}: {one.words}" for one in found[1:])
        words = f"{head}: suspect {found[0].name}: {found[0].words} [{what}]{others}"
    value = fit["evaluation"]
    if case.learnt and goal.metric and value is not None and value < goal.need - 0.1:
        words += (
            f"; evaluated, the same examples give {goal.metric} {value:.3g}: look at what the model does otherwise then"
        )
    words += f"; switched off: {', '.join(off)}" if off else "; nothing was there to switch off"
    ours = run.config.model.name in MODELS and run.model_name in MODELS
    if case.start.draws:
        words += "; the model draws at random in training (dropout?), which could not be switched off"
    elif not ours:
        words += (
            "; the model is not one of jtrain's: what in it regularises is not known, but it draws nothing at random"
        )
    return words


def _told(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
