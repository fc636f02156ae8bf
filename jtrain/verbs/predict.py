"""`predict`: class probabilities of a workdir's state, as .npz and .csv."""

import csv
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.assembly import Run
from jtrain.errors import ConfigError, DataError
from jtrain.io.progress import Screen
from jtrain.io.workdir import write_atomic
from jtrain.verbs.evaluate import check_split
from jtrain.verbs.restored import open_run, open_state


def predict(
    workdir: str | Path, *, split: str = "test", at: str = "latest", out: str | Path | None = None,
    inputs: Any = None, model: Any = None, data: Any = None,
    overrides: dict[str, str] | None = None, screen: Screen | None = None,
) -> np.ndarray:  # fmt: skip
    """Class probabilities [examples, classes], float32, in the order of the split or of `inputs`.

    Args:
      workdir: of a run.
      split: train, val or test, when no inputs are given.
      at: latest, best, or a step.
      out: path without ending for `<out>.npz` and `<out>.csv`; None writes nothing.
      inputs: [n, …] of the training data's shape and dtype, instead of a split.
      model: as `assemble` takes it, for a run that was given one.
      data: likewise.
      overrides: {dotted key: text} on top of the run's config.
      screen: where to show it.
    """
    screen = screen or Screen.quiet()
    run = open_run(workdir, overrides=overrides, model=model, data=data)
    targets = None
    if inputs is None:
        check_split(run, split)
        targets = run.feeds[split].examples.arrays()[1]
    state = open_state(run, workdir, at, screen=screen)
    probabilities = run.predict(state, split) if inputs is None else run.predict_inputs(state, _fitting(run, inputs))
    run.close()
    if out is not None:
        _write(Path(out), probabilities, targets, run.data.class_names)
        screen.line(f"{len(probabilities):,} predictions in {out}.npz and {out}.csv")
    return probabilities


def inputs_of(path: str | Path) -> np.ndarray:
    """The array of a .npy file, or the array `inputs` of a .npz file.

    Raises:
      DataError: the file is missing, damaged, or holds no such array.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if "inputs" not in loaded.files:
                raise DataError(
                    f"--inputs: {path} has no array 'inputs'; it has: {', '.join(loaded.files) or 'nothing'}"
                )
            return loaded["inputs"]
    except FileNotFoundError as error:
        raise DataError(f"--inputs: no file {path}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"--inputs: {path} is no .npy or .npz file, or damaged ({error})") from error


def _fitting(run: Run, inputs: Any) -> np.ndarray:
    sample, _ = run.data.train.fetch(np.arange(1))
    array = np.asarray(inputs)
    if array.shape[1:] != sample.shape[1:] or array.dtype != sample.dtype or len(array) == 0:
        raise ConfigError(
            f"inputs: must be [n, {', '.join(map(str, sample.shape[1:]))}] {sample.dtype} as in training, "
            f"got {list(array.shape)} {array.dtype}"
        )
    return array


def _write(out: Path, probabilities: np.ndarray, targets: np.ndarray | None, class_names: tuple[str, ...]) -> None:
    predicted = probabilities.argmax(axis=-1)
    arrays = {"probabilities": probabilities, "predicted": predicted}
    if targets is not None:
        arrays["targets"] = np.asarray(targets)
    write_atomic(out.with_name(out.name + ".npz"), lambda file: np.savez(file, **arrays))
    names = class_names or tuple(map(str, range(probabilities.shape[-1])))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["example", *(["target"] if targets is not None else []), "predicted", *names])
    for i, row in enumerate(probabilities):
        target = [targets[i]] if targets is not None else []
        table.writerow([i, *target, predicted[i], *(f"{p:.6g}" for p in row)])
    write_atomic(out.with_name(out.name + ".csv"), lambda file: file.write(text.getvalue().encode()))
