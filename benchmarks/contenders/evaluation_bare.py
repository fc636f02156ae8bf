"""The least that evaluates in JAX: one compiled forward pass, data on the device, the last batch padded.

case: "own" for jtrain's own network instead of that in plain Flax.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contenders import common
from contenders.cnn_flax import CNN
from contenders.compiles import Compiles
from contenders.jtrain_train import make_run


class Evaluation:
    """Parameters and batches on the device."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.examples = case["examples"]
        self.params = jax.tree.map(jnp.asarray, common.nested(common.cnn_weights(case)))
        net, own = CNN(tuple(case["features"]), case["classes"]), make_run(case).model if case.get("own") else None
        inputs, targets = common.data(case)
        padding = -len(inputs) % case["batch"]
        padded = [np.concatenate([part, part[:padding]]) for part in (inputs, targets)]
        padded.append(np.r_[np.ones(len(inputs), np.float32), np.zeros(padding, np.float32)])
        self.batches = [
            [jnp.asarray(part[start : start + case["batch"]]) for part in padded]
            for start in range(0, len(padded[0]), case["batch"])
        ]
        self.versions = {"jax": jax.__version__}

        @jax.jit
        def forward(params: Any, inputs: jax.Array, targets: jax.Array, weight: jax.Array) -> Any:
            if own is None:
                logits = net.apply({"params": params}, inputs)
            else:
                logits = own.apply(params, {}, inputs, key=None, train=False)[0]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return (losses * weight).sum(), ((logits.argmax(-1) == targets) * weight).sum()

        self.forward = forward

    def evaluate(self) -> tuple[float, float]:
        """(mean loss, number of what is right)."""
        found = jax.device_get([self.forward(self.params, *batch) for batch in self.batches])
        loss, right = np.sum(found, axis=0, dtype=np.float64)
        return loss / self.examples, right

    def check(self) -> list[float]:
        """Loss, number of what is right, programs compiled for it."""
        compiles = Compiles()
        return [*self.evaluate(), compiles.count]

    def block(self) -> tuple[float, float]:
        """(seconds, images) of one evaluation."""
        begun = time.perf_counter()
        self.evaluate()
        return time.perf_counter() - begun, self.examples


def prepare(case: dict[str, Any]) -> Evaluation:
    """The contender."""
    return Evaluation(case)
