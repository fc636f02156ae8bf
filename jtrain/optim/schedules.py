"""Learning rates as pure functions of the update number, equal inside jit and with NumPy."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.durations import LONGEST
from jtrain.errors import ConfigError
from jtrain.table import Range, Share, Time

# Update number(s), int of any shape, counted from 0 -> lr of the same shape: float32 where the number
# is a jax.Array, float64 else. Update k uses schedule(k).
Schedule = Callable[[Any], Any]
Shrink = Annotated[float, Range(0, 1, above=True)]


def constant(lr: float, total: int) -> Schedule:
    """`lr` throughout."""
    del total

    def schedule(step: Any) -> Any:
        xp, step, dtype = _integers(step)
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
    power = _powers_of(gamma)

    def schedule(step: Any) -> Any:
        _, step, _ = _integers(step)
        return lr * power(step // every)

    return schedule


def cosine(lr: float, total: int, *, floor: Share = 0.0) -> Schedule:
    """lr · (floor + (1 - floor) · (1 + cos(π k / total)) / 2), then lr · floor.

    Up to `total` the same as `torch.optim.lr_scheduler.CosineAnnealingLR`, which rises again afterwards.
    Source: Loshchilov and Hutter, SGDR (2017), equation 5.

    Args:
      lr: the peak, used at the first update.
      total: updates from the peak to the floor.
      floor: lowest lr, as a share of the peak.
    """

    def schedule(step: Any) -> Any:
        xp, step, dtype = _integers(step)
        left = xp.maximum(total - step, 0).astype(dtype) / total
        # (1 + cos(πx)) / 2 = sin²(π(1-x)/2): no cancellation, so float32 is exact to the last update.
        return lr * (floor + (1 - floor) * xp.sin(0.5 * np.pi * left) ** 2)

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
        xp, step, dtype = _integers(step)
        done = xp.minimum(step, total)
        return lr * (start * _share(total - done, total, dtype) + end * _share(done, total, dtype))

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
    power = _powers_of(0.5 if mode == "triangular2" else gamma)

    def schedule(step: Any) -> Any:
        xp, step, dtype = _integers(step)
        cycle, place = step // period, step % period
        height = xp.where(place <= up, _share(place, up, dtype), _share(down - (place - up), down, dtype))
        if mode != "triangular":
            height = height * power(cycle if mode == "triangular2" else step)
        return lr * (base + (1 - base) * height)

    return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
    "linear": linear,
    "cyclic": cyclic,
}


def with_warmup(schedule: Schedule, warmup: int, start: float = 0.0) -> Schedule:
    """A straight rise to the schedule's first lr, then the schedule from its beginning.

    Update k < warmup uses schedule(0) · (start + (1 - start) · (k + 1) / warmup): with start 0 the first
    update has 1 / warmup of the lr, and update warmup - 1 all of it. Update k >= warmup uses schedule(k - warmup).

    Args:
      schedule: what follows the warm-up.
      warmup: updates of the rise; 0 gives the schedule itself.
      start: share of the lr that the rise starts from, 0 to 1.
    """
    if warmup == 0:
        return schedule
    peak = float(schedule(0))

    def warmed(step: Any) -> Any:
        xp, step, dtype = _integers(step)
        done = xp.minimum(step, warmup - 1) + 1
        rise = peak * (start * _share(warmup - done, warmup, dtype) + _share(done, warmup, dtype))
        return xp.where(step < warmup, rise, schedule(xp.maximum(step - warmup, 0)))

    return warmed


def _integers(step: Any) -> tuple[Any, Any, Any]:
    """(jnp or np, the step as an integer array of it, the float type to compute in)."""
    if isinstance(step, jax.Array):
        return jnp, step.astype(jnp.int32), jnp.float32
    return np, np.asarray(step, np.int64), np.float64


def _share(part: Any, whole: int, dtype: Any) -> Any:
    return part.astype(dtype) / whole


def _powers_of(gamma: float) -> Callable[[Any], Any]:
    """n -> gamma^n for whole n from 0 to 2^31 - 1.

    In float32, gamma^n by `power` is off by n roundings of gamma. So it is a product of four exact
    numbers from a table, one for each byte of n.
    """
    digits = np.arange(256, dtype=np.float64)
    table = np.stack([np.power(gamma, digits * 256**byte) for byte in range(4)]).astype(np.float32)

    def power(n: Any) -> Any:
        if not isinstance(n, jax.Array):
            return np.power(gamma, np.asarray(n, np.float64))
        rows = [jnp.asarray(table[byte])[(n >> 8 * byte) & 255] for byte in range(4)]
        return rows[0] * rows[1] * rows[2] * rows[3]

    return power
