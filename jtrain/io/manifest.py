"""The manifest of a checkpoint: what it must hold, to the byte, so that any damage is noticed.

    {"checksum": of the rest, "manifest": {"schema": 2, "step": 400, "control": {…},
     "arrays": {"params/w": {"shape": [8, 4], "dtype": "float32", "parts": [
                   {"start": [0, 0], "shape": [4, 4], "checksum": …, "folder": "state-0"}, …]}, …},
     "files": {"state-0/d/1f…": {"size": 512, "checksum": …}, …}}}

Whoever can write a checkpoint can make its checksums fit: they tell of accidents alone. So nothing here is trusted
before it is looked at: each type, each path, each size.
"""

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jtrain.errors import DataError
from jtrain.io import contents
from jtrain.io.contents import Damaged

NAME = "manifest.json"
STATE = "state"  # the folder that orbax writes, beside the manifest; of several processes: state-0, state-1, …
SCHEMA = 2

MOST_BYTES = 1 << 26  # of a manifest: some 400,000 parts; read as JSON it takes up to twenty times that
MOST_DEEP = 50  # levels of the control state, far below where Python's own recursion ends
MOST_AXES = 32  # as tensorstore has it

_FOLDER = re.compile(rf"{STATE}(-(0|[1-9][0-9]{{0,5}}))?")
_CHECKSUM = re.compile(r"[0-9a-f]{32}")
_NAMES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128",
)  # fmt: skip
_EXTENSIONS = (
    "bfloat16", "float8_e3m4", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "float4_e2m1fn", "int2", "int4",
)  # fmt: skip
DTYPES = {name: np.dtype(name) for name in _NAMES} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in _EXTENSIONS if hasattr(ml_dtypes, name)
}


