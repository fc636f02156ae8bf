"""How parameters are drawn: initializers by name, and redrawing those of any model."""

import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jtrain.errors import ConfigError
from jtrain.table import NonNegative, Positive
from jtrain.tree import flatten, unflatten

Tree = Any  # a nested dict whose leaves are arrays
Initializer = Callable[..., jax.Array]  # (key, shape, dtype) -> array

KERNELS = (r"(.*/)?kernel",)


def model() -> None:
    """Keeps the values that the model draws itself."""


def kaiming_normal(*, gain: Positive = 1.0) -> Initializer:
    """Normal with variance gain² · 2 / fan_in, for ReLU (He et al. 2015, equation 10)."""
    return _scaled(2.0 * gain**2, "fan_in", "normal")


def kaiming_uniform(*, gain: Positive = 1.0) -> Initializer:
    """Uniform with variance gain² · 2 / fan_in, within ±gain √(6 / fan_in) (He et al. 2015, equation 10)."""
    return _scaled(2.0 * gain**2, "fan_in", "uniform")


def xavier_normal(*, gain: Positive = 1.0) -> Initializer:
    """Normal with variance gain² · 2 / (fan_in + fan_out) (Glorot & Bengio 2010, equation 12)."""
    return _scaled(gain**2, "fan_avg", "normal")


def xavier_uniform(*, gain: Positive = 1.0) -> Initializer:
    """Uniform within ±gain √(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, equation 16)."""
    return _scaled(gain**2, "fan_avg", "uniform")


def lecun_normal(*, gain: Positive = 1.0) -> Initializer:
    """Normal with variance gain² / fan_in (LeCun et al. 1998, section 4.6)."""
    return _scaled(gain**2, "fan_in", "normal")


def lecun_uniform(*, gain: Positive = 1.0) -> Initializer:
    """Uniform with variance gain² / fan_in, within ±gain √(3 / fan_in) (LeCun et al. 1998, section 4.6)."""
    return _scaled(gain**2, "fan_in", "uniform")


def orthogonal(*, gain: Positive = 1.0) -> Initializer:
    """gain times a random orthogonal matrix (Saxe et al. 2014), of all axes but the last by the last.

    Its columns, or its rows where it is wider than high, are orthogonal and have length gain.
    """
    return jax.nn.initializers.orthogonal(gain)


def normal(*, std: Positive = 0.01) -> Initializer:
    """Normal with variance std², whatever the fans."""
    return jax.nn.initializers.normal(std)


def truncated_normal(*, std: Positive = 0.02) -> Initializer:
    """Normal of variance std², drawn again beyond ±2 std, as torch's `trunc_normal_`; what is left has 0.774 std²."""
    return jax.nn.initializers.truncated_normal(std)


def dirac(*, rest: NonNegative = 1.0) -> Initializer:
    """The identity as far as it goes: output i repeats input i, in a convolution from the centre of its kernel.

    Outputs beyond the inputs are drawn as by `lecun_uniform`, times `rest` (Jordan 2024, arXiv 2404.00498, section
    3.3); with `rest` 0 all is as `torch.nn.init.dirac_` has it.
    """
    draw_rest = lecun_uniform()

    def draw(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        *sizes, inside, outside = shape
        centre, drawn = np.zeros((*sizes, 1, 1), dtype), np.zeros((1,) * (len(shape) - 1) + (outside,), dtype)
        centre[tuple(size // 2 for size in sizes)] = 1.0
        drawn[..., inside:] = rest
        # By products and sums, which can be computed on the host.
        same = jnp.asarray(centre) * np.eye(inside, outside, dtype=dtype).reshape((1,) * len(sizes) + (inside, outside))
        return same + jnp.asarray(drawn) * draw_rest(key, shape, dtype)

    return draw


INITIALIZERS: dict[str, Callable[..., Initializer | None]] = {
    "model": model,
    "kaiming_normal": kaiming_normal,
    "kaiming_uniform": kaiming_uniform,
    "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "orthogonal": orthogonal,
    "normal": normal,
    "truncated_normal": truncated_normal,
    "dirac": dirac,
}


def reinitialise(
    params: Tree, key: jax.Array, initializer: Initializer | None, patterns: Sequence[str] = KERNELS
) -> Tree:
    """The parameters with every leaf redrawn whose whole path matches one of `patterns`.

    A leaf's key depends on `key` and its path alone, so that another layer more or less leaves it
    as it is. Fans are Flax's: the last two axes are in and out, the others the receptive field.

    Args:
      params: nested dict of arrays.
      key: typed key.
      initializer: `(key, shape, dtype) -> array`; None returns `params`.
      patterns: regular expressions over paths such as 'conv0/kernel'.

    Raises:
      ConfigError: naming `init.params`, for a pattern that is no regular expression or matches
        nothing, or a leaf that the initializer cannot draw (a bias has no fan).
    """
    if initializer is None:
        return params
    flat = flatten(params)
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"init.params: {pattern!r} is not a regular expression: {error}") from error
        matched = {path for path in flat if compiled.fullmatch(path)}
        if not matched:
            shown = ", ".join(list(flat)[:6]) + (f", … ({len(flat)} in all)" if len(flat) > 6 else "")
            raise ConfigError(f"init.params: pattern {pattern!r} matches no parameter; parameters are {shown}")
        chosen |= matched
    return unflatten({p: _draw(key, p, leaf, initializer) if p in chosen else leaf for p, leaf in flat.items()})


def _scaled(
    scale: float, mode: Literal["fan_in", "fan_avg"], distribution: Literal["normal", "uniform"]
) -> Initializer:
    return jax.nn.initializers.variance_scaling(scale, mode, distribution)


def _draw(key: jax.Array, path: str, leaf: jax.Array, initializer: Initializer) -> jax.Array:
    own_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
    try:
        return jnp.asarray(initializer(own_key, leaf.shape, leaf.dtype))
    except ValueError as error:
        raise ConfigError(f"init.params: cannot draw {path!r} of shape {list(leaf.shape)}: {error}") from error
