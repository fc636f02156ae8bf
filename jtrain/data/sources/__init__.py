"""Where data comes from: the table of sources, the small ones, and data given by a program.

A source is `source(wanted, *, options) -> DataSet`; `wanted` says the run's seed and what targets its task needs.
None of these uses the seed: the same examples are in train and test whatever the run's seed.
"""

import importlib.util
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.data.examples import ArrayExamples, DataSet, TargetKind, Wanted, check_targets, check_tokens
from jtrain.data.sources import folder, shapes, table, text, tfds
from jtrain.data.sources.stratify import in_test
from jtrain.errors import ConfigError, DataError
from jtrain.table import Fraction, did_you_mean

SPLITS = ("train", "val", "test")
_DIGITS_SPLIT_SEED = 20241  # of the fixed train and test split, never the run's


def digits(wanted: Wanted, *, test: Fraction = 0.2) -> DataSet:
    """The 1,797 handwritten digits that come with scikit-learn: uint8 [8, 8, 1], ten classes.

    Their values of 0 to 16 become 0 to 255, which is what augmentation takes for black and white.

    Args:
      wanted: not used; the split is fixed.
      test: share of each class in the test split, at least one digit of it and not all; 0 is no test split.
    """
    table = _digits_table()
    inputs = ((table[:, :64].astype(np.uint16) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    targets = table[:, 64].astype(np.int32)
    held_out = in_test(targets, test, _DIGITS_SPLIT_SEED)
    return DataSet(
        name="digits",
        train=ArrayExamples(inputs[~held_out], targets[~held_out]),
        val=None,
        test=ArrayExamples(inputs[held_out], targets[held_out]) if held_out.any() else None,
        num_outputs=10,
        class_names=tuple("0123456789"),
    )


def npz(wanted: Wanted, *, path: str = "", inputs: str = "inputs", targets: str = "targets") -> DataSet:
    """Arrays from one .npz file: `train_inputs` and `train_targets`, and the same with `val_` or `test_` if there.

    Args:
      wanted: what the targets are taken for.
      path: of the file; `~` is the home folder.
      inputs: what the keys of inputs end with.
      targets: what the keys of targets end with.

    Raises:
      ConfigError: no path. DataError: the file is missing or damaged, or a key is, or values do not fit.
    """
    if not path:
        raise ConfigError("data.npz.path: is empty; set it to an .npz file with train_inputs and train_targets")
    file = Path(path).expanduser()
    arrays = _read_npz(file)
    given = {}
    for split in SPLITS:
        keys = [f"{split}_{inputs}", f"{split}_{targets}"]
        there = [key for key in keys if key in arrays]
        if not there and split != "train":
            continue
        needed = keys[:1] if wanted.targets == "any" else keys
        for key in needed:
            if key not in arrays:
                has = ", ".join(sorted(arrays)) or "nothing"
                raise DataError(f"data.npz: {file} has no {key!r}; it has: {has}")
        given[split] = (arrays[keys[0]], arrays.get(keys[1]))
    return _from_arrays(given, wanted, name=file.name, where=f"{file}: ")


def arrays(wanted: Wanted) -> DataSet:
    """Stands for data that a program gives; nothing can be loaded by this name alone."""
    others = ", ".join(name for name in SOURCES if name != "arrays")
    raise ConfigError(
        "data.name: 'arrays' are given by a program, jtrain.assemble(config, data=…); "
        f"from the command line choose {others}"
    )


def from_arrays(data: Mapping[str, tuple[Any, Any]] | tuple[Any, Any], wanted: Wanted = Wanted()) -> DataSet:  # noqa: B008
    """A data set of your own arrays.

    Args:
      data: {'train': (inputs [n, …], targets [n]), 'val': …, 'test': …}, or the pair of train alone; for "any" inputs
        alone will do in place of a pair. float64 becomes float32 and wide integers int32, which is what a device
        computes in; True and False are 1 and 0.
      wanted: what the targets are: class numbers from 0 (as many classes as the greatest target of all splits
        plus one), 0 or 1 for every class, numbers, or tokens, whose greatest may be an input too.

    Raises:
      ConfigError: not such a dict or pair. DataError: naming the split whose arrays do not fit.
    """
    return _from_arrays(data, wanted, name="arrays", where="")


SOURCES: dict[str, Callable[..., DataSet]] = {
    "digits": digits,
    "shapes": shapes.shapes,
    "tfds": tfds.tfds,
    "npz": npz,
    "table": table.table,
    "folder": folder.folder,
    "text": text.text,
    "arrays": arrays,
}


def as_inputs(inputs: np.ndarray, where: str) -> np.ndarray:
    """Inputs [n, …] in a type that a device takes: float64 becomes float32, and wide integers int32.

    Raises:
      DataError: naming `where`, when they are empty, no numbers, or too great for that type.
    """
    if inputs.ndim == 0 or inputs.size == 0:
        raise DataError(f"data: {where} must be [examples, …] with at least one number, got shape {list(inputs.shape)}")
    if inputs.dtype.kind not in "biuf":
        raise DataError(f"data: {where} must be numbers, got {inputs.dtype}")
    if inputs.dtype.kind == "f" and inputs.dtype.itemsize > 4:
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = inputs.astype(np.float32)
            finite = np.isfinite(narrow.min()) and np.isfinite(narrow.max())  # without a copy of the data
        if not finite:
            lost = np.isinf(narrow) & np.isfinite(inputs)
            if lost.any():
                place = np.unravel_index(int(np.argmax(lost)), lost.shape)
                raise DataError(
                    f"data: {where} hold {inputs[place]:g} in row {place[0]}, which float32 cannot hold; scale them"
                )
        return narrow
    if (inputs.dtype.kind in "iu" and inputs.dtype.itemsize > 4) or inputs.dtype == np.uint32:
        least, greatest = inputs.min(), inputs.max()
        if least < -(2**31) or greatest > 2**31 - 1:
            value = least if least < -(2**31) else greatest
            raise DataError(
                f"data: {where} hold {value}, a whole number that does not fit 32 bits; scale them as floats"
            )
        return inputs.astype(np.int32)
    return inputs


def _from_arrays(data: Any, wanted: Wanted, *, name: str, where: str) -> DataSet:
    if wanted.targets == "any":
        whole = data if isinstance(data, Mapping) else {"train": data}
        data = {split: (part, None) if hasattr(part, "shape") else part for split, part in whole.items()}
    if isinstance(data, tuple | list):
        data = {"train": data}
    if not isinstance(data, Mapping):
        raise ConfigError(f"data: must be (inputs, targets) or a dict of such pairs, got {type(data).__name__}")
    for split in data:
        if split not in SPLITS:
            raise ConfigError(f"data: no such split {split!r}{did_you_mean(str(split), SPLITS)}")
    if "train" not in data:
        raise ConfigError(f"data: has no 'train' split, only {', '.join(data) or 'nothing'}")
    kind = wanted.targets
    checked = {split: _pair(pair, kind, where + split) for split, pair in data.items()}
    train = checked["train"][0]
    for split, (inputs, _) in checked.items():
        if inputs.shape[1:] != train.shape[1:] or inputs.dtype != train.dtype:
            raise DataError(
                f"data: {where}{split} inputs are {inputs.dtype} {list(inputs.shape[1:])} each, "
                f"but those of train are {train.dtype} {list(train.shape[1:])}"
            )
    targets = {split: targets for split, (_, targets) in checked.items()}
    shapes = {split: array.shape[1:] for split, array in targets.items()}
    if kind != "any" and len(set(shapes.values())) > 1:
        raise DataError(
            f"data: {where}targets differ in shape: " + ", ".join(f"{k} {list(v)}" for k, v in shapes.items())
        )
    splits = {split: ArrayExamples(*pair) for split, pair in checked.items()}
    kept: TargetKind = kind if kind != "any" else "class"
    if kept in ("class", "tokens"):
        counted = list(targets.values())
        if kept == "tokens":
            counted += [inputs for inputs, _ in checked.values() if inputs.dtype.kind in "iu"]
        num_outputs = 1 + max(int(array.max(initial=0)) for array in counted)
    else:
        num_outputs = math.prod(targets["train"].shape[1:])
    return DataSet(name, splits["train"], splits.get("val"), splits.get("test"), num_outputs, kept)


def _pair(pair: Any, kind: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """One split as arrays that a device takes as they are."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ConfigError(f"data: {where} must be a pair (inputs, targets), got {type(pair).__name__}")
    try:
        inputs = as_inputs(np.asarray(pair[0]), f"{where} inputs")
        targets = np.asarray(pair[1])
    except ValueError as error:
        raise DataError(f"data: {where} is not an array, its examples differ in shape ({error})") from error
    if kind == "any":
        return inputs, np.zeros(len(inputs), np.int32)
    if targets.shape[:1] != inputs.shape[:1]:
        raise DataError(f"data: {where} has {len(inputs)} inputs, but targets of shape {list(targets.shape)}")
    if kind == "tokens" and inputs.dtype.kind in "iu":
        check_tokens(inputs, 2**31 - 1, where)
        inputs = inputs.astype(np.int32)  # small types are for pixels
    return inputs, as_targets(targets, kind, where)


def as_targets(targets: np.ndarray, kind: str, where: str) -> np.ndarray:
    """Targets [n, …] of a kind in the type that a device takes: int32, or float32 for "classes" and "values".

    Raises:
      DataError: naming `where`, when they are not of that kind; the message says which task they would suit.
    """
    if kind in ("class", "tokens") and targets.dtype.kind == "f" and targets.size:
        hint = '; numbers are for task.name="regression"' if kind == "class" else ""
        raise DataError(f"data: {where} targets must be whole numbers, got {targets.dtype} {list(targets.shape)}{hint}")
    if targets.dtype == bool or (kind in ("classes", "values") and targets.dtype.kind in "biuf"):
        targets = targets.astype(np.float32 if kind in ("classes", "values") else np.int32)
    if kind == "values" and targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    width = targets.shape[1] if targets.ndim > 1 else 1
    check_targets(targets, kind, width if kind in ("classes", "values") else 2**31 - 1, where)  # type: ignore[arg-type]
    return targets if targets.dtype.kind == "f" else targets.astype(np.int32)


def _digits_table() -> np.ndarray:
    """[1797, 65] uint8: 64 pixels and the label. Read as a file: to import sklearn.datasets takes a second."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("data.digits: comes with scikit-learn, which is not installed: pip install scikit-learn")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return np.column_stack([loaded.data, loaded.target]).astype(np.uint8)


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, so that it is closed too when NumPy fails to read it.
        with file.open("rb") as opened:
            loaded = np.load(opened, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise DataError(
                    f"data.npz: {file} is not an .npz file; write it with np.savez(file, train_inputs=…, …)"
                )
            return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError as error:
        raise DataError(f"data.npz: no file {file}; set data.npz.path") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"data.npz: {file} cannot be read ({reason}); write it anew with np.savez") from error
