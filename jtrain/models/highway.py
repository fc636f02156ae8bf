"""Highway network: dense layers that a gate lets pass or transform."""

from typing import Annotated

import jax
from flax import linen as nn

from jtrain.models.layers import ACTIVATIONS, Activation, hidden_init
from jtrain.remat import as_block
from jtrain.table import Fraction, Range, Size


class HighwayLayer(nn.Module):
    """y = H(x) · T(x) + x · (1 − T(x)), of the width of its inputs.

    H is a dense layer with activation, T one with a sigmoid, the gate (Srivastava et al. 2015, equation 3).

    Attributes:
      activation: of H.
      gate_bias: at which the bias of T starts.
    """

    activation: str
    gate_bias: float

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        width = inputs.shape[-1]
        hidden = nn.Dense(width, kernel_init=hidden_init(self.activation), name="hidden")(inputs)
        bias = nn.initializers.constant(self.gate_bias)
        kernel = hidden_init("sigmoid")
        gate = jax.nn.sigmoid(nn.Dense(width, kernel_init=kernel, bias_init=bias, name="gate")(inputs))
        return as_block(ACTIVATIONS[self.activation](hidden) * gate + inputs * (1 - gate))


class Highway(nn.Module):
    """A dense layer to the width, highway layers, dropout, head; over the flattened inputs."""

    num_outputs: int
    layers: int
    width: int
    activation: str
    gate_bias: float
    dropout: float

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        x = inputs.reshape(inputs.shape[0], -1)
        x = nn.Dense(self.width, kernel_init=hidden_init(self.activation), name="input")(x)
        x = ACTIVATIONS[self.activation](x)
        for i in range(self.layers):
            x = HighwayLayer(self.activation, self.gate_bias, name=f"highway{i}")(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        return nn.Dense(self.num_outputs, name="head")(x)


def highway(
    num_outputs: int,
    *,
    layers: Size = 10,
    width: Size = 50,
    activation: Activation = "relu",
    gate_bias: Annotated[float, Range(-10, 0)] = -2.0,
    dropout: Fraction = 0.5,
) -> nn.Module:
    """A highway network (Srivastava et al. 2015) over inputs [batch, …], which it flattens.

    Args:
      num_outputs: outputs of the head.
      layers: highway layers; the paper trains 10 to 100 of width 50.
      width: units of every layer.
      activation: of the first layer and of each transform.
      gate_bias: at which the biases of the gates start; below 0, so that a deep net begins by passing its
        inputs on (section 2.2 names −1 and −3); the deeper, the lower.
      dropout: share of the head's inputs dropped in training. None is inside: a mask would cut what is carried.
    """
    return Highway(num_outputs, layers, width, activation, gate_bias, dropout)
