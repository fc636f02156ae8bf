"""Residual network in its CIFAR form."""

from typing import Literal

import jax
from flax import linen as nn

from jtrain.errors import ConfigError
from jtrain.models.layers import ACTIVATIONS, Activation, Conv, batch_norm
from jtrain.table import Size

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # He et al. 2016, table 1

# Variance 2 / fan_out keeps the size of gradients (He et al. 2015, section 2.2).
_CONV_INIT = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(features: int, size: int, stride: int, name: str) -> Conv:
    pad = (size // 2, size // 2)
    return Conv(features, (size, size), (stride, stride), (pad, pad), use_bias=False, kernel_init=_CONV_INIT, name=name)


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes."""

    features: int
    stride: int
    activation: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        activate = ACTIVATIONS[self.activation]
        x = _conv(self.features, 3, self.stride, "conv1")(inputs)
        x = activate(batch_norm(train=train, name="norm1")(x))
        x = _conv(self.features, 3, 1, "conv2")(x)
        x = batch_norm(train=train, name="norm2")(x)
        shortcut = inputs
        if self.stride != 1 or inputs.shape[-1] != self.features:
            shortcut = _conv(self.features, 1, self.stride, "shortcut")(inputs)
            shortcut = batch_norm(train=train, name="shortcut_norm")(shortcut)
        return activate(x + shortcut)


class ResNet(nn.Module):
    """A 3×3 stem, stages of basic blocks (each halves the size and doubles the width), average, head."""

    num_outputs: int
    blocks: tuple[int, ...]
    width: int
    activation: str

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        if inputs.ndim != 4:
            shape = list(inputs.shape[1:])
            raise ConfigError(f"model.resnet: takes images [height, width, channels], got {shape} an example")
        x = _conv(self.width, 3, 1, "stem")(inputs)
        x = ACTIVATIONS[self.activation](batch_norm(train=train, name="stem_norm")(x))
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                x = Block(self.width * 2**stage, stride, self.activation, name=name)(x, train)
        return nn.Dense(self.num_outputs, name="head")(x.mean(axis=(1, 2)))


def resnet(
    num_outputs: int,
    *,
    depth: Literal[18, 34] = 18,
    width: Size = 64,
    activation: Activation = "relu",
) -> nn.Module:
    """ResNet-18 or -34 (He et al. 2016) for small images: a 3×3 stem of stride 1, no stem pooling.

    Args:
      num_outputs: outputs of the head; ResNet-18 of width 64 has 11,173,962 parameters with 10.
      depth: convolutions and the head, counted as in the paper.
      width: channels of the first stage; each later one has twice as many.
      activation: after every convolution, and after every sum.

    Raises:
      ConfigError: when traced, for inputs that are not [batch, height, width, channels].
    """
    return ResNet(num_outputs, BLOCKS[depth], width, activation)
