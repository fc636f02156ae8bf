"""Recurrent networks, LSTM and GRU, over tokens or over sequences of values."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jtrain.errors import ConfigError
from jtrain.models.initializers import Initializer
from jtrain.table import Fraction, Natural, Size

Carry = tuple[jax.Array, ...]  # the hidden values come first; each [batch, hidden]
Cell = Callable[[Carry, jax.Array], Carry]


def per_gate(draw: Initializer, gates: int) -> Initializer:
    """Draws [in, gates × out] as kernels [in, out] side by side, each by `draw` with fans of its own."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        own = (shape[0], shape[1] // gates)
        kernels = jax.vmap(lambda gate_key: draw(gate_key, own, dtype))(jax.random.split(key, gates))
        return kernels.transpose(1, 0, 2).reshape(shape)

    return init


def lstm_step(carry: Carry, gates: jax.Array) -> Carry:
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c') (Hochreiter & Schmidhuber 1997, with Gers et al. 2000's f).

    Args:
      carry: h and c, [batch, hidden] each.
      gates: i, f, g, o side by side, [batch, 4 × hidden], before their activations.
    """
    hidden, cell = carry
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    # A sum over the whole sequence: in float32 whatever the model computes in, or small terms are lost.
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(hidden.dtype), cell


def gru_step(carry: Carry, of_inputs: jax.Array, of_hidden: jax.Array) -> Carry:
    """h' = (1 − z) n + z h with n = tanh(n_x + r n_h), torch's form of Cho et al. 2014.

    Args:
      carry: h alone, [batch, hidden].
      of_inputs: r, z, n side by side, [batch, 3 × hidden], as the inputs make them.
      of_hidden: as h makes them; the sum of both stands under the activations of r and z.
    """
    (hidden,) = carry
    r_x, z_x, n_x = jnp.split(of_inputs, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(of_hidden, 3, axis=-1)
    r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
    return ((1 - z) * jnp.tanh(n_x + r * n_h) + z * hidden,)


def scan_time(
    cell: Cell, kernel: jax.Array, bias: jax.Array, inputs: jax.Array, start: Carry, *, ahead: bool
) -> jax.Array:
    """The hidden values after each step, [time, batch, hidden].

    Args:
      cell: of the carry and a step's inputs times `kernel`, plus `bias`.
      kernel: [features, gates × hidden].
      bias: [gates × hidden].
      inputs: [time, batch, features].
      start: the carry before the first step.
      ahead: whether one product over all steps runs before the loop, or one in each.
    """

    def projected(x: jax.Array) -> jax.Array:
        return x @ kernel + bias.reshape((1,) * (x.ndim - 1) + bias.shape)

    def step(carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        carry = cell(carry, x if ahead else projected(x))
        return carry, carry[0]

    return jax.lax.scan(step, start, projected(inputs) if ahead else inputs)[1]


def projects_ahead() -> bool:
    """Whether one product makes the gates of all steps from the inputs, before the loop over them."""
    # An accelerator waits for the launches of each step, so that a product less in it is time gained. A CPU
    # waits for memory: writing and reading [time, batch, 4 × hidden] makes a training step 1.2 times slower.
    return jax.default_backend() != "cpu"


class Kernel(nn.Module):
    """The parameter `kernel` [in, gates × hidden] alone."""

    gates: int
    hidden: int
    draw: Initializer

    @nn.compact
    def __call__(self, width: int) -> jax.Array:
        return self.param("kernel", per_gate(self.draw, self.gates), (width, self.gates * self.hidden), jnp.float32)


class GRURecurrent(nn.Module):
    """The parameters that meet a GRU's hidden values: `kernel` [hidden, 3 × hidden] and `bias` [hidden] of n."""

    hidden: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        draw = per_gate(nn.initializers.orthogonal(), 3)
        kernel = self.param("kernel", draw, (self.hidden, 3 * self.hidden), jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros_init(), (self.hidden,), jnp.float32)


