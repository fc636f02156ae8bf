"""Examples and data sets: the types that sources make, the validation cut, and the checks of values."""

import dataclasses
from typing import Any, Literal, Protocol

import numpy as np

from jtrain.errors import ConfigError, DataError

# What targets are: class numbers [n]; 0 or 1 for every class [n, classes]; numbers [n] or [n, k]; tokens [n, length].
TargetKind = Literal["class", "classes", "values", "tokens"]
CHUNK = 1024  # examples fetched at a time where there are many, so that no copy of them all is made beside the result


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a run asks of a source.

    Attributes:
      seed: of the run.
      targets: what the task needs; "any" where it makes its own (autoencoding).
    """

    seed: int = 0
    targets: TargetKind | Literal["any"] = "class"


class BrokenRecord(DataError):
    """One stored example cannot be read; the message names the file and the record."""


class Examples(Protocol):
    """One split: numbered examples, each an input and a target.

    A class may also have a method `targets(rows [b]) -> targets [b, …]`, where they can be told without the inputs;
    `targets_of` uses it.
    """

    def __len__(self) -> int: ...

    def fetch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(inputs [b, …], targets [b, …]) of the examples numbered `rows` [b]; raises BrokenRecord."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs and targets as arrays, estimated where they are not decoded yet."""
        ...

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All (inputs [n, …], targets [n, …]), perhaps read-only files mapped into memory."""
        ...


class ArrayExamples:
    """Examples in memory, or mapped from files.

    Args:
      inputs: [n, …].
      targets: [n, …].

    Raises:
      DataError: there are more of one than of the other, or none at all.
    """

    def __init__(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        if len(inputs) != len(targets):
            raise DataError(f"data: {len(inputs)} inputs but {len(targets)} targets; each input needs one target")
        if len(inputs) == 0:
            raise DataError("data: a split has no examples; give it at least one, or leave the split out")
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._inputs)

    def fetch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples numbered `rows` [b]."""
        return np.asarray(self._inputs[rows]), self.targets(rows)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Targets alone."""
        return np.asarray(self._targets[rows])

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs and targets."""
        return self._inputs.nbytes + self._targets.nbytes

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The arrays themselves: not to be written to."""
        return self._inputs, self._targets


class Subset:
    """Some examples of another split, numbered anew from 0.

    Args:
      base: the split they are from.
      rows: their numbers there [m].
    """

    def __init__(self, base: Examples, rows: np.ndarray) -> None:
        self.base, self.rows = base, rows
        self._gathered: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples numbered `rows` [b] within the subset."""
        if self._gathered is not None:
            return self._gathered[0][rows], self._gathered[1][rows]
        return self.base.fetch(self.rows[rows])

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Targets alone."""
        return self._gathered[1][rows] if self._gathered is not None else targets_of(self.base, self.rows[rows])

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs and targets: the base's share."""
        return self.base.nbytes * len(self) // len(self.base)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """A copy of the chosen examples, gathered once; of the base's others none is read."""
        if self._gathered is None:
            self._gathered = gather(self.base, self.rows)
        return self._gathered

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which gathers anew what it needs."""
        return self.__dict__ | {"_gathered": None}


def gather(examples: Examples, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(inputs [n, …], targets [n, …]) of the examples numbered `rows` [n], fetched CHUNK at a time."""
    first = examples.fetch(rows[:CHUNK])
    inputs, targets = (np.empty((len(rows), *part.shape[1:]), part.dtype) for part in first)
    inputs[:CHUNK], targets[:CHUNK] = first
    for start in range(CHUNK, len(rows), CHUNK):
        inputs[start : start + CHUNK], targets[start : start + CHUNK] = examples.fetch(rows[start : start + CHUNK])
    return inputs, targets


