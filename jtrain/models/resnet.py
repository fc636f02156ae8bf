"""Residual networks in their CIFAR and ImageNet forms."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jtrain.errors import ConfigError
from jtrain.models.layers import ACTIVATIONS, Activation, Conv, batch_norm, check_images, max_pool_3x3
from jtrain.models.residual import StochasticDepth, block_names, blocks_of, drop_rates
from jtrain.remat import as_block
from jtrain.table import Fraction, Natural

# Blocks of each stage: He et al. 2016, table 1.
BLOCKS: dict[int, tuple[int, ...]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# And section 4.2, for CIFAR: 6n + 2 layers, three stages of n blocks.
BLOCKS |= {6 * n + 2: (n, n, n) for n in (3, 5, 7, 9, 18)}
_EXPANSION = 4  # of a bottleneck's channels

# Variance 2 / fan_out keeps the size of gradients (He et al. 2015, section 2.2).
_CONV_INIT = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, size: int, stride: int, name: str) -> Conv:
    """A square convolution without bias that keeps the size, but for its stride."""
    pad = (size // 2, size // 2)
    return Conv(features, (size, size), (stride, stride), (pad, pad), use_bias=False, kernel_init=_CONV_INIT, name=name)


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut; or 1×1, 3×3 and 1×1 with four times the channels out.

    Attributes:
      features: channels of the 3×3 convolutions.
      stride: of the first 3×3 convolution.
      activation: after every convolution but the last, and after the sum.
      bottleneck: whether there are three convolutions.
      shortcut: where the shape changes, a 1×1 "projection", or the inputs with "pad", zeros for the channels
        they lack (He et al. 2016, options B and A).
      zero_init: whether the last norm's scale starts at 0.
      drop: share of examples for which training takes the shortcut alone.
    """

    features: int
    stride: int
    activation: str
    bottleneck: bool = False
    shortcut: str = "projection"
    zero_init: bool = False
    drop: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        activate = ACTIVATIONS[self.activation]
        # (channels, size, stride); a bottleneck strides in its 3×3, as torchvision's does, to see every value.
        layers = [(self.features, 3, self.stride), (self.features, 3, 1)]
        if self.bottleneck:
            layers = [(self.features, 1, 1), layers[0], (_EXPANSION * self.features, 1, 1)]
        x = inputs
        for i, (features, size, stride) in enumerate(layers, 1):
            last = i == len(layers)
            x = conv(features, size, stride, f"conv{i}")(x)
            x = batch_norm(train=train, name=f"norm{i}", zero=self.zero_init and last)(x)
            x = x if last else activate(x)
        x = StochasticDepth(self.drop, name="stochastic_depth")(x, train)
        return as_block(activate(x + self._shortcut(inputs, layers[-1][0], train)))

    def _shortcut(self, inputs: jax.Array, features: int, train: bool) -> jax.Array:
        more = features - inputs.shape[-1]
        if self.stride == 1 and more == 0:
            return inputs
        if self.shortcut == "pad":
            strided = inputs[:, :: self.stride, :: self.stride]
            return jnp.pad(strided, ((0, 0), (0, 0), (0, 0), (0, more)))
        return batch_norm(train=train, name="shortcut_norm")(conv(features, 1, self.stride, "shortcut")(inputs))


class ResNet(nn.Module):
    """A stem, stages of blocks (each halves the size and doubles the width), average, head."""

    num_outputs: int
    blocks: tuple[int, ...]
    width: int
    activation: str
    form: str = "cifar"
    bottleneck: bool = False
    shortcut: str = "projection"
    zero_init: bool = False
    stochastic_depth: float = 0.0
    dropout: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        check_images(inputs, "model.resnet")
        size, stride = (7, 2) if self.form == "imagenet" else (3, 1)
        x = conv(self.width, size, stride, "stem")(inputs)
        x = ACTIVATIONS[self.activation](batch_norm(train=train, name="stem_norm")(x))
        if self.form == "imagenet":
            x = max_pool_3x3(x)
        make = blocks_of(Block, self.remat)
        drops = drop_rates(self.stochastic_depth, sum(self.blocks))
        for (stage, block, name), drop in zip(block_names(self.blocks), drops, strict=True):
            stride = 2 if stage > 0 and block == 0 else 1
            x = make(
                self.width * 2**stage,
                stride,
                self.activation,
                self.bottleneck,
                self.shortcut,
                self.zero_init,
                drop,
                name=name,
            )(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x.mean(axis=(1, 2)))
        return nn.Dense(self.num_outputs, name="head")(x)


def resnet(
    num_outputs: int,
    *,
    depth: Literal[18, 34, 50, 101, 152, 20, 32, 44, 56, 110] = 18,
    form: Literal["cifar", "imagenet"] = "cifar",
    width: Natural = 0,
    activation: Activation = "relu",
    shortcut: Literal["auto", "projection", "pad"] = "auto",
    zero_init: bool = False,
    stochastic_depth: Fraction = 0.0,
    dropout: Fraction = 0.0,
) -> nn.Module:
    """A residual network (He et al. 2016) over images [batch, height, width, channels].

    Depths 18 to 152 have four stages, and bottlenecks from 50 on; 20, 32, 44, 56 and 110 are the paper's nets
    for CIFAR, of three stages. ResNet-18 for CIFAR has 11,173,962 parameters with 10 outputs, ResNet-50
    for ImageNet 25,557,032 with 1000, as torchvision's.

    Args:
      num_outputs: outputs of the head.
      depth: convolutions and the head, counted as in the paper.
      form: "cifar" for small images: a 3×3 stem of stride 1; "imagenet": a 7×7 stem and 3×3 max pooling,
        of stride 2 both.
      width: channels of the first stage (a bottleneck gives four times as many); each later one has twice
        as many; 0: 64, or 16 for the three stages.
      activation: after every convolution, and after every sum.
      shortcut: where a block changes the shape, a 1×1 convolution, or strided inputs padded with zeros, which
        has no parameters; "auto": padded for the three stages, as in the paper.
      zero_init: starts the last scale of each block at 0, so that each begins as its shortcut (Goyal et al.
        2017, section 5.1).
      stochastic_depth: share of examples for which the last block is left out in training; it rises evenly
        from the first block on (Huang et al. 2016, equation 4).
      dropout: share of the head's inputs dropped in training.

    Raises:
      ConfigError: for a depth that has no such form; when traced, for inputs that are no images.
    """
    blocks = BLOCKS[depth]
    cifar_only = len(blocks) == 3
    if cifar_only and form != "cifar":
        deep = ", ".join(str(d) for d, stages in BLOCKS.items() if len(stages) == 4)
        raise ConfigError(
            f"model.resnet.depth: {depth} has three stages, for form='cifar' alone; {form!r} takes {deep}"
        )
    if shortcut == "auto":
        shortcut = "pad" if cifar_only else "projection"
    return ResNet(
        num_outputs,
        blocks,
        width or (16 if cifar_only else 64),
        activation,
        form,
        bottleneck=not cifar_only and depth >= 50,
        shortcut=shortcut,
        zero_init=zero_init,
        stochastic_depth=stochastic_depth,
        dropout=dropout,
    )
