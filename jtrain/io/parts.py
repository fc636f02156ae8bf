"""The arrays of a checkpoint by part: what a process owns of a state, copied to the host; written and read by orbax."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.errors import NonFiniteError
from jtrain.io import arrays as arrays_io
from jtrain.io import contents
from jtrain.io.contents import Damaged
from jtrain.io.manifest import DTYPES, array_checksum

PIECE = 1 << 22  # numbers looked at in one go
_JUDGED = ("params/", "model_state/", "opt_state/", "ema/")


@dataclasses.dataclass(frozen=True)
class Owned:
    """What a process owns of an array of the state.

    Attributes:
      shape: of the whole array.
      dtype: of its numbers.
      parts: by where they start in it, in host memory.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: dict[tuple[int, ...], np.ndarray]


def snapshot(state: Mapping[str, Any], process: int, into: Mapping[str, Owned] | None = None) -> dict[str, Owned]:
    """Copies to host memory what a process owns of a state; over all processes each number is owned once.

    Of an array that is cut over processes, a process owns the shards on its devices (of replicas: the first); process 0
    owns everything else, and tells of every array.

    Args:
      state: arrays by path, the same paths in all processes; they may be donated as soon as this returns.
      process: which one this is.
      into: an earlier snapshot that nobody reads any more; its memory is written again. Memory that is new to a
        process costs several times the copying: each page of it is first cleared by the system.
    """
    memory = into or {}
    mine = {path: _mine(leaf, process) for path, leaf in state.items()}
    for leaves in mine.values():
        for leaf in leaves.values():
            if hasattr(leaf, "copy_to_host_async"):
                leaf.copy_to_host_async()  # all transfers under way before the first is waited for
    found = {}
    for path, leaves in mine.items():
        old = memory[path].parts if path in memory else {}
        parts = {start: _copied(leaf, old.get(start)) for start, leaf in leaves.items()}
        first = next(iter(parts.values()), state[path])
        if parts or process == 0:
            found[path] = Owned(np.shape(state[path]), np.dtype(first.dtype), parts)
    return found


def check_finite(owned: Mapping[str, Owned]) -> None:
    """Raises NonFiniteError at the first array of a state that would ruin what is trained from it.

    That is one with a NaN, or an infinity. Single numbers of an optimizer's state may be infinite: optax's line
    searches and our clipping by percentile begin with "none so far". What a run keeps beside (`extra/`) is its own.
    """
    for path, array in owned.items():
        if path.startswith(_JUDGED) and array.dtype.name.startswith(("float", "bfloat", "complex")):
            is_memory = path.startswith("opt_state/") and not array.shape
            for part in array.parts.values():
                flat = part.reshape(-1)
                for start in range(0, flat.size, PIECE):
                    piece = flat[start : start + PIECE]
                    if not (~np.isnan(piece) if is_memory else np.isfinite(piece)).all():
                        raise NonFiniteError(f"{path} holds {'NaN' if np.isnan(piece).any() else 'an infinity'}")


def write(folder: Path, name: str, owned: Mapping[str, Owned]) -> dict[str, Any]:
    """Writes parts through orbax, and makes them outlive a loss of power.

    Args:
      folder: of the checkpoint.
      name: of the folder to make in it.
      owned: of this process.

    Returns:
      {"arrays", "files"} as the manifest has them.
    """
    arrays, records = {}, {}
    for path, array in owned.items():
        parts = []
        for start, part in array.parts.items():
            if part.size:  # orbax refuses empty arrays
                arrays[_key(path, array.shape, start, part.shape)] = part
                parts.append({
                    "start": list(start), "shape": list(part.shape), "checksum": array_checksum(part), "folder": name,
                })  # fmt: skip
        records[path] = {"shape": list(array.shape), "dtype": array.dtype.name, "parts": parts}
    if len(arrays) != sum(len(record["parts"]) for record in records.values()):
        raise ValueError("two arrays of the state have the same path")
    arrays_io.write_arrays(folder / name, arrays)
    files = {}
    if arrays:
        contents.sync(folder / name)
        files = {
            f"{name}/{inner}": contents.file_record(folder / name / inner) for inner in contents.files_in(folder / name)
        }
    return {"arrays": records, "files": files}


def read(folder: Path, records: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint whose manifest and files have been found good, whole and in order of path.

    Args:
      folder: of the checkpoint.
      records: of the arrays, from its manifest.

    Raises:
      Damaged: what orbax finds differs in any part from what the manifest says; before memory is taken for it, where it
        differs in size.
    """
    wanted: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {}
    for path, record in records.items():
        for part in record["parts"]:
            key = _key(path, record["shape"], part["start"], part["shape"])
            if wanted.setdefault(part["folder"], {}).setdefault(key, (path, part))[1] is not part:
                raise Damaged(f"{path}: another array has this name as well")
    state = {}
    for name, keys in wanted.items():
        loaded = arrays_io.read_arrays(
            folder / name,
            {key: (tuple(part["shape"]), DTYPES[records[path]["dtype"]]) for key, (path, part) in keys.items()},
        )
        for key, (path, part) in keys.items():
            array = loaded.pop(key)
            if array_checksum(array) != part["checksum"]:
                raise Damaged(f"{path}: checksum differs")
            shape = tuple(records[path]["shape"])
            if array.shape == shape:
                state[path] = array
            else:
                if path not in state:
                    state[path] = np.empty(shape, array.dtype)
                place = zip(part["start"], part["shape"], strict=True)
                state[path][tuple(slice(start, start + length) for start, length in place)] = array
    empty = {p: np.zeros(r["shape"], DTYPES[r["dtype"]]) for p, r in records.items() if p not in state}
    return dict(sorted((state | empty).items()))


def _copied(leaf: Any, memory: np.ndarray | None) -> np.ndarray:
    """A copy in C order, in `memory` where that has its shape and dtype."""
    leaf = np.asarray(leaf)
    if memory is None or (memory.shape, memory.dtype) != (leaf.shape, leaf.dtype):
        return np.array(leaf, order="C")
    np.copyto(memory, leaf)
    return memory


def _key(path: str, whole: Sequence[int], start: Sequence[int], shape: Sequence[int]) -> str:
    """The name of a part in orbax's folder: the array's path, where it is all of the array."""
    return path if tuple(shape) == tuple(whole) else f"{path}@{','.join(map(str, start))}"


def _mine(leaf: Any, process: int) -> dict[tuple[int, ...], Any]:
    if getattr(leaf, "is_fully_addressable", True):
        return {(0,) * np.ndim(leaf): leaf} if process == 0 else {}
    shards = (shard for shard in leaf.addressable_shards if shard.replica_id == 0)
    return {tuple(cut.start or 0 for cut in shard.index): shard.data for shard in shards}
