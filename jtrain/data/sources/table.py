"""Rows of a table: columns of numbers as inputs, one or several others as targets."""

import importlib.util
from pathlib import Path

import numpy as np

from jtrain.data.examples import ArrayExamples, DataSet, Wanted
from jtrain.data.sources import columns as files
from jtrain.data.sources.columns import Columns
from jtrain.data.sources.stratify import in_test
from jtrain.errors import ConfigError, DataError
from jtrain.table import Fraction, nearest

_SPLIT_SEED = 20243  # of the fixed train and test split, never the run's
_DIABETES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
_SHOWN = 12  # names of columns in a message


def table(
    wanted: Wanted,
    *,
    path: str = "",
    target: str = "",
    features: tuple[str, ...] = (),
    test: Fraction = 0.2,
    separator: str = ",",
) -> DataSet:
    """One example a row: inputs float32 [features], targets from the named columns.

    Empty values of a CSV file are missing, and so are NA, NaN and null in any file; none may be missing in a column
    that is used. Blanks around names and classes are dropped.

    Args:
      wanted: "values" are numbers of one column, or of several; "class" is a column of text or whole numbers, whose
        classes are sorted; "classes" are columns of 0 and 1, one for each class; for "any" a target is only left out
        of the inputs.
      path: of a CSV file with the columns' names in its first line (.csv, .tsv or .txt, also with .gz), or a Parquet
        file (.parquet or .pq); `~` is the home folder. "" is the diabetes set that comes with scikit-learn, scaled as
        `load_diabetes` does: 442 patients with 10 numbers each, the target is how far the disease came in a year.
      target: column to predict, or several: "a,b".
      features: columns that are inputs, of numbers or True and False; () are all others.
      test: share of the rows in the test split, for "class" of each class; 0 is no test split.
      separator: between the values of a CSV file; a tab may be written as backslash and t.

    Raises:
      ConfigError: no such column, or the task asks for other targets. DataError: the file is missing or damaged, or a
        value is; the message names the column and the first row.
    """
    if wanted.targets == "tokens":
        raise ConfigError('data.name: "table" gives no tokens; set data.name="text"')
    if path:
        columns, name = files.read(Path(path).expanduser(), separator), Path(path).name
    else:
        if wanted.targets in ("class", "classes"):
            raise ConfigError(
                "data.table.path: is empty, which is scikit-learn's diabetes, whose targets are numbers; "
                'set task.name="regression", or the path of another table'
            )
        columns, name, target = _diabetes(), "diabetes", target or "target"
    chosen = _target_columns(columns, target, wanted)
    inputs = [
        columns.numbers(column, "name those that do in data.table.features")
        for column in _input_columns(columns, features, chosen)
    ]
    targets, labels, class_names = _targets(columns, chosen, wanted)
    held_out = in_test(labels, test, _SPLIT_SEED)
    values = np.stack(inputs, axis=1)
    return DataSet(
        name=name,
        train=ArrayExamples(values[~held_out], targets[~held_out]),
        val=None,
        test=ArrayExamples(values[held_out], targets[held_out]) if held_out.any() else None,
        num_outputs=max(1, len(class_names)),
        targets="class" if wanted.targets == "any" else wanted.targets,
        class_names=class_names,
    )


def _target_columns(columns: Columns, target: str, wanted: Wanted) -> list[str]:
    if not target and wanted.targets == "any":
        return []
    if not target:
        raise ConfigError(f"data.table.target: is empty; set it to the column to predict: {_list(columns.names)}")
    # A name may hold a comma itself.
    chosen = [target] if target in columns.names else [name.strip() for name in target.split(",")]
    _check_there(columns, chosen, "data.table.target")
    if wanted.targets == "class" and len(chosen) > 1:
        raise ConfigError(
            f"data.table.target: {target!r} are {len(chosen)} columns, a class is one; "
            'several columns of 0 and 1 are for task.name="multilabel"'
        )
    return chosen


def _input_columns(columns: Columns, features: tuple[str, ...], targets: list[str]) -> list[str]:
    _check_there(columns, features, "data.table.features")
    both = [name for name in features if name in targets]
    if both:
        raise ConfigError(f"data.table.features: {both[0]!r} is the target; leave it out of the features")
    chosen = list(features) or [name for name in columns.names if name not in targets]
    if not chosen:
        raise ConfigError(f"data.table.target: {columns.name} has no other columns; none is left for the inputs")
    nameless = [name for name in chosen if not name or name.startswith("__index_level_")]
    if nameless and not features:
        raise ConfigError(
            f"data.table.features: {columns.name} has a column without a name, such as the row numbers that pandas "
            "writes; write it with index=False, or name the columns that are inputs"
        )
    return chosen


def _targets(columns: Columns, chosen: list[str], wanted: Wanted) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(targets [n] or [n, k], class numbers [n] by which the test is stratified, names of classes or targets)."""
    one_class = np.zeros(columns.rows, np.int32)
    if wanted.targets == "any":
        return one_class, one_class, ()
    if wanted.targets == "class":
        labels, names = columns.classes(chosen[0])
        _check_varied(labels, chosen[0], names[0], columns)
        return labels, labels, names
    made = {name: columns.numbers(name, 'text is for task.name="classification"') for name in chosen}
    for name, column in made.items():
        if wanted.targets == "values":
            _check_varied(column, name, f"{column[0]:g}", columns)
        elif (wrong := (column != 0) & (column != 1)).any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"data.table.target: column {name!r} of {columns.name} has {column[row]:g} in row {row + 1:,} (the "
                "first is row 1); a class of several is 0 or 1 in each row"
            )
    together = np.stack(list(made.values()), axis=1)
    return together[:, 0] if wanted.targets == "values" and len(made) == 1 else together, one_class, tuple(made)


def _check_there(columns: Columns, names: list[str] | tuple[str, ...], key: str) -> None:
    for place, name in enumerate(names):
        if name not in columns.names:
            near = nearest(name, columns.names)
            hint = f"did you mean {near!r}?" if near else f"it has {_list(columns.names)}"
            raise ConfigError(f"{key}: {columns.name} has no column {name!r}; {hint}")
        if name in names[:place]:
            raise ConfigError(f"{key}: {name!r} is there twice; name each column once")


def _check_varied(values: np.ndarray, name: str, value: str, columns: Columns) -> None:
    if values.min() == values.max():
        raise DataError(
            f"data.table.target: column {name!r} of {columns.name} is {value} in all {columns.rows:,} rows; "
            "there is nothing to learn from it"
        )


def _list(names: tuple[str, ...]) -> str:
    more = f", … ({len(names):,} in all)" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more


def _diabetes() -> Columns:
    """Read from scikit-learn's files: to import sklearn.datasets takes a second."""
    import pyarrow as pa

    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "data.table: the diabetes set comes with scikit-learn, which is missing: pip install scikit-learn"
        )
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    if (folder / "diabetes_data_raw.csv.gz").is_file() and (folder / "diabetes_target.csv.gz").is_file():
        data = np.loadtxt(folder / "diabetes_data_raw.csv.gz")
        target = np.loadtxt(folder / "diabetes_target.csv.gz")
        data -= data.mean(axis=0)
        data /= np.sqrt(np.square(data).sum(axis=0))
    else:
        from sklearn.datasets import load_diabetes

        data, target = load_diabetes(return_X_y=True)
    columns = dict(zip((*_DIABETES, "target"), (*data.T, target), strict=True))
    return Columns("diabetes", {name: pa.chunked_array([pa.array(column)]) for name, column in columns.items()})
