"""Losses per example: (outputs, targets) -> [batch], in float32, averaged over the axes after the batch."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jtrain.errors import ConfigError
from jtrain.table import Fraction, NonNegative, Positive

_FAR = -1e30  # a logarithm of nothing that stays finite when it is multiplied


def cross_entropy(
    outputs: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: Fraction = 0.0,
    class_weights: tuple[Positive, ...] = (),
) -> jax.Array:
    """Softmax cross-entropy, -Σ w q log p with q = (1 - ε) onehot + ε / classes (Szegedy et al. 2016, section 7).

    Args:
      outputs: logits [batch, …, classes].
      targets: class numbers [batch, …], integers in [0, classes), checked where data enter; or probabilities q
        [batch, …, classes], floats, smoothed likewise.
      label_smoothing: ε in [0, 1).
      class_weights: w, one a class; () is 1 for all. The mean over examples is not divided by their sum.

    Returns:
      float32 [batch]; torch's `cross_entropy(reduction="none")`, averaged over the axes between.

    Raises:
      ConfigError: there are more or fewer weights than classes, or the shapes do not fit.
    """
    check_classes(outputs, targets)
    log_p = jax.nn.log_softmax(outputs.astype(jnp.float32), axis=-1)
    if class_weights:
        log_p = log_p * _per_class("loss.cross_entropy.class_weights", class_weights, log_p)
    if _is_float(targets):
        q = targets.astype(jnp.float32)
        q = (1.0 - label_smoothing) * q + label_smoothing / q.shape[-1]
        return per_example(-(q * log_p).sum(axis=-1))
    # A mask, not a gather: its gradient is no scatter, and nothing is looked up.
    loss = -jnp.where(jax.nn.one_hot(targets, log_p.shape[-1], dtype=bool), log_p, 0.0).sum(axis=-1)
    if label_smoothing:
        loss = (1.0 - label_smoothing) * loss - label_smoothing * log_p.mean(axis=-1)
    return per_example(loss)


def binary_cross_entropy(
    outputs: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: Fraction = 0.0,
    positive_weight: Positive = 1.0,
) -> jax.Array:
    """Sigmoid cross-entropy of each label, -w q log p - (1 - q) log(1 - p) with q = (1 - ε) y + ε / 2; their mean.

    Args:
      outputs: logits [batch, labels], or [batch] for one.
      targets: y of the same shape: 0 or 1, or probabilities between.
      label_smoothing: ε in [0, 1).
      positive_weight: w of what is there, against what is not.

    Returns:
      float32 [batch]; torch's `binary_cross_entropy_with_logits(reduction="none", pos_weight=w)`, averaged over labels.

    Raises:
      ConfigError: the shapes do not fit.
    """
    x, y = aligned(outputs, targets)
    q = (1.0 - label_smoothing) * y + label_smoothing / 2.0
    # -log p = softplus(-x) and -log(1 - p) = softplus(x) keep their digits where p rounds to 0 or 1.
    return per_example(positive_weight * q * jax.nn.softplus(-x) + (1.0 - q) * jax.nn.softplus(x))


def multi_margin(
    outputs: jax.Array, targets: jax.Array, *, margin: Positive = 1.0, power: Literal[1, 2] = 1
) -> jax.Array:
    """Multi-class hinge loss, Σ_{i ≠ y} max(0, margin - x_y + x_i)^power / classes (Weston & Watkins 1999).

    Args:
      outputs: scores x [batch, classes].
      targets: class numbers y [batch], integers in [0, classes).
      margin: by which the score of the target shall exceed each other one.
      power: of what is missing.

    Returns:
      float32 [batch]; torch's `multi_margin_loss(reduction="none")`. The mean is over all classes, y's 0 among them.

    Raises:
      ConfigError: the shapes do not fit, or the targets are probabilities.
    """
    check_classes(outputs, targets)
    if _is_float(targets):
        raise ConfigError("loss.name: multi_margin needs class numbers, not mixed targets; use cross_entropy or focal")
    x = outputs.astype(jnp.float32)
    missing = jax.nn.relu(margin - jnp.take_along_axis(x, targets[..., None], axis=-1) + x)
    others = ~jax.nn.one_hot(targets, x.shape[-1], dtype=bool)
    return per_example(jnp.where(others, missing**power, 0.0).mean(axis=-1))


def focal(
    outputs: jax.Array, targets: jax.Array, *, gamma: NonNegative = 2.0, class_weights: tuple[Positive, ...] = ()
) -> jax.Array:
    """Focal loss of a softmax, -Σ α q (1 - p)^γ log p (Lin et al. 2017, equations 4 and 5, with p of a softmax).

    For a class number only the target's term is left, -α (1 - p_t)^γ log p_t; γ = 0 is cross-entropy.

    Args:
      outputs: logits [batch, classes].
      targets: class numbers [batch], integers in [0, classes); or probabilities q [batch, classes], floats.
      gamma: γ, how much less an example counts that is already right.
      class_weights: α, one a class; () is 1 for all.

    Returns:
      float32 [batch]; torch has no such function.

    Raises:
      ConfigError: there are more or fewer weights than classes, or the shapes do not fit.
    """
    check_classes(outputs, targets)
    log_p = jax.nn.log_softmax(outputs.astype(jnp.float32), axis=-1)
    classes = log_p.shape[-1]
    q = targets.astype(jnp.float32) if _is_float(targets) else jax.nn.one_hot(targets, classes, dtype=jnp.float32)
    if class_weights:
        q = q * _per_class("loss.focal.class_weights", class_weights, log_p)
    return per_example(-(q * jnp.exp(gamma * _log_of_the_rest(log_p)) * log_p).sum(axis=-1))


def sigmoid_focal(
    outputs: jax.Array, targets: jax.Array, *, gamma: NonNegative = 2.0, alpha: Fraction = 0.25
) -> jax.Array:
    """Focal loss of each label, -α y (1 - p)^γ log p - (1 - α) (1 - y) p^γ log(1 - p) (Lin et al. 2017, equation 5).

    Args:
      outputs: logits [batch, labels], or [batch] for one.
      targets: y of the same shape: 0 or 1, or probabilities between.
      gamma: γ, how much less a label counts that is already right.
      alpha: α, the weight of what is there; 1 - α is that of what is not. 0 is no balancing: both weigh 1.

    Returns:
      float32 [batch], the mean over labels; `torchvision.ops.sigmoid_focal_loss` (which has no balancing at α < 0).

    Raises:
      ConfigError: the shapes do not fit.
    """
    x, y = aligned(outputs, targets)
    there, absent = (alpha, 1.0 - alpha) if alpha else (1.0, 1.0)
    miss, alarm = jax.nn.softplus(-x), jax.nn.softplus(x)  # -log p, -log(1 - p)
    # (1 - p)^γ as a power has an infinite slope at p = 1 for γ < 1; as an exponential it has none.
    return per_example(there * y * jnp.exp(-gamma * alarm) * miss + absent * (1.0 - y) * jnp.exp(-gamma * miss) * alarm)


def mse(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared error, the mean of (x - y)² over an example's values.

    Args:
      outputs: x [batch, …].
      targets: y of the same shape; or [batch] where the outputs are [batch, 1].

    Returns:
      float32 [batch]; torch's `mse_loss(reduction="none")`, averaged over values.

    Raises:
      ConfigError: the shapes do not fit.
    """
    x, y = aligned(outputs, targets)
    return per_example(jnp.square(x - y))


