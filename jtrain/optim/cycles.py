"""Learning rates that rise and fall; the same numbers inside jit and with NumPy."""

import itertools
import math
from typing import Annotated, Any, Literal

import numpy as np

from jtrain.durations import LONGEST
from jtrain.errors import ConfigError
from jtrain.optim.exact import Schedule, Shrink, integers, passed, powers_of, share, wave
from jtrain.table import Range, Share, Time

Divisor = Annotated[float, Range(1, 1e12)]


def cosine_annealing(lr: float, total: int, *, period: Annotated[int, Time("20%")], floor: Share = 0.0) -> Schedule:
    """lr · (floor + (1 - floor) · (1 + cos(π k / period)) / 2), without end: down, up again, down, …

    The same as `torch.optim.lr_scheduler.CosineAnnealingLR` with T_max = period, eta_min = lr · floor. An odd number
    of periods ends at the floor.

    Args:
      lr: the peak, used at the first update.
      total: updates of the schedule; its shape does not depend on them.
      period: updates from the peak to the floor, and as many back up.
      floor: lowest lr, as a share of the peak.
    """
    del total
    both = min(2 * period, LONGEST)  # a longer one does not fit the int32 step, and never ends

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        left = share(xp.abs(period - step % both), period, dtype)
        return lr * (floor + (1 - floor) * wave(xp, left))

    return schedule


def cosine_restarts(
    lr: float,
    total: int,
    *,
    period: Annotated[int, Time("10epochs")],
    mult: Annotated[int, Range(1, 1000)] = 1,
    floor: Share = 0.0,
) -> Schedule:
    """Cosines from lr to lr · floor that jump back to lr; cycle n has period · mult^n updates (SGDR).

    The same as `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts` with T_0 = period, T_mult = mult.
    Source: Loshchilov and Hutter, SGDR (2017), equation 5.

    Args:
      lr: the peak, used at the first update of every cycle.
      total: updates of the schedule; its shape does not depend on them.
      period: updates of the first cycle.
      mult: every cycle is this many times as long as the one before.
      floor: lowest lr, as a share of the peak.
    """
    del total
    starts, lengths = [0], [period]
    while mult > 1 and starts[-1] + lengths[-1] <= LONGEST:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * mult)
    within = [min(length, LONGEST) for length in lengths]
    beyond = [float(length - known) for length, known in zip(lengths, within, strict=True)]

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        if mult == 1:
            left = share(period - step % period, period, dtype)
        else:
            cycle = passed(step, starts) - 1
            place = step - xp.asarray(starts, step.dtype)[cycle]
            # The last length may not fit an int32: its excess is added as a float, and nothing cancels.
            rest = (xp.asarray(within, step.dtype)[cycle] - place).astype(dtype) + xp.asarray(beyond, dtype)[cycle]
            left = rest / xp.asarray(np.asarray(lengths, np.float64), dtype)[cycle]
        return lr * (floor + (1 - floor) * wave(xp, left))

    return schedule


def cyclic(
    lr: float,
    total: int,
    *,
    base: Share = 0.1,
    up: Annotated[int, Time("5%")],
    down: Annotated[int, Time("5%", zero=True)],
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: Shrink = 1.0,
) -> Schedule:
    """Triangles between lr · base and lr; the same as `torch.optim.lr_scheduler.CyclicLR`.

    Momentum is not cycled (torch: cycle_momentum=False).
    Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017).

    Args:
      lr: the peak of the first triangle.
      total: updates of the schedule; its shape does not depend on them.
      base: lr at the foot of a triangle, as a share of the peak.
      up: updates of a rise.
      down: updates of a fall; 0 means as many as of a rise.
      mode: triangular keeps the height, triangular2 halves it every cycle, exp_range multiplies it by gamma^k.
      gamma: shrinks the height in every update, in mode exp_range alone.

    Raises:
      ConfigError: for a gamma in a mode that has none.
    """
    del total
    if gamma != 1.0 and mode != "exp_range":
        raise ConfigError(
            f"schedule.cyclic.gamma: is used in mode 'exp_range' alone, mode is {mode!r}; leave it at 1.0"
        )
    down = down or up
    period = min(up + down, LONGEST)  # a longer one does not fit the int32 step, and never ends
    power = powers_of(0.5 if mode == "triangular2" else gamma)

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        cycle, place = step // period, step % period
        height = xp.where(place <= up, share(place, up, dtype), share(down - (place - up), down, dtype))
        if mode != "triangular":
            height = height * power(cycle if mode == "triangular2" else step)
        return lr * (base + (1 - base) * height)

    return schedule


def one_cycle(
    lr: float,
    total: int,
    *,
    pct_start: Share = 0.3,
    anneal: Literal["cos", "linear"] = "cos",
    div_factor: Divisor = 25.0,
    final_div_factor: Divisor = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """One rise to lr and one fall far below; the same as `torch.optim.lr_scheduler.OneCycleLR`.

    max_lr is lr, total_steps is total; the last lr stays after `total`, where PyTorch raises. Momentum is not cycled
    (torch: cycle_momentum=False). Source: Smith and Topin, Super-Convergence (2018).

    Args:
      lr: the peak.
      total: updates of the cycle.
      pct_start: share of the rise, 0 to 1.
      anneal: shape of rise and fall.
      div_factor: the first update uses lr / div_factor.
      final_div_factor: the last update uses lr / div_factor / final_div_factor.
      three_phase: fall to the first lr in as many updates as the rise took, and only then to the last.

    Raises:
      ConfigError: for three phases that do not fit.
    """
    if three_phase and pct_start > 0.5:
        raise ConfigError(
            f"schedule.one_cycle.pct_start: must be at most 0.5 with three_phase, where the fall takes as long as "
            f"the rise, got {pct_start:g}"
        )
    low, last = 1 / div_factor, 1 / div_factor / final_div_factor
    peak_at = pct_start * total - 1
    ends = [0.0, peak_at, *([2 * peak_at] if three_phase else []), total - 1.0]
    levels = [low, 1.0, *([low] if three_phase else []), last]
    # As in PyTorch a phase may end between two updates, and one that ends before update 0 is left out.
    phases = [
        (start, end, a, b) for (start, a), (end, b) in itertools.pairwise(zip(ends, levels, strict=True)) if end > start
    ]

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        factor = xp.full(step.shape, phases[-1][3] if phases else last, dtype)
        for start, end, a, b in reversed(phases):
            # Whole and broken part apart: float32 holds no difference of large broken numbers.
            now = xp.clip(step, math.ceil(start), math.floor(end))
            left = ((math.floor(end) - now).astype(dtype) + (end - math.floor(end))) / (end - start)
            done = ((now - math.ceil(start)).astype(dtype) + (math.ceil(start) - start)) / (end - start)
            if anneal == "cos":
                left, done = wave(xp, left), wave(xp, done)
            factor = xp.where(step <= math.floor(end), a * left + b * done, factor)
        return lr * factor

    return schedule
