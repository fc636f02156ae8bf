"""The columns of a CSV or Parquet file, read with pyarrow: as numbers, or as classes."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jtrain.errors import ConfigError, DataError

_CSV = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_PARQUET = (".parquet", ".pq")


class Columns:
    """Named columns of equal length.

    Args:
      name: of where they are from, for messages.
      columns: name -> pyarrow ChunkedArray, in order; at least one row.
      spelled: name -> the column as text, as it is written in the file; None where nothing is written as text.
    """

    def __init__(self, name: str, columns: Mapping[str, Any], spelled: Callable[[str], Any] | None = None) -> None:
        self.name, self._columns, self._spelled = name, columns, spelled

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._columns)

    @property
    def rows(self) -> int:
        return len(next(iter(self._columns.values())))

    def numbers(self, name: str, hint: str) -> np.ndarray:
        """A column as float32 [rows]; True and False are 1 and 0.

        Args:
          name: of the column.
          hint: what to do where it holds no numbers.

        Raises:
          DataError: naming the column and the first row that holds no number, or none that is finite in float32.
        """
        import pyarrow as pa

        column = self._present(name)
        kinds = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
        if not any(is_kind(column.type) for is_kind in kinds):
            row = next((row for row, value in enumerate(column.to_pylist()) if not _is_number(value)), 0)
            self._refuse(name, row, column[row].as_py(), f"it must hold numbers; {hint}")
        wide = column.cast(pa.float64(), safe=False).to_numpy()
        with np.errstate(over="ignore"):
            values = wide.astype(np.float32)
        bad = ~np.isfinite(values)
        if bad.any():
            row = int(np.argmax(bad))
            what = "which float32 cannot hold; scale the column" if np.isfinite(wide[row]) else "remove such rows"
            self._refuse(name, row, float(wide[row]), what)
        return values

    def classes(self, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """(class number of each row, int32 [rows]; the classes' names in sorted order) of text or whole numbers.

        Numbers are in their own order, but named as they are written where that is known: "00" and "0" are two classes.

        Raises:
          DataError: naming the column and the first row that holds neither.
        """
        import pyarrow as pa

        column = self._present(name)
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            values = column.to_numpy()
        elif pa.types.is_floating(kind):
            values = column.to_numpy().astype(np.float64)
            parts = (values != np.floor(values)) | (np.abs(values) > 2**53)  # the second for infinities
            if parts.any():
                row = int(np.argmax(parts))
                hint = 'classes are text or whole numbers; numbers are for task.name="regression"'
                self._refuse(name, row, float(values[row]), hint)
            values = values.astype(np.int64)
        elif _is_text(kind):
            values = np.array([value.strip() for value in column.to_pylist()], object)
            if (blank := values == "").any():
                self._refuse(name, int(np.argmax(blank)), "", "a class needs a name")
        else:
            self._refuse(name, 0, column[0].as_py(), "classes are text or whole numbers")
        if self._spelled is None or _is_text(kind):
            classes, numbers = np.unique(values, return_inverse=True)
            return numbers.astype(np.int32), tuple(str(value) for value in classes.tolist())
        written = np.array([value.strip() for value in self._spelled(name).to_pylist()], object)
        classes, first, numbers = np.unique(written, return_index=True, return_inverse=True)
        order = np.argsort(values[first], kind="stable")  # of those that are equal as numbers, by spelling
        return np.argsort(order)[numbers].astype(np.int32), tuple(classes[order].tolist())

    def _present(self, name: str) -> Any:
        """The column as plain values; raises DataError where some are missing, or are no text though they should be."""
        import pyarrow as pa

        column = self._columns[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        missing = column.is_null(nan_is_null=True).to_numpy()
        if missing.any():
            raise DataError(
                f"data.table.path: {self.name}: column {name!r} lacks {int(missing.sum()):,} of {self.rows:,} values, "
                f"the first in {_row(int(np.argmax(missing)))}; fill them in, remove such rows, or choose "
                "other columns"
            )
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            row = next((row for row, value in enumerate(column.to_pylist()) if not _is_utf8(value)), 0)
            self._refuse(name, row, column[row].as_py(), "which is not UTF-8; save the file as UTF-8")
        return column

    def _refuse(self, name: str, row: int, value: Any, what: str) -> NoReturn:
        text = " ".join(repr(value).split())
        text = text if len(text) <= 40 else f"{text[:40]}…"
        raise DataError(f"data.table.path: {self.name}: column {name!r} has {text} in {_row(row)}; {what}")


def read(file: Path, separator: str) -> Columns:
    """The columns of a CSV file, whose first line has their names, or of a Parquet file.

    Args:
      file: .csv, .tsv or .txt, perhaps with .gz; .parquet or .pq.
      separator: between the values of a CSV file; a tab may be written as backslash and t.

    Raises:
      ConfigError: another ending or a wrong separator. DataError: missing, damaged, without rows, or two columns have
        one name.
    """
    import pyarrow as pa

    separator = separator.replace("\\t", "\t")
    if len(separator) != 1 or separator in '"\r\n':
        raise ConfigError(f"data.table.separator: must be one character, got {separator!r}")
    ending = file.name.lower()
    if not ending.endswith(_CSV + _PARQUET):
        raise ConfigError(f"data.table.path: {file} ends with none of {', '.join(_CSV + _PARQUET)}")
    if not file.is_file():
        raise DataError(f"data.table.path: {file} is a folder" if file.is_dir() else f"data.table.path: no file {file}")
    is_csv = ending.endswith(_CSV)
    try:
        loaded = _read_csv(file, separator) if is_csv else _read_parquet(file)
        names = [name.strip() for name in loaded.column_names]
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = f"values must be separated by {separator!r}, or set data.table.separator" if is_csv else "write it anew"
        raise DataError(f"data.table.path: {file} cannot be read ({reason[:200]}); {hint}") from error
    if is_csv:
        _check_header(names, file, separator)
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise DataError(f"data.table.path: {file} has {names.count(twice[0])} columns named {twice[0]!r}; rename them")
    if not loaded.num_rows or not names:
        raise DataError(f"data.table.path: {file} has no rows")
    stored = dict(zip(names, loaded.column_names, strict=True))
    spelled = functools.partial(_read_spelled, file, separator, stored) if is_csv else None
    return Columns(str(file), dict(zip(names, loaded.columns, strict=True)), spelled)


def _read_spelled(file: Path, separator: str, stored: Mapping[str, str], name: str) -> Any:
    """A column of a CSV file as text, read once more: only then is it known which column holds classes."""
    return _read_csv(file, separator, stored[name]).column(0)


def _read_csv(file: Path, separator: str, as_text: str | None = None) -> Any:
    """All columns, their types guessed, or one alone as text."""
    import pyarrow as pa
    from pyarrow import csv

    return csv.read_csv(
        str(file),
        read_options=csv.ReadOptions(use_threads=False),  # so that errors name the row
        parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            strings_can_be_null=True,
            include_columns=None if as_text is None else [as_text],
            column_types=None if as_text is None else {as_text: pa.string()},
        ),
    )


def _read_parquet(file: Path) -> Any:
    from pyarrow import parquet

    # read_table would make columns of the folders' names too, where they look like "year=2024".
    with parquet.ParquetFile(str(file)) as opened:
        loaded = opened.read()
    loaded.validate(full=True)  # text in a damaged file may be no text
    return loaded


def _check_header(names: list[str], file: Path, separator: str) -> None:
    others = [other for other in ",;\t" if other != separator and other in names[0]]
    if len(names) == 1 and others:
        raise ConfigError(
            f"data.table.separator: {separator!r} finds one column alone in {file}, {names[0][:80]!r}; "
            f"set data.table.separator={others[0]!r}"
        )
    # Whole numbers may be names, such as years.
    if all(_is_number(name) for name in names) and not all(name.isdigit() for name in names):
        raise DataError(
            f"data.table.path: the first line of {file} has numbers, {', '.join(names[:3])}; "
            "put a line with the columns' names before it"
        )


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _row(row: int) -> str:
    return f"row {row + 1:,} (the first is row 1)"
