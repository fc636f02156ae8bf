"""What metrics are made of: values of each example, and what the sums of these come to."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import losses
from jtrain.errors import ConfigError

_LIMBS = 4  # of 5 bits and a sign: float32's 24, but for the last bit of some odd numbers
_MOST_PAIRED = 256  # of 1000 classes, 128 examples would take 0.5 GB and seconds on a CPU


def mean(sums: np.ndarray, count: float) -> float:
    """The first sum over the count; NaN where nothing was counted."""
    return float(sums[0]) / count if count else math.nan


def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """1.0 where the largest output is that of the target, else 0.0; the mean over axes between.

    Args:
      outputs: logits [batch, …, classes].
      targets: class numbers [batch, …]; or floats [batch, …, classes], as mixing makes them: the largest counts.

    Returns:
      float32 [batch].
    """
    right = outputs.argmax(axis=-1) == _numbers(outputs, targets)
    return losses.per_example(right.astype(jnp.float32))


def top_accuracy(outputs: jax.Array, targets: jax.Array, *, k: int) -> jax.Array:
    """1.0 where the target is among the `k` largest outputs (of equal ones the first), else 0.0; [batch]."""
    # Counted, not sorted: XLA gathers the outputs of all devices to sort any of them.
    target, classes = _numbers(outputs, targets)[:, None], jnp.arange(outputs.shape[-1])[None]
    own = jnp.where(classes == target, outputs, 0).sum(axis=-1, keepdims=True)
    before = ~(outputs <= own) | ((outputs == own) & (classes < target))  # a NaN is before all
    known = (own == own)[:, 0]
    return ((before.sum(axis=-1) < k) & known).astype(jnp.float32)


def recalled(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """By class, whether the example is of it and seen as such, then whether it is of it; [batch, 2 classes]."""
    actual = _one_hot(outputs, _numbers(outputs, targets))
    return jnp.concatenate([actual * accuracy(outputs, targets)[:, None], actual], axis=-1)


def mean_recall(sums: np.ndarray, count: float) -> float:
    """The mean of the recalls of the classes that occur: scikit-learn's `balanced_accuracy_score`."""
    del count
    right, actual = np.split(sums, 2)
    return _mean_of(right, actual)


def agreement(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """By class, whether it is predicted and right, whether predicted, whether right; [batch, 3 classes]."""
    predicted, actual = _one_hot(outputs, outputs.argmax(axis=-1)), _one_hot(outputs, _numbers(outputs, targets))
    return jnp.concatenate([predicted * actual, predicted, actual], axis=-1)


def label_agreement(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """By label, as `agreement`; [batch, 3 labels]."""
    x, y = _table(outputs, targets)
    predicted, actual = x > 0, y > 0.5
    return jnp.concatenate([predicted & actual, predicted, actual], axis=-1).astype(jnp.float32)


def macro_f1(sums: np.ndarray, count: float) -> float:
    """The mean of the classes' F1, 2 tp / (predicted + actual), over the classes that occur or are predicted.

    It is scikit-learn's `f1_score(average="macro")`; for labels, with `zero_division=nan`.
    """
    del count
    both, predicted, actual = np.split(sums, 3)
    return _mean_of(2.0 * both, predicted + actual)


def pairs(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """1.0 in the place target × classes + prediction, else 0.0; [batch, classes²].

    Raises:
      ConfigError: there are more than 256 classes.
    """
    classes = outputs.shape[-1]
    if classes > _MOST_PAIRED:
        raise ConfigError(f"metrics: confusion is for at most {_MOST_PAIRED} classes, here are {classes}; leave it out")
    place = _numbers(outputs, targets) * classes + outputs.argmax(axis=-1)
    return jax.nn.one_hot(place, classes**2, dtype=jnp.float32)


def matrix(sums: np.ndarray, count: float) -> np.ndarray:
    """The confusion matrix [classes, classes]: a row is a target, a column a prediction, each entry a weight."""
    del count
    return sums.reshape(2 * (math.isqrt(len(sums)),))


def label_accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The share of labels that are right, predicted where the logit is above 0; [batch]."""
    return _right_labels(outputs, targets).astype(jnp.float32).mean(axis=-1)


def exact_match(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """1.0 where all labels are right, else 0.0; [batch]."""
    return _right_labels(outputs, targets).all(axis=-1).astype(jnp.float32)


def root(sums: np.ndarray, count: float) -> float:
    """The root of the mean; of several values an example, that of the mean over all of them."""
    return math.sqrt(mean(sums, count))


def spread(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """By value, its squared error and what the mean and variance of the targets are made from; [batch, columns k].

    The variance is a small difference of large sums, of which float32 would leave nothing where the mean is far from
    0. So each target is cut into limbs of 5 bits: they, their products, and sums of these over thousands of examples
    (of weight 0 or 1) fit into float32's 24.
    """
    x, y = _table(outputs, targets)
    limbs, rest = [], y
    for _ in range(_LIMBS):
        limbs.append(jax.lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=4))
        rest = rest - limbs[-1]
    squares = [a * b * (1.0 if i == j else 2.0) for i, a in enumerate(limbs) for j, b in enumerate(limbs[: i + 1])]
    return jnp.concatenate([jnp.square(x - y), *limbs, *squares], axis=-1)


def r2(sums: np.ndarray, count: float) -> float:
    """1 - Σ (y - x)² / Σ (y - mean y)², the mean over values: scikit-learn's `r2_score`.

    As there, a value that is constant (to the last digits of float32) has 1 where it is met exactly and else 0, and
    fewer than two examples have NaN.
    """
    if count < 2:
        return math.nan
    columns = sums.reshape(1 + _LIMBS + _LIMBS * (_LIMBS + 1) // 2, -1)
    missed, total, squares = columns[0], columns[1 : 1 + _LIMBS].sum(axis=0), columns[1 + _LIMBS :].sum(axis=0)
    variation = squares - total**2 / count
    constant = variation <= 1e-14 * squares
    scores = 1.0 - missed / np.where(constant, 1.0, variation)
    return float(np.where(constant, missed == 0, scores).mean())


def nll(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """-log p of the targets in nats, the mean over an example's tokens; [batch]."""
    return losses.cross_entropy(outputs, targets)


def perplexity(sums: np.ndarray, count: float) -> float:
    """exp of the mean -log p; infinite where that overflows."""
    with np.errstate(over="ignore"):
        return float(np.exp(mean(sums, count)))


def bits(sums: np.ndarray, count: float) -> float:
    """The mean -log2 p."""
    return mean(sums, count) / math.log(2)


def _numbers(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    losses.check_classes(outputs, targets)
    mixed = targets.ndim == outputs.ndim
    return targets.argmax(axis=-1) if mixed else targets.astype(jnp.int32)  # of uint8, `pairs` would overflow


def _table(outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as float32 [batch, values]."""
    x, y = losses.aligned(outputs, targets)
    return x.reshape(len(x), -1), y.reshape(len(y), -1)


def _one_hot(outputs: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.nn.one_hot(numbers, outputs.shape[-1], dtype=jnp.float32)


def _right_labels(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    x, y = _table(outputs, targets)
    return jnp.where(y > 0.5, x > 0, x <= 0)  # a NaN is never right


def _mean_of(parts: np.ndarray, wholes: np.ndarray) -> float:
    """The mean of parts / wholes where there is a whole."""
    found = wholes > 0
    return float((parts[found] / wholes[found]).mean()) if found.any() else math.nan
