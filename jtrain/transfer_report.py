"""What became of the weights that a run starts from, in words; and why they do not fit."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jtrain.io.manifest import some
from jtrain.models.prepare import NORMALIZE, RESCALE, WHITEN, WHITENING
from jtrain.models.torch_names import flattened, outermost, split_path
from jtrain.table import nearest
from jtrain.weights_source import INIT_FROM, Source

RENAME, REINIT, COVERAGE = "transfer.rename", "transfer.reinit", "transfer.coverage"

Shape = tuple[int, ...]
Like = Mapping[str, Any]  # abstract arrays by path


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every array; paths as in the state, 'params/head/kernel'.

    Attributes:
      source: what was read, in words.
      loaded: ours that have the source's values.
      missing: ours that the source lacks; they stay as they are drawn.
      unused: names in the source that nothing took.
      mismatched: (path, the source's shape, ours) of those that were not loaded since they differ.
      reinitialised: ours that stay as they are drawn because `reinit` says so.
      numbers: how many numbers of our parameters were loaded.
      coverage: the share that these are of all but the reinitialised.
      notes: what else to know, a sentence each.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    mismatched: tuple[tuple[str, Shape, Shape], ...]
    reinitialised: tuple[str, ...]
    numbers: int
    coverage: float
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the screen."""
        params = sum(path.startswith("params/") for path in self.loaded)
        beside = f" and {len(self.loaded) - params} statistics" if len(self.loaded) > params else ""
        share = f"{self.coverage:.1%}" + (" of the parameters that are not drawn fresh" if self.reinitialised else "")
        reshaped = [f"{short(path)} {list(theirs)}, not {list(ours)}" for path, theirs, ours in self.mismatched]
        rows = {
            "start": [self.source],
            "loaded": [f"{params} arrays{beside}; {self.numbers:,} parameters, {share}"],
            "fresh": [some([short(path) for path in self.reinitialised])] if self.reinitialised else [],
            "reshaped": [f"{some(reshaped)}; not loaded"] if reshaped else [],
            "missing": [f"{some([short(path) for path in self.missing])}; drawn fresh"] if self.missing else [],
            "unused": [some(list(self.unused))] if self.unused else [],
            "note": list(self.notes),
        }
        return [f"  {name:<10}{text}" for name, texts in rows.items() for text in texts]


def short(path: str) -> str:
    """A path without what all have in common: 'head/kernel'."""
    return path.removeprefix("params/").removeprefix("model_state/")


def mismatch(source: Source, like: Like, differing: Sequence[tuple[str, Shape, Shape]], reinit: Sequence[str]) -> str:
    """Which arrays have another shape than ours, and the `reinit` that draws them anew.

    Args:
      source: where they are from.
      like: our state.
      differing: (path, the source's shape, ours).
      reinit: the patterns that there are.
    """
    shown = [f"{short(path)} is {list(theirs)} there and {list(ours)} here" for path, theirs, ours in differing]
    patterns = dict.fromkeys([*reinit, *_patterns([path for path, _, _ in differing], like)])
    doubt = "; is it the same model?" if len(patterns) > len(reinit) + 2 else ""
    them = "it" if len(differing) == 1 else "these"
    return (
        f"{INIT_FROM}: {source.words}: {some(shown, 3)}{doubt}{_advice(source, like)}; to draw {them} anew, "
        f"set {REINIT}=({some([repr(pattern) for pattern in patterns])},)"
    )


def too_little(
    source: Source,
    like: Like,
    absent: Sequence[str],
    unused: Sequence[str],
    numbers: tuple[int, int],
    coverage: float,
) -> str:
    """What is missing, and what may be it under another name.

    Args:
      source: where the weights are from.
      like: our state.
      absent: what is missing, as the source would call it.
      unused: names in the source that nothing took.
      numbers: of our parameters: loaded, and wanted (above 0).
      coverage: the share that must be loaded.
    """
    near = [(name, nearest(name, unused)) for name in absent[:3]]  # comparing all with all would take seconds
    hints = "".join(f"; is {there!r} there {here!r}?" for here, there in near if there)
    return (
        f"{INIT_FROM}: {source.words} fills {numbers[0]:,} of {numbers[1]:,} parameters "
        f"({numbers[0] / numbers[1]:.1%}), {COVERAGE} asks for {coverage:.1%}; missing: {some(list(absent))}; "
        f"unused there: {some(list(unused)) or 'nothing'}{hints}{_advice(source, like)}; rename them ({RENAME}), "
        f"draw what is missing anew ({REINIT}), or lower {COVERAGE}"
    )