def make_manifest(step: int, control: Mapping[str, Any], told: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The manifest of a checkpoint that several processes have written, checked as if it were read.

    Args:
      step: optimizer updates done.
      control: host values; JSON types only.
      told: by each process, {"arrays": …, "files": …} of the parts that it has written.

    Raises:
      Damaged: what they wrote is no whole checkpoint; the text says what is amiss.
    """
    arrays: dict[str, Any] = {}
    files: dict[str, Any] = {}
    for one in told:
        files |= one["files"]
        for path, record in one["arrays"].items():
            known = arrays.setdefault(path, record | {"parts": []})
            if (known["shape"], known["dtype"]) != (record["shape"], record["dtype"]):
                raise Damaged(f"{path}: the processes hold it in different shapes or dtypes")
            known["parts"] += record["parts"]
    for record in arrays.values():
        record["parts"].sort(key=lambda part: part["start"])
    manifest = {"schema": SCHEMA, "step": step, "control": control, "arrays": arrays, "files": files}
    check(manifest)
    return manifest


def encode(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest file: the manifest with a checksum over itself; raises Damaged if they are too many."""
    inner = _canonical(manifest)
    if len(inner) > MOST_BYTES - 100:
        raise Damaged(f"{NAME}: more than {MOST_BYTES:,} bytes")
    return b'{"checksum":"%s","manifest":%s}\n' % (checksum(inner).encode(), inner)


def digest_of(folder: Path) -> str:
    """A checksum of a checkpoint's manifest, which has checksums of all else; '' where there is none."""
    try:
        return hashlib.blake2b((folder / NAME).read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return ""


def read_manifest(folder: Path, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint folder, checked against its own checksum, and all that it says for plausibility.

    Raises:
      Damaged: it is missing, altered, of another schema or of another step.
    """
    if folder.is_symlink():
        raise Damaged(f"{folder.name}: is a link")
    content = contents.read_small(folder / NAME, NAME, MOST_BYTES)
    try:
        document = json.loads(content)
        manifest = document["manifest"]
        # Comparing bytes, not values, also notices a flip that JSON reads as the same value (1e5, 1E5).
        is_intact = encode(manifest) == content
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise Damaged(f"{NAME}: not readable") from error
    if not is_intact:
        raise Damaged(f"{NAME}: checksum differs")
    check(manifest)
    if manifest["step"] != step:
        raise Damaged(f"{NAME}: holds step {manifest['step']}, not {step}")
    return manifest


def check(manifest: Any) -> None:
    """Raises Damaged unless this is a manifest in every part, whose arrays are tiled exactly by their parts."""
    schema = manifest.get("schema") if type(manifest) is dict else None
    if type(schema) is not int or schema != SCHEMA:
        raise Damaged(f"{NAME}: schema {_shown(schema)}, this version reads {SCHEMA} alone")
    _fields(manifest, "the manifest", {"schema", "step", "control", "arrays", "files"})
    _demand(_is_size(manifest["step"]), "step", "no step number")
    for name in ("control", "arrays", "files"):
        _demand(type(manifest[name]) is dict, name, "not by name")
    _demand(_is_shallow(manifest["control"]), "control", f"more than {MOST_DEEP} levels deep")
    for path, record in manifest["arrays"].items():
        _demand(bool(path) and path.isprintable(), path, "no name of an array")
        _check_array(path, record)
    for name, record in manifest["files"].items():
        _check_file(name, record)
    folders = {part["folder"] for record in manifest["arrays"].values() for part in record["parts"]}
    _demand(
        {name.split("/")[0] for name in manifest["files"]} == folders, "files", "other folders than the arrays are in"
    )


def check_match(manifest: Mapping[str, Any], abstract: Mapping[str, Any]) -> None:
    """Raises DataError listing every path whose presence, shape or dtype is not that of `abstract`."""
    records = manifest["arrays"]
    both = sorted(set(records) & set(abstract))
    shapes = {p: (tuple(records[p]["shape"]), tuple(abstract[p].shape)) for p in both}
    dtypes = {p: (records[p]["dtype"], np.dtype(abstract[p].dtype).name) for p in both}
    problems = {
        "missing": sorted(set(abstract) - set(records)),
        "extra": sorted(set(records) - set(abstract)),
        "other shape": [f"{p} {a}, not {b}" for p, (a, b) in shapes.items() if a != b],
        "other dtype": [f"{p} {a}, not {b}" for p, (a, b) in dtypes.items() if a != b],
    }
    found = [f"{kind}: {some(paths)}" for kind, paths in problems.items() if paths]
    if found:
        raise DataError(
            f"checkpoint {manifest['step']}: {'; '.join(found)}; "
            "it was saved by another model or optimizer: use that config, or another --workdir"
        )


def check_memory(manifest: Mapping[str, Any]) -> None:
    """Raises DataError when the arrays, as the manifest has them, are larger than this machine's memory."""
    needed = sum(size_of(record) for record in manifest["arrays"].values())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise DataError(
            f"{NAME}: its arrays are {needed:,} bytes, this machine's memory is {memory:,}; each process reads all of "
            "them: restore it where there is more"
        )


def size_of(record: Mapping[str, Any]) -> int:
    """Bytes of an array; of an empty one, as if its axes of length 0 were of 1: NumPy refuses what they overflow."""
    return math.prod(max(length, 1) for length in record["shape"]) * DTYPES[record["dtype"]].itemsize


def checksum(content: Any) -> str:
    """BLAKE2b of bytes, 128 bits, in hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def array_checksum(array: np.ndarray) -> str:
    """Checksum of the C-order bytes."""
    return checksum(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # bfloat16 has no buffer protocol


def some(items: list[Any], limit: int = 6) -> str:
    """The first items in words, and how many there are in all."""
    text = ", ".join(map(str, items[:limit]))
    return f"{text}, … ({len(items)} in all)" if len(items) > limit else text


def _check_array(path: str, record: Any) -> None:
    _fields(record, path, {"shape", "dtype", "parts"})
    shape, parts = record["shape"], record["parts"]
    _demand(_is_sizes(shape), path, f"shape {_shown(shape)}")
    dtype = record["dtype"]
    _demand(type(dtype) is str and dtype in DTYPES, path, f"dtype {_shown(dtype)}")
    _demand(type(parts) is list, path, "parts are no list")
    for part in parts:
        _fields(part, path, {"start", "shape", "checksum", "folder"})
        for name in ("start", "shape"):
            _demand(_is_sizes(part[name]) and len(part[name]) == len(shape), path, f"part's {name}")
        _demand(_matches(_CHECKSUM, part["checksum"]), path, "part's checksum")
        _demand(_matches(_FOLDER, part["folder"]), path, f"part's folder {_shown(part['folder'])}")
    _demand(_is_tiled(shape, parts), path, f"its {len(parts)} parts do not make up its shape {_shown(shape)}")


def _is_tiled(shape: list[int], parts: list[Any]) -> bool:
    """Whether parts cover the shape once each place: they form a grid, as the shards of an array do."""
    if 0 in shape:
        return not parts
    cuts = [[*sorted({part["start"][axis] for part in parts}), shape[axis]] for axis in range(len(shape))]
    ends = [dict(itertools.pairwise(cut)) for cut in cuts]
    return (
        len(parts) == math.prod(len(cut) - 1 for cut in cuts)
        and len({tuple(part["start"]) for part in parts}) == len(parts)
        and all(cut[0] == 0 for cut in cuts)
        and all(
            ends[axis].get(start) == start + length
            for part in parts
            for axis, (start, length) in enumerate(zip(part["start"], part["shape"], strict=True))
        )
    )


def _check_file(name: str, record: Any) -> None:
    steps = name.split("/")
    _demand(
        name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(steps) and _matches(_FOLDER, steps[0]),
        name, "path leads out of the checkpoint, or to no file of its arrays",
    )  # fmt: skip
    _fields(record, name, {"size", "checksum"})
    _demand(_is_size(record["size"]), name, "size")
    _demand(_matches(_CHECKSUM, record["checksum"]), name, "checksum")
    # What is neither data nor this manifest, orbax reads as a whole.
    _demand("d" in steps[1:-1] or record["size"] <= MOST_BYTES, name, f"more than {MOST_BYTES:,} bytes")


def _fields(value: Any, what: str, names: set[str]) -> None:
    _demand(type(value) is dict and set(value) == names, what, f"must have {', '.join(sorted(names))}, and no more")


def _demand(holds: bool, what: str, problem: str) -> None:
    if not holds:
        raise Damaged(f"{NAME}: {_shown(what)}: {problem}")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62  # a bool is an int of another type


def _is_sizes(value: Any) -> bool:
    return type(value) is list and len(value) <= MOST_AXES and all(map(_is_size, value))


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return type(value) is str and pattern.fullmatch(value) is not None


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_DEEP):
        level = [inner for outer in level for inner in (outer.values() if type(outer) is dict else outer)]
        level = [inner for inner in level if type(inner) in (dict, list)]
        if not level:
            return True
    return False


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
