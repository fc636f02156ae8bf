"""Rows of a log as columns of numbers."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.coach.robust import spread
from jtrain.errors import DataError

Row = Mapping[str, Any]

# Names of columns in a CSV, in lower case with _ for / and blanks.
STEP = ("step", "global_step", "_step", "iteration", "iter", "update", "epoch")
LOSS = ("loss", "train_loss", "training_loss", "loss_train")
VAL = ("val_", "validation_", "eval_", "valid_")

NO_METRICS = {"step", "epoch", "split", "lr", "grad_norm", "examples_per_second", "data_wait", "mfu", "skipped"}
SHORT = 0.5  # of the usual interval: a last row over fewer updates is joined to the one before
SAME = 0.35  # of their median by which quotients that are the same but for chance may scatter
EXPLAINED = ("r2", "explained")  # metrics that are 1 − loss / loss of a guess where the loss is a squared error


def number(value: Any) -> float:
    """The value as a float; NaN for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def line_rows(coach: Mapping[str, Any]) -> list[Row]:
    """What coach.json holds of the line probe, without what is damaged; [] of an older version."""
    rows = coach.get("line")
    rows = rows if isinstance(rows, list) else []
    return [row for row in rows if isinstance(row, dict) and math.isfinite(number(row.get("step")))]


def is_metric(name: str) -> bool:
    """Whether a column is a metric other than the loss."""
    return name not in NO_METRICS and name != "loss" and not name.startswith("lr/")


def columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """[n] of each name whose value is a number in at least one row."""
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = np.array([number(row.get(name)) for row in rows])
        if name in ("step", "loss") or np.isfinite(values).any():
            found[name] = np.where(np.isfinite(values), values, math.nan)
    return found


def joined(rows: list[Row]) -> list[Row]:
    """The rows, a short last one joined to the one before: a mean over few updates scatters more than the others."""
    if len(rows) < 3:
        return rows
    steps = np.array([number(row["step"]) for row in rows])
    length, last = np.diff(steps, prepend=0.0), rows[-1]
    if length[-1] >= SHORT * np.median(length[:-1]):
        return rows
    share = length[-1] / (length[-1] + length[-2])
    before = {name: number(value) for name, value in rows[-2].items()}
    mixed = {
        name: (1 - share) * before[name] + share * number(value)
        for name, value in last.items()
        if name in before and name not in ("step", "epoch", "split") and not name.startswith("lr")
    }
    return [*rows[:-2], {**rows[-2], **last, **mixed}]


def epoch(rows: list[Row]) -> float | None:
    """Updates of one pass through the data, by the column `epoch`."""
    known = [
        number(row["step"]) / number(row["epoch"])
        for row in rows
        if number(row.get("epoch")) > 0 and number(row.get("step")) > 0
    ]
    return float(np.median(known)) if known else None


def explained(columns: Mapping[str, np.ndarray]) -> float | None:
    """The loss of a guess, where a metric says which share of it is left: loss / (1 − share explained)."""
    for name in EXPLAINED:
        if name in columns and "loss" in columns:
            left = 1.0 - columns[name]
            guesses = columns["loss"][left > 0] / left[left > 0]
            guesses = guesses[np.isfinite(guesses)]
            # Of another loss than a squared error the quotient is not the same at every row; small batches scatter.
            if len(guesses) and spread(guesses) <= SAME * np.median(guesses):
                return float(np.median(guesses))
    return None


def csv_rows(text: str, path: Path) -> list[Row]:
    """A row for training, and one for validation where there are such columns, of each line of a CSV.

    Raises:
      DataError: it is empty, or has no column of steps or losses; `path` is named.
    """
    head = text.splitlines()[0] if text.strip() else ""
    if not head:
        raise DataError(f"{path}: is empty; give a CSV with a header such as step,loss")
    separator = next((mark for mark in ("\t", ";", ",") if mark in head), ",")
    lines = csv.DictReader(io.StringIO(text), delimiter=separator)
    names = {name: str(name).strip().lower().replace("/", "_").replace(" ", "_") for name in lines.fieldnames or ()}
    step = next((name for name, plain in names.items() if plain in STEP), None)
    loss = next((name for name, plain in names.items() if plain in LOSS), None)
    if step is None or loss is None:
        what = "steps" if step is None else "losses"
        wanted = ", ".join(STEP if step is None else LOSS)
        raise DataError(f"{path}: has no column of {what} (one of {wanted}); its columns are {', '.join(names)}")
    table = [{names[name]: _parsed(value) for name, value in line.items() if name in names} for line in lines]
    table = [line for line in table if line[names[step]] is not None]
    # Many count from 0: the row of 0 is that of the first update, or of the first epoch.
    first = 1.0 if table and table[0][names[step]] == 0 else 0.0
    rows: list[Row] = []
    for line in table:
        at = (line[names[step]] or 0.0) + first
        train = {k: v for k, v in line.items() if v is not None and not k.startswith(VAL) and k not in STEP}
        val = {k.split("_", 1)[1]: v for k, v in line.items() if v is not None and k.startswith(VAL)}
        if line[names[loss]] is not None:
            rows.append({**train, "step": at, "split": "train", "loss": line[names[loss]]})
        if val:
            rows.append({**val, "step": at, "split": "val"})
    return rows


def _parsed(value: str | None) -> float | None:
    """A number, NaN among them; None where there is none."""
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None
