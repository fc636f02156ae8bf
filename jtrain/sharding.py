"""Which parameters are cut over the devices of the axis `fsdp`, what else is cut alike, and how a step uses them."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtrain.errors import ConfigError
from jtrain.mesh import FSDP, replicated
from jtrain.remat import as_gathered
from jtrain.tree import Tree, flatten, map_with_path

Rules = tuple[tuple[str, int | None], ...]

# Elements. A smaller array takes longer to gather, twice an update, than its copies take room: those of biases and
# norms are a thousandth of a network.
WORTH_CUTTING = 2**12


def check_axes(rules: Any) -> None:
    """Raises ValueError unless `rules` is a tuple of (pattern, axis or None)."""
    for rule in rules:
        if not isinstance(rule, tuple) or len(rule) != 2 or not isinstance(rule[0], str):
            raise ValueError(f"{rule!r} is not a pair of pattern and axis, such as ('.*/kernel', -1)")
        pattern, axis = rule
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
            raise ValueError(f"{pattern!r} needs the number of an axis, or None for whole copies, got {axis!r}")


def cut_parameters(params: Tree, mesh: Mesh, rules: Rules = ()) -> dict[str, NamedSharding]:
    """How each parameter lies on the mesh, by path.

    It follows the first rule whose pattern matches its whole path; without one it is cut along the largest axis that
    the devices of `fsdp` divide (the last of equal ones), if it has at least WORTH_CUTTING elements.

    Args:
      params: abstract or not.
      mesh: with an axis `fsdp`.
      rules: (pattern, axis); an axis below 0 counts from the end, None copies to every device.

    Raises:
      ConfigError: for a pattern that matches no parameter, or an axis that is not there or does not divide.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(params).items()}
    left = set(shapes)
    for pattern, _ in rules:
        found = {path for path in shapes if re.fullmatch(pattern, path)}
        if not found:
            some = ", ".join(list(shapes)[:6])
            raise ConfigError(
                f"mesh.rules: pattern {pattern!r} matches no parameter; it must match whole paths such as {some}"
            )
        if not found & left:
            raise ConfigError(f"mesh.rules: earlier patterns take all that {pattern!r} matches; put it before them")
        left -= found
    return {path: _sharding(path, shape, mesh, rules) for path, shape in shapes.items()}


def cut_alike(leaves: Mapping[str, Any], params: Tree, cut: Mapping[str, NamedSharding]) -> dict[str, NamedSharding]:
    """How each leaf of a state lies on the mesh: as the parameter that it belongs to, else whole on every device.

    It belongs to a parameter whose path ends its own (of several the longest) and whose shape it has: moments,
    averages and the like.

    Args:
      leaves: abstract arrays of the state by path.
      params: abstract parameters.
      cut: from `cut_parameters`.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(params).items()}
    whole = NamedSharding(next(iter(cut.values())).mesh, PartitionSpec())

    def of(path: str, shape: tuple[int, ...]) -> NamedSharding:
        parts = path.split("/")
        endings = ("/".join(parts[i:]) for i in range(len(parts)))
        return next((cut[end] for end in endings if shapes.get(end) == shape), whole)

    return {path: of(path, tuple(leaf.shape)) for path, leaf in leaves.items()}


def make_gather(cut: Mapping[str, NamedSharding]) -> Callable[[Tree], Tree]:
    """`gather(params) -> params` whole on every device, inside a compiled program.

    Their gradients come back cut: a device keeps its part of the sum over all. Both are said to the compiler, as it
    may otherwise cut activations to suit the parameters, and send these about.
    """
    if not any(is_cut(sharding) for sharding in cut.values()):
        return lambda params: params
    whole = {path: _make_whole(sharding) for path, sharding in cut.items() if is_cut(sharding)}
    return lambda params: map_with_path(lambda path, leaf: whole[path](leaf) if path in whole else leaf, params)


def is_cut(sharding: NamedSharding) -> bool:
    """Whether a device holds a part alone."""
    return not sharding.is_fully_replicated


def _sharding(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> NamedSharding:
    parts = mesh.shape[FSDP]
    rule = next((rule for rule in rules if re.fullmatch(rule[0], path)), None)
    if rule is not None:
        axis = rule[1]
        if axis is None:
            return replicated(mesh)
        if not -len(shape) <= axis < len(shape):
            raise ConfigError(f"mesh.rules: {rule!r}: {path} {list(shape)} has no axis {axis}")
        if shape[axis] % parts:
            raise ConfigError(
                f"mesh.rules: {rule!r}: axis {axis} of {path} {list(shape)} does not divide by mesh.fsdp {parts}"
            )
        return _along(axis % len(shape), mesh)
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if not fitting or math.prod(shape) < WORTH_CUTTING:
        return replicated(mesh)
    return _along(max(fitting, key=lambda axis: (shape[axis], axis)), mesh)


def _along(axis: int, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, FSDP))


def _make_whole(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())

    @jax.custom_vjp
    def whole(part: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(part, everywhere)

    whole.defvjp(
        lambda part: (whole(part), None),
        lambda _, gradient: (jax.lax.with_sharding_constraint(gradient, sharding),),
    )
    return lambda part: as_gathered(whole(part))
