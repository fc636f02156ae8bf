"""Arithmetic on update numbers that keeps float32's digits inside jit, and is float64 with NumPy."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.durations import LONGEST
from jtrain.table import Range

# Update number(s), int of any shape, counted from 0 -> lr of the same shape: float32 where the number
# is a jax.Array, float64 else. Update k uses schedule(k).
Schedule = Callable[[Any], Any]
Shrink = Annotated[float, Range(0, 1, above=True)]


def integers(step: Any) -> tuple[Any, Any, Any]:
    """(jnp or np, the step as an integer array of it, the float type to compute in)."""
    if isinstance(step, jax.Array):
        return jnp, step.astype(jnp.int32), jnp.float32
    return np, np.asarray(step, np.int64), np.float64


def share(part: Any, whole: float, dtype: Any) -> Any:
    """part / whole, of an integer array."""
    return part.astype(dtype) / whole


def wave(xp: Any, left: Any) -> Any:
    """(1 + cos(π(1 - left))) / 2: from 1 at left 1 to 0 at left 0.

    Written as sin²: there is no cancellation, so float32 is exact to the last update before 0.
    """
    return xp.sin(0.5 * np.pi * left) ** 2


def passed(step: Any, marks: Sequence[int]) -> Any:
    """How many of `marks` (ascending) are at or before each step."""
    within = [mark for mark in marks if mark <= LONGEST]
    if isinstance(step, jax.Array):
        return jnp.searchsorted(jnp.asarray(within, jnp.int32), step, side="right", method="compare_all")
    return np.searchsorted(np.asarray(within, np.int64), step, side="right")


def powers_of(gamma: float, every: int = 1) -> Callable[[Any], Any]:
    """n -> gamma^(n / every) for whole n from 0 to 2^31 - 1.

    In float32, gamma^n by `power` is off by n roundings of gamma. So it is a product of four exact
    numbers from a table, one for each byte of n.
    """
    digits = np.arange(256, dtype=np.float64)
    table = np.stack([np.power(gamma, digits * 256**byte / every) for byte in range(4)]).astype(np.float32)

    def power(n: Any) -> Any:
        if not isinstance(n, jax.Array):
            return np.power(gamma, np.asarray(n, np.float64) / every)
        rows = [jnp.asarray(table[byte])[(n >> 8 * byte) & 255] for byte in range(4)]
        return rows[0] * rows[1] * rows[2] * rows[3]

    return power
