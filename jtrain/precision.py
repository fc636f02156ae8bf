"""Precision policies: parameters stay float32, what the model computes in may be narrower."""

from typing import Any

import jax
import jax.numpy as jnp

PRECISIONS: dict[str, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floating-point leaves in `dtype`; integers and keys stay."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
