"""The manifest of a checkpoint: what it must hold, to the byte, so that any damage is noticed."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jtrain.errors import DataError

NAME = "manifest.json"
STATE = "state"  # the folder that orbax writes, beside the manifest
SCHEMA = 1


class Damaged(Exception):
    """A checkpoint is not what was written; the text says which part, and how."""


def make_manifest(
    folder: Path, step: int, arrays: Mapping[str, np.ndarray], control: Mapping[str, Any]
) -> dict[str, Any]:
    """What `folder` (a checkpoint without its manifest) holds.

    Args:
      folder: holds `state/`, as orbax wrote it.
      step: optimizer updates done.
      arrays: the arrays by path, as handed to orbax.
      control: host values; JSON types only.
    """
    files = sorted(p for p in (folder / STATE).rglob("*") if p.is_file())
    return {
        "schema": SCHEMA,
        "step": step,
        "control": control,
        "arrays": {path: array_record(array) for path, array in sorted(arrays.items())},
        "files": {p.relative_to(folder).as_posix(): file_record(p) for p in files},
    }


def encode(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest file: the manifest with a checksum over itself."""
    checksum = _checksum(_canonical(manifest))
    return _canonical({"checksum": checksum, "manifest": manifest}) + b"\n"


def read_manifest(folder: Path, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint folder, checked against its own checksum.

    Raises:
      Damaged: it is missing, altered, of another schema or of another step.
    """
    try:
        content = (folder / NAME).read_bytes()
    except OSError as error:
        raise Damaged(f"{NAME}: {error.strerror}") from error
    try:
        document = json.loads(content)
        manifest = document["manifest"]
        # Comparing bytes, not values, also notices a flip that JSON reads as the same value (1e5, 1E5).
        is_intact = encode(manifest) == content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{NAME}: not readable") from error
    if not is_intact:
        raise Damaged(f"{NAME}: checksum differs")
    if manifest.get("schema") != SCHEMA:
        raise Damaged(f"{NAME}: schema {manifest.get('schema')!r}, this version reads {SCHEMA}")
    if manifest["step"] != step:
        raise Damaged(f"{NAME}: holds step {manifest['step']}, not {step}")
    return manifest


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raises Damaged at the first file that is missing or differs in size or checksum."""
    for name, expected in manifest["files"].items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name:
            raise Damaged(f"{NAME}: path {name!r} leads out of the checkpoint")
        path = folder / parts
        try:
            size = path.stat().st_size
            if size != expected["size"]:
                raise Damaged(f"{name}: {size} bytes, not {expected['size']}")
            found = file_record(path)
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from error
        if found != expected:
            raise Damaged(f"{name}: checksum differs")


def verify_arrays(arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Raises Damaged at the first array that differs in shape, dtype or checksum."""
    expected = manifest["arrays"]
    if set(arrays) != set(expected):
        differ = sorted(set(arrays) ^ set(expected))
        raise Damaged(f"{STATE}: other arrays than were saved: {', '.join(differ[:3])}")
    for path, array in arrays.items():
        found = array_record(array)
        for part in ("shape", "dtype", "checksum"):
            if found[part] != expected[path][part]:
                raise Damaged(f"{path}: {part} differs")


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


def array_record(array: np.ndarray) -> dict[str, Any]:
    """Shape, dtype, and checksum of the C-order bytes."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)  # bfloat16 has no buffer protocol
    return {"shape": list(array.shape), "dtype": array.dtype.name, "checksum": _checksum(flat)}


def file_record(path: Path) -> dict[str, Any]:
    """Size in bytes and checksum."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "checksum": checksum}


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _checksum(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def some(items: list[Any], limit: int = 6) -> str:
    """The first items in words, and how many there are in all."""
    text = ", ".join(map(str, items[:limit]))
    return f"{text}, … ({len(items)} in all)" if len(items) > limit else text
