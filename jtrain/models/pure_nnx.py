"""NNX modules as pure functions; apart from the others, since importing NNX takes time."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jtrain.errors import ConfigError
from jtrain.models.pure import Model, Tree, named, train_arguments, updated


def from_nnx(module: nnx.Module | Callable[..., nnx.Module]) -> Model:
    """A `Model` from an NNX module or a factory `f(rngs=nnx.Rngs(…))` of one.

    A factory (a module class is one) is called in `init`, with its parameters drawn from `key`. A
    finished module cannot be drawn again: `init` copies the values that it holds and `key` has no
    effect. The module itself is never changed. Its random streams are reseeded from `key` at every
    `apply`; `train` sets `.train()` or `.eval()`, and reaches `__call__` as in `jtrain.models.pure.from_linen`.

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
    accepted = train_arguments(type(abstract).__call__)
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
        return outputs, updated(model_state, _string_keys(nnx.to_pure_dict(changed)))

    return Model(init, apply)


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
    keys: dict[str, Any] = {tag: named(key, tag) for tag in tags}
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
