"""What the backward pass keeps of the forward pass, and what it computes again."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["none", "cheap", "blocks"]

BLOCK, GATHERED = "block", "gathered"
CONSTRAINT = "sharding_constraint"
_PRODUCTS = ("dot_general", "conv_general_dilated")


def as_block(values: jax.Array) -> jax.Array:
    """Marks what comes out of a block of a model: `train.remat = "blocks"` keeps that and nothing else."""
    return checkpoint_name(values, BLOCK)


def as_gathered(values: jax.Array) -> jax.Array:
    """Marks a parameter made whole from the parts of several devices: never kept for the backward pass."""
    return checkpoint_name(values, GATHERED)


def after(values: Any, gradient: jax.Array) -> Any:
    """`values`, which on CPU are not there before `gradient` is.

    What is computed from them again waits for its turn in the backward pass. Elsewhere the barrier of `jax.checkpoint`
    sees to that. On CPU barriers are taken down before operations are put in order, and XLA then computes all blocks
    again at once: 15 residual blocks took 132 MiB, 118 without any of this, and 33 with it (jax 0.10).
    """
    leaves, form = jax.tree.flatten(values)

    def held(leaves: list[jax.Array], gradient: jax.Array) -> list[jax.Array]:
        first = gradient[(0,) * gradient.ndim].astype(jnp.float32)
        return branched(lambda leaves: leaves, first, leaves)

    found = jax.lax.platform_dependent(leaves, gradient, cpu=held, default=lambda leaves, _: leaves)
    return jax.tree.unflatten(form, found)


def branched(function: Callable[..., Any], number: jax.Array, *operands: Any) -> Any:
    """function(*operands) in a branch that is always taken; as the compiler does not know that, it can neither merge
    what is inside with what is outside, nor compute it before `number`, a float32 scalar, is there."""
    shapes = jax.eval_shape(function, *operands)

    def zeros(*_: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    bits = jax.lax.bitcast_convert_type(number, jnp.uint32)
    return jax.lax.cond((bits >> 1) != jnp.uint32(2**32 - 1), function, zeros, *operands)


def make_remat(kind: Remat, *, gathers: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`remat(function) -> function` of the same values and gradients, whose backward pass keeps less.

    Args:
      kind: "none" keeps what it needs; "cheap" the results of convolutions and matrix products, and computes the rest
        again (norms, activations, dropout); "blocks" keeps what `as_block` marks, and computes all between it again.
      gathers: parameters are cut over devices: the backward pass gathers them again.
    """
    if kind == "none" and not gathers:
        return lambda function: function
    policies = {"none": _all_but_gathered, "cheap": _products, "blocks": _blocks}
    return lambda function: jax.checkpoint(function, policy=policies[kind])


# A policy is asked of every operation whether its result is kept.
_blocks = jax.checkpoint_policies.save_only_these_names(BLOCK)


def _products(operation: Any, *inputs: Any, **options: Any) -> bool:
    return operation.name in _PRODUCTS


def _all_but_gathered(operation: Any, *inputs: Any, **options: Any) -> bool:
    """Not jax's `save_anything_except_these_names`, which keeps everything (jax 0.10)."""
    if operation.name == "name":
        return options["name"] != GATHERED
    # What is marked is also the result of the constraint before the mark, and of the function around that.
    inside = getattr(options.get("call_jaxpr"), "eqns", ())
    return operation.name != CONSTRAINT and [step.primitive.name for step in inside] != [CONSTRAINT]
