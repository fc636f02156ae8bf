"""Axes, points and importance in Optuna's terms."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from jtrain.studies.search.space import Axis, Point
from jtrain.studies.search.storage import quiet
from jtrain.studies.search.trial import Trial


def suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    """What Optuna takes for a key in a trial, as `distributions` has it."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(key, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)


def distributions(axes: Sequence[Axis]) -> dict[str, BaseDistribution]:
    """The axes as Optuna has them."""
    found: dict[str, BaseDistribution] = {}
    for axis in axes:
        if axis.choices:
            found[axis.key] = CategoricalDistribution(tuple(axis.labels()))
        elif axis.whole:
            found[axis.key] = IntDistribution(int(axis.low), int(axis.high), log=axis.log)
        else:
            found[axis.key] = FloatDistribution(axis.low, axis.high, log=axis.log)
    return found


def params_of(axes: Sequence[Axis], point: Point) -> dict[str, Any]:
    """The point as Optuna has it: choices by what they are called."""
    found = {}
    for axis in axes:
        value = point[axis.key]
        found[axis.key] = next(n for n, choice in axis.labels().items() if choice == value) if axis.choices else value
    return found


def point_of(axes: Sequence[Axis], params: Mapping[str, Any], planned: Point | None = None) -> Point:
    """The other way round, of as many keys as there are: numbers as they are used, but for those that were `planned`,
    such as the config's own of more digits."""
    found = {}
    for axis in axes:
        if axis.key in params:
            value = params[axis.key]
            known = planned is not None and planned[axis.key] == value
            found[axis.key] = axis.labels()[value] if axis.choices else value if known else axis.taken(value)
    return found


def importance(axes: Sequence[Axis], trials: Sequence[Trial], maximize: bool) -> dict[str, float]:
    """The share of each key in how the metric varies over the space, largest first (fANOVA, Hutter et al., 2014); of
    the keys that have a say in every trial.

    {} where there are too few trials that are done (fewer than 10, or than 4 a key), a single key, or no variation.
    """
    done = [trial for trial in trials if trial.answer.value is not None]
    axes = [axis for axis in axes if all(axis.key in trial.point for trial in done)]
    values = {trial.answer.value for trial in done}
    if len(axes) < 2 or len(done) < max(10, 4 * len(axes)) or len(values) < 3:
        return {}
    kinds = distributions(axes)
    with quiet():
        study = optuna.create_study(direction="maximize" if maximize else "minimize")
        for trial in done:
            params, value = params_of(axes, trial.point), trial.answer.value
            study.add_trial(optuna.trial.create_trial(params=params, distributions=dict(kinds), value=value))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