class LSTMLayer(nn.Module):
    """[time, batch, features] → [time, batch, hidden]; gates in torch's order i, f, g, o.

    Parameters: input/kernel [features, 4 × hidden], recurrent/kernel [hidden, 4 × hidden] and bias
    [4 × hidden], which is the sum of torch's two. It starts at 1 for f, so that the cell remembers (Jozefowicz
    et al. 2015), and at 0 for the others.
    """

    hidden: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        kernel = Kernel(4, self.hidden, nn.initializers.glorot_uniform(), name="input")(inputs.shape[-1])
        recurrent = Kernel(4, self.hidden, nn.initializers.orthogonal(), name="recurrent")(self.hidden)
        bias = self.param("bias", self._bias, (4 * self.hidden,))

        def cell(carry: Carry, of_inputs: jax.Array) -> Carry:
            return lstm_step(carry, of_inputs + carry[0] @ recurrent)

        shape = (inputs.shape[1], self.hidden)
        start = (jnp.zeros(shape, jnp.result_type(inputs, kernel)), jnp.zeros(shape, jnp.float32))
        return scan_time(cell, kernel, bias, inputs, start, ahead=projects_ahead())

    def _bias(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jnp.zeros(shape, jnp.float32).at[self.hidden : 2 * self.hidden].set(1.0)


class GRULayer(nn.Module):
    """[time, batch, features] → [time, batch, hidden]; gates in torch's order r, z, n.

    Parameters: input/kernel [features, 3 × hidden], recurrent/kernel [hidden, 3 × hidden], bias [3 × hidden],
    which is the sum of torch's two but for n, and recurrent/bias [hidden], torch's b_hn, which r multiplies.
    """

    hidden: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        kernel = Kernel(3, self.hidden, nn.initializers.glorot_uniform(), name="input")(inputs.shape[-1])
        recurrent, inner = GRURecurrent(self.hidden, name="recurrent")()
        bias = self.param("bias", nn.initializers.zeros_init(), (3 * self.hidden,), jnp.float32)
        # Only n needs a bias of its own on this side; those of r and z would add to `bias`.
        whole = jnp.pad(inner, (2 * self.hidden, 0))

        def cell(carry: Carry, of_inputs: jax.Array) -> Carry:
            return gru_step(carry, of_inputs, carry[0] @ recurrent + whole[None, :])

        start = (jnp.zeros((inputs.shape[1], self.hidden), jnp.result_type(inputs, kernel)),)
        return scan_time(cell, kernel, bias, inputs, start, ahead=projects_ahead())


LAYERS: dict[str, Callable[..., nn.Module]] = {"lstm": LSTMLayer, "gru": GRULayer}


class Recurrent(nn.Module):
    """Embedding (of tokens alone), recurrent layers with dropout before each, dropout, head."""

    cell: str
    num_outputs: int
    vocabulary: int
    embedding: int
    hidden: int
    layers: int
    dropout: float
    output: str

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        tokens = jnp.issubdtype(inputs.dtype, jnp.integer)
        if inputs.ndim != (2 if tokens else 3):
            raise ConfigError(
                f"model.{self.cell}: takes whole numbers [time] or values [time, features], "
                f"got {inputs.dtype} {list(inputs.shape[1:])} an example"
            )
        x = inputs.swapaxes(0, 1)  # time first, as the loop over it wants it
        if tokens:
            x = nn.Embed(self.vocabulary or self.num_outputs, self.embedding, name="embedding")(x)
        # Never inside a layer: a mask on what a step hands to the next would wear memory away
        # (Zaremba et al. 2014, section 3.2).
        for i in range(self.layers):
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{i}")(x)
            x = LAYERS[self.cell](self.hidden, name=f"{self.cell}{i}")(x)
        x = x[-1] if self.output == "last" else x.swapaxes(0, 1)
        x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout{self.layers}")(x)
        return nn.Dense(self.num_outputs, name="head")(x)


def lstm(
    num_outputs: int,
    *,
    vocabulary: Natural = 0,
    embedding: Size = 128,
    hidden: Size = 128,
    layers: Size = 1,
    dropout: Fraction = 0.2,
    output: Literal["sequence", "last"] = "sequence",
) -> nn.Module:
    """An LSTM over tokens, integers [batch, time], or values [batch, time, features].

    A layer has 4 × hidden × (in + hidden + 1) parameters; recurrent kernels start orthogonal gate by gate
    (Saxe et al. 2014), those of inputs by Glorot & Bengio 2010.

    Args:
      num_outputs: outputs of the head at each step.
      vocabulary: how many tokens there are; 0: as many as outputs, for a model of the next token. Outputs of
        a token beyond it are NaN.
      embedding: values a token becomes; values as inputs are taken as they are.
      hidden: units of each layer.
      layers: stacked layers.
      dropout: share of each layer's and of the head's inputs that is dropped in training; nothing is dropped
        between the steps of a layer (Zaremba et al. 2014).
      output: "sequence": [batch, time, num_outputs]; "last": [batch, num_outputs], after the last step.

    Raises:
      ConfigError: when traced, for inputs that are neither.
    """
    return Recurrent("lstm", num_outputs, vocabulary, embedding, hidden, layers, dropout, output)


def gru(
    num_outputs: int,
    *,
    vocabulary: Natural = 0,
    embedding: Size = 128,
    hidden: Size = 128,
    layers: Size = 1,
    dropout: Fraction = 0.2,
    output: Literal["sequence", "last"] = "sequence",
) -> nn.Module:
    """A GRU (Cho et al. 2014, in torch's form) over tokens [batch, time] or values [batch, time, features].

    A layer has 3 × hidden × (in + hidden + 1) + hidden parameters, and starts as an LSTM's does, with all
    biases at 0.

    Args:
      num_outputs: outputs of the head at each step.
      vocabulary: how many tokens there are; 0: as many as outputs, for a model of the next token. Outputs of
        a token beyond it are NaN.
      embedding: values a token becomes; values as inputs are taken as they are.
      hidden: units of each layer.
      layers: stacked layers.
      dropout: share of each layer's and of the head's inputs that is dropped in training; nothing is dropped
        between the steps of a layer (Zaremba et al. 2014).
      output: "sequence": [batch, time, num_outputs]; "last": [batch, num_outputs], after the last step.

    Raises:
      ConfigError: when traced, for inputs that are neither.
    """
    return Recurrent("gru", num_outputs, vocabulary, embedding, hidden, layers, dropout, output)
