"""Flax modules, Linen or NNX, as pure functions over plain nested dicts of arrays."""

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

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
    if isinstance(thing, nnx.Module) or callable(thing):
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
    accepted = _train_arguments(type(module).__call__)

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
        rngs = None if key is None else {"dropout": key, "params": _named(key, "params")}
        if not (train and model_state):
            return module.apply(variables, inputs, rngs=rngs, mutable=False, **accepted(train)), model_state
        outputs, changed = module.apply(variables, inputs, rngs=rngs, mutable=sorted(model_state), **accepted(train))
        return outputs, _updated(model_state, _plain(nn.unbox(changed)))

    return Model(init, apply)


def from_nnx(module: nnx.Module | Callable[..., nnx.Module]) -> Model:
    """A `Model` from an NNX module or a factory `f(rngs=nnx.Rngs(…))` of one.

    A factory (a module class is one) is called in `init`, with its parameters drawn from `key`. A
    finished module cannot be drawn again: `init` copies the values that it holds and `key` has no
    effect. The module itself is never changed. Its random streams are reseeded from `key` at every
    `apply`; `train` sets `.train()` or `.eval()`, and reaches `__call__` as in `from_linen`.

    Raises:
      ConfigError: if the factory does not take `rngs`, fails, or makes something else.
    """
    given = module if isinstance(module, nnx.Module) else None
    if given is not None:
        abstract = nnx.clone(given)
        nnx.pop(abstract, nnx.Intermediate)
    else:
        abstract = _abstract(module)
    # No Variable may cross a trace: only this structure is kept, and each trace fills a copy of it.
    graphdef, *forms = nnx.split(abstract, nnx.Param, nnx.RngState, ...)
    params_form, rng_form, rest_form = forms
    accepted = _train_arguments(type(abstract).__call__)
    held = (_string_keys(nnx.to_pure_dict(params_form)), _string_keys(nnx.to_pure_dict(rest_form)))

    def init(key: jax.Array, inputs: jax.Array) -> tuple[Tree, Tree]:
        if given is not None:
            return jax.tree.map(jnp.array, held)  # copies, which the caller may donate
        made = module(rngs=nnx.Rngs(key))
        _, *states = nnx.split(made, nnx.Param, nnx.RngState, ...)
        params, _, rest = states
        return _string_keys(nnx.to_pure_dict(params)), _string_keys(nnx.to_pure_dict(rest))

    def apply(
        params: Tree, model_state: Tree, inputs: jax.Array, *, key: jax.Array | None, train: bool
    ) -> tuple[Any, Tree]:
        rng = jax.tree.map(_blank, rng_form)
        merged = nnx.merge(graphdef, _filled(params_form, params), rng, _filled(rest_form, model_state))
        _reseed(merged, jax.random.key(0) if key is None else key)
        merged.train() if train else merged.eval()
        outputs = merged(inputs, **accepted(train))
        if not (train and model_state):
            return outputs, model_state
        changed = nnx.state(merged, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))
        return outputs, _updated(model_state, _string_keys(nnx.to_pure_dict(changed)))

    return Model(init, apply)


def _train_arguments(call: Callable[..., Any]) -> Callable[[bool], dict[str, Any]]:
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


def _abstract(factory: Callable[..., Any]) -> nnx.Module:
    def make() -> nnx.Module:
        made = factory(rngs=nnx.Rngs(0))
        if not isinstance(made, nnx.Module):
            raise TypeError(f"it makes no nnx.Module, but {type(made).__name__}")
        return made

    try:
        return nnx.eval_shape(make)
    except Exception as error:  # whatever a factory of a user raises
        name = getattr(factory, "__name__", type(factory).__name__)
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"model: {name}(rngs=nnx.Rngs(0)) fails: {type(error).__name__}: {reason}") from error


def _reseed(module: nnx.Module, key: jax.Array) -> None:
    streams = (node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream))
    tags = {stream.tag for stream in streams}
    keys: dict[str, Any] = {tag: _named(key, tag) for tag in tags}
    nnx.reseed(module, policy="match_shape", **keys)


def _blank(leaf: Any) -> jax.Array:
    """A concrete value for an abstract part of a random stream, which `_reseed` overwrites."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), leaf.shape) if leaf.shape else jax.random.key(0)
    return jnp.zeros(leaf.shape, leaf.dtype)


def _filled(form: Any, values: Tree) -> Any:
    """A copy of an NNX state that holds `values`, whose keys are strings."""
    copy = jax.tree.map(lambda leaf: leaf, form)
    nnx.replace_by_pure_dict(copy, _own_keys(nnx.to_pure_dict(form), values))
    return copy


def _string_keys(tree: Tree) -> Tree:
    if not isinstance(tree, Mapping):
        return tree
    return {str(key): _string_keys(value) for key, value in tree.items()}


def _own_keys(form: Tree, values: Tree) -> Tree:
    """`values` with the keys of `form`, where a list's are integers."""
    if not isinstance(form, Mapping):
        return values
    return {key: _own_keys(inner, values[str(key)]) for key, inner in form.items()}


def _updated(old: Tree, new: Tree) -> Tree:
    """The leaves of `new` that `old` has, in the dtypes of `old`, so that the state keeps its form."""
    fresh = flatten(new)
    return unflatten({path: jnp.asarray(fresh[path], leaf.dtype) for path, leaf in flatten(old).items()})


def _plain(tree: Any) -> Tree:
    """The tree as dicts alone, without empty ones."""
    return unflatten(flatten(tree))


def _is_sown(tree: Any) -> bool:
    return any(isinstance(leaf, tuple) for leaf in flatten(tree).values())


def _named(key: jax.Array, name: str) -> jax.Array:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
