"""A model with what stands between raw data and its layers: normalising, and the precision it computes in."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.models.pure import Model, Tree
from jtrain.precision import cast

NORMALIZE = "normalize"  # where the model state keeps mean and scale, so that they go with the weights


def prepare(model: Model, mean: np.ndarray | None, std: np.ndarray | None, dtype: Any) -> Model:
    """The model on raw inputs: (inputs - mean) / std in float32, then parameters and inputs in `dtype`.

    Mean and 1 / std are part of the model state: a checkpoint holds what its weights were trained with.
    Outputs are float32. Without a mean, uint8 inputs become floats and other integers (tokens) stay.

    Args:
      model: sees prepared inputs.
      mean: of the last axis of the inputs, [channels]; None: no normalising.
      std: likewise, above 0.
      dtype: what the model computes in.
    """

    def look(inputs: jax.Array, state: Tree) -> jax.Array:
        if NORMALIZE in state:
            shape = (1,) * (inputs.ndim - 1) + state[NORMALIZE]["mean"].shape
            offset, scale = (state[NORMALIZE][name].reshape(shape) for name in ("mean", "scale"))
            inputs = (inputs.astype(jnp.float32) - offset) * scale
        elif inputs.dtype == jnp.uint8:
            inputs = inputs.astype(jnp.float32)
        return cast(inputs, dtype)

    def init(key: jax.Array, inputs: jax.Array) -> tuple[Tree, Tree]:
        own: Tree = {}
        if mean is not None and std is not None:
            own[NORMALIZE] = {"mean": jnp.asarray(mean, jnp.float32), "scale": jnp.asarray(1.0 / std, jnp.float32)}
        params, state = model.init(key, cast(look(inputs, own), jnp.float32))
        return params, own | state

    def apply(
        params: Tree, model_state: Tree, inputs: jax.Array, *, key: jax.Array | None, train: bool
    ) -> tuple[Any, Tree]:
        own = {name: model_state[name] for name in model_state if name == NORMALIZE}
        rest = {name: model_state[name] for name in model_state if name != NORMALIZE}
        outputs, rest = model.apply(cast(params, dtype), rest, look(inputs, model_state), key=key, train=train)
        return cast(outputs, jnp.float32), own | rest

    return Model(init, apply)
