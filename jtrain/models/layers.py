"""Layers that our models share: activations, and convolution and pooling that are fast on CPU."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jtrain.errors import ConfigError

Activation = Literal["relu", "leaky_relu", "gelu", "tanh", "sigmoid"]
Padding = tuple[tuple[int, int], tuple[int, int]]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": partial(jax.nn.leaky_relu, negative_slope=0.01),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}

_FEW_CHANNELS = 4  # up to here XLA:CPU convolves several times slower than it multiplies patches


def hidden_init(activation: str) -> jax.nn.initializers.Initializer:
    """Draws kernels before `activation`: Kaiming for rectifiers, Xavier for saturating ones."""
    if activation in ("tanh", "sigmoid"):
        return jax.nn.initializers.glorot_normal()
    return jax.nn.initializers.he_normal()


def batch_norm(*, train: bool, name: str, zero: bool = False) -> nn.BatchNorm:
    """Batch norm that moves its running statistics by a tenth a step, with ε 1e-5, as torch does.

    Args:
      train: whether it takes the statistics of the batch, and keeps them.
      name: of the module.
      zero: whether its scale starts at 0, and with it all that it gives.
    """
    scale = nn.initializers.zeros_init() if zero else nn.initializers.ones_init()
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, scale_init=scale, name=name)


def check_images(inputs: jax.Array, key: str) -> None:
    """Raises ConfigError, naming the model's options `key`, unless inputs are [batch, height, width, channels]."""
    if inputs.ndim != 4:
        shape = list(inputs.shape[1:])
        raise ConfigError(f"{key}: takes images [height, width, channels], got {shape} an example")


class Conv(nn.Module):
    """Convolution over [batch, height, width, channels]; parameters and values are those of `nn.Conv`.

    On CPU an input of few channels is unfolded into patches and multiplied.

    Attributes:
      features: channels out.
      kernel_size: height and width.
      strides: of height and width.
      padding: zeros (before, after) height and width; explicit, since "SAME" pads a stride of 2
        otherwise than torch does.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: Padding = ((1, 1), (1, 1))
    use_bias: bool = True
    kernel_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        dtype = jnp.result_type(inputs, kernel)
        outputs = convolve(inputs.astype(dtype), kernel.astype(dtype), self.strides, self.padding)
        if not self.use_bias:
            return outputs
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return outputs + bias.astype(dtype)[None, None, None, :]


def convolve(inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    """The convolution of [b, h, w, c] with [kh, kw, c, out], both of one dtype, in the form that is fast here."""
    if inputs.shape[-1] <= _FEW_CHANNELS and jax.default_backend() == "cpu":
        return conv_by_patches(inputs, kernel, strides, padding)
    return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv_by_patches(inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding) -> jax.Array:
    """The convolution of [b, h, w, c] with [kh, kw, c, out] as one matrix product over unfolded patches."""
    height, width, channels, features = kernel.shape
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    rows = (padded.shape[1] - height) // strides[0] + 1
    columns = (padded.shape[2] - width) // strides[1] + 1
    # First along rows, then along columns: fewer and longer copies. The product is of matrices, since
    # XLA:CPU is slower with more axes in its gradient.
    right, down = strides[1] * (columns - 1) + 1, strides[0] * (rows - 1) + 1
    wide = jnp.concatenate([padded[:, :, x : x + right : strides[1]] for x in range(width)], axis=-1)
    patches = jnp.concatenate([wide[:, y : y + down : strides[0]] for y in range(height)], axis=-1)
    matrix = patches.reshape(-1, height * width * channels)
    outputs = matrix @ kernel.reshape(height * width * channels, features)
    return outputs.reshape(inputs.shape[0], rows, columns, features)


def max_pool(inputs: jax.Array) -> jax.Array:
    """2×2 max pooling of [batch, height, width, channels]; an odd last row or column is dropped.

    Values are those of `nn.max_pool(…, (2, 2), (2, 2))`, whose backward pass is some 27 times slower
    on CPU; where two values tie they share the gradient.
    """
    height, width = inputs.shape[1] // 2 * 2, inputs.shape[2] // 2 * 2
    top, bottom = inputs[:, 0:height:2], inputs[:, 1:height:2]
    top = jnp.maximum(top[:, :, 0:width:2], top[:, :, 1:width:2])
    bottom = jnp.maximum(bottom[:, :, 0:width:2], bottom[:, :, 1:width:2])
    return jnp.maximum(top, bottom)


def upsample(inputs: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[batch, height, width, channels] twice as large by nearest neighbours; an odd `size` repeats its last line.

    Args:
      inputs: images.
      size: (height, width) that comes out, each twice that of the inputs, or one more.
    """
    batch, height, width, channels = inputs.shape
    wide = jnp.broadcast_to(inputs[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    doubled = wide.reshape(batch, 2 * height, 2 * width, channels)
    # Not `jnp.pad`: where it adds nothing, its gradient adds arrays of zeros, and mesh.shards rounds by their number.
    for axis, length in zip((1, 2), size, strict=True):
        have = doubled.shape[axis]
        if length > have:
            last = jax.lax.slice_in_dim(doubled, have - 1, have, axis=axis)
            doubled = jnp.concatenate([doubled, last], axis=axis)
    return doubled


def max_pool_3x3(inputs: jax.Array) -> jax.Array:
    """3×3 max pooling of stride 2 and padding 1 of [batch, height, width, channels], torch's MaxPool2d(3, 2, 1).

    Like `max_pool` of strided slices, for the sake of the backward pass on CPU; first along the height, then
    along the width, so that four maxima do instead of eight.
    """

    def along(x: jax.Array, axis: int) -> jax.Array:
        size = x.shape[axis]
        out = (size + 1) // 2
        pad = [(0, 0)] * x.ndim
        pad[axis] = (1, 2 * out - size)
        padded = jnp.pad(x, pad, constant_values=-jnp.inf)
        first, middle, last = (jax.lax.slice_in_dim(padded, i, i + 2 * out - 1, 2, axis) for i in range(3))
        return jnp.maximum(jnp.maximum(first, middle), last)

    return along(along(inputs, 1), 2)