def targets_of(examples: Examples, rows: np.ndarray) -> np.ndarray:
    """Targets [n, …] of the examples numbered `rows` [n], without their inputs where the examples can tell them so.

    Raises:
      BrokenRecord: one cannot be read.
    """
    own = getattr(examples, "targets", None)
    # Fetched, or told from records that are read whole: a part of all rows at a time.
    parts = [rows[start : start + CHUNK] for start in range(0, max(len(rows), 1), CHUNK)]
    # A class of a user may hold an array of that name.
    return np.concatenate([own(part) if callable(own) else examples.fetch(part)[1] for part in parts])


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What a source gives.

    Attributes:
      name: for the run's header.
      train: training examples, before the validation cut.
      val: the source's own validation split, which takes the place of a cut from train: `data.validation` may then
        only be 0 or what it is by default. None: a share of train is cut (`data.validation`).
      test: for the last evaluation.
      num_outputs: classes, targets or tokens there are; for "values" how many an example has.
      targets: what they are.
      class_names: one per class, target or token, or empty.
      note: a line for the run's header, such as what the data is not.
      ready: it is what `pipeline.load` made for a config, or is to be taken so: nothing more is cut, chosen or checked.
    """

    name: str
    train: Examples
    val: Examples | None
    test: Examples | None
    num_outputs: int
    targets: TargetKind = "class"
    class_names: tuple[str, ...] = ()
    note: str = ""
    ready: bool = False


def cut_validation(train: Examples, share: float, seed: int) -> tuple[Subset, Subset]:
    """(train, val): a random share of the training examples set apart, the same for equal (seed, share).

    Args:
      train: the split to cut.
      share: of its examples, above 0 and below 1; rounded, at least one example.
      seed: of the run.

    Raises:
      ConfigError: no training example would be left.
    """
    examples = len(train)
    held_out = max(1, round(share * examples))
    if held_out >= examples:
        raise ConfigError(
            f"data.validation: {share:g} of {examples} examples leaves none to train on; use a smaller share, or 0"
        )
    # The second word keeps this stream apart from those of the epochs: Philox(key=[seed, epoch]).
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, 2**64 - 1], np.uint64)))
    rows = generator.permutation(examples).astype(np.int32)
    return Subset(train, np.sort(rows[held_out:])), Subset(train, np.sort(rows[:held_out]))


def check_targets(targets: Any, kind: TargetKind, num_outputs: int, where: str, rows: np.ndarray | None = None) -> None:
    """Checks that targets are what their kind says.

    Args:
      targets: [n] or [n, …].
      kind: of the targets; "class" and "tokens" are whole numbers from 0 to num_outputs − 1, "classes" are 0 or 1,
        "values" are finite.
      num_outputs: of the data set.
      where: the split, for the message.
      rows: [n] numbers of the examples in the split, where it is not all of them in order.

    Raises:
      DataError: naming the split, the first wrong row, its value and the valid range.
    """
    targets = np.asarray(targets)
    form, shape = _FORMS[kind]
    wide = kind in ("classes", "values") and num_outputs > 1
    kinds = {"values": "f", "classes": "biuf"}.get(kind, "iu")
    if targets.dtype.kind not in kinds or targets.ndim not in shape or (wide and targets.shape[1:] != (num_outputs,)):
        raise DataError(f"data: {where} targets must be {form}, got {targets.dtype} {list(targets.shape)}")
    if kind == "values":
        check_finite(targets, where, rows, what="target")
        return
    if kind == "classes":
        wrong, valid = (targets != 0) & (targets != 1), "0 and 1"
    else:
        wrong, valid = (targets < 0) | (targets >= num_outputs), f"0 to {num_outputs - 1}"
    _refuse(wrong, targets, valid, f"{where} target", rows)


def check_tokens(inputs: Any, num_outputs: int, where: str, rows: np.ndarray | None = None) -> None:
    """Checks that inputs [n, …] of whole numbers are tokens, from 0 to num_outputs − 1; others hold none, and pass.

    Args:
      inputs: of a data set whose targets are "tokens".
      num_outputs: of the data set.
      where: the split, for the message.
      rows: as of `check_targets`.

    Raises:
      DataError: naming the split, the first wrong row, its value and the valid range.
    """
    inputs = np.asarray(inputs)
    if inputs.dtype.kind in "iu":
        _refuse((inputs < 0) | (inputs >= num_outputs), inputs, f"0 to {num_outputs - 1}", f"{where} input token", rows)


def _refuse(wrong: np.ndarray, values: np.ndarray, valid: str, what: str, rows: np.ndarray | None) -> None:
    """Raises DataError for the first row of values [n, …] that is `wrong` anywhere, if there is one."""
    if not wrong.any():
        return
    bad = wrong.reshape(len(values), -1).any(axis=1)
    row = int(np.argmax(bad))
    value = values[row][wrong[row]].flat[0] if values.ndim > 1 else values[row]
    raise DataError(
        f"data: {what} of row {_number(row, rows)} is {value}; valid are {valid} "
        f"({int(bad.sum())} of {len(values)} rows are wrong)"
    )


# kind -> (words, how many axes there may be)
_FORMS: dict[str, tuple[str, tuple[int, ...]]] = {
    "class": ("whole numbers of shape [examples]", (1,)),
    "classes": ("0 or 1 for every class, of shape [examples, classes]", (2,)),
    "values": ("numbers of shape [examples] or [examples, values]", (1, 2)),
    "tokens": ("whole numbers of shape [examples, length]", (2,)),
}


def check_finite(inputs: Any, where: str, rows: np.ndarray | None = None, *, what: str = "input") -> None:
    """Checks that inputs [n, …] hold no NaN or infinity; raises DataError naming the split and the first row.

    `rows` [n] are their numbers in the split, where it is not all of them in order; `what` they are, for the message.
    """
    inputs = np.asarray(inputs)
    if inputs.dtype.kind in "iub":
        return
    axes = tuple(range(1, inputs.ndim))
    with np.errstate(over="ignore", invalid="ignore"):
        # The least and the greatest make no copy of the data; a NaN passes through both.
        if np.isfinite(inputs.min()) and np.isfinite(inputs.max()):
            return
    row = int(np.argmin(np.isfinite(inputs).all(axis=axes)))
    value = inputs[row][~np.isfinite(inputs[row])].flat[0] if inputs.ndim > 1 else inputs[row]
    raise DataError(
        f"data: {where} {what} of row {_number(row, rows)} holds {value}; remove such rows, or fill them in"
    )


def _number(row: int, rows: np.ndarray | None) -> int:
    return row if rows is None else int(rows[row])
