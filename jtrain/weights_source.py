"""Where weights come from: a checkpoint of a run, read without assembling the run, or a file."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from jtrain.errors import ConfigError, DataError
from jtrain.io import weights
from jtrain.io.checkpoint import Abstract, Checkpoints, Restored
from jtrain.io.manifest import some
from jtrain.models.torch_names import is_scaling

INIT_FROM, LAYOUT = "transfer.init_from", "transfer.layout"

MARK = "jtrain"  # the text beside the arrays of a file that jtrain wrote: its version
NAMES = "names"  # the text, and the entry of a run's fingerprint, that tells its classes or tokens from others

_TORCH = re.compile(r"weight|running_mean|running_var|(weight|bias)_[ih]h_l\d+")
_FLAX = re.compile(r"kernel|scale|embedding")


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights as they were read.

    Attributes:
      words: where from, for messages.
      arrays: by path ('params/head/kernel'), or under torch's names in torch's layouts.
      scalings: what brings raw inputs and outputs to scale, by path ('model_state/normalize/mean').
      layout: which of the two `arrays` is in.
      notes: what was passed over, a sentence each.
      ours: whether jtrain wrote them, in whatever layout.
      names: checksum of the names of the classes, targets or tokens that they are for; None: unknown.
    """

    words: str
    arrays: dict[str, np.ndarray]
    scalings: dict[str, np.ndarray]
    layout: Literal["flax", "torch"]
    notes: tuple[str, ...] = ()
    ours: bool = False
    names: int | None = None


def read_source(init_from: str, layout: str) -> Source:
    """The weights that `transfer.init_from` names.

    Args:
      init_from: a workdir ('runs/w', 'runs/w@best', 'runs/w@400'), a checkpoint ('runs/w/checkpoints/400'), or a file.
      layout: of a file: 'flax', 'torch', or 'auto' to tell by its names.

    Raises:
      ConfigError: `layout` does not fit, or cannot be told. DataError: there are no such weights, or they are damaged.
    """
    path = Path(init_from).expanduser()
    if path.suffix == weights.SUFFIX or os.path.isfile(path):  # unlike Path's, it never raises
        try:
            return _from_file(path, layout)
        except DataError as error:
            raise DataError(f"{INIT_FROM}: {error}") from error
    if layout == "torch":
        raise ConfigError(f"{LAYOUT}: 'torch' is for files of weights, and {init_from} is none; leave it 'auto'")
    workdir, at = _parse(path)
    passed: list[str] = []
    restored = read_checkpoint(workdir, at, key=INIT_FROM, event=lambda kind, text: passed.append(text))
    arrays, averaged = evaluated(restored.state)
    words = f"{workdir}, update {restored.step}" + (", averaged parameters" if averaged else "")
    return Source(words, *_parted(arrays), "flax", tuple(passed), ours=True, names=names_of(restored))


def read_checkpoint(
    workdir: Path, at: str, *, key: str, event: Callable[[str, str], None], abstract: Abstract | None = None
) -> Restored:
    """A checkpoint of any run: `latest`, `best`, or the number of a step; the workdir is only read.

    Args:
      workdir: of the run.
      at: which.
      key: the option that asks for it, with which messages begin.
      event: told (kind, text) when a damaged checkpoint is passed over.
      abstract: step -> arrays by path that its state must match; None takes any.

    Raises:
      ConfigError: `at` is none of these. DataError: there is no such checkpoint, it is damaged, or does not match.
    """
    folder = workdir / "checkpoints"
    is_step = at.isascii() and at.isdigit() and len(at) <= 10
    if at not in ("latest", "best") and not is_step:
        raise ConfigError(f"{key}: {at!r} must be 'latest', 'best' or the number of a step")
    if not os.path.isdir(folder):
        what = "holds no run (no folder checkpoints)" if os.path.isdir(workdir) else "there is no such file or workdir"
        raise DataError(f"{key}: {workdir}: {what}")
    checkpoints = Checkpoints(folder, keep=1, event=event, read_only=True)
    try:
        restored = checkpoints.restore(int(at) if is_step else None, abstract)
        if restored is None:
            raise DataError(f"{folder}: holds no checkpoint yet")
        if at == "best":
            best = restored.control.get("best")
            if not best:
                raise DataError(f"{folder}: no evaluation has chosen a best step yet; take the latest")
            restored = checkpoints.restore(best["step"], abstract)
            assert restored is not None
    except DataError as error:
        raise DataError(f"{key}: {error}") from error
    return restored


