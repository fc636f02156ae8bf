"""Where the model of a restored run is wrong, for its report: counts, pictures and residuals of one split."""

import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np

from jtrain.data.broken import Tolerant
from jtrain.data.examples import CHUNK
from jtrain.io.report.mistakes import Mistake, Mistakes, Residual
from jtrain.run import Run
from jtrain.state import TrainState

MOST_EXAMPLES = 10_000
MOST_BYTES = 1 << 28  # of the inputs that are fetched
WORST = 24
LARGEST = 20
OUTPUTS = 3  # of which predictions are drawn over targets
SIDE = 96  # pixels of a picture's longer side: two dozen of them stay small


def find_mistakes(run: Run, state: TrainState) -> Mistakes | None:
    """Predicts the test split, else the validation split, and looks for what is wrong.

    Args:
      run: from `open_run`.
      state: of it.

    Returns:
      None for tasks that have neither classes nor numbers to be wrong about.
    """
    split = next((name for name in ("test", "val") if name in run.feeds), "")
    kind = run.task.predictions
    if not split or run.task.pretext is not None or kind not in ("class", "values"):
        return None
    rows = _looked_at(run, split)
    examples = run.feeds[split].examples
    if isinstance(examples, Tolerant):
        rows = rows[examples.weights(rows) > 0]
    inputs, targets = _fetched(run, split, rows)
    if isinstance(examples, Tolerant):  # a record may be found broken when it is read
        good = examples.weights(rows) > 0
        rows, inputs, targets = rows[good], inputs[good], targets[good]
    if not len(rows):
        return None
    found = run.predict_inputs(state, inputs)
    known = Mistakes(split, int(state.step), len(rows), len(examples))
    if kind == "values":
        return _of_values(known, rows, targets, found, run.names)
    return _of_classes(known, rows, inputs, targets, found, run.names)


def _looked_at(run: Run, split: str) -> np.ndarray:
    """Numbers of the examples: all, or of many evenly spread ones."""
    size = len(run.feeds[split].examples)
    sample, _ = run.data.train.fetch(np.arange(1))
    most = max(1, min(size, MOST_EXAMPLES, MOST_BYTES // max(sample.nbytes, 1)))
    return np.unique(np.linspace(0, size - 1, most).astype(np.int64))


def _fetched(run: Run, split: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, targets) of these examples."""
    examples = run.feeds[split].examples
    parts = [examples.fetch(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
    inputs, targets = zip(*parts, strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


def _of_classes(
    known: Mistakes, rows: np.ndarray, inputs: np.ndarray, targets: np.ndarray, found: np.ndarray,
    names: Sequence[str],
) -> Mistakes:  # fmt: skip
    classes = found.shape[-1]
    predicted = found.argmax(axis=-1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    names = list(names) if len(names) == classes else [str(i) for i in range(classes)]
    of_truth = found[np.arange(len(targets)), targets]
    wrong = np.flatnonzero(predicted != targets)
    order = wrong[np.argsort(of_truth[wrong], kind="stable")][:WORST]
    pictures = as_pictures(inputs[order]) if len(order) else []
    worst = [
        Mistake(
            int(rows[i]), names[int(targets[i])], names[int(predicted[i])], float(found[i, predicted[i]]),
            float(of_truth[i]), *(pictures[place] if pictures else ()),
        )
        for place, i in enumerate(order.tolist())
    ]  # fmt: skip
    return dataclasses.replace(known, wrong=len(wrong), names=names, confusion=confusion, worst=worst)


def _of_values(
    known: Mistakes, rows: np.ndarray, targets: np.ndarray, found: np.ndarray, names: Sequence[str]
) -> Mistakes:
    targets = targets.reshape(len(rows), -1).astype(np.float64)
    found = found.reshape(len(rows), -1).astype(np.float64)
    outputs = targets.shape[1]
    labels = list(names) if len(names) == outputs else [str(i) for i in range(outputs)]
    labels = labels if outputs > 1 else [""]
    size = np.abs(found - targets)
    size = np.where(np.isfinite(size), size, np.inf)  # what is not finite is the worst of all
    spread = targets.std(axis=0)
    order = np.argsort(-(size / np.where(spread > 0, spread, 1.0)), axis=None, kind="stable")[:LARGEST]
    residuals = []
    for place in order.tolist():
        i, j = divmod(place, outputs)
        residuals.append(Residual(int(rows[i]), labels[j], float(targets[i, j]), float(found[i, j])))
    pairs = [(labels[j], targets[:, j], found[:, j]) for j in range(min(outputs, OUTPUTS))]
    return dataclasses.replace(known, residuals=residuals, pairs=pairs)


def as_pictures(inputs: np.ndarray) -> list[tuple[bytes, int]]:
    """(PNG, pixels of the longer side) of each image; [] where the inputs are no images.

    uint8 is shown from 0 to 255; floats from the least to the greatest value of all the images, one scale for all.
    Images of 3 channels are RGB; of others the first channel is shown in gray. Large ones are made smaller.

    Args:
      inputs: [images, height, width, channels] or [images, height, width].
    """
    if inputs.ndim == 3 and min(inputs.shape[1:]) > 3:
        inputs = inputs[..., np.newaxis]
    if inputs.ndim != 4 or inputs.shape[-1] > 4 or min(inputs.shape[1:3]) < 4:
        return []
    from PIL import Image

    values = inputs if inputs.shape[-1] == 3 else inputs[..., :1]
    if values.dtype != np.uint8:
        finite = values[np.isfinite(values)].astype(np.float64)
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        scaled = (np.nan_to_num(values.astype(np.float64), nan=low) - low) / (high - low if high > low else 1.0)
        values = np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    pictures = []
    for pixels in values:
        image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        side = max(image.size)
        if side > SIDE:
            shape = tuple(max(1, math.floor(length * SIDE / side)) for length in image.size)
            image = image.resize((shape[0], shape[1]), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        pictures.append((file.getvalue(), min(side, SIDE)))
    return pictures
