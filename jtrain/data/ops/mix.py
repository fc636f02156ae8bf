"""Mixing of examples and their targets within a batch: mixup and CutMix.

A mix is `mix(inputs [batch, …], targets [batch, …], weight [batch], key, *, options) -> (inputs, targets)`. The partner
of an example is the next one of the batch, of the last the first: batches are shuffled already. Each pair draws a λ of
its own, which depends on (key, index) alone; an example is left alone (λ = 1) where it or its partner has weight 0.
Targets are floats, such as one-hot classes or numbers; they are mixed linearly by the same λ.
"""

import jax
import jax.numpy as jnp

from jtrain.data.ops.draws import example_keys
from jtrain.data.ops.pixels import as_dtype, as_float, inside
from jtrain.errors import ConfigError
from jtrain.table import Positive


def mixup(
    inputs: jax.Array, targets: jax.Array, weight: jax.Array, key: jax.Array, *, alpha: Positive = 0.2
) -> tuple[jax.Array, jax.Array]:
    """λ · example + (1 − λ) · partner, of inputs and of targets (Zhang et al. 2018, section 2).

    Args:
      inputs: [batch, …], uint8 (rounded to the nearest) or floats; images or anything else.
      targets: [batch, …], floats.
      weight: [batch], 0 for padding.
      key: of this step and op.
      alpha: λ is drawn from Beta(α, α): small ones leave most examples nearly alone, 1 is uniform.

    Raises:
      ConfigError: inputs or targets are of another dtype.
    """
    lam = shares(key, len(inputs), alpha, weight)
    return _between(inputs, _partner(inputs), lam), _mixed_targets(targets, lam)


def cutmix(
    inputs: jax.Array, targets: jax.Array, weight: jax.Array, key: jax.Array, *, alpha: Positive = 1.0
) -> tuple[jax.Array, jax.Array]:
    """A box of the partner's image put into the example's, at the same place (Yun et al. 2019, section 3.1).

    The box has sides of √(1 − λ) of the image's, in whole pixels, and a centre uniform over the image, whose border may
    cut it. The targets are mixed by the exact area that is left of the example.

    Args:
      inputs: images [batch, height, width, channels].
      targets: [batch, …], floats.
      weight: [batch], 0 for padding.
      key: of this step and op.
      alpha: λ is drawn from Beta(α, α); 1 is uniform.

    Raises:
      ConfigError: inputs are no images, or targets no floats.
    """
    if inputs.ndim != 4:
        raise ConfigError(
            f"augment: cutmix needs images [height, width, channels], the inputs are {list(inputs.shape[1:])}"
        )
    height, width = inputs.shape[1:3]
    box = inside(boxes(key, len(inputs), alpha, weight, height, width), height, width)
    lam = 1 - box.mean(axis=(1, 2, 3), dtype=jnp.float32)
    return jnp.where(box, _partner(inputs), inputs), _mixed_targets(targets, lam)


def shares(key: jax.Array, batch: int, alpha: float, weight: jax.Array) -> jax.Array:
    """The λ of each example [batch], in [0, 1]: from Beta(α, α), or 1 where it or its partner has weight 0."""
    drawn = jax.vmap(lambda k: jax.random.beta(k, alpha, alpha))(example_keys(key, batch))
    return jnp.where((weight > 0) & (_partner(weight) > 0), drawn, 1.0)


def boxes(key: jax.Array, batch: int, alpha: float, weight: jax.Array, height: int, width: int) -> jax.Array:
    """CutMix's boxes (top, left, height, width) in pixels, int32 [batch, 4]; they may reach over the border."""
    share_key, place_key = jax.random.split(key)
    side = jnp.sqrt(1 - shares(share_key, batch, alpha, weight))
    places = jax.vmap(lambda k: jax.random.uniform(k, (2,)))(example_keys(place_key, batch))
    rows, columns = jnp.round(side * height).astype(jnp.int32), jnp.round(side * width).astype(jnp.int32)
    top = jnp.floor(places[:, 0] * height).astype(jnp.int32) - rows // 2
    left = jnp.floor(places[:, 1] * width).astype(jnp.int32) - columns // 2
    return jnp.stack([top, left, rows, columns], axis=1)


def _partner(values: jax.Array) -> jax.Array:
    return jnp.roll(values, -1, axis=0)


def _between(values: jax.Array, others: jax.Array, lam: jax.Array) -> jax.Array:
    lam = lam.reshape(-1, *[1] * (values.ndim - 1))
    return as_dtype(lam * as_float(values) + (1 - lam) * as_float(others), values.dtype)


def _mixed_targets(targets: jax.Array, lam: jax.Array) -> jax.Array:
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ConfigError(f"augment: mixing needs float targets, such as one-hot classes; these are {targets.dtype}")
    return _between(targets, _partner(targets), lam)
