"""What a task is, what it must know of the data, and the pieces that tasks share."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import metrics
from jtrain.metrics import Metric

PerExample = Callable[[jax.Array, jax.Array], jax.Array]  # (outputs, targets) -> [batch]
Batch = dict[str, jax.Array]  # inputs [batch, …], targets [batch, …], weight [batch] float32
Pretext = Callable[[Batch, jax.Array | None], Batch]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a task must know of the data.

    Attributes:
      num_outputs: classes, targets, values or tokens.
      input_shape: of one example.
      mean, std: of the targets (of the inputs, by channel, for autoencoding), by which losses are made free of their
        unit; 0 and 1 where nothing is normalised.
      least, most: of the targets, where they are numbers.
    """

    num_outputs: int
    input_shape: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray
    least: float = -math.inf
    most: float = math.inf


@dataclasses.dataclass(frozen=True)
class Task:
    """What a kind of problem needs. A model's outputs are `shown` once; loss, metrics and `activation` see that.

    Attributes:
      loss: (shown outputs, targets) -> [batch].
      metrics: by name, of the same.
      activation: shown outputs -> predictions, applied once, in `predict` alone.
      watch: the metric by which the best checkpoint is chosen.
      num_outputs: of the model's head.
      output_shape: of one example's outputs.
      predictions: what `predict` gives, by which files are written.
      shown: outputs -> outputs as the loss takes them: logits as they are, numbers within their bounds.
      as_floats: targets -> floats that may be mixed (mixup); None: they cannot.
      pretext: makes inputs and targets from the batch, by a key in training, None in evaluation; None: as they are.
      pool: shown outputs [views, batch, …] of several views of the inputs -> [batch, …].
      rescale: (mean, scale) that a model's own outputs are moved and multiplied by, so that they begin among the
        targets; kept in the model state.
      names: of the classes of the outputs, where they are not the data's.
      guess: the loss of a model whose outputs are all 0; None where that says nothing.
    """

    loss: PerExample
    metrics: dict[str, Metric]
    activation: Callable[[jax.Array], jax.Array]
    watch: str
    num_outputs: int
    output_shape: tuple[int, ...]
    predictions: Literal["class", "classes", "values", "tokens", "inputs"]
    shown: Callable[[jax.Array], jax.Array] = lambda outputs: outputs
    as_floats: Callable[[jax.Array], jax.Array] | None = None
    pretext: Pretext | None = None
    pool: Callable[[jax.Array], jax.Array] = lambda outputs: outputs.mean(axis=0)
    rescale: tuple[np.ndarray, np.ndarray] | None = None
    names: tuple[str, ...] | None = None
    guess: Callable[[], float] | None = None

    def per_example(self, shown: jax.Array, targets: jax.Array, *, training: bool = False) -> dict[str, jax.Array]:
        """The loss [batch] and every metric, [batch] or [batch, k]; the costly ones in evaluation alone."""
        found = {"loss": self.loss(shown, targets)}
        wanted = {name: m for name, m in self.metrics.items() if m.in_training or not training}
        return found | {name: metric.values(shown, targets) for name, metric in wanted.items()}


def one_of(loss: PerExample, classes: int) -> Task:
    """The task to tell one of so many classes."""
    return Task(
        loss=loss,
        metrics=named("accuracy", *(["top5_accuracy"] if classes >= 100 else [])),
        activation=lambda logits: jax.nn.softmax(logits.astype(jnp.float32), axis=-1),
        watch="accuracy",
        num_outputs=classes,
        output_shape=(classes,),
        predictions="class",
        as_floats=lambda targets: jax.nn.one_hot(targets, classes, dtype=jnp.float32),
        pool=_pooled_probabilities,
        guess=lambda: float(loss(jnp.zeros((classes, classes)), jnp.arange(classes)).mean()),
    )


def named(*names: str) -> dict[str, Metric]:
    """Metrics by their names."""
    return {name: metrics.named(name) for name in names}


def with_unit(measure: PerExample, mean: np.ndarray, std: np.ndarray) -> PerExample:
    """`measure` of (x - mean) / std of outputs and targets; mean and std are of their last axis, or of everything."""

    def measured(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return measure(_in_unit(outputs, mean, std), _in_unit(targets, mean, std))

    return measured


def _in_unit(x: jax.Array, mean: np.ndarray, std: np.ndarray) -> jax.Array:
    middle, scale = (np.asarray(np.squeeze(v) if np.size(v) == 1 else v, np.float32) for v in (mean, std))
    wide = (1,) * (x.ndim - middle.ndim) + middle.shape
    return (x.astype(jnp.float32) - middle.reshape(wide)) / scale.reshape(wide)


def _pooled_probabilities(logits: jax.Array) -> jax.Array:
    """The logarithm of the mean of the views' probabilities, whose softmax is that mean."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return jax.nn.logsumexp(log_p, axis=0) - math.log(len(logits))
