"""The files of `predict`: arrays as .npz, and a table as .csv where there is one to read."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.io.workdir import write_atomic


def write_predictions(
    out: Path,
    found: np.ndarray,
    targets: np.ndarray | None,
    kind: str,
    names: tuple[str, ...],
    weight: np.ndarray | None = None,
) -> list[Path]:
    """Writes `<out>.npz` and, but for reconstructed inputs, `<out>.csv`; returns their paths.

    Args:
      out: path without ending.
      found: predictions [examples, …].
      targets: [examples, …], or None.
      kind: `Task.predictions`.
      names: of classes, labels, values or tokens; () numbers them.
      weight: [examples] float32, 0 for records that cannot be read: their rows are empty. None: all can.
    """
    arrays, header, rows = _TABLES[kind](found, targets, names)
    whole: Any = arrays if targets is None else arrays | {"targets": targets}
    if weight is not None and not weight.all():
        bad = weight == 0
        whole = {name: _blanked(array, bad) for name, array in whole.items()} | {"weight": weight}
        rows = (row if good else [] for row, good in zip(rows, weight, strict=True))
    paths = [out.with_name(out.name + ".npz")]
    write_atomic(paths[0], lambda file: np.savez(file, **whole))
    if header:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["example", *header])
        table.writerows([i, *row] for i, row in enumerate(rows))
        paths.append(out.with_name(out.name + ".csv"))
        write_atomic(paths[1], lambda file: file.write(text.getvalue().encode()))
    return paths


def _blanked(array: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """A copy whose rows in `bad` say nothing: NaN, or -1 for whole numbers."""
    copy = array.copy()
    copy[bad] = np.nan if array.dtype.kind == "f" else -1
    return copy


Table = tuple[dict[str, np.ndarray], list[str], Iterable[Sequence[Any]]]  # arrays, header, rows


def _one_class(found: np.ndarray, targets: np.ndarray | None, names: tuple[str, ...]) -> Table:
    predicted = found.argmax(axis=-1)
    names = names or tuple(map(str, range(found.shape[-1])))
    given = [] if targets is None else [targets]
    rows = ([*(t[i] for t in given), predicted[i], *_short(found[i])] for i in range(len(found)))
    return {"probabilities": found, "predicted": predicted}, [*(["target"] if given else []), "predicted", *names], rows


def _many_labels(found: np.ndarray, targets: np.ndarray | None, names: tuple[str, ...]) -> Table:
    predicted = (found > 0.5).astype(np.int32)
    names = names or tuple(map(str, range(found.shape[-1])))

    def words(row: np.ndarray) -> str:
        return "|".join(name for name, there in zip(names, row, strict=True) if there)

    given = [] if targets is None else [targets]
    rows = ([*(words(t[i]) for t in given), words(predicted[i]), *_short(found[i])] for i in range(len(found)))
    return {"probabilities": found, "predicted": predicted}, [*(["target"] if given else []), "predicted", *names], rows


def _values(found: np.ndarray, targets: np.ndarray | None, names: tuple[str, ...]) -> Table:
    wide = found.reshape(len(found), -1)
    names = names if len(names) == wide.shape[1] else tuple(map(str, range(wide.shape[1])))
    tables = [wide] if targets is None else [targets.reshape(len(found), -1), wide]
    header = [f"{word} {name}" for word in ("target", "predicted")[-len(tables) :] for name in names]
    rows = (_short(np.concatenate([table[i] for table in tables])) for i in range(len(found)))
    return {"predictions": found}, header, rows


def _tokens(found: np.ndarray, targets: np.ndarray | None, names: tuple[str, ...]) -> Table:
    predicted = found.argmax(axis=-1)

    def words(row: np.ndarray) -> str:
        return "".join(names[i] for i in row) if names else " ".join(map(str, row))

    given = [] if targets is None else [targets]
    rows = ([*(words(t[i]) for t in given), words(predicted[i])] for i in range(len(found)))
    return {"probabilities": found, "predicted": predicted}, [*(["target"] if given else []), "predicted"], rows


def _inputs(found: np.ndarray, targets: np.ndarray | None, names: tuple[str, ...]) -> Table:
    del targets, names
    return {"reconstructions": found}, [], []


_TABLES = {"class": _one_class, "classes": _many_labels, "values": _values, "tokens": _tokens, "inputs": _inputs}


def _short(numbers: np.ndarray) -> list[str]:
    return [f"{number:.9g}" for number in numbers]
