"""Mirroring that depends on the epoch: what an op knows of an example beside its pixels and a draw."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jtrain.data.ops.pixels import per_image


class Visit(NamedTuple):
    """Which examples a batch holds, and for which time.

    Attributes:
      key: typed key, the same at every update of a run.
      rows: numbers of the examples, int32 [batch].
      epoch: in which epoch each is taken, from 0, int32 [batch].
    """

    key: jax.Array
    rows: jax.Array
    epoch: jax.Array


def flip_alternating(images: jax.Array, visit: Visit) -> jax.Array:
    """Mirrors an image left to right in every other epoch; a fair coin for each example says in which ones.

    Over two epochs a network sees each image both ways once, where `flip_lr` shows half of them the same way twice
    (Jordan 2024, arXiv 2404.00498, section 3.6).

    Args:
      images: [batch, height, width, channels].
      visit: of the batch; the coin of an example depends on its key and the example's number alone.
    """
    coins = jax.vmap(lambda row: jax.random.bernoulli(jax.random.fold_in(visit.key, row)))(visit.rows)
    mirrored = coins ^ (visit.epoch % 2 == 1)
    return jnp.where(per_image(mirrored), images[:, :, ::-1], images)


def epochs_of(step: jax.Array, batch: int, examples: int) -> jax.Array:
    """The epoch of each example of the batch of update `step`: ⌊(step · batch + i) / examples⌋, int32 [batch].

    Args:
      step: updates done before, int32 scalar.
      batch: examples of an update, at most `examples`.
      examples: of an epoch, below 2³⁰.
    """
    # step · batch as epoch · examples + place, by doubling: as a product it would pass 2³¹ in long runs.
    epoch = place = jnp.zeros((), jnp.int32)
    for bit in f"{batch:b}":
        epoch, place = 2 * epoch + 2 * place // examples, 2 * place % examples
        if bit == "1":
            epoch, place = epoch + step // examples, place + step % examples
        epoch, place = epoch + place // examples, place % examples
    return epoch + (place + jnp.arange(batch, dtype=jnp.int32)) // examples
