"""Tasks whose targets come with the data: classification, several labels, regression, the next token."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.errors import ConfigError
from jtrain.metrics import METRICS
from jtrain.tasks.task import Facts, PerExample, Task, in_unit, named, one_of


def classification(loss: PerExample, facts: Facts) -> Task:
    """One of several classes an example: softmax of the logits gives class probabilities."""
    return one_of(loss, facts.num_outputs)


def multilabel(loss: PerExample, facts: Facts) -> Task:
    """Any number of labels an example, each 0 or 1: sigmoid of a logit gives the label's probability."""
    return Task(
        loss=loss,
        metrics=named("label_accuracy", "exact_match"),
        activation=lambda logits: jax.nn.sigmoid(logits.astype(jnp.float32)),
        watch="label_accuracy",
        num_outputs=facts.num_outputs,
        output_shape=(facts.num_outputs,),
        predictions="classes",
        as_floats=lambda targets: targets.astype(jnp.float32),
        guess=math.log(2),
    )


def regression(
    loss: PerExample,
    facts: Facts,
    *,
    output: Literal["linear", "sigmoid", "tanh", "relu"] = "linear",
    low: float = 0.0,
    high: float = 1.0,
) -> Task:
    """Numbers: the loss is taken in units of the targets' standard deviation, metrics and predictions in their own.

    Args:
      loss: per example.
      facts: of the data.
      output: what bounds the outputs: "linear" nothing, "sigmoid" and "tanh" keep them between `low` and `high`,
        "relu" above `low`.
      low: least value of a bounded output.
      high: greatest, for "sigmoid" and "tanh".

    Raises:
      ConfigError: the bounds are the wrong way round, or targets of the data lie beyond them.
    """
    bound = _bound(output, low, high, facts)
    mean, std = (jnp.asarray(np.squeeze(x), jnp.float32) for x in (facts.mean, facts.std))
    shown = _shown(bound)

    def in_units_of_std(measure: PerExample) -> PerExample:
        return shown(lambda outputs, targets: measure(in_unit(outputs, mean, std), in_unit(targets, mean, std)))

    found = {name: dataclasses.replace(m, values=shown(m.values)) for name, m in named("mse", "mae").items()}
    found["r2"] = dataclasses.replace(METRICS["r2"], values=in_units_of_std(METRICS["r2"].values))
    return Task(
        loss=in_units_of_std(loss),
        metrics=found,
        activation=lambda outputs: bound(outputs.astype(jnp.float32)),
        watch="r2",
        num_outputs=facts.num_outputs,
        output_shape=(facts.num_outputs,),
        predictions="values",
        as_floats=lambda targets: targets.astype(jnp.float32),
        rescale=(facts.mean, facts.std) if output == "linear" else None,
    )


def language_modelling(loss: PerExample, facts: Facts) -> Task:
    """The next token at every place of a sequence; softmax gives the probability of each token."""
    return Task(
        loss=loss,
        metrics=named("bits_per_token", "perplexity", "token_accuracy"),
        activation=lambda logits: jax.nn.softmax(logits.astype(jnp.float32), axis=-1),
        watch="bits_per_token",
        num_outputs=facts.num_outputs,
        output_shape=(*facts.input_shape, facts.num_outputs),
        predictions="tokens",
        guess=math.log(facts.num_outputs),
    )


def _shown(bound: Callable[[jax.Array], jax.Array]) -> Callable[[PerExample], PerExample]:
    return lambda measure: lambda outputs, targets: measure(bound(outputs.astype(jnp.float32)), targets)


def _bound(output: str, low: float, high: float, facts: Facts) -> Callable[[jax.Array], jax.Array]:
    if output == "linear":
        return lambda x: x
    top = math.inf if output == "relu" else high
    if not low < top:
        raise ConfigError(f"task.regression.high: must be above task.regression.low ({low:g}), got {high:g}")
    if facts.least < low or facts.most > top:
        raise ConfigError(
            f"task.regression.output: {output!r} keeps outputs between {low:g} and {top:g}, but targets reach from "
            f"{facts.least:g} to {facts.most:g}; set task.regression.low and .high, or use 'linear'"
        )
    if output == "relu":
        return lambda x: low + jax.nn.relu(x)
    if output == "sigmoid":
        return lambda x: low + (high - low) * jax.nn.sigmoid(x)
    return lambda x: low + (high - low) * (jnp.tanh(x) + 1.0) / 2.0