def notes(source: Source, like: Like, arrays: Like, fresh: set[str], names: int | None = None) -> list[str]:
    """What else to know of weights that fit, a sentence each.

    Args:
      source: where they are from.
      like: our state.
      arrays: what is loaded.
      fresh: what is drawn on request.
      names: checksum of the names of our classes, targets or tokens; None or 0: unknown.
    """
    found = _meaning(source, like, arrays) if source.names and names and source.names != names else []
    mean = f"model_state/{NORMALIZE}/mean"
    if mean in arrays:
        found.append(
            "inputs are normalised as they were for these weights, not by this run's data; "
            f"{REINIT}=('{NORMALIZE}/.*',) keeps its own"
        )
    elif mean in like and mean not in fresh:
        why = "their channels are others" if mean in source.scalings else "the source does not tell its own"
        found.append(f"inputs are normalised by this run's data, or its data.mean and data.std; {why}")
    elif mean in source.scalings and mean not in like:
        found.append("these weights were trained on normalised inputs, and this run does not normalise its own")
    if whitens := _whitens(source, like):
        found.append(f"{whitens}: a first layer that is loaded gets other inputs than it was trained on")
    found += _unit(source, like, arrays, fresh)
    foreign = source.layout == "torch" and not source.ours
    doubtful = [short(path) for path in flattened(like) if path in arrays] if foreign else []
    if doubtful:
        found.append(
            f"{some(doubtful)}: loaded as torch has it; if it reads or makes a flattened map, which torch orders "
            f"[channels, height, width] and jtrain [height, width, channels], draw it anew ({REINIT})"
        )
    return found


def _whitens(source: Source, like: Like) -> str:
    """That `data.whiten` was another for these weights, which changes what the first layer gets; '' where not."""
    theirs, ours = _whitened(source.arrays), _whitened(like)
    return f"data.whiten is {theirs} there and {ours} here" if theirs != ours else ""


def _advice(source: Source, like: Like) -> str:
    """What to set where `data.whiten` was another."""
    whitens = _whitens(source, like)
    return f"; {whitens}: set data.whiten to {_whitened(source.arrays)}" if whitens else ""


def _whitened(arrays: Mapping[str, Any]) -> int:
    """The side of the filters that whiten, by path or as torch has them; 0: there are none."""
    for name, array in arrays.items():
        if len(array.shape) == 4 and name.endswith(f"{WHITENING}/{WHITEN}/kernel"):
            return int(array.shape[0])
        if len(array.shape) == 4 and name == f"{WHITEN}.weight":
            return int(array.shape[-1])
    return 0


def _unit(source: Source, like: Like, arrays: Like, fresh: set[str]) -> list[str]:
    """By what outputs are brought into the unit of the targets."""
    mean = f"model_state/{RESCALE}/mean"
    if mean in arrays:
        return [
            "outputs are brought into their unit as they were for these weights, not by this run's data; "
            f"{REINIT}=('{RESCALE}/.*',) keeps its own"
        ]
    if mean in like and not any(path.startswith(f"model_state/{RESCALE}/") for path in fresh):
        drawn = any(path.startswith("params/") and path not in arrays for path in like)
        why = "parameters are drawn fresh" if drawn else "the source's has another shape"
        why = why if mean in source.scalings else "the source does not tell its own"
        return [f"outputs are brought into the unit of this run's targets; {why}"]
    if mean in source.scalings and mean not in like:
        return ["outputs of these weights were brought into the unit of their targets, and this run leaves its own"]
    return []


def _meaning(source: Source, like: Like, arrays: Like) -> list[str]:
    """Which loaded layers depend on classes or tokens, when the source's are others."""
    params = sorted(path for path in like if path.startswith("params/"))
    loaded = [path for path in params if path in arrays]
    named = [path for path in loaded if {"head", "embedding"} & set(path.split("/"))]
    # A model without a layer called head ends in another: one that is loaded for certain when all are.
    nameless = not any("head" in path.split("/") for path in params) and loaded == params
    if not named and not nameless:
        return []
    patterns = [repr(pattern) for pattern in dict.fromkeys(_patterns(named, like))]
    layers = some([*patterns, *(["the name of the last layer"] if nameless else [])])
    return [
        f"{source.words} was trained on other classes, targets or tokens than these; unless they mean the same, "
        f"draw anew what depends on them: {REINIT} with {layers}"
    ]


def _patterns(paths: Sequence[str], like: Like) -> list[str]:
    """The `reinit` that draws the layers of these arrays anew."""
    modules = outermost(like)
    places = [split_path(path, modules)[1].rpartition("/") for path in paths]
    return [f"{re.escape(module)}/.*" if module else leaf for module, _, leaf in places]
