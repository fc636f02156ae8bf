"""Plain convolutional network with max pooling."""

from typing import Literal

import jax
from flax import linen as nn

from jtrain.errors import ConfigError
from jtrain.models.layers import ACTIVATIONS, Activation, Conv, batch_norm, check_images, hidden_init, max_pool
from jtrain.remat import as_block
from jtrain.table import Fraction, Natural, Size

FEATURES = (32, 64, 128, 128)


def check_pools(pools: int, features: tuple[int, ...], key: str) -> None:
    """Raises ConfigError, naming the model's options `key`, for more poolings than blocks."""
    if pools > len(features):
        raise ConfigError(f"{key}.pools: {pools} poolings, but {key}.features has only {len(features)} blocks")


def conv_block(inputs: jax.Array, features: int, activation: str, *, norm: str, index: int, train: bool) -> jax.Array:
    """A 3×3 convolution, norm and activation; parameters conv<index> and norm<index> of the module that calls."""
    init = hidden_init(activation)
    x = Conv(features, use_bias=norm == "none", kernel_init=init, name=f"conv{index}")(inputs)
    if norm == "batch":
        x = batch_norm(train=train, name=f"norm{index}")(x)
    return ACTIVATIONS[activation](x)


def conv_blocks(
    inputs: jax.Array,
    features: tuple[int, ...],
    pools: int,
    activation: str,
    *,
    norm: str,
    dropout: float,
    train: bool,
    key: str,
) -> jax.Array:
    """Images through one block for each of `features`, the first `pools` of which end in pooling.

    Args:
      inputs: [batch, height, width, channels].
      features: channels of each block.
      pools: blocks that halve the size.
      activation: of every block.
      norm: "batch" or "none".
      dropout: share of the values between two blocks that is dropped in training.
      train: whether norm and dropout train.
      key: of the model's options, 'model.cnn', for errors.

    Raises:
      ConfigError: for images too small for the poolings.
    """
    fit = min(inputs.shape[1:3]).bit_length() - 1
    if pools > fit:
        size = f"{inputs.shape[1]}×{inputs.shape[2]}"
        raise ConfigError(f"{key}.pools: {pools} poolings leave nothing of images {size}; use at most {fit}")
    x = inputs
    for i, width in enumerate(features):
        if i > 0:
            x = nn.Dropout(dropout, deterministic=not train, name=f"conv_dropout{i - 1}")(x)
        x = conv_block(x, width, activation, norm=norm, index=i, train=train)
        if i < pools:
            x = max_pool(x)
        x = as_block(x)
    return x


class CNN(nn.Module):
    """Blocks of 3×3 convolution, norm, activation and (the first `pools` of them) pooling; then a head."""

    num_outputs: int
    features: tuple[int, ...]
    pools: int
    norm: str
    activation: str
    head: str
    conv_dropout: float
    dropout: float

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        check_images(inputs, "model.cnn")
        x = conv_blocks(
            inputs,
            self.features,
            self.pools,
            self.activation,
            norm=self.norm,
            dropout=self.conv_dropout,
            train=train,
            key="model.cnn",
        )
        x = x.mean(axis=(1, 2)) if self.head == "average" else x.reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        return nn.Dense(self.num_outputs, name="head")(x)


def cnn(
    num_outputs: int,
    *,
    features: tuple[Size, ...] = FEATURES,
    pools: Natural = 3,
    norm: Literal["batch", "none"] = "batch",
    activation: Activation = "relu",
    head: Literal["average", "flatten"] = "average",
    conv_dropout: Fraction = 0.0,
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
      conv_dropout: share of the values between two convolutions dropped in training; none or little, since
        neighbouring values tell of each other.
      dropout: share of the head's inputs dropped in training.

    Raises:
      ConfigError: for more poolings than blocks; when traced, for inputs that are no images or are
        too small for the poolings.
    """
    if not features:
        raise ConfigError("model.cnn.features: needs at least one convolution; for a linear model use mlp")
    check_pools(pools, features, "model.cnn")
    return CNN(num_outputs, tuple(features), pools, norm, activation, head, conv_dropout, dropout)
