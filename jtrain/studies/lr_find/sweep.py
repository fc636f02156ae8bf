"""Sweeps of the learning rate: one short run whose lr grows geometrically, update by update, in one compiled step."""

import contextlib
import math
from typing import Any

import numpy as np

from jtrain import config as configs
from jtrain.optim.exact import Schedule, integers, share
from jtrain.run import Run
from jtrain.studies.members import Members
from jtrain.studies.short import failures_of, losses_of

STRETCHES = 10  # of a sweep, after each of which it may end
BLOWN_UP = 4.0  # × what the loss has come down, above its start: the sweep ends there
GROWING = "jtrain.studies.lr_find.sweep:growing"


def growing(lr: float, total: int, low: float = 1e-6, high: float = 10.0) -> Schedule:
    """low · (high / low)^(k / (total - 1)): by the same factor at every update.

    Args:
      lr: not used.
      total: updates of the sweep.
      low: lr of the first update.
      high: lr of the last.
    """
    del lr
    pace = math.log(high / low)

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        return low * xp.exp(pace * share(step, max(total - 1, 1), dtype))

    return schedule


def sweeping(run: Run, total: int, low: float, high: float) -> Run:
    """The run with `total` updates and a growing lr instead of its schedule, without warm-up: the sweep is one itself.
    All else is as it was: optimizer, weight decay, clipping, groups, `lr_scale`."""
    config = configs.changed(run.config, train__total=f"{total}steps")
    with config.unlocked():
        config.schedule = configs.base().schedule
        config.schedule.name = GROWING
        config.schedule[configs.FREE].update({"low": low, "high": high})
    return run.again(config, run.data)


def sweep(run: Run) -> list[float]:
    """The training loss of every update of a sweep, each before that update; NaN from where it has blown up.

    An update that is passed over (`train.on_nan`) is NaN alone. One whose scaled loss has overflowed, as in float16,
    lies on the line between its neighbours.

    Args:
      run: from `sweeping`, perhaps with another seed.
    """
    total = run.clock.total
    members = Members(run, [run.init_state()], strategy="loop")
    losses, failed = np.empty(0), np.empty(0, bool)
    for i in range(STRETCHES):
        found = members.advance(total * i // STRETCHES, total * (i + 1) // STRETCHES)
        if 0 in found:
            new = losses_of(found[0])
            losses, failed = np.append(losses, new), np.append(failed, failures_of(found[0]))
            if run.options.on_nan != "skip" and failed.any():  # the state stands still since
                losses, failed = losses[: np.argmax(failed)], failed[: np.argmax(failed)]
                break
            if _is_over(_bridged(losses, failed), len(new)):
                break
    return np.append(_bridged(losses, failed), np.full(total - len(losses), np.nan)).tolist()


def _bridged(losses: np.ndarray, failed: np.ndarray) -> np.ndarray:
    """Losses [updates] with those in between that are not known, but have not failed either."""
    known, gaps = np.isfinite(losses), ~np.isfinite(losses) & ~failed
    places = np.arange(len(losses))
    return np.where(gaps, np.interp(places, places[known], losses[known]), losses) if known.any() else losses


def _is_over(losses: np.ndarray, last: int) -> bool:
    """Whether the last updates were all so bad that nothing more can be learned from higher lrs."""
    good = losses[np.isfinite(losses)]
    if not len(good):  # the scaled loss overflows at first
        return False
    begun = float(np.median(good[: max(3, len(losses) // 20)]))
    limit = begun + BLOWN_UP * max(begun - float(good.min()), 0.1 * abs(begun))
    recent = losses[-last:]
    return not bool(np.any(recent <= limit))


def seeded(run: Run, number: int) -> contextlib.AbstractContextManager[Run]:
    """The run with the config's seed + number, closed at the end."""
    return contextlib.closing(run.reseed((int(run.config.seed) + number) % 2**32))
