"""The weights that a run starts from, fitted to its model; all is checked before any is used."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jtrain.errors import ConfigError, DataError
from jtrain.io.manifest import some
from jtrain.models.prepare import NORMALIZE, RESCALE, WHITENING
from jtrain.models.torch_names import from_torch, is_scaling, outermost, split_path, tensor_names
from jtrain.table import nearest
from jtrain.transfer_report import REINIT, RENAME, Report, mismatch, notes, short, too_little
from jtrain.weights_source import INIT_FROM, Source, read_source


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run starts from, and how that is fitted to it.

    Attributes:
      init_from: see `read_source`; '' starts from nothing.
      rename: (pattern, replacement) over the source's names (a run's without 'params/' and the like, torch's with
        dots); the first pattern that matches all of a name counts.
      reinit: patterns over our own names, such as 'head/.*': what they match stays as it is drawn.
      coverage: share of the numbers in our parameters, but for `reinit`, that must be loaded; 1 asks for all
        statistics too.
      layout: how a file names and lays out its arrays.
    """

    init_from: str = ""
    rename: tuple[tuple[str, str], ...] = ()
    reinit: tuple[str, ...] = ()
    coverage: float = 1.0
    layout: Literal["auto", "flax", "torch"] = "auto"


@dataclasses.dataclass(frozen=True)
class Start:
    """Arrays to start from, by path, in the shapes and types of the state; what is not among them is drawn."""

    arrays: dict[str, np.ndarray]
    report: Report


def start(options: Options, model_name: str, like: Mapping[str, Any], names: int | None = None) -> Start | None:
    """The weights that a run starts from; None where `init_from` is ''.

    Of a run come the parameters that it is evaluated with (averaged ones where there are any), its statistics, and what
    brings its inputs and outputs to scale; but what does so for outputs only if every parameter is loaded too.

    Args:
      options: what to read and how to fit it.
      model_name: as in the config, by which torch's names are known.
      like: abstract arrays of our state by path; only 'params/…' and 'model_state/…' matter.
      names: checksum of the names of our classes, targets or tokens, as in a run's fingerprint; None or 0: unknown.

    Raises:
      ConfigError: an option is wrong or matches nothing, a shape differs, or less than `coverage` is loaded.
      DataError: the source is missing or damaged, or an array of it holds anything but finite floats.
    """
    if not options.init_from:
        return None
    like = {path: leaf for path, leaf in like.items() if path.startswith(("params/", "model_state/"))}
    fresh = _reinitialised(options.reinit, like)
    source = read_source(options.init_from, options.layout)
    found, theirs, unused = _fitted(options, source, model_name, like)

    shapes = {path: (tuple(array.shape), tuple(like[path].shape)) for path, array in found.items()}
    differing = [(path, *pair) for path, pair in sorted(shapes.items()) if pair[0] != pair[1]]
    wrong = [each for each in differing if each[0] not in fresh and not is_scaling(each[0])]
    if wrong:
        raise ConfigError(mismatch(source, like, wrong, options.reinit))
    left = fresh | {path for path, _, _ in differing}
    arrays = {
        path: _converted(f"{INIT_FROM}: {source.words}: {theirs[path]}", array, like[path].dtype)
        for path, array in sorted(found.items())
        if path not in left
    }
    arrays = _without_half_scalings(arrays, like)
    missing = [path for path in sorted(like) if path not in arrays and path not in left and not _is_measured(path)]
    missing.sort(key=lambda path: not path.startswith("params/"))
    sizes = {path: int(np.prod(leaf.shape)) for path, leaf in like.items() if path.startswith("params/")}
    total = sum(size for path, size in sizes.items() if path not in fresh)
    numbers = sum(size for path, size in sizes.items() if path in arrays)
    if not total:
        raise ConfigError(f"{REINIT}: draws all parameters anew and leaves nothing to load; or set {INIT_FROM}=''")
    if not numbers or numbers / total < options.coverage or (missing and options.coverage == 1):
        absent = _as_theirs(missing, source, model_name, like)
        raise ConfigError(too_little(source, like, absent, unused, (numbers, total), options.coverage))
    report = Report(
        source=source.words,
        loaded=tuple(arrays),
        missing=tuple(missing),
        unused=tuple(sorted(unused)),
        mismatched=tuple(differing),
        reinitialised=tuple(sorted(fresh)),
        numbers=numbers,
        coverage=numbers / total,
        notes=(*source.notes, *notes(source, like, arrays, fresh, names)),
    )
    return Start(arrays, report)


