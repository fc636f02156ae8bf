"""Plain convolutional network with max pooling."""

from typing import Literal

import jax
from flax import linen as nn

from jtrain.errors import ConfigError
from jtrain.models.layers import ACTIVATIONS, Activation, Conv, batch_norm, hidden_init, max_pool
from jtrain.table import Fraction, Natural, Size


class CNN(nn.Module):
    """Blocks of 3×3 convolution, norm, activation and (the first `pools` of them) pooling; then a head."""

    num_outputs: int
    features: tuple[int, ...]
    pools: int
    norm: str
    activation: str
    head: str
    dropout: float

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        if inputs.ndim != 4:
            shape = list(inputs.shape[1:])
            raise ConfigError(f"model.cnn: takes images [height, width, channels], got {shape} an example")
        x = inputs
        for i, width in enumerate(self.features):
            init = hidden_init(self.activation)
            x = Conv(width, use_bias=self.norm == "none", kernel_init=init, name=f"conv{i}")(x)
            if self.norm == "batch":
                x = batch_norm(train=train, name=f"norm{i}")(x)
            x = ACTIVATIONS[self.activation](x)
            if i < self.pools:
                x = self._pool(x, inputs.shape)
        x = x.mean(axis=(1, 2)) if self.head == "average" else x.reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        return nn.Dense(self.num_outputs, name="head")(x)

    def _pool(self, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        if min(x.shape[1:3]) < 2:
            fit = min(shape[1:3]).bit_length() - 1
            raise ConfigError(
                f"model.cnn.pools: {self.pools} poolings leave nothing of images {shape[1]}×{shape[2]}; "
                f"use at most {fit}"
            )
        return max_pool(x)


def cnn(
    num_outputs: int,
    *,
    features: tuple[Size, ...] = (32, 64, 128, 128),
    pools: Natural = 3,
    norm: Literal["batch", "none"] = "batch",
    activation: Activation = "relu",
    head: Literal["average", "flatten"] = "average",
    dropout: Fraction = 0.0,
) -> nn.Module:
    """A plain convolutional network over images [batch, height, width, channels].

    Args:
      num_outputs: outputs of the head.
      features: channels of the 3×3 convolutions.
      pools: blocks, from the first on, that end in 2×2 max pooling.
      norm: what stands between convolution and activation.
      activation: of every block.
      head: a dense layer over the average of all places, or over all values.
      dropout: share of the head's inputs dropped in training.

    Raises:
      ConfigError: for more poolings than blocks; when traced, for inputs that are no images or are
        too small for the poolings.
    """
    if not features:
        raise ConfigError("model.cnn.features: needs at least one convolution; for a linear model use mlp")
    if pools > len(features):
        raise ConfigError(f"model.cnn.pools: {pools} poolings, but model.cnn.features has only {len(features)} blocks")
    return CNN(num_outputs, tuple(features), pools, norm, activation, head, dropout)
