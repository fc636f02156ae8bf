"""Gradient clipping, before everything else in the chain."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jtrain.table import Positive, Range, Size

Percent = Annotated[float, Range(0, 100, above=True)]


def none() -> optax.GradientTransformation:
    """Gradients as they are."""
    return optax.identity()


def norm(*, max_norm: Positive = 1.0) -> optax.GradientTransformation:
    """Gradients scaled down to a norm of `max_norm` over all trainable parameters, where theirs is larger.

    As `torch.nn.utils.clip_grad_norm_`, but without the 1e-6 that torch adds to the norm.
    Source: Pascanu et al., On the difficulty of training recurrent neural networks (2013), algorithm 1.
    """
    return optax.clip_by_global_norm(max_norm)


def value(*, max_value: Positive = 1.0) -> optax.GradientTransformation:
    """Every entry cut to −max_value … max_value, as `torch.nn.utils.clip_grad_value_`."""
    return optax.clip(max_value)


def adaptive(*, clipping: Positive = 0.01, eps: Positive = 1e-3) -> optax.GradientTransformation:
    """Each unit's gradient scaled down to clipping · max(norm of its weights, eps), where its norm is larger.

    A unit is what leads to one output: a column of a dense kernel, a filter of a convolution; a bias or scale
    is one unit as a whole. The paper leaves out the last layer, this does not.
    Source: Brock et al., High-Performance Large-Scale Image Recognition Without Normalization (2021), equation 3.

    Args:
      clipping: largest ratio of the gradient's norm to the weights'.
      eps: least norm of weights, so that zeros can grow.
    """
    return optax.adaptive_grad_clip(clipping, eps)


class PercentileState(NamedTuple):
    """What `percentile` has seen.

    Attributes:
      done: updates seen, up to `steps`; int32 scalar.
      norms: of their gradients, float32 [steps]; 0 for those to come.
      threshold: float32 scalar; infinite while norms are collected.
    """

    done: jax.Array
    norms: jax.Array
    threshold: jax.Array


def percentile(*, percentile: Percent = 90.0, steps: Size = 100) -> optax.GradientTransformation:
    """Clips to a norm that the first updates tell: a percentile of theirs, frozen from then on.

    The first `steps` gradients pass as they are. A percentile of 0 (most of them had no gradient) clips nothing,
    for it would end the training.

    Args:
      percentile: of the norms over all trainable parameters, linear between two of them as in NumPy.
      steps: updates that are watched.
    """

    def init(params: optax.Params) -> PercentileState:
        del params
        norms = jnp.zeros((steps,), jnp.float32)
        return PercentileState(jnp.zeros((), jnp.int32), norms, jnp.full((), jnp.inf, jnp.float32))

    def update(
        updates: optax.Updates, state: PercentileState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, PercentileState]:
        del params
        gradient_norm = optax.tree.norm(updates).astype(jnp.float32)
        factor = jnp.where(gradient_norm > state.threshold, state.threshold / gradient_norm, 1.0)
        norms = state.norms.at[state.done].set(gradient_norm, mode="drop")

        def frozen() -> jax.Array:
            found = jnp.percentile(norms, percentile)
            return jnp.where(found > 0, found, jnp.inf).astype(jnp.float32)

        # cond, not where: it sorts the norms in one update alone.
        threshold = jax.lax.cond(state.done == steps - 1, frozen, lambda: state.threshold)
        done = jnp.minimum(state.done + 1, steps)
        clipped = jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)
        return clipped, PercentileState(done, norms, threshold)

    return optax.GradientTransformation(init, update)


CLIPS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "none": none,
    "norm": norm,
    "value": value,
    "adaptive": adaptive,
    "percentile": percentile,
}
