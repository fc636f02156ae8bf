"""What residual networks share: names of blocks, stochastic depth, rematerialisation."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jtrain.remat import after


class StochasticDepth(nn.Module):
    """Leaves a block's branch out for some examples in training (Huang et al. 2016), all of it for each.

    What stays is divided by the share that stays, so that the expectation is the branch itself and evaluation
    needs no correction (the paper multiplies there instead, equation 5).

    Attributes:
      rate: share of the examples, in [0, 1).
    """

    rate: float

    def __call__(self, branch: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return branch
        stays = 1.0 - self.rate
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), stays, shape)
        return jnp.where(kept, branch / stays, jnp.zeros_like(branch))


def drop_rates(last: float, count: int) -> list[float]:
    """For each of `count` blocks the share left out, rising evenly from last / count to `last`."""
    return [last * (i + 1) / count for i in range(count)]


def block_names(blocks: tuple[int, ...]) -> Iterator[tuple[int, int, str]]:
    """(stage, block, name) of every block, both counted from 0; the first is 'stage1_block1'."""
    for stage, count in enumerate(blocks):
        for block in range(count):
            yield stage, block, f"stage{stage + 1}_block{block + 1}"


def blocks_of(block: type[nn.Module], remat: bool) -> type[nn.Module]:
    """The block class, called with (inputs, train); name its instances.

    Args:
      block: as it is written.
      remat: whether the backward pass computes a block again from its inputs, once that block's gradient is there, on
        CPU too (see `jtrain.remat.after`); this cannot be inside of `jax.checkpoint`.
    """
    if not remat:
        return block

    class InTurn(block):  # type: ignore[misc, valid-type]
        @nn.compact
        def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
            def plain(module: nn.Module, inputs: jax.Array) -> jax.Array:
                return block.__call__(module, inputs, train)

            def forward(module: nn.Module, inputs: jax.Array) -> tuple[jax.Array, Any]:
                return nn.vjp(nn.remat(plain), module, inputs)

            def backward(vjp: Any, gradient: jax.Array) -> Any:
                return after(vjp, gradient)(gradient)

            return nn.custom_vjp(plain, forward, backward)(self, inputs)

    return InTurn
