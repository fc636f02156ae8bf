"""All that training carries from one update to the next, as one pytree."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of a run. All fields are always there; unused ones are empty dicts.

    Attributes:
      step: updates done, int32 scalar.
      params: float32 parameters, nested dict.
      model_state: what the model carries beside them (running statistics), nested dict.
      opt_state: state of the optax chain, over trainable parameters alone.
      key: raw key data, uint32 [2]; it never advances: a step uses fold_in(key, step).
      lr_scale: float32 scalar that multiplies the finished updates.
      ema: averaged parameters, nested dict.
      extra: what an option needs beside (by name).
    """

    step: jax.Array
    params: Tree
    model_state: Tree
    opt_state: Tree
    key: jax.Array
    lr_scale: jax.Array
    ema: Tree
    extra: Tree


def new_state(
    params: Tree, model_state: Tree, opt_state: Tree, *, key: Any, lr_scale: float, ema: bool, extra: Tree
) -> TrainState:
    """A state at step 0 with the key of data `key`, uint32 [2]; `ema` keeps an average beside the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=opt_state,
        key=jnp.asarray(key, jnp.uint32),
        lr_scale=jnp.asarray(lr_scale, jnp.float32),
        ema=jax.tree.map(jnp.copy, params) if ema else {},  # a copy: a buffer cannot be donated twice
        extra=extra,
    )


def eval_params(state: TrainState) -> Tree:
    """The parameters that predictions are made with: the averaged ones where there are any."""
    return state.ema or state.params


def to_flat(state: TrainState) -> dict[str, Any]:
    """{'params/conv/kernel': leaf}: the state as a checkpoint holds it, whatever its containers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {_path(keys): leaf for keys, leaf in leaves}


def from_flat(flat: Mapping[str, Any], like: TrainState) -> TrainState:
    """The state with the containers of `like` and the leaves of `flat` (same paths as `to_flat`)."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree_util.tree_unflatten(structure, [flat[_path(keys)] for keys, _ in leaves])


def count(params: Tree) -> int:
    """Number of parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def _path(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")
