"""Tasks whose targets come with the data: classification, several labels, regression, the next token."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.errors import ConfigError
from jtrain.tasks.task import Facts, PerExample, Task, named, one_of, with_unit

Output = Literal["linear", "sigmoid", "tanh", "relu"]
Shown = Callable[[jax.Array], jax.Array]
_LOW, _HIGH = 0.0, 1.0  # the bounds unless they are set
_INSIDE = 0.05  # how far from a bound, as a share of the range, outputs begin at least


def classification(loss: PerExample, facts: Facts) -> Task:
    """One of several classes an example: softmax of the logits gives class probabilities."""
    return one_of(loss, facts.num_outputs)


def multilabel(loss: PerExample, facts: Facts) -> Task:
    """Any number of labels an example, each 0 or 1: sigmoid of a logit gives the label's probability."""
    labels = facts.num_outputs

    def guess() -> float:
        either = jnp.repeat(jnp.arange(2.0)[:, None], labels, axis=1)
        return float(loss(jnp.zeros((2, labels)), either).mean())

    def pool(logits: jax.Array) -> jax.Array:
        p = jax.nn.sigmoid(logits.astype(jnp.float32)).mean(axis=0)
        return jnp.log(jnp.maximum(p, 1e-30)) - jnp.log(jnp.maximum(1.0 - p, 1e-30))

    return Task(
        loss=loss,
        metrics=named("label_accuracy", "exact_match"),
        activation=lambda logits: jax.nn.sigmoid(logits.astype(jnp.float32)),
        watch="label_accuracy",
        num_outputs=labels,
        output_shape=(labels,),
        predictions="classes",
        as_floats=lambda targets: targets.astype(jnp.float32),
        pool=pool,
        guess=guess,
    )


def regression(
    loss: PerExample, facts: Facts, *, output: Output = "linear", low: float = _LOW, high: float = _HIGH
) -> Task:
    """Numbers: the loss is taken in units of the targets' standard deviation, metrics and predictions in their own.

    An untrained model gives about the mean of the targets, whatever bounds it.

    Args:
      loss: per example.
      facts: of the data.
      output: what bounds the outputs: "linear" nothing, "sigmoid" and "tanh" keep them between `low` and `high`,
        "relu" from `low` on.
      low: least value of a bounded output.
      high: greatest, for "sigmoid" and "tanh".

    Raises:
      ConfigError: the bounds are the wrong way round, have no meaning for `output`, or targets of the data lie beyond.
    """
    _check_bounds(output, low, high, facts)
    shown, rescale = _bound(output, low, high, facts)
    return Task(
        loss=with_unit(loss, facts.mean, facts.std),
        metrics=named("mse", "mae", "r2"),
        activation=lambda shown: shown,
        watch="r2",
        num_outputs=facts.num_outputs,
        output_shape=(facts.num_outputs,),
        predictions="values",
        shown=shown,
        as_floats=lambda targets: targets.astype(jnp.float32),
        rescale=rescale,
    )


def language_modelling(loss: PerExample, facts: Facts) -> Task:
    """The next token at every place of a sequence; softmax gives the probability of each token."""
    tokens = facts.num_outputs
    return Task(
        loss=loss,
        metrics=named("bits_per_token", "perplexity", "token_accuracy"),
        activation=lambda logits: jax.nn.softmax(logits.astype(jnp.float32), axis=-1),
        watch="bits_per_token",
        num_outputs=tokens,
        output_shape=(*facts.input_shape, tokens),
        predictions="tokens",
        guess=lambda: float(loss(jnp.zeros((tokens, 1, tokens)), jnp.arange(tokens)[:, None]).mean()),
    )


def _check_bounds(output: str, low: float, high: float, facts: Facts) -> None:
    key = "task.regression"
    if output == "linear" and (low, high) != (_LOW, _HIGH):
        raise ConfigError(f"{key}.low and .high: are set, but {key}.output is 'linear', which has no bounds")
    if output == "relu" and high != _HIGH:
        raise ConfigError(f"{key}.high: is set to {high:g}, but {key}.output is 'relu', which is bounded below alone")
    if output == "linear":
        return
    top = math.inf if output == "relu" else high
    if not low < top:
        raise ConfigError(f"{key}.high: must be above {key}.low ({low:g}), got {high:g}")
    if facts.least < low or facts.most > top:
        raise ConfigError(
            f"{key}.output: {output!r} keeps outputs between {low:g} and {top:g}, but targets reach from "
            f"{facts.least:g} to {facts.most:g}; set {key}.low and .high, or use 'linear'"
        )


def _bound(output: str, low: float, high: float, facts: Facts) -> tuple[Shown, tuple[np.ndarray, np.ndarray]]:
    """(what bounds the outputs, (mean, scale) that bring a model's own outputs to where the targets lie before it)."""
    if output == "linear":
        return lambda x: x.astype(jnp.float32), (facts.mean, facts.std)
    if output == "relu":
        # From the mean on, at least half a standard deviation above the bend, below which there is no gradient.
        start = np.maximum(facts.mean - low, 0.5 * facts.std)
        return lambda x: low + jax.nn.relu(x.astype(jnp.float32)), (start, facts.std)
    place = np.clip((facts.mean - low) / (high - low), _INSIDE, 1.0 - _INSIDE)
    logit, slope = np.log(place / (1.0 - place)), (high - low) * place * (1.0 - place)
    halved = 2.0 if output == "tanh" else 1.0  # tanh(x) = 2 sigmoid(2x) - 1

    def shown(x: jax.Array) -> jax.Array:
        # Clipped, since rounding in float32 may pass a bound by its last digit.
        return jnp.clip(low + (high - low) * jax.nn.sigmoid(halved * x.astype(jnp.float32)), low, high)

    return shown, (logit / halved, facts.std / slope / halved)
