"""Tasks: the loss, metrics and output activation that belong together."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jtrain import metrics

PerExample = Callable[[jax.Array, jax.Array], jax.Array]  # (outputs, targets) -> [batch]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a kind of problem needs.

    Attributes:
      loss: (outputs, targets) -> [batch].
      metrics: name -> the same.
      activation: outputs -> predictions, applied once, in `predict` alone.
      watch: the metric by which the best checkpoint is chosen.
    """

    loss: PerExample
    metrics: dict[str, PerExample]
    activation: Callable[[jax.Array], jax.Array]
    watch: str

    @property
    def higher_is_better(self) -> bool:
        return self.watch in metrics.HIGHER_IS_BETTER

    def per_example(self, outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        """Loss and every metric, each [batch]."""
        found = {"loss": self.loss(outputs, targets)}
        return found | {name: metric(outputs, targets) for name, metric in self.metrics.items()}


def classification(loss: PerExample) -> Task:
    """One label an example: accuracy; softmax gives class probabilities."""
    return Task(
        loss=loss,
        metrics={"accuracy": metrics.accuracy},
        activation=lambda logits: jax.nn.softmax(logits.astype(jnp.float32), axis=-1),
        watch="accuracy",
    )


TASKS: dict[str, Callable[[PerExample], Task]] = {"classification": classification}
