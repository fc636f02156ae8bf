"""Losses per example: (outputs, targets) -> [batch], in float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jtrain.table import Fraction


def cross_entropy(outputs: jax.Array, targets: jax.Array, *, label_smoothing: Fraction = 0.0) -> jax.Array:
    """Softmax cross-entropy, -Σ q log p with q = (1 - ε) onehot + ε / classes (Szegedy et al. 2016, section 7).

    Args:
      outputs: logits [batch, classes].
      targets: class numbers [batch], integers in [0, classes); checked where data enter.
      label_smoothing: ε in [0, 1).

    Returns:
      float32 [batch]; torch's `cross_entropy(reduction="none")`.
    """
    log_p = jax.nn.log_softmax(outputs.astype(jnp.float32), axis=-1)
    loss = -jnp.take_along_axis(log_p, targets[:, None], axis=-1)[:, 0]
    if label_smoothing:
        loss = (1.0 - label_smoothing) * loss - label_smoothing * log_p.mean(axis=-1)
    return loss


LOSSES: dict[str, Callable[..., jax.Array]] = {"cross_entropy": cross_entropy}