def evaluated(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
    """({'params/…' and 'model_state/…': array} that a run is evaluated with, whether they are averaged).

    Args:
      state: flat, as a checkpoint holds it.
    """
    averaged = any(path.startswith("ema/") for path in state)
    head = "ema/" if averaged else "params/"
    params = {f"params/{path.removeprefix(head)}": leaf for path, leaf in state.items() if path.startswith(head)}
    return params | {path: leaf for path, leaf in state.items() if path.startswith("model_state/")}, averaged


def names_of(restored: Restored) -> int | None:
    """Checksum of the names of a run's classes, targets or tokens; None where its checkpoint does not tell it."""
    found = (restored.control.get("data") or {}).get(NAMES)
    return int(found) if found else None


def scaling_texts(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """What brings inputs and outputs to scale, as texts beside a file's arrays: torch has no place for it."""
    return {path: json.dumps(array.tolist()) for path, array in arrays.items() if is_scaling(path)}


def _parse(path: Path) -> tuple[Path, str]:
    """(workdir, which checkpoint) of what is no file."""
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        return path.parent.parent, path.name
    name, sign, at = path.name.rpartition("@")
    if not sign or os.path.isdir(path):
        return path, "latest"
    return path.with_name(name) if name else path.parent, at


def _from_file(path: Path, layout: str) -> Source:
    arrays = weights.read(path)
    if layout == "auto":
        layout = _layout(path, arrays)
    if layout == "flax":
        return Source(f"{path} (Flax's names)", *_parted(_as_paths(path, arrays)), "flax")
    texts = weights.read_metadata(path)
    scalings, ours = _scalings(path, texts), MARK in texts
    names = _names(path, texts) if ours else None
    return Source(f"{path} (torch's names)", arrays, scalings, "torch", ours=ours, names=names)


def _layout(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    leaves = {re.split(r"[/.]", name)[-1] for name in arrays}
    is_torch, is_flax = (any(pattern.fullmatch(leaf) for leaf in leaves) for pattern in (_TORCH, _FLAX))
    if is_torch == is_flax:
        found = "both torch's and Flax's" if is_torch else "neither torch's nor Flax's"
        raise ConfigError(f"{LAYOUT}: {path} has {found} names ({some(sorted(arrays))}); say 'torch' or 'flax'")
    return "torch" if is_torch else "flax"


def _as_paths(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by path of a state; names without 'params/' are of parameters, unless they are of statistics."""
    dotted = not any("/" in name for name in arrays)
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        place = name.replace(".", "/") if dotted else name
        if place.startswith("batch_stats/") or is_scaling(f"model_state/{place}"):
            place = f"model_state/{place}"
        elif not place.startswith(("params/", "model_state/")):
            place = f"params/{place}"
        if place in found:
            raise DataError(f"{path}: {name!r} and another array are both {place}")
        found[place] = array
    return found


def _parted(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights and statistics, what brings to scale)."""
    scalings = {path: array for path, array in arrays.items() if is_scaling(path)}
    return {path: array for path, array in arrays.items() if path not in scalings}, scalings


def _scalings(path: Path, texts: Mapping[str, str]) -> dict[str, np.ndarray]:
    """What `scaling_texts` wrote beside a file's arrays, where it did."""
    own = {name: text for name, text in texts.items() if is_scaling(name)}
    try:
        return {name: np.array(json.loads(text), np.float32) for name, text in own.items()}
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: its metadata {', '.join(own)} are no numbers; the file is damaged") from error


def _names(path: Path, texts: Mapping[str, str]) -> int | None:
    text = texts.get(NAMES)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise DataError(f"{path}: its metadata {NAMES} are no checksum; the file is damaged")
    return int(text)
