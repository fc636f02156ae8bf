"""Keras with its JAX backend: `model.fit` over arrays, with nothing but a callback at the end of an epoch."""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from contenders import common


def prepare(case: dict[str, Any]) -> "Fit":
    """The MLP, or where the case has "features" the CNN, with the first weights of all contenders."""
    layers = keras.layers
    if "features" in case:
        body, given = [], common.cnn_weights(case)
        for width in case["features"]:
            body += [layers.Conv2D(width, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
        body.append(layers.GlobalAveragePooling2D())
    else:
        body, given = [layers.Dense(case["hidden"], activation="relu")], common.mlp_weights(case)
    model = keras.Sequential([layers.Input(tuple(case["shape"])), *body, layers.Dense(case["classes"])])
    model.set_weights(list(given.values()))
    return Fit(case, model)


class Fit:
    """A model of Keras under `fit`."""

    def __init__(self, case: dict[str, Any], model: keras.Model) -> None:
        """Args:
        case: "steps_per_execution" is Keras's option; "points" times "log_every" updates are an epoch, and a block.
        model: with its first weights.
        """
        self.versions = {"keras": keras.__version__, "jax": jax.__version__}
        self._case, self._model = case, model
        model.compile(
            optimizer=keras.optimizers.SGD(case["lr"], momentum=case["momentum"]),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=case.get("steps_per_execution", 1),
        )
        inputs, targets = common.batches(case)
        block = case["points"] * case["log_every"] * case["batch"]
        repeats = -(-block // len(inputs))
        long = tuple(np.concatenate([array] * repeats)[:block] for array in (inputs, targets))
        self._turns = common.Turns(lambda turns: self._fit(*long, 10**6, turns))

    def check(self) -> list[float]:
        """The losses that fit tells of epochs as long as the others' log intervals."""
        inputs, targets = common.batches(self._case)
        examples = self._case["log_every"] * self._case["batch"]
        losses: list[float] = []
        for start in range(0, len(inputs), examples):
            part = slice(start, start + examples)
            losses += self._fit(inputs[part], targets[part], 1).history["loss"]
        return losses

    def block(self) -> tuple[float, float]:
        """An epoch."""
        steps = self._case["points"] * self._case["log_every"]
        return self._turns.go(1), steps * common.units_a_step(self._case)

    def _fit(self, inputs: np.ndarray, targets: np.ndarray, epochs: int, turns: common.Turns | None = None) -> Any:
        pausing = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: turns and turns.point(logs["loss"]))
        return self._model.fit(
            inputs, targets, batch_size=self._case["batch"], epochs=epochs, shuffle=False, verbose=0,
            callbacks=[pausing] if turns else None,
        )  # fmt: skip