def mae(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Absolute error, the mean of |x - y| over an example's values; its slope at 0 is 0.

    Shapes and errors are those of `mse`.

    Returns:
      float32 [batch]; torch's `l1_loss(reduction="none")`, averaged over values.
    """
    x, y = aligned(outputs, targets)
    error = x - y
    return per_example(error * jax.lax.stop_gradient(jnp.sign(error)))  # `jnp.abs` has the slope 1 at 0


def smooth_l1(outputs: jax.Array, targets: jax.Array, *, beta: Positive = 1.0) -> jax.Array:
    """Smooth L1, the mean over values of (x - y)² / 2β where |x - y| < β, else |x - y| - β / 2.

    Girshick (2015, equation 3) has β = 1. It is the Huber loss of δ = β over β.

    Shapes and errors are those of `mse`; `beta` is in the unit of the values (in a
    regression task the targets' standard deviation).

    Returns:
      float32 [batch]; torch's `smooth_l1_loss(reduction="none")`, averaged over values.
    """
    return huber(outputs, targets, delta=beta) / beta


def huber(outputs: jax.Array, targets: jax.Array, *, delta: Positive = 1.0) -> jax.Array:
    """Huber loss (1964), the mean over values of (x - y)² / 2 where |x - y| ≤ δ, else δ (|x - y| - δ / 2).

    Shapes and errors are those of `mse`; `delta` is in the unit of the values (in a
    regression task the targets' standard deviation).

    Returns:
      float32 [batch]; torch's `huber_loss(reduction="none")`, averaged over values.
    """
    x, y = aligned(outputs, targets)
    error = jnp.abs(x - y)
    # Squares no more than δ: a `where` between both forms has a NaN slope once the one not taken overflows.
    near = jnp.minimum(error, delta)
    return per_example(0.5 * near * near + delta * (error - near))


def aligned(outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as float32 of one shape: the axis of size 1 that one of them has more at its end is dropped.

    Args:
      outputs: [batch, …].
      targets: of the same shape, or with one axis of size 1 more or fewer at its end.

    Raises:
      ConfigError: the shapes do not fit; broadcasting them would compare each example with all others.
    """
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    elif targets.shape == (*outputs.shape, 1):
        targets = targets[..., 0]
    _check_shape(outputs, targets, outputs.shape)
    return outputs.astype(jnp.float32), targets.astype(jnp.float32)


def check_classes(outputs: jax.Array, targets: jax.Array) -> None:
    """Raises ConfigError unless targets are one integer, or one float a class, for each row of outputs."""
    _check_shape(outputs, targets, outputs.shape if _is_float(targets) else outputs.shape[:-1])


def per_example(values: jax.Array) -> jax.Array:
    """The mean [batch] over all axes but the first; [batch] as it is."""
    return values.mean(axis=tuple(range(1, values.ndim))) if values.ndim > 1 else values


def _is_float(targets: jax.Array) -> bool:
    return bool(jnp.issubdtype(targets.dtype, jnp.floating))


def _check_shape(outputs: jax.Array, targets: jax.Array, needed: tuple[int, ...]) -> None:
    if targets.shape != needed:
        raise ConfigError(
            f"model: outputs of shape {list(outputs.shape)} do not fit targets ({targets.dtype}) of shape "
            f"{list(targets.shape)}, batch first; the loss and metrics need targets of shape {list(needed)}"
        )


def _per_class(key: str, weights: tuple[float, ...], log_p: jax.Array) -> jax.Array:
    """The weights [1, …, classes]."""
    classes = log_p.shape[-1]
    if len(weights) != classes:
        raise ConfigError(f"{key}: has {len(weights)} weights for {classes} classes; give one a class, or () for none")
    return jnp.asarray(weights, jnp.float32).reshape((1,) * (log_p.ndim - 1) + (classes,))


def _log_of_the_rest(log_p: jax.Array) -> jax.Array:
    """log(1 - p), in value and slope also where p rounds to 1: the likeliest class takes it from the others' sum."""
    top = jax.nn.one_hot(log_p.argmax(axis=-1), log_p.shape[-1], dtype=bool)
    rest = jax.nn.logsumexp(jnp.where(top, _FAR, log_p), axis=-1, keepdims=True)
    return jnp.where(top, rest, jnp.log1p(-jnp.where(top, 0.0, jnp.exp(log_p))))


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "multi_margin": multi_margin,
    "focal": focal,
    "sigmoid_focal": sigmoid_focal,
    "mse": mse,
    "mae": mae,
    "smooth_l1": smooth_l1,
    "huber": huber,
}
# The kinds of targets that a loss is for, and the losses that take mixed (soft) targets.
TAKES: dict[str, frozenset[str]] = {
    "cross_entropy": frozenset({"class", "tokens"}),
    "binary_cross_entropy": frozenset({"classes"}),
    "multi_margin": frozenset({"class"}),
    "focal": frozenset({"class"}),
    "sigmoid_focal": frozenset({"classes"}),
    "mse": frozenset({"values"}),
    "mae": frozenset({"values"}),
    "smooth_l1": frozenset({"values"}),
    "huber": frozenset({"values"}),
}
MIXES = frozenset(LOSSES) - {"multi_margin"}
