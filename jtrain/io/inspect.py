"""Looking at the checkpoints of any run, without its code and devices: what is there, what it holds, how two differ."""

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.errors import DataError
from jtrain.io import manifest as manifests
from jtrain.io import shelf
from jtrain.io.checkpoint import Checkpoints, Restored
from jtrain.io.contents import Damaged


@dataclasses.dataclass(frozen=True)
class Step:
    """What the manifest of a checkpoint tells.

    Attributes:
      step: optimizer updates done.
      saved: when.
      size: bytes of its files.
      arrays: (shape, name of the dtype) by path.
      processes: how many have written a part of it; what is whole on all devices the first writes alone.
      control: the control state: 'best', 'lr_factors' and so on.
      damage: why it cannot be read, as far as the manifest and the sizes of files show; '' where nothing is amiss.
    """

    step: int
    saved: datetime.datetime
    size: int = 0
    arrays: Mapping[str, tuple[tuple[int, ...], str]] = dataclasses.field(default_factory=dict, repr=False)
    processes: int = 0
    control: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    damage: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the arrays of two checkpoints differ.

    Attributes:
      only_one, only_other: paths that the other one lacks.
      other_shape, other_dtype: paths with what the two have there.
      differences: the largest absolute difference by path, of all arrays that are alike in shape; 0 where they are
        equal, infinite where they differ in a number that is not finite.
    """

    only_one: tuple[str, ...]
    only_other: tuple[str, ...]
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    other_dtype: Mapping[str, tuple[str, str]]
    differences: Mapping[str, float]

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all."""
        others = self.only_one, self.only_other, self.other_shape, self.other_dtype
        return not any(others) and not any(self.differences.values())


def steps(workdir: str | Path) -> list[Step]:
    """The checkpoints of a run, oldest first, without reading their arrays.

    Args:
      workdir: of the run.

    Raises:
      DataError: it holds no run.
    """
    folder = _folder(workdir)
    found = []
    for step in shelf.steps(folder):
        path = folder / str(step)
        try:
            saved = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
        except FileNotFoundError:  # the run that owns it has removed it just now
            continue
        try:
            manifest = manifests.read_manifest(path, step)
        except Damaged as error:
            found.append(Step(step, saved, damage=str(error)))
            continue
        arrays = {p: (tuple(r["shape"]), r["dtype"]) for p, r in manifest["arrays"].items()}
        writers = {part["folder"] for record in manifest["arrays"].values() for part in record["parts"]}
        size = sum(record["size"] for record in manifest["files"].values())
        missing = [name for name, record in manifest["files"].items() if _size(path / name) != record["size"]]
        damage = f"{missing[0]}: is missing or of another size" if missing else ""
        found.append(Step(step, saved, size, arrays, len(writers), manifest["control"], damage))
    return found


def read(
    workdir: str | Path, step: int | None = None, *, event: Callable[[str, str], None] = lambda kind, text: None
) -> Restored:
    """A checkpoint with its arrays as NumPy's, whole and verified, whatever it was trained and saved on.

    Args:
      workdir: of the run.
      step: which; None: the newest that is whole.
      event: told (kind, text) when a damaged one is passed over.

    Raises:
      DataError: there is no such checkpoint, or it is damaged.
    """
    if step is not None and (isinstance(step, bool) or not isinstance(step, int)):
        raise DataError(f"step: must be a whole number or None, got {step!r}")
    checkpoints = Checkpoints(_folder(workdir), keep=1, event=event, read_only=True)
    restored = checkpoints.restore(step)
    if restored is None:
        raise DataError(f"{checkpoints.folder}: holds no checkpoint yet")
    return restored


def compare(one: Restored | str | Path, other: Restored | str | Path) -> Comparison:
    """How the arrays of two checkpoints, of one run or of two, differ; a NaN equals a NaN, and -0 equals 0.

    Args:
      one: from `read`, or a workdir, of which the newest is read.
      other: likewise.
    """
    one, other = (given if isinstance(given, Restored) else read(given) for given in (one, other))
    both = sorted(set(one.state) & set(other.state))
    pairs = {path: (one.state[path], other.state[path]) for path in both}
    return Comparison(
        only_one=tuple(sorted(set(one.state) - set(other.state))),
        only_other=tuple(sorted(set(other.state) - set(one.state))),
        other_shape={path: (a.shape, b.shape) for path, (a, b) in pairs.items() if a.shape != b.shape},
        other_dtype={path: (a.dtype.name, b.dtype.name) for path, (a, b) in pairs.items() if a.dtype != b.dtype},
        differences={path: _difference(a, b) for path, (a, b) in pairs.items() if a.shape == b.shape},
    )


def _folder(workdir: str | Path) -> Path:
    folder = Path(workdir).expanduser() / "checkpoints"
    if not folder.is_dir():
        raise DataError(f"{workdir}: holds no run (no folder checkpoints)")
    return folder


def _size(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_size
    except OSError:
        return -1


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    if not one.size:
        return 0.0
    if one.dtype.kind in "iu" and one.dtype == other.dtype:
        larger, smaller = np.maximum(one, other), np.minimum(one, other)
        return float((larger.astype(np.uint64) - smaller.astype(np.uint64)).max())  # modulo 2^64, hence exact
    wide = np.complex128 if "c" in (one.dtype.kind, other.dtype.kind) else np.float64
    first, second = one.astype(wide), other.astype(wide)
    is_same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore", over="ignore"):
        distances = np.where(is_same, 0.0, np.abs(first - second))
    return float(np.where(np.isnan(distances), np.inf, distances).max())
