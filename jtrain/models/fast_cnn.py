"""A wide, short convolutional network for small images, made to be trained within seconds on an accelerator."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jtrain.errors import ConfigError
from jtrain.models.initializers import dirac as dirac_init
from jtrain.models.layers import ACTIVATIONS, Activation, Conv, check_images, max_pool
from jtrain.remat import as_block
from jtrain.table import Fraction, Natural, Positive, Size

FEATURES = (64, 256, 256)
_SPREAD = 3**-0.5  # of kernels, times 1 / √fan_in: as torch draws those of convolutions


class Bias(nn.Module):
    """Adds a number to each channel, at first 0."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        bias = self.param("bias", nn.initializers.zeros_init(), (inputs.shape[-1],), jnp.float32)
        return inputs + bias.astype(inputs.dtype).reshape((1,) * (inputs.ndim - 1) + (-1,))


class FastCNN(nn.Module):
    """A stem; groups of two convolutions, the first of each with max pooling; the greatest of all places; a head."""

    num_outputs: int
    features: tuple[int, ...]
    stem: int
    activation: str
    norm_momentum: float
    dirac: bool
    output_scale: float

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        check_images(inputs, "model.fast_cnn")
        self._check_size(inputs)
        activate, x = ACTIVATIONS[self.activation], self._stem(inputs)
        for i, width in enumerate(self.features):
            x = max_pool(self._conv(width, f"group{i}_conv0")(x))
            x = activate(self._norm(f"group{i}_norm0", train)(x))
            x = self._conv(width, f"group{i}_conv1")(x)
            x = as_block(activate(self._norm(f"group{i}_norm1", train)(x)))
        outputs = nn.Dense(self.num_outputs, use_bias=False, kernel_init=_drawn(), name="head")(x.max(axis=(1, 2)))
        return self.output_scale * outputs

    def _stem(self, inputs: jax.Array) -> jax.Array:
        x = inputs
        if self.stem:
            features, none = 2 * self.stem**2 * inputs.shape[-1], (0, 0)
            x = Conv(
                features, (self.stem, self.stem), padding=(none, none), use_bias=False, kernel_init=_drawn(),
                name="stem_conv",
            )(x)  # fmt: skip
        return ACTIVATIONS[self.activation](Bias(name="stem")(x))

    def _conv(self, features: int, name: str) -> Conv:
        draw = dirac_init(rest=_SPREAD) if self.dirac else _drawn()
        return Conv(features, use_bias=False, kernel_init=draw, name=name)

    def _norm(self, name: str, train: bool) -> nn.BatchNorm:
        # Without a scale, which the next kernel could take over.
        return nn.BatchNorm(
            use_running_average=not train, momentum=self.norm_momentum, epsilon=1e-5, use_scale=False, name=name
        )

    def _check_size(self, inputs: jax.Array) -> None:
        height, width = inputs.shape[1:3]
        lost, groups = max(self.stem - 1, 0), len(self.features)
        fit = max(min(height, width) - lost, 1).bit_length() - 1
        if groups <= fit:
            return
        what, ways = f"images {height}×{width}", [f"at most {fit} of them"] if fit else []
        least, smaller = 2**groups + lost, min(height, width) - 2**groups + 1
        if lost:
            what = f"what model.fast_cnn.stem = {self.stem}, kernels without padding, leaves of {what}"
            ways += [f"a stem of at most {smaller}"] if smaller > 0 else []
        raise ConfigError(
            f"model.fast_cnn.features: {groups} groups, each of which halves the size, leave nothing of {what}; "
            f"use {', or '.join([*ways, f'inputs of at least {least}×{least}'])}"
        )


def fast_cnn(
    num_outputs: int,
    *,
    features: tuple[Size, ...] = FEATURES,
    stem: Natural = 2,
    activation: Activation = "gelu",
    norm_momentum: Fraction = 0.6,
    dirac: bool = True,
    output_scale: Positive = 1 / 9,
) -> nn.Module:
    """A convolutional network over small images [batch, height, width, channels], trained in few epochs.

    The network of Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU (2024, arXiv 2404.00498, section 3.1), whose
    first layer whitens: `data.whiten` = 2 and `stem` = 0 make it that, with 1,971,352 trained parameters for CIFAR-10.
    Each group is convolution, 2×2 max pooling, norm, activation, convolution, norm, activation; its convolutions are
    3×3, and its norms have a bias and no scale.

    Args:
      num_outputs: outputs of the head.
      features: channels of each group.
      stem: side of the first convolution's kernels, which makes 2 · stem² · channels features without padding; 0: none,
        for inputs that are filtered already. A bias and the activation follow either way.
      activation: of every layer.
      norm_momentum: share of their old value that running statistics keep at each update; small, for short runs.
      dirac: draws kernels of the groups as `init.name` "dirac" does, so that at first they pass on what they get.
      output_scale: factor of the head's outputs.

    Raises:
      ConfigError: for no groups; when traced, for inputs that are no images or are too small for stem and groups.
    """
    if not features:
        raise ConfigError("model.fast_cnn.features: needs at least one group; for a linear model use mlp")
    return FastCNN(num_outputs, tuple(features), stem, activation, norm_momentum, dirac, output_scale)


def _drawn() -> jax.nn.initializers.Initializer:
    return jax.nn.initializers.variance_scaling(_SPREAD**2, "fan_in", "uniform")
