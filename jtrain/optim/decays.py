"""Learning rates that fall, each once; the same numbers inside jit and with NumPy."""

from typing import Annotated, Any, Literal

from jtrain.errors import ConfigError
from jtrain.optim.exact import Schedule, Shrink, integers, passed, powers_of, share, wave
from jtrain.table import Positive, Range, Share, Time, Times


def constant(lr: float, total: int) -> Schedule:
    """`lr` throughout; the same as `torch.optim.lr_scheduler.ConstantLR` with factor 1."""
    del total

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        return xp.full(step.shape, lr, dtype)

    return schedule


def step(lr: float, total: int, *, every: Annotated[int, Time("30epochs")], gamma: Shrink = 0.5) -> Schedule:
    """lr · gamma^⌊k / every⌋; the same as `torch.optim.lr_scheduler.StepLR`.

    Args:
      lr: the peak, used from the first update.
      total: updates of the schedule; its shape does not depend on them.
      every: updates between two cuts.
      gamma: factor of each cut.
    """
    del total
    power = powers_of(gamma)

    def schedule(step: Any) -> Any:
        _, step, _ = integers(step)
        return lr * power(step // every)

    return schedule


def multistep(
    lr: float, total: int, *, milestones: Annotated[tuple[int, ...], Times(("50%", "75%"))], gamma: Shrink = 0.1
) -> Schedule:
    """lr · gamma^(number of milestones at or before k); the same as `torch.optim.lr_scheduler.MultiStepLR`.

    The default milestones are those of He et al., Deep Residual Learning (2015), section 4.2.

    Args:
      lr: the peak, used until the first milestone.
      total: updates of the schedule; its shape does not depend on them.
      milestones: updates at which the lr is cut, ascending; two at the same update cut twice.
      gamma: factor of each cut.

    Raises:
      ConfigError: for milestones that are not in order.
    """
    del total
    if list(milestones) != sorted(milestones):
        raise ConfigError(
            f"schedule.multistep.milestones: must increase, are {', '.join(map(str, milestones))} in updates"
        )
    power = powers_of(gamma)

    def schedule(step: Any) -> Any:
        _, step, _ = integers(step)
        return lr * power(passed(step, milestones))

    return schedule


def exponential(
    lr: float, total: int, *, every: Annotated[int, Time("1epochs")], gamma: Shrink = 0.95, staircase: bool = True
) -> Schedule:
    """lr · gamma^⌊k / every⌋; the same as `torch.optim.lr_scheduler.ExponentialLR` stepped once in `every` updates.

    Args:
      lr: the peak, used at the first update.
      total: updates of the schedule; its shape does not depend on them.
      every: updates in which the lr falls by the factor gamma; 1 is ExponentialLR stepped at each update.
      gamma: factor of each fall.
      staircase: fall at once at the end of `every` updates; otherwise lr · gamma^(k / every), a little each update.
    """
    del total
    power = powers_of(gamma, 1 if staircase else every)

    def schedule(step: Any) -> Any:
        _, step, _ = integers(step)
        return lr * power(step // every if staircase else step)

    return schedule


def inverse_time(
    lr: float, total: int, *, every: Annotated[int, Time("1epochs")], rate: Positive = 1.0, staircase: bool = False
) -> Schedule:
    """lr / (1 + rate · k / every), the 1/t decay.

    PyTorch has no class for it: the same as `torch.optim.lr_scheduler.LambdaLR` with that factor, and as Keras'
    `InverseTimeDecay` with decay_steps = every.

    Args:
      lr: the peak, used at the first update.
      total: updates of the schedule; its shape does not depend on them.
      every: updates after which the lr is lr / (1 + rate).
      rate: strength of the decay.
      staircase: use ⌊k / every⌋, so that the lr is held in between.
    """
    del total

    def schedule(step: Any) -> Any:
        _, step, dtype = integers(step)
        past = (step // every).astype(dtype) if staircase else share(step, every, dtype)
        return lr / (1 + rate * past)

    return schedule


def polynomial(
    lr: float, total: int, *, power: Annotated[float, Range(0, 10, above=True)] = 1.0, floor: Share = 0.0
) -> Schedule:
    """lr · (floor + (1 - floor) · (1 - k / total)^power), then lr · floor.

    With floor 0 the same as `torch.optim.lr_scheduler.PolynomialLR` with total_iters = total.

    Args:
      lr: the peak, used at the first update.
      total: updates from the peak to the floor.
      power: exponent; 1 is a straight line.
      floor: lowest lr, as a share of the peak.
    """

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        left = share(xp.maximum(total - step, 0), total, dtype)
        return lr * (floor + (1 - floor) * left**power)

    return schedule


def linear(lr: float, total: int, *, start: Share = 1.0, end: Share = 0.0) -> Schedule:
    """lr times a factor on the straight line from `start` to `end`, then lr · end.

    The same as `torch.optim.lr_scheduler.LinearLR` with total_iters = total.

    Args:
      lr: the peak.
      total: updates from `start` to `end`.
      start: factor of the first update.
      end: factor from update `total` on.
    """

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        done = xp.minimum(step, total)
        return lr * (start * share(total - done, total, dtype) + end * share(done, total, dtype))

    return schedule


def cosine(lr: float, total: int, *, floor: Share = 0.0) -> Schedule:
    """lr · (floor + (1 - floor) · (1 + cos(π k / total)) / 2), then lr · floor.

    Up to `total` the same as `torch.optim.lr_scheduler.CosineAnnealingLR` with T_max = total, which rises again
    afterwards: that is `cosine_annealing`. Source: Loshchilov and Hutter, SGDR (2017), equation 5.

    Args:
      lr: the peak, used at the first update.
      total: updates from the peak to the floor.
      floor: lowest lr, as a share of the peak.
    """

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        left = share(xp.maximum(total - step, 0), total, dtype)
        return lr * (floor + (1 - floor) * wave(xp, left))

    return schedule


def wsd(
    lr: float,
    total: int,
    *,
    decay: Annotated[int, Time("10%")],
    shape: Literal["linear", "cosine", "sqrt"] = "linear",
    floor: Share = 0.0,
) -> Schedule:
    """Warm-up, stable, decay: `lr`, and in the last `decay` updates down to lr · floor.

    Its warm-up is `schedule.warmup`. With u the share of the decay that is done, the height above the floor is
    1 - u (linear), (1 + cos πu) / 2 (cosine) or 1 - √u (sqrt). PyTorch has no class for it: the same as
    `torch.optim.lr_scheduler.SequentialLR` of ConstantLR (factor 1) and, for linear, LinearLR.
    Source: Hägele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations (2024), section 3.

    Args:
      lr: the peak, used until the decay.
      total: updates of the schedule.
      decay: updates of the decay, at the end.
      shape: how it falls.
      floor: lr from update `total` on, as a share of the peak.

    Raises:
      ConfigError: for a decay that is longer than the schedule.
    """
    if decay > total:
        raise ConfigError(f"schedule.wsd.decay: is {decay} updates, the schedule has {total} of them; make it shorter")

    def schedule(step: Any) -> Any:
        xp, step, dtype = integers(step)
        remaining = xp.clip(total - step, 0, decay)
        left = share(remaining, decay, dtype)
        if shape == "cosine":
            left = wave(xp, left)
        elif shape == "sqrt":  # 1 - √u = (1 - u) / (1 + √u), which does not cancel
            left = left / (1 + xp.sqrt(share(decay - remaining, decay, dtype)))
        return lr * (floor + (1 - floor) * left)

    return schedule
