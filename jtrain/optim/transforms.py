"""Gradient transformations that optax lacks, or defines otherwise than PyTorch."""

import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jtrain.errors import ConfigError

# Jordan et al., Muon (2024): the quintic whose slope at 0 is steepest; singular values end within 0.7 to 1.2.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ADAM_RMS = 0.2  # the usual root mean square of Adam's directions (Liu et al., 2025, section 2.2)


class SumOfSquares(NamedTuple):
    total: optax.Updates


class CentredMoments(NamedTuple):
    mean: optax.Updates
    square: optax.Updates


class LazyMoments(NamedTuple):
    done: jax.Array  # int32 scalar
    mean: optax.Updates
    square: optax.Updates


class Momentum(NamedTuple):
    trace: optax.Updates


def scale_by_adagrad(*, initial: float, eps: float) -> optax.GradientTransformation:
    """g / (√Σg² + eps), as PyTorch has it; `optax.scale_by_rss` adds eps within the root.

    Args:
      initial: what the sum of squares starts from.
      eps: added to the root.
    """

    def init(params: optax.Params) -> SumOfSquares:
        return SumOfSquares(jax.tree.map(lambda p: jnp.full_like(p, initial), params))

    def update(
        updates: optax.Updates, state: SumOfSquares, params: optax.Params | None = None
    ) -> tuple[optax.Updates, SumOfSquares]:
        del params
        total = jax.tree.map(lambda s, g: s + g * g, state.total, updates)
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), updates, total), SumOfSquares(total)

    return optax.GradientTransformation(init, update)


def scale_by_centred_rms(*, alpha: float, eps: float) -> optax.GradientTransformation:
    """g / (√(E[g²] − E[g]²) + eps), both means of decay `alpha`.

    As `optax.scale_by_stddev` and PyTorch, but for a variance that rounding makes negative (a gradient
    that hardly changes): here it is 0, there the parameter becomes NaN.
    """

    def init(params: optax.Params) -> CentredMoments:
        return CentredMoments(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: CentredMoments, params: optax.Params | None = None
    ) -> tuple[optax.Updates, CentredMoments]:
        del params
        mean = jax.tree.map(lambda m, g: alpha * m + (1 - alpha) * g, state.mean, updates)
        square = jax.tree.map(lambda s, g: alpha * s + (1 - alpha) * g * g, state.square, updates)

        def direction(g: jax.Array, m: jax.Array, s: jax.Array) -> jax.Array:
            return g / (jnp.sqrt(jnp.maximum(s - m * m, 0)) + eps)

        return jax.tree.map(direction, updates, mean, square), CentredMoments(mean, square)

    return optax.GradientTransformation(init, update)


def scale_by_lazy_adam(*, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam for tables of which a batch reads few rows: rows without a gradient keep their moments and their place.

    A row (index of the leading axis) is touched when any entry of its gradient is not 0. As in
    `torch.optim.SparseAdam`, the bias correction counts all updates, not those of the row, and eps is
    added to the root before it is corrected: direction √(1 − b2ᵗ) / (1 − b1ᵗ) · m / (√v + eps).
    """

    def init(params: optax.Params) -> LazyMoments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return LazyMoments(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: LazyMoments, params: optax.Params | None = None
    ) -> tuple[optax.Updates, LazyMoments]:
        del params
        done = state.done + 1
        correction = jnp.sqrt(_one_minus_power(b2, done)) / _one_minus_power(b1, done)
        touched = jax.tree.map(_touched_rows, updates)
        mean = jax.tree.map(
            lambda t, m, g: jnp.where(t, b1 * m + (1 - b1) * g, m), touched, state.mean, updates
        )  # fmt: skip
        square = jax.tree.map(
            lambda t, s, g: jnp.where(t, b2 * s + (1 - b2) * g * g, s), touched, state.square, updates
        )  # fmt: skip
        directions = jax.tree.map(
            lambda t, m, s: jnp.where(t, correction * m / (jnp.sqrt(s) + eps), 0), touched, mean, square
        )
        return directions, LazyMoments(done, mean, square)

    return optax.GradientTransformation(init, update)


def scale_by_muon(
    *, momentum: float, nesterov: bool, steps: int, adjust: Literal["original", "match_rms_adamw"]
) -> optax.GradientTransformation:
    """Momentum whose singular values are made about 1, for leaves of two axes or more.

    The last axis of a leaf is its output, all others together its input: the kernel of a convolution
    [height, width, in, out] is the matrix [height · width · in, out].
    As `torch.optim.Muon` (which computes in bfloat16); `optax.contrib.scale_by_muon` corrects the two terms of
    Nesterov's momentum for bias apart, so its first directions are others.
    Source: Jordan et al., Muon: An optimizer for hidden layers (2024).

    Args:
      momentum: v ← momentum · v + gradient.
      nesterov: orthogonalise gradient + momentum · v instead of v.
      steps: of the Newton-Schulz iteration.
      adjust: original multiplies by √max(1, out / in); match_rms_adamw by 0.2 · √max(in, out), which makes
        directions as large as Adam's, so that both can share an lr (Liu et al., 2025).
    """

    def init(params: optax.Params) -> Momentum:
        return Momentum(jax.tree.map(jnp.zeros_like, params))

    def direction(g: jax.Array, v: jax.Array) -> jax.Array:
        matrix = (g + momentum * v if nesterov else v).reshape(-1, g.shape[-1])
        inside, outside = matrix.shape
        factor = math.sqrt(max(1, outside / inside))
        if adjust == "match_rms_adamw":
            factor = _ADAM_RMS * math.sqrt(max(inside, outside))
        return factor * _orthogonalised(matrix, steps).reshape(g.shape)

    def update(
        updates: optax.Updates, state: Momentum, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Momentum]:
        del params
        trace = jax.tree.map(lambda g, v: momentum * v + g, updates, state.trace)
        return jax.tree.map(direction, updates, trace), Momentum(trace)

    return optax.GradientTransformation(init, update)


def where_path(
    chosen: Callable[[str, Any], bool], yes: optax.GradientTransformation, no: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """`yes` for the leaves with chosen(path, leaf), `no` for the others; each keeps state for its own leaves alone."""

    def labels(updates: Any) -> Any:
        # Not tree.map_with_path: leaves of other groups are empty nodes here, and must stay so.
        return jax.tree_util.tree_map_with_path(
            lambda keys, leaf: chosen(jax.tree_util.keystr(keys, simple=True, separator="/"), leaf), updates
        )

    return optax.partition({True: yes, False: no}, labels)


def matcher(patterns: tuple[str, ...], key: str) -> Callable[[str], bool]:
    """path -> whether a pattern matches all of it; raises ConfigError naming `key` for one that is no expression."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ConfigError(f"{key}: {pattern!r} is not a regular expression: {error}") from error
    return lambda path: any(rule.fullmatch(path) for rule in compiled)


def _touched_rows(gradient: jax.Array) -> jax.Array:
    """bool, [rows, 1, …] of the gradient's rank."""
    return jnp.any(gradient != 0, axis=tuple(range(1, gradient.ndim)), keepdims=True)


def _one_minus_power(base: float, count: jax.Array) -> jax.Array:
    """1 − base^count without the cancellation that costs float32 two digits at a base near 1."""
    log = math.log(base) if base else -math.inf
    return -jnp.expm1(count * log)


def _orthogonalised(matrix: jax.Array, steps: int) -> jax.Array:
    """Newton-Schulz iteration on a [in, out] matrix; one of zeros stays so."""
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / jnp.maximum(jnp.linalg.norm(x), 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T
