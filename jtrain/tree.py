"""Nested dicts of arrays by path ('block1/conv/kernel'), and ordered (pattern, value) rules."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jtrain.errors import ConfigError

Tree = Any  # a nested dict whose leaves are arrays


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """{'a/b': leaf} of a nested dict, in sorted order; empty dicts are left out."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key in sorted(tree, key=str):
        path = f"{prefix}/{key}" if prefix else str(key)
        flat |= flatten(tree[key], path)
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of a flat one: the reverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_with_path(function: Callable[[str, Any], Any], tree: Tree, prefix: str = "") -> Tree:
    """The same nested dict with every leaf replaced by `function(path, leaf)`."""
    if isinstance(tree, Mapping):
        return {k: map_with_path(function, v, f"{prefix}/{k}" if prefix else str(k)) for k, v in tree.items()}
    return function(prefix, tree)


def split(tree: Tree, paths: set[str]) -> tuple[Tree, Tree]:
    """(leaves at `paths`, all other leaves), both as nested dicts."""
    flat = flatten(tree)
    chosen = {p: leaf for p, leaf in flat.items() if p in paths}
    others = {p: leaf for p, leaf in flat.items() if p not in paths}
    return unflatten(chosen), unflatten(others)


def merge(one: Tree, other: Tree) -> Tree:
    """The nested dict that holds the leaves of both."""
    return unflatten(dict(sorted((flatten(one) | flatten(other)).items())))


def first_match(rules: Sequence[tuple[str, Any]], paths: Sequence[str], key: str) -> dict[str, int]:
    """For every path the number of the first rule whose pattern matches all of it.

    Raises:
      ConfigError: naming `key`, for a pattern that is not a regular expression, a path that no
        rule matches, or a rule that is the first match of no path.
    """
    compiled = []
    for pattern, _ in rules:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ConfigError(f"{key}: {pattern!r} is not a regular expression: {error}") from error
    labels = {}
    for path in paths:
        label = next((i for i, rule in enumerate(compiled) if rule.fullmatch(path)), None)
        if label is None:
            raise ConfigError(f"{key}: no pattern matches parameter {path!r}; end with ('.*', …) to catch the rest")
        labels[path] = label
    for i, (pattern, _) in enumerate(rules):
        if i not in labels.values():
            earlier = any(compiled[i].fullmatch(p) for p in paths)
            why = "earlier patterns take all that it matches" if earlier else f"parameters are {_some(paths)}"
            raise ConfigError(f"{key}: pattern {pattern!r} matches no parameter; {why}")
    return labels


def _some(paths: Sequence[str], limit: int = 6) -> str:
    return ", ".join(paths[:limit]) + (f", … ({len(paths)} in all)" if len(paths) > limit else "")
