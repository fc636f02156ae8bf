"""Metrics as sums and counts: added over batches and devices, divided once at the end."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Sums = dict[str, jax.Array]  # name -> float32 [2]: weighted sum, weight
Totals = dict[str, list[float]]  # the same on the host, in double precision


def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """1.0 where the largest output is that of the target, else 0.0; [batch]."""
    return (outputs.argmax(axis=-1) == targets).astype(jnp.float32)


METRICS: dict[str, Callable[..., jax.Array]] = {"accuracy": accuracy}
HIGHER_IS_BETTER = frozenset({"accuracy"})


def weighted_sums(per_example: Mapping[str, jax.Array], weight: jax.Array) -> Sums:
    """Sum and count of every metric; examples of weight 0 have no part in it.

    Args:
      per_example: name -> [batch].
      weight: [batch], 0 for padding.
    """
    count = weight.sum()
    return {
        name: jnp.stack([jnp.where(weight > 0, weight * values, 0.0).sum(), count])
        for name, values in per_example.items()
    }


def add_to(totals: Totals, many: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Adds fetched sums to `totals`, in order and in double precision."""
    for sums in many:
        for name, pair in sums.items():
            total = totals.setdefault(name, [0.0, 0.0])
            total[0] += float(pair[0])
            total[1] += float(pair[1])


def means(totals: Totals) -> dict[str, float]:
    """Sum over count for every metric; the loss comes first."""
    order = sorted(totals, key=lambda name: (name != "loss", name))
    return {name: totals[name][0] / totals[name][1] if totals[name][1] else float("nan") for name in order}
