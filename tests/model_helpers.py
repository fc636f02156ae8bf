"""Parameters of models without compiling `init`, by shapes alone."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.models.pure import as_model
from jtrain.tree import flatten, map_with_path

KEY = jax.random.key(0)


def normal(seed, shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


def shapes(module, shape, dtype=jnp.float32):
    return jax.eval_shape(as_model(module).init, KEY, jax.ShapeDtypeStruct((1, *shape), dtype))


def size(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def golden_value(path, leaf):  # as in tests/golden/make_resnet18.py
    noise = np.random.RandomState(zlib.crc32(path.encode())).standard_normal(leaf.shape)
    if path.endswith("kernel"):
        noise = noise * np.sqrt(2.0 / np.prod(leaf.shape[:-1]))
    else:
        noise = 0.1 * noise + (1.0 if path.endswith("scale") else 0.0)
    return jnp.asarray(noise, jnp.float32)


def drawn(module, shape, dtype=jnp.float32):
    """Values of `golden_value`, and statistics of mean 0 and variance 1."""
    params, state = shapes(module, shape, dtype)
    state = map_with_path(lambda path, leaf: jnp.full(leaf.shape, float(path.endswith("var")), jnp.float32), state)
    return map_with_path(golden_value, params), state


def applied(model, train):
    return jax.jit(functools.partial(model.apply, train=train))
