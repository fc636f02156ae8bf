"""Flax modules, Linen or NNX, as pure functions over plain nested dicts of arrays."""

import dataclasses
import inspect
import sys
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jtrain.errors import ConfigError
from jtrain.tree import flatten, unflatten

Tree = Any  # a nested dict whose leaves are arrays


@dataclasses.dataclass(frozen=True)
class Model:
    """A model without hidden state; everything it needs goes in, everything it changes comes out.

    Attributes:
      init: `init(key, inputs) -> (params, model_state)`; `key` a typed key, `inputs` an example
        batch of which only shape and dtype matter.
      apply: `apply(params, model_state, inputs, *, key, train) -> (outputs, model_state)`; `key`
        feeds dropout and the like and may be None when `train` is False, where `model_state` comes
        back as it was.

    Both trees are nested dicts with string keys ('block1' → 'conv' → 'kernel'); `model_state` is {}
    for a model that carries nothing beside its parameters.
    """

    init: Callable[[jax.Array, jax.Array], tuple[Tree, Tree]]
    apply: Callable[..., tuple[Any, Tree]]


def as_model(thing: Any) -> Model:
    """A `Model` from a Model, a Linen module, an NNX module, or a factory `f(rngs=…)` of an NNX module.

    Raises:
      ConfigError: for anything else.
    """
    if isinstance(thing, Model):
        return thing
    if isinstance(thing, nn.Module):
        return from_linen(thing)
    if isinstance(thing, type) and issubclass(thing, nn.Module):
        raise ConfigError(f"model: {thing.__name__} is a Linen class; give an instance, {thing.__name__}(…)")
    nnx = sys.modules.get("flax.nnx")  # where it was not imported, nothing is of it
    if (nnx is not None and isinstance(thing, nnx.Module)) or callable(thing):
        from jtrain.models.pure_nnx import from_nnx

        return from_nnx(thing)
    raise ConfigError(
        f"model: {type(thing).__name__} is no model; give a jtrain Model, a Flax module, or a function of "
        "`rngs` that makes an nnx.Module"
    )


def from_linen(module: nn.Module) -> Model:
    """A `Model` from a Linen module.

    `train` reaches the module under every name of its `__call__` among train, training, is_training
    and deterministic (negated). All collections but 'params' are the model state, which training
    alone may change; what the module sows is dropped.
    """
    accepted = train_arguments(type(module).__call__)

    def init(key: jax.Array, inputs: jax.Array) -> tuple[Tree, Tree]:
        variables = nn.unbox(module.init({"params": key}, inputs, **accepted(False)))
        # Sown values are tuples that grow by one a call: no state.
        state = {name: tree for name, tree in variables.items() if name != "params" and not _is_sown(tree)}
        return _plain(variables.get("params", {})), _plain(state)

    def apply(
        params: Tree, model_state: Tree, inputs: jax.Array, *, key: jax.Array | None, train: bool
    ) -> tuple[Any, Tree]:
        variables = {"params": params, **model_state}
        # Linen draws any other stream (`make_rng("noise")`) from "params".
        rngs = None if key is None else {"dropout": key, "params": named(key, "params")}
        if not (train and model_state):
            return module.apply(variables, inputs, rngs=rngs, mutable=False, **accepted(train)), model_state
        outputs, changed = module.apply(variables, inputs, rngs=rngs, mutable=sorted(model_state), **accepted(train))
        return outputs, updated(model_state, _plain(nn.unbox(changed)))

    return Model(init, apply)


def train_arguments(call: Callable[..., Any]) -> Callable[[bool], dict[str, Any]]:
    """A function of `train` that gives the keyword arguments by which `call` wants to know it."""
    names = {
        name
        for name, parameter in inspect.signature(call).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }

    def arguments(train: bool) -> dict[str, Any]:
        values = {"train": train, "training": train, "is_training": train, "deterministic": not train}
        return {name: value for name, value in values.items() if name in names}

    return arguments


def updated(old: Tree, new: Tree) -> Tree:
    """The leaves of `new` that `old` has, in the dtypes of `old`, so that the state keeps its form."""
    fresh = flatten(new)
    return unflatten({path: jnp.asarray(fresh[path], leaf.dtype) for path, leaf in flatten(old).items()})


def _plain(tree: Any) -> Tree:
    """The tree as dicts alone, without empty ones."""
    return unflatten(flatten(tree))


def _is_sown(tree: Any) -> bool:
    return any(isinstance(leaf, tuple) for leaf in flatten(tree).values())


def named(key: jax.Array, name: str) -> jax.Array:
    """A key of its own for the stream `name`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
