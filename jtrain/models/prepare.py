"""A model with what stands between raw data and its layers: scaling, of targets too, whitening and the precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.errors import ConfigError
from jtrain.models.layers import convolve
from jtrain.models.pure import Model, Tree
from jtrain.precision import cast

# Where the model state keeps mean and scale of inputs and outputs, so that they go with the weights.
NORMALIZE, RESCALE = "normalize", "rescale"
# And the filters that whiten inputs, which a torch model would have as a layer of its own, `whiten`.
WHITENING, WHITEN = "whitening", "whiten"
_OWN = (NORMALIZE, RESCALE, WHITENING)
Scaling = tuple[np.ndarray, np.ndarray] | None  # (mean, std), of the last axis or of everything


def prepare(model: Model, inputs: Scaling, outputs: Scaling, dtype: Any, whitening: np.ndarray | None = None) -> Model:
    """The model on raw inputs: (inputs - mean) / std, filtered, in float32; then parameters and inputs in `dtype`.

    Mean, 1 / std and filters are part of the model state: a checkpoint holds what its weights were trained with, and
    nothing trains them.
    Outputs are float32. Without `inputs`, uint8 inputs become floats and other integers (tokens) stay.

    Args:
      model: sees prepared inputs.
      inputs: mean and std of the last axis of the inputs, [channels], std above 0; None: no normalising.
      outputs: mean and std by which outputs are brought into the unit of the targets, [] or of the last axis; None: as
        they are.
      dtype: what the model computes in.
      whitening: filters [size, size, channels, features], from `jtrain.models.whitening`, that images go through; the
        model sees maps of as many features, smaller by size - 1. None: the images themselves.

    Raises:
      ConfigError: at `init`, what the model raises; where there are filters, it tells what they leave of the images.
    """

    def look(inputs: jax.Array, state: Tree) -> jax.Array:
        if NORMALIZE in state:
            own = state[NORMALIZE]
            inputs = (inputs.astype(jnp.float32) - _wide(own, "mean", inputs)) * _wide(own, "scale", inputs)
        elif inputs.dtype == jnp.uint8:
            inputs = inputs.astype(jnp.float32)
        if WHITENING in state:
            # Not in `dtype`: the filters magnify small differences, which bfloat16 does not have.
            kernel = state[WHITENING][WHITEN]["kernel"]
            inputs = convolve(inputs.astype(jnp.float32), kernel, (1, 1), ((0, 0), (0, 0)))
        return cast(inputs, dtype)

    def init(key: jax.Array, sample: jax.Array) -> tuple[Tree, Tree]:
        own: Tree = {}
        if inputs is not None:
            own[NORMALIZE] = {"mean": _float(inputs[0]), "scale": _float(1.0 / inputs[1])}
        if whitening is not None:
            own[WHITENING] = {WHITEN: {"kernel": _float(whitening)}}
        if outputs is not None:
            own[RESCALE] = {"mean": _float(outputs[0]), "scale": _float(outputs[1])}
        seen = cast(look(sample, own), jnp.float32)
        try:
            params, state = model.init(key, seen)
        except ConfigError as error:
            if whitening is None:
                raise
            # The model tells of the shape that it gets, which is not that of the data.
            raise ConfigError(
                f"{error}; the model gets {list(seen.shape[1:])}, which data.whiten = {len(whitening)} makes of images "
                f"{list(sample.shape[1:])}; data.whiten = 0 leaves them as they are"
            ) from error
        return params, own | state

    def apply(
        params: Tree, model_state: Tree, inputs: jax.Array, *, key: jax.Array | None, train: bool
    ) -> tuple[Any, Tree]:
        own = {name: model_state[name] for name in model_state if name in _OWN}
        rest = {name: model_state[name] for name in model_state if name not in own}
        found, rest = model.apply(cast(params, dtype), rest, look(inputs, model_state), key=key, train=train)
        found = cast(found, jnp.float32)
        if RESCALE in own:
            found = found * _wide(own[RESCALE], "scale", found) + _wide(own[RESCALE], "mean", found)
        return found, own | rest

    return Model(init, apply)


def _float(values: np.ndarray) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def _wide(scaling: Tree, name: str, like: jax.Array) -> jax.Array:
    """Mean or scale with as many axes as `like`."""
    values = scaling[name]
    return values.reshape((1,) * (like.ndim - values.ndim) + values.shape)


def carries(model_state: Tree) -> bool:
    """Whether the model itself carries anything beside its parameters, such as running statistics."""
    return any(name not in _OWN for name in model_state)
