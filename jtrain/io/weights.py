"""Files of weights in the safetensors format: arrays by name, and text beside them; no Python is ever run."""

import collections
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.errors import DataError
from jtrain.io.workdir import write_atomic

SUFFIX = ".safetensors"

# bfloat16 is read as its bits, which are the upper half of a float32's.
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "C64": "<c8",
}  # fmt: skip

_MOST_HEAD = 100_000_000  # bytes, as safetensors has it

_SAVE = "save its state_dict() with safetensors.torch.save_file"
_PICKLE = f"torch pickles (.pt, .pth, .bin) can run code and are not read; in torch, {_SAVE}"
_OTHERS = (
    (b"PK", f"a zip file, as torch.save and numpy.savez write: {_PICKLE}"),
    (b"\x80", f"a pickle: {_PICKLE}"),
    (b"version https://git-lfs", "the pointer of a Git LFS file, not its content; fetch that with 'git lfs pull'"),
)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name; float16 and bfloat16 become float32, which holds them exactly.

    Args:
      path: of the file; its name may end in anything.

    Raises:
      DataError: it is missing, cut short, altered, of another format (a pickle is never opened), holds a name twice,
        no array at all, or an array of a type that NumPy lacks (8-bit floats).
    """
    import safetensors  # here: most runs need none of it

    path = Path(path)
    content = _content(path)
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise DataError(f"{path}: {_what_it_is(content) or f'no safetensors file, or damaged ({error})'}") from error
    _header(path, content)
    if not found:
        raise DataError(f"{path}: holds no arrays")
    return {name: _array(path, name, record) for name, record in sorted(found, key=lambda pair: pair[0])}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts that a safetensors file holds beside its arrays; {} where there are none.

    Raises:
      DataError: as `read`, for what its head shows.
    """
    path = Path(path)
    texts = _header(path, _content(path, head_only=True)).get("__metadata__") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise DataError(f"{path}: its metadata are no texts by name")
    return texts


def write(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Replaces a safetensors file as a whole.

    Args:
      path: of the file; its folder exists.
      arrays: by name, of any shape and memory order.
      metadata: texts by name.

    Raises:
      DataError: it cannot be written.
    """
    import safetensors.numpy

    # The format is C order; safetensors itself writes the buffer of another order as it lies.
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_atomic(Path(path), lambda file: file.write(safetensors.numpy.save(plain, dict(metadata))))


def _content(path: Path, *, head_only: bool = False) -> bytes:
    if os.path.exists(path) and not os.path.isfile(path):  # which, unlike Path's own, never raise
        raise DataError(f"{path}: is no file; give a {SUFFIX} file")
    try:
        with path.open("rb") as file:
            length = file.read(8)
            return length + file.read(min(int.from_bytes(length, "little"), _MOST_HEAD) if head_only else -1)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _header(path: Path, content: bytes) -> dict[str, Any]:
    """The head of the file; raises DataError where a name stands twice, of which the library keeps the last."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = collections.Counter(name for name, _ in pairs)
        twice = next((name for name, count in counts.items() if count > 1), None)
        if twice is not None:
            raise DataError(f"{path}: holds {twice!r} twice; it is damaged, or was not written by safetensors")
        return dict(pairs)

    end = 8 + int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8:end], object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {_what_it_is(content) or 'no safetensors file, or damaged'}") from error
    if not isinstance(header, dict):
        raise DataError(f"{path}: no safetensors file, or damaged")
    return header


def _what_it_is(content: bytes) -> str:
    """What a file is that is no safetensors file, in words; '' where that does not show."""
    if not content:
        return "is empty"
    if content[8:9] == b"{":  # a safetensors file's length may begin with any byte
        return ""
    return next((f"is {words}" for start, words in _OTHERS if content.startswith(start)), "")


def _array(path: Path, name: str, record: Mapping[str, Any]) -> np.ndarray:
    kind = record["dtype"]
    if kind not in _DTYPES:
        raise DataError(f"{path}: {name!r} is of type {kind}, which is not read; save it as F32, F16 or BF16")
    array = np.frombuffer(record["data"], _DTYPES[kind]).reshape(record["shape"])
    if kind == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if kind == "F16" else array