def _fitted(
    options: Options, source: Source, model_name: str, like: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """({our path: array}, {our path: the source's name of it}, names that nothing took)."""
    renamed = _renamed(options.rename, source)
    arrays = {new: source.arrays[old] for new, old in renamed.items()}
    if source.layout == "torch":
        try:
            found, unused = from_torch(model_name, arrays, like)
        except DataError as error:
            raise DataError(f"{INIT_FROM}: {source.words}: {error}") from error
        modules = outermost(like)
        names = {p: " + ".join(renamed[name] for name in tensor_names(model_name, p, modules)) for p in found}
    else:
        found = {path: array for path, array in arrays.items() if path in like}
        unused = [path for path in arrays if path not in like]
        names = {path: short(renamed[path]) for path in found}
    scalings = {path: array for path, array in source.scalings.items() if path in like}
    unused = [short(renamed[name]) for name in unused] + [short(p) for p in source.scalings if p not in like]
    return found | scalings, names | {path: short(path) for path in scalings}, unused


def _renamed(rules: Sequence[tuple[str, str]], source: Source) -> dict[str, str]:
    """{new name: the source's}: the first rule that matches all of a name, without its prefix, replaces it."""
    patterns = [_compiled(pattern, RENAME) for pattern, _ in rules]
    modules = outermost(source.arrays)
    parts = {name: ("", name) if source.layout == "torch" else split_path(name, modules) for name in source.arrays}
    renamed: dict[str, str] = {}
    used: set[int] = set()
    for name, (prefix, rest) in parts.items():
        first = next(((i, match) for i, pattern in enumerate(patterns) if (match := pattern.fullmatch(rest))), None)
        if first is not None:
            number, match = first
            used.add(number)
            template = rules[number][1]
            try:
                rest = match.expand(template)
            except (re.error, IndexError) as error:
                raise ConfigError(f"{RENAME}: {template!r} does not fit {rules[number][0]!r}: {error}") from error
            if not rest:
                raise ConfigError(f"{RENAME}: {rules[number][0]!r} leaves nothing of {parts[name][1]!r}")
        if prefix + rest in renamed:
            both = f"{short(renamed[prefix + rest])!r} and {short(name)!r}"
            raise ConfigError(f"{RENAME}: {both} would both be {rest!r}; let the patterns match only one of them")
        renamed[prefix + rest] = name
    names = sorted({rest for _, rest in parts.values()})
    for i, (pattern, _) in enumerate(rules):
        if i not in used:
            earlier = any(patterns[i].fullmatch(name) for name in names)
            why = "earlier patterns take all that it matches" if earlier else _near(pattern, names)
            raise ConfigError(f"{RENAME}: {pattern!r} matches nothing in {source.words}; {why}")
    return renamed


def _reinitialised(patterns: Sequence[str], like: Mapping[str, Any]) -> set[str]:
    """Our paths that `patterns` match, each without 'params/' or its collection ('normalize/mean' with it)."""
    modules = outermost(like)
    names = {path: short(path) if is_scaling(path) else split_path(path, modules)[1] for path in like}
    fresh: set[str] = set()
    for pattern in patterns:
        compiled = _compiled(pattern, REINIT)
        matched = {path for path, name in names.items() if compiled.fullmatch(name)}
        if not matched:
            raise ConfigError(f"{REINIT}: {pattern!r} matches nothing here; {_near(pattern, sorted(names.values()))}")
        fresh |= matched
    return fresh


def _is_measured(path: str) -> bool:
    """Whether a path is of what a run measures on its data where nothing is loaded."""
    return is_scaling(path) or path.startswith(f"model_state/{WHITENING}/")


def _without_half_scalings(arrays: dict[str, np.ndarray], like: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays without a mean that lacks its scale, and without the unit of outputs where a parameter is new; and
    without the scale of inputs where there are no filters that were measured with it, as this run keeps its own."""
    dropped: set[str] = set()
    whiten = any(path.startswith(f"model_state/{WHITENING}/") and path not in arrays for path in like)
    # Which layer is the last does not show. With a new one, the unit of other targets ruins training; with an old one,
    # this run's own unit costs little, since what is drawn fresh changes the outputs anyway.
    drawn = any(path.startswith("params/") and path not in arrays for path in like)
    for group, away in ((NORMALIZE, whiten), (RESCALE, drawn)):
        paths = {path for path in like if path.startswith(f"model_state/{group}/")}
        if away or not paths <= arrays.keys():
            dropped |= paths
    return {path: array for path, array in arrays.items() if path not in dropped}


def _as_theirs(paths: Sequence[str], source: Source, model_name: str, like: Mapping[str, Any]) -> list[str]:
    """Our paths as the source would call them."""
    if source.layout == "flax":
        return [short(path) for path in paths]
    return [name for path in paths for name in tensor_names(model_name, path, outermost(like))]


def _converted(what: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array in our type; raises DataError, naming `what`, where that loses its meaning."""
    if not jnp.issubdtype(dtype, jnp.floating):
        with np.errstate(invalid="ignore"):
            converted = array.astype(dtype)
        if not np.array_equal(converted, array):
            raise DataError(f"{what}: is {array.dtype}, which {np.dtype(dtype)} cannot hold")
        return converted
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise DataError(f"{what}: is {array.dtype}, not floats; quantised weights are not read")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if not np.isfinite(converted).all():
        raise DataError(f"{what}: holds NaN or infinity; take an earlier checkpoint, or draw it anew ({REINIT})")
    return converted


def _compiled(pattern: str, key: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{key}: {pattern!r} is not a regular expression: {error}") from error


def _near(pattern: str, names: Iterable[str]) -> str:
    """What a pattern that matches nothing may have meant: a name, or the part of one, like its literal beginning."""
    names = list(names)
    starts = {name[: cut.start()] for name in names for cut in re.finditer(r"[/.]", name)}
    literal = re.split(r"[\\(\[.*+?|{^$]", pattern)[0].rstrip("/")
    near = nearest(literal, sorted(starts | set(names))) if literal else None
    if near is not None and any(name.startswith(f"{near}/") for name in names):
        near = f"{near}/.*"  # a pattern must match whole names
    return f"did you mean {near!r}?" if near else f"names are {some(names)}"
