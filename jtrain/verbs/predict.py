"""`predict`: what a workdir's state says of a split, or of inputs of yours, as .npz and .csv."""

import contextlib
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.data.broken import Tolerant
from jtrain.data.examples import check_finite, targets_of
from jtrain.data.sources import as_inputs
from jtrain.errors import ConfigError, DataError
from jtrain.io.progress import Screen
from jtrain.peers import ALONE, Peers
from jtrain.run import Run
from jtrain.verbs.evaluate import check_split, tell_news
from jtrain.verbs.predictions import write_predictions
from jtrain.verbs.restored import agree_on, moved, open_run, open_state


def predict(
    workdir: str | Path, *, split: str = "test", at: str | int = "latest", out: str | Path | None = None,
    inputs: Any = None, model: Any = None, data: Any = None,
    overrides: dict[str, str] | None = None, trust: bool = False, screen: Screen | None = None,
    peers: Peers = ALONE,
) -> np.ndarray:  # fmt: skip
    """Predictions [examples, …], float32, in the order of the split or of `inputs`.

    Classification gives class probabilities, several labels the probability of each, regression numbers in the unit of
    the targets, language modelling the probability of each next token, autoencoding the inputs as the model gives them.

    Args:
      workdir: of a run.
      split: train, val or test, when no inputs are given.
      at: latest, best, or a step.
      out: path without ending for `<out>.npz` and `<out>.csv`, or a folder for files named after the split; None
        writes nothing.
      inputs: [n, …] of the training data's shape and type, instead of a split; wide types are narrowed as in training.
      model: as `assemble` takes it, for a run that was given one.
      data: likewise.
      overrides: {dotted key: text} on top of the run's config, for devices, the log and where the data is.
      trust: take the parts "module:Name" that the run's config.json names: they are imported and called.
      screen: where to show it.
      peers: from `jtrain.connect()`, where several processes do this together.
    """
    screen = screen or Screen.quiet()
    with contextlib.closing(open_run(workdir, overrides=overrides, model=model, data=data, trust=trust)) as run:
        if inputs is None:
            check_split(run, split)
        else:
            inputs = _fitting(run, inputs)
        given = zlib.crc32(inputs.tobytes()) if inputs is not None else split
        agree_on(run, peers, {"inputs": given, "at": str(at)})
        own = split if inputs is None and data is None and not moved(overrides) else ""
        state = open_state(run, workdir, at, screen=screen, peers=peers, held_out=own)
        found = run.predict(state, split) if inputs is None else run.predict_inputs(state, inputs)
        tell_news(run, screen)
        if out is not None:
            write_found(run, found, "" if inputs is not None else split, out, screen)
    return found


def write_found(run: Run, found: np.ndarray, split: str, out: str | Path, screen: Screen) -> None:
    """Writes predictions [examples, …] of a run's split ("": of other inputs) as `<out>.npz` and `<out>.csv`."""
    place = _place(out, default_name(split or "inputs"))
    targets, weight = _targets(run, split) if split else (None, None)
    files = write_predictions(place, found, targets, run.task.predictions, run.names, weight)
    read = len(found) if weight is None else int((weight > 0).sum())
    left = f" ({len(found) - read:,} records cannot be read)" if read < len(found) else ""
    screen.line(f"{read:,} predictions{left} in {' and '.join(map(str, files))}")


def default_name(text: str) -> str:
    """What files of predictions are called, after their split or the file of their inputs."""
    return f"predictions-{Path(text).stem}"


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
    given = np.asarray(inputs)
    array = as_inputs(given, "inputs")
    if array.shape[1:] != sample.shape[1:] or array.dtype != sample.dtype:
        shape = ", ".join(map(str, ("n", *sample.shape[1:])))
        raise ConfigError(
            f"inputs: must be [{shape}] {sample.dtype} as in training, got {list(given.shape)} {given.dtype}"
        )
    check_finite(array, "inputs:")
    return array


def _targets(run: Run, split: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(targets [n, …] of a split unless the task makes its own, weights [n] that are 0 for broken records)."""
    examples, rows = run.feeds[split].examples, np.arange(len(run.feeds[split].examples))
    targets = targets_of(examples, rows) if run.task.pretext is None else None
    return targets, examples.weights(rows) if isinstance(examples, Tolerant) else None


def _place(out: str | Path, name: str) -> Path:
    """Where files go, without ending; raises DataError when its folder cannot be made."""
    path = Path(out)
    if str(out).endswith(os.sep) or path.is_dir():
        path = path / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out={out}: cannot make the folder {path.parent}: {error.strerror}") from error
    return path
