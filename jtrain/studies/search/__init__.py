"""Search of any options with Optuna: grid, random, quasi-random and Bayesian, by as many workers as are started."""

import dataclasses
import functools
import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain import config_files, tree
from jtrain.errors import ConfigError, HeldError, NonFiniteError
from jtrain.io.progress import Screen
from jtrain.loop import train
from jtrain.phases import build_optimizers
from jtrain.run import Run
from jtrain.studies.journal import Journal, open_study
from jtrain.studies.search.report import point_words, report
from jtrain.studies.search.space import Axis, config_at, default_space, live, own_point, read_space
from jtrain.studies.search.trial import WHOLE, Answer, Asked, Trial, ranked
from jtrain.studies.study import Study

OF_THE_LOSS = ("loss.", "task.")  # keys that begin so change what the loss means
LONGEST = 160  # characters of a reason on the screen; study.json has all


def search(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """Which values of some options are best? Runs trials, each a whole run with other values, and compares them on the
    validation split; the test split is not looked at.

    Started several times at once with the same workdir, or the same `study.search.storage`, all share the trials: each
    is run once, also where a worker is killed.

    Args:
      given: a config, or a run of `jtrain.assemble`; `study.search` says what is searched.
      workdir: of all workers; each trial has its folder trials/<number> in it. None writes nothing.
      model: with a config: as `assemble` takes it.
      data: with a config: as `assemble` takes it.
      screen: None shows nothing.

    Raises:
      ConfigError: Optuna is missing, the space is wrong, or there is no validation split.
      Interrupted: a signal; the trial that was under way is saved, and goes on with the same command.
    """
    shared, storages, params = _optuna()
    more: dict[str, Any] = {"shared": True, "may_change": _may_change(given)}
    with open_study("search", given, workdir, model=model, data=data, screen=screen, **more) as journal:
        run, options = _judged_on_val(journal.run), journal.options
        space = options.space or default_space(run, options.trials)
        axes = read_space(space, run.config)
        own = own_point(axes, run)
        metric, maximize = _metric(run, axes)
        storage = storages.open_storage(options.storage, journal.folder)
        _begin(journal, axes, metric)
        trials = shared.optimise(
            axes,
            functools.partial(_run_and_tell, journal, run, metric=metric),
            trials=options.trials,
            sampler=options.sampler,
            storage=storage,
            name=_name(run, axes),
            seed=options.seed,
            maximize=maximize,
            prune=options.prune,
            own=own,
            told=journal.told,
            ended=lambda trials: _keep_best(journal.folder, ranked(trials, maximize), trials),
        )
        importance = params.importance(axes, trials, maximize)
        theirs = run.config.data.name == "arrays" or run.config.model.name == "given"  # the command line has them not
        told: dict[str, Any] = {"own": own and live(own), "folder": None if theirs else journal.folder}
        told["validation"] = len(run.feeds["val"].examples)
        return journal.finish(report(axes, trials, metric, maximize, importance, **told))


def _optuna() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The files that need Optuna."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("search: needs Optuna; pip install 'jtrain[search]'") from error
    from jtrain.studies.search import params, shared, storage

    return shared, storage, params


def _may_change(given: Any) -> tuple[str, ...]:
    """What the same command may say otherwise: more trials, where those that are done stay what they are."""
    config = given.config if isinstance(given, Run) else given
    if not isinstance(config, ml_collections.ConfigDict):
        return ()
    options = config.study.search
    grown = ("study.search.trials",) if options.space and options.sampler != "grid" else ()
    return (*grown, "study.search.prune")


def _judged_on_val(run: Run) -> Run:
    """The run without its test split: nobody is to choose by it."""
    if run.data.val is None:
        raise ConfigError(
            "data.validation: is 0, and the data have no validation split of their own; trials must be judged on "
            "examples that they are not trained on: set it, such as to 0.1"
        )
    feeds = {name: feed for name, feed in run.feeds.items() if name != "test"}
    return dataclasses.replace(run, data=dataclasses.replace(run.data, test=None), feeds=feeds)


def _metric(run: Run, axes: Sequence[Axis]) -> tuple[str, bool]:
    """(metric by which trials are judged, without 'ema/'; whether more of it is better)."""
    metric = run.watch.removeprefix("ema/")
    known = run.task.metrics.get(metric)
    if known is None:  # the loss itself
        for axis in axes:
            if axis.key.startswith(OF_THE_LOSS):
                raise ConfigError(
                    f"study.search.space: {axis.key} changes the loss, by which trials are judged; name a metric, such "
                    "as --config.early_stopping.metric=val/accuracy"
                )
    return metric, known is not None and known.higher_is_better


def _name(run: Run, axes: Sequence[Axis]) -> str:
    """Of the search in its storage: the same for workers that do the same, and for nobody else."""
    config = {key: value for key, value in configs.flat(run.config).items() if not key.startswith("study.")}
    options = run.config.study.search
    what: list[Any] = [config, run.fingerprint, [dataclasses.asdict(axis) for axis in axes]]
    what += [options.sampler, options.seed, options.trials if options.sampler == "grid" else 0]
    return f"jtrain-{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]}"


def _begin(journal: Journal, axes: Sequence[Axis], metric: str) -> None:
    options, count = journal.options, len(axes)
    journal.told(f"search: {options.trials} trials by val/{metric}, {options.sampler}; each in full, the test unseen")
    for axis in axes:
        journal.told(f"  {axis.key}: {axis.range}")
    if options.trials < 5 * count and count > 1:
        journal.told(f"  {options.trials} trials are few for {count} options; of the lr alone they would tell more")


def _run_and_tell(journal: Journal, run: Run, asked: Asked, metric: str) -> Answer:
    """Runs a trial, and tells what came of it."""
    answer = _answer(journal, run, asked, metric)
    found = (
        f"val/{metric} {answer.value:.4g}" if answer.value is not None else f"{answer.status}: {answer.why[:LONGEST]}"
    )
    begun = ", begun before" if asked.tries else ""
    journal.told(f"trial {asked.number} of {journal.options.trials}{begun}: {point_words(asked.point)} → {found}")
    return answer


def _answer(journal: Journal, run: Run, asked: Asked, metric: str) -> Answer:
    folder = None if journal.folder is None else journal.folder / "trials" / str(asked.number)
    try:
        trial = _run_at(run, config_at(run.config, asked.point))
        ends: list[Answer] = []
        judge = functools.partial(_judge, trial, asked, metric, ends)
        try:
            result = train(trial, folder, judge=judge)
        except HeldError:  # who had it before counts as dead and lives: it must not be disturbed
            assert folder is not None
            result = train(trial, folder.with_name(f"{asked.number}-{asked.tries}"), judge=judge)
    except NonFiniteError as error:
        return Answer(None, "diverged", error.what)
    except ConfigError as error:
        return Answer(None, "refused", str(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Answer(None, "no memory", " ".join(str(error).split())[:200])
    if ends:
        return ends[0]
    found, prefix = result.metrics["val"], trial.watch.removesuffix(metric)
    value, tie = float(found[trial.watch]), float(found[f"{prefix}loss"])
    if not math.isfinite(value):
        return Answer(None, "diverged", f"val/{metric} is not finite at the end")
    comparable = math.isfinite(tie) and not any(key.startswith(OF_THE_LOSS) for key in asked.point)
    return Answer(value, tie=tie if comparable else None)


def _judge(trial: Run, asked: Asked, metric: str, ends: list[Answer], step: int, found: Mapping[str, float]) -> str:
    """Why a trial is given up after an evaluation, '' where it is not; then `ends` holds what came of it."""
    value = float(found[trial.watch])
    if not math.isfinite(value):
        ends.append(Answer(None, "diverged", f"val/{metric} is not finite after update {step}"))
    elif why := asked.report(WHOLE * step // trial.clock.total, value):
        ends.append(Answer(None, "pruned", why))
    return ends[0].why if ends else ""


def _run_at(run: Run, config: ml_collections.ConfigDict) -> Run:
    """The run of another config; with the compiled steps of this one where the lr alone is other."""
    changed = config_files.changes(run.config, config)
    if changed.keys() <= {"optimizer.lr"} and not config.plateau.metric:  # which stops at a least lr
        scale = _same_but_scaled(run, config)
        if scale is not None:
            scaled = configs.changed(run.config, lr_scale=float(run.config.lr_scale) * scale)
            configs.validate(scaled)
            return dataclasses.replace(run, config=scaled)
    return run.again(config, run.data)


def _same_but_scaled(run: Run, config: ml_collections.ConfigDict) -> float | None:
    """The factor between the lr of two configs, if it is one number throughout; else None."""
    paths = sorted(tree.flatten(run.shapes.params))
    optimizers = [optimizer for _, optimizer in build_optimizers(config, run.clock, paths)]
    scale = optimizers[-1].lr / run.optimizer.lr
    steps = np.unique(np.linspace(0, run.clock.total - 1, 64).astype(np.int64))
    for phase, optimizer in zip(run.phases, optimizers, strict=True):
        for name, schedule in optimizer.schedules.items():
            own = phase.optimizer.schedules[name]
            if not all(np.isclose(schedule(step), scale * own(step), rtol=1e-5, atol=0.0) for step in steps):
                return None
    return scale


def _keep_best(folder: Path | None, best: Sequence[Trial], trials: Sequence[Trial]) -> None:
    """Removes the checkpoints of trials that are over, but for those of the best one."""
    if folder is None:
        return
    for trial in trials:
        if trial.number not in [each.number for each in best[:1]]:
            shutil.rmtree(folder / "trials" / str(trial.number) / "checkpoints", ignore_errors=True)
