"""Tasks that make their targets of the inputs, so that no labels are needed: pre-training."""

import dataclasses
import functools
import math
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.data import augment
from jtrain.errors import ConfigError
from jtrain.metrics import Metric
from jtrain.tasks.task import Batch, Facts, PerExample, Task, named, one_of, with_unit

_CORRUPT = "task.autoencoding.corrupt"


def autoencoding(
    loss: PerExample,
    facts: Facts,
    *,
    corrupt: Annotated[str, functools.partial(augment.parse, key=_CORRUPT)] = "",
) -> Task:
    """The inputs again, through a narrow model; with `corrupt` from damaged ones (Vincent et al. 2008).

    The loss is taken in units of each channel's standard deviation, metrics and predictions in those of the inputs.
    `explained` is the share of the inputs' variance, by channel, that is met.

    Args:
      loss: per example.
      facts: of the data; mean and std are those of the inputs.
      corrupt: ops such as "noise(0.25)" on what the model sees in training, and not on what it shall give. Evaluation
        shows it undamaged inputs, so that it is the same for every batch size.
    """
    augment.check_inputs(corrupt, facts.input_shape, _CORRUPT)
    if augment.mixes(corrupt):
        raise ConfigError(f"{_CORRUPT}: {corrupt!r} mixes examples; use ops on one example alone")
    damage = augment.build(corrupt) if corrupt else None

    def pretext(batch: Batch, key: jax.Array | None) -> Batch:
        inputs = batch["inputs"]
        seen = damage(inputs, key) if damage is not None and key is not None else inputs
        return batch | {"inputs": seen, "targets": inputs.astype(jnp.float32)}

    def flat(measure: PerExample) -> PerExample:
        return lambda outputs, targets: measure(outputs.reshape(len(outputs), -1), targets.reshape(len(targets), -1))

    squares = with_unit(
        flat(lambda o, t: jnp.stack([((o - t) ** 2).mean(axis=-1), (t**2).mean(axis=-1)], axis=-1)),
        facts.mean,
        facts.std,
    )
    return Task(
        loss=with_unit(flat(loss), facts.mean, facts.std),
        metrics=named("mse", "mae") | {"explained": Metric(squares, _explained, higher_is_better=True)},
        activation=lambda shown: shown,
        watch="mse",
        num_outputs=math.prod(facts.input_shape),
        output_shape=facts.input_shape,
        predictions="inputs",
        shown=lambda outputs: outputs.astype(jnp.float32),
        pretext=pretext,
        rescale=(facts.mean, facts.std),
        names=(),
    )


def rotation(loss: PerExample, facts: Facts) -> Task:
    """By which quarter turn an image was rotated: labels for nothing (Gidaris et al. 2018).

    Training turns each image by chance; evaluation takes every image in all four ways.

    Raises:
      ConfigError: the inputs are no square images.
    """
    shape = facts.input_shape
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ConfigError(f"task.name: rotation turns square images [side, side, channels], inputs are {list(shape)}")

    def turned(images: jax.Array) -> list[jax.Array]:
        return [jnp.rot90(images, k, axes=(1, 2)) for k in range(4)]

    def pretext(batch: Batch, key: jax.Array | None) -> Batch:
        images, size = batch["inputs"], len(batch["weight"])
        if key is None:
            targets = jnp.repeat(jnp.arange(4, dtype=jnp.int32), size)
            weight = jnp.tile(batch["weight"], 4)
            return {"inputs": jnp.concatenate(turned(images)), "targets": targets, "weight": weight}
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(size))
        targets = jax.vmap(lambda k: jax.random.randint(k, (), 0, 4))(keys)
        chosen = jnp.stack(turned(images))[targets, jnp.arange(size)]
        return batch | {"inputs": chosen, "targets": targets}

    names = ("0°", "90°", "180°", "270°")
    return dataclasses.replace(one_of(loss, 4), as_floats=None, pretext=pretext, names=names)


def _explained(sums: np.ndarray, count: float) -> float:
    del count
    return 1.0 - float(sums[0] / sums[1]) if sums[1] else math.nan
