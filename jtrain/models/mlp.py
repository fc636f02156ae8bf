"""Multilayer perceptron."""

import jax
from flax import linen as nn

from jtrain.models.layers import ACTIVATIONS, Activation, hidden_init
from jtrain.remat import as_block
from jtrain.table import Fraction, Size

FEATURES = (256, 256)


def dense_layers(
    inputs: jax.Array, features: tuple[int, ...], activation: str, dropout: float, *, train: bool
) -> jax.Array:
    """[batch, width] through layers dense0, dense1, … of the module that calls, each with activation and dropout."""
    x = inputs
    for i, width in enumerate(features):
        x = nn.Dense(width, kernel_init=hidden_init(activation), name=f"dense{i}")(x)
        x = ACTIVATIONS[activation](x)
        x = as_block(nn.Dropout(dropout, deterministic=not train, name=f"dropout{i}")(x))
    return x


class MLP(nn.Module):
    """Dense layers, each with activation and dropout, over the flattened inputs; then a linear head."""

    num_outputs: int
    features: tuple[int, ...]
    activation: str
    dropout: float

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        flat = inputs.reshape(inputs.shape[0], -1)
        x = dense_layers(flat, self.features, self.activation, self.dropout, train=train)
        return nn.Dense(self.num_outputs, name="head")(x)


def mlp(
    num_outputs: int,
    *,
    features: tuple[Size, ...] = FEATURES,
    activation: Activation = "relu",
    dropout: Fraction = 0.5,
) -> nn.Module:
    """A multilayer perceptron over inputs [batch, …], which it flattens.

    Args:
      num_outputs: outputs of the head.
      features: units of the hidden layers; () is a linear model.
      activation: after every hidden layer.
      dropout: share of hidden units dropped in training (Srivastava et al. 2014 advise 0.5).
    """
    return MLP(num_outputs, tuple(features), activation, dropout)
