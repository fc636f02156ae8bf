"""Flax's NNX in the form of its examples: nnx.jit over model, nnx.Optimizer and metrics, batches from NumPy."""

from typing import Any

import flax
import jax
import optax
from contenders import common
from flax import nnx


class MLP(nnx.Module):
    """One hidden layer."""

    def __init__(self, width: int, hidden: int, classes: int, *, rngs: nnx.Rngs) -> None:
        self.dense0 = nnx.Linear(width, hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.dense0(inputs)))


def loss_fn(model: MLP, inputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Loss and logits."""
    logits = model(inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), logits


@nnx.jit
def train_step(model: MLP, optimizer: Any, metrics: Any, inputs: jax.Array, targets: jax.Array) -> None:
    """One update, and its metrics."""
    (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, inputs, targets)
    metrics.update(loss=loss, logits=logits, labels=targets)
    optimizer.update(model, grads)


def prepare(case: dict[str, Any]) -> "Loop":
    """A model with the first weights of all contenders."""
    return Loop(case)


class Loop(common.Looped):
    """The loop of the examples; a log point reads and resets the metrics."""

    def __init__(self, case: dict[str, Any]) -> None:
        """Args:
        case: of all contenders.
        """
        model = MLP(case["shape"][0], case["hidden"], case["classes"], rngs=nnx.Rngs(0))
        for path, array in common.mlp_weights(case).items():
            layer, name = path.split("/")
            getattr(getattr(model, layer), name)[...] = jax.numpy.asarray(array)
        optimizer = nnx.Optimizer(model, optax.sgd(case["lr"], momentum=case["momentum"]), wrt=nnx.Param)
        self._metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
        inputs, targets = common.data(case)
        order, every, done = common.endless(case), case["log_every"], 0

        def step() -> None:
            nonlocal done
            rows = next(order)
            train_step(model, optimizer, self._metrics, inputs[rows], targets[rows])
            done += 1
            if done % every == 0:
                self._losses.append(float(self._metrics.compute()["loss"]))
                self._metrics.reset()

        self._losses: list[float] = []
        versions = {"jax": jax.__version__, "flax": flax.__version__}
        super().__init__(case, versions, step, lambda: jax.block_until_ready(nnx.state(model)))

    def check(self) -> list[float]:
        """The losses that the metrics tell at log points."""
        for _ in common.rows(self._case):
            self._step()
        return self._losses
