"""Short runs of a config: the whole schedule in fewer updates, what to type for an lr, losses as plain numbers."""

import math
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain.durations import Clock, Duration
from jtrain.errors import ConfigError
from jtrain.phases import starting_lr
from jtrain.run import Run

LEAST = 100  # updates of a run that a share of the whole is raised to
FEWEST = 10  # updates from which anything can be told


def updates_of(run: Run, text: str, key: str, *, at_most: bool = True) -> tuple[int, str]:
    """Updates of a short run, and a line on what was changed about them, or ''.

    Args:
      run: of whose total `%` is a share.
      text: a duration such as '25%' or '200steps'.
      key: of the option, for the message.
      at_most: never more than the run itself.

    Raises:
      ConfigError: there are too few for any answer.
    """
    own = run.clock.total
    asked = configs.updates(run.clock, text, key)
    most = own if at_most else max(asked, LEAST)
    total = min(asked, most)
    if Duration.parse(text).unit == "%":
        total = min(max(total, LEAST), most)
    if total < FEWEST:
        raise ConfigError(
            f"{key}: {text!r} is {total} updates (the run has {own}), too few to tell anything; "
            f"use {FEWEST}steps or more{', and a train.total of as many' if at_most else ''}"
        )
    if total < asked:
        return total, f"{key}: {text} is {asked} updates, the run has {own}: these are taken"
    if total > asked:
        return total, f"{key}: {text} is {asked} updates, too few to tell anything: {total} are taken"
    return total, ""


def shortened(run: Run, total: int) -> Run:
    """The run in `total` updates with its whole schedule: what of it is given in epochs, steps or examples is as much
    shorter as the run. Where the run is not longer, the run itself anew."""
    config = configs.changed(run.config, train__total=f"{total}steps")
    if total < run.clock.total:
        schedule = config.schedule
        share = total / run.clock.total
        with config.unlocked():
            for key in ("warmup", "every"):
                schedule[key] = _shortened(schedule[key], run.clock, share)
            own = schedule.get(schedule.name)
            for key, value in own.items() if isinstance(own, ml_collections.ConfigDict) else ():
                own[key] = _shortened(value, run.clock, share)
    return run.again(config, run.data)


def _shortened(value: Any, clock: Clock, share: float) -> Any:
    """A value with every duration in it in so many updates fewer; what is no duration, and '%', stays."""
    if isinstance(value, tuple | list):
        found = [_shortened(item, clock, share) for item in value]
        if all(isinstance(item, str) and item.endswith("steps") for item in found):  # marks, which must not coincide
            for i in range(1, len(found)):
                found[i] = f"{max(_steps(found[i]), _steps(found[i - 1]) + 1)}steps"
        return tuple(found)
    if isinstance(value, Mapping):
        return {key: _shortened(item, clock, share) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    try:
        duration = Duration.parse(value)
    except ValueError:
        return value
    if duration.unit == "%" or duration.amount == 0:
        return value
    exact = duration.updates(batch_size=clock.batch_size, epoch_examples=clock.epoch_examples)
    return f"{max(1, math.floor(float(exact) * share))}steps"


def _steps(text: str) -> int:
    return int(Duration.parse(text).amount)


def typed(run: Run, lr: float) -> float:
    """What `optimizer.lr` must be for a peak of `lr`: another number where the batch scales it."""
    return tidy(lr * starting_lr(run.config, run.optimizer.core) / run.optimizer.lr)


def tidy(number: float) -> float:
    """A number without the last digits that arithmetic has left on it."""
    return float(f"{number:.12g}")


def losses_of(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """The training loss of every update [updates], NaN where it or its gradient was not finite, nor that of the scaled
    loss: `failures_of` tells which of them are failures.

    Args:
      sums: of one member, as `Members.advance` gives them.
    """
    loss = np.asarray(sums["loss"], np.float64)
    with np.errstate(invalid="ignore"):  # of such an update the sums are 0, and so is the weight
        return loss[:, 0] / loss[:, -1]


def failures_of(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which updates failed [updates]. An overflow of the scaled loss, as in float16, is none: training goes on."""
    return np.asarray(sums["non_finite"])[:, 0] > 0


def is_higher_better(run: Run, metric: str) -> bool:
    """Which way a metric such as 'accuracy' or 'ema/loss' improves."""
    known = run.task.metrics.get(metric.split("/")[-1])
    return known is not None and known.higher_is_better


def check_one_phase(run: Run) -> None:
    """Raises ConfigError for a run with phases: its lr would mean another thing in each."""
    if len(run.phases) > 1:
        raise ConfigError("phases: the members of a study train in one phase; set phases to ()")
