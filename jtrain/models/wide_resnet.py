"""Wide residual network: few blocks of many channels, activation before convolution."""

from typing import Literal

import jax
from flax import linen as nn

from jtrain.models.layers import ACTIVATIONS, Activation, batch_norm, check_images
from jtrain.models.residual import StochasticDepth, block_names, blocks_of, drop_rates
from jtrain.models.resnet import conv
from jtrain.remat import as_block
from jtrain.table import Fraction, Size


class WideBlock(nn.Module):
    """Norm, activation and 3×3 convolution, twice, beside a shortcut: B(3,3) of Zagoruyko & Komodakis 2016.

    Attributes:
      features: channels out.
      stride: of the first convolution.
      activation: before every convolution.
      dropout: share of the values between the convolutions dropped in training.
      drop: share of examples for which training takes the shortcut alone.
    """

    features: int
    stride: int
    activation: str
    dropout: float = 0.0
    drop: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        activate = ACTIVATIONS[self.activation]
        x = activate(batch_norm(train=train, name="norm1")(inputs))
        shortcut = inputs
        if self.stride != 1 or inputs.shape[-1] != self.features:
            shortcut = conv(self.features, 1, self.stride, "shortcut")(x)  # of the activated values, as the authors'
        x = conv(self.features, 3, self.stride, "conv1")(x)
        x = activate(batch_norm(train=train, name="norm2")(x))
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        x = conv(self.features, 3, 1, "conv2")(x)
        return as_block(shortcut + StochasticDepth(self.drop, name="stochastic_depth")(x, train))


class WideResNet(nn.Module):
    """A 3×3 stem of 16 channels, three stages of blocks, norm, activation, average, head."""

    num_outputs: int
    blocks: int  # of each stage
    widen: int
    activation: str
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        check_images(inputs, "model.wide_resnet")
        x = conv(16, 3, 1, "stem")(inputs)
        make = blocks_of(WideBlock, self.remat)
        blocks = (self.blocks,) * 3
        drops = drop_rates(self.stochastic_depth, sum(blocks))
        for (stage, block, name), drop in zip(block_names(blocks), drops, strict=True):
            stride = 2 if stage > 0 and block == 0 else 1
            features = 16 * self.widen * 2**stage
            x = make(features, stride, self.activation, self.dropout, drop, name=name)(x, train)
        x = ACTIVATIONS[self.activation](batch_norm(train=train, name="head_norm")(x))
        return nn.Dense(self.num_outputs, name="head")(x.mean(axis=(1, 2)))


def wide_resnet(
    num_outputs: int,
    *,
    depth: Literal[10, 16, 22, 28, 34, 40] = 28,
    widen: Size = 10,
    activation: Activation = "relu",
    dropout: Fraction = 0.0,
    stochastic_depth: Fraction = 0.0,
) -> nn.Module:
    """A wide residual network (Zagoruyko & Komodakis 2016) over small images [batch, height, width, channels].

    WRN-28-10, the paper's best, has 36,479,194 parameters with 10 outputs; WRN-16-8 has 10,961,370.

    Args:
      num_outputs: outputs of the head.
      depth: convolutions counted as in the paper, 6n + 4: three stages of n blocks.
      widen: the paper's k: the stages have 16k, 32k and 64k channels.
      activation: before every convolution.
      dropout: share of the values between a block's two convolutions dropped in training (section 2.4; the
        paper takes 0.3 where it is on).
      stochastic_depth: share of examples for which the last block is left out in training; it rises evenly
        from the first block on (Huang et al. 2016, equation 4).

    Raises:
      ConfigError: when traced, for inputs that are no images.
    """
    return WideResNet(num_outputs, (depth - 4) // 6, widen, activation, dropout, stochastic_depth)
