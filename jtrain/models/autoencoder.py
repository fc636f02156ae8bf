"""Autoencoder: gives back its inputs, by an encoder that a cnn or mlp can start from."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jtrain.errors import ConfigError
from jtrain.models import cnn, mlp
from jtrain.models.layers import ACTIVATIONS, Activation, Conv, hidden_init, upsample
from jtrain.table import Natural, Size

_KEY = "model.autoencoder"


class ConvEncoder(nn.Module):
    """The blocks of `cnn`, under their names."""

    features: tuple[int, ...]
    pools: int
    norm: str
    activation: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        return cnn.conv_blocks(
            inputs, self.features, self.pools, self.activation, norm=self.norm, dropout=0.0, train=train, key=_KEY
        )


class ConvDecoder(nn.Module):
    """The encoder backwards: where it pooled, nearest neighbours bring the size back before the convolution."""

    features: tuple[int, ...]
    pools: int
    norm: str
    activation: str
    shape: tuple[int, int, int]  # of an image

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        *size, channels = self.shape
        sizes = [(size[0] >> i, size[1] >> i) for i in range(self.pools)]
        x = inputs
        for i in reversed(range(len(self.features))):
            if i < self.pools:
                x = upsample(x, sizes[i])
            if i > 0:
                index = len(self.features) - 1 - i
                x = cnn.conv_block(x, self.features[i - 1], self.activation, norm=self.norm, index=index, train=train)
        return Conv(channels, name="head")(x)


class DenseEncoder(nn.Module):
    """The hidden layers of `mlp`, under their names and without dropout."""

    features: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        flat = inputs.reshape(inputs.shape[0], -1)
        return mlp.dense_layers(flat, self.features, self.activation, 0.0, train=train)


class DenseDecoder(nn.Module):
    """The encoder's widths backwards, then as many values as an example has."""

    features: tuple[int, ...]
    activation: str
    shape: tuple[int, ...]  # of an example

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        x = mlp.dense_layers(inputs, self.features[-2::-1], self.activation, 0.0, train=train)
        return nn.Dense(math.prod(self.shape), name="head")(x).reshape(inputs.shape[0], *self.shape)


class Autoencoder(nn.Module):
    """Encoder, a dense code where one is asked for, decoder; the output has the shape of the inputs."""

    encoder: str
    features: tuple[int, ...]
    code: int
    pools: int
    norm: str
    activation: str

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        shape = inputs.shape[1:]
        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise ConfigError(f"{_KEY}: gives back numbers, and cannot give back tokens {list(shape)} an example")
        encoder, decoder = self._parts(shape)
        x = encoder(inputs, train)
        if self.code:
            encoded = x.shape
            x = nn.Dense(self.code, name="code")(x.reshape(x.shape[0], -1))
            x = nn.Dense(math.prod(encoded[1:]), kernel_init=hidden_init(self.activation), name="expand")(x)
            x = ACTIVATIONS[self.activation](x).reshape(encoded)
        return decoder(x, train)

    def _parts(self, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
        images = self.encoder == "cnn" or (self.encoder == "auto" and len(shape) == 3)
        if not images:
            features = self.features or mlp.FEATURES
            encoder = DenseEncoder(features, self.activation, name="encoder")
            return encoder, DenseDecoder(features, self.activation, shape, name="decoder")
        if len(shape) != 3:
            raise ConfigError(
                f"{_KEY}.encoder: 'cnn' takes images [height, width, channels], got {list(shape)} an example; "
                "use 'mlp' or 'auto'"
            )
        features = self.features or cnn.FEATURES
        cnn.check_pools(self.pools, features, _KEY)
        options = (features, self.pools, self.norm, self.activation)
        return ConvEncoder(*options, name="encoder"), ConvDecoder(*options, shape, name="decoder")


def autoencoder(
    num_outputs: int,
    *,
    encoder: Literal["auto", "cnn", "mlp"] = "auto",
    features: tuple[Size, ...] = (),
    code: Natural = 0,
    pools: Natural = 3,
    norm: Literal["batch", "none"] = "batch",
    activation: Activation = "relu",
) -> nn.Module:
    """An autoencoder, whose output has the shape of its inputs [batch, …] and is linear.

    The parameters of the encoder are 'encoder/…' and then those of a cnn or mlp of the same features up
    to its head, so that such a model can start from them once 'encoder/(.*)' is renamed to '\\1'. Decoder
    and encoder mirror each other; images grow by nearest neighbours and 3×3 convolutions, which leave no
    checkerboard (Odena et al. 2016).

    Args:
      num_outputs: not used; the output has as many values as the inputs.
      encoder: the layers of a cnn or of an mlp; "auto" takes a cnn for [batch, height, width, channels].
      features: channels of the convolutions, or units of the dense layers; () is what cnn or mlp have by default.
      code: width of a linear layer between encoder and decoder; 0: none, and the code is what the encoder gives.
      pools: for a cnn, blocks, from the first on, that end in 2×2 max pooling.
      norm: for a cnn, what stands between convolution and activation.
      activation: of every layer but the code and the last.

    Raises:
      ConfigError: when traced, for inputs that are tokens, that are no images while `encoder` is "cnn", or
        that are too small for the poolings; for more poolings than features.
    """
    return Autoencoder(encoder, tuple(features), code, pools, norm, activation)
