"""Which examples look mislabelled, by the predictions of models that never saw them, or are there twice."""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from jtrain.data.examples import CHUNK, Examples, TargetKind

ODD = 3.5  # modified z-score of a residual from which on a number is suspicious (Iglewicz and Hoaglin 1993, p. 11)
NEAR = 0.99  # cosine of two inputs, of which the mean of all is taken away, from which on they are nearly the same
NEAR_MOST = 50_000  # examples among which near ones are looked for: the work goes with the square
SKETCH = 256  # random directions in which inputs are first compared
SLACK = 0.01  # by which a cosine in these directions may be less than the true one (five standard deviations at NEAR)
WIDEST = 2**16  # values of an input that are sketched; of more, evenly spaced ones
BLOCK = 1024  # examples compared with all others at a time


@dataclasses.dataclass(frozen=True)
class Doubt:
    """How far each example's given label is to be doubted.

    Attributes:
      score: [n], the lower the worse; NaN where there is no prediction.
      flagged: [n] bool, looks mislabelled.
      suggested: [n, …] what the models say instead, as targets are.
    """

    score: np.ndarray
    flagged: np.ndarray
    suggested: np.ndarray

    def worst_first(self) -> np.ndarray:
        """Numbers of all examples that were judged: the flagged ones first, each part by its score."""
        order = np.lexsort((self.score, ~self.flagged))
        return order[np.isfinite(self.score[order])]


def doubt(targets: np.ndarray, predictions: np.ndarray, kind: TargetKind) -> Doubt:
    """Judges given targets by out-of-fold predictions.

    Class numbers: confident learning (Northcutt, Jiang and Chuang 2021, section 3). The threshold of a class is the
    mean probability of it over the examples that are labelled so; an example is flagged when a class other than its
    label is the most probable of those that reach their thresholds: it is off the diagonal of the confident joint. The
    score is the normalised margin of the same paper, p(label) − max p(another class), from −1 to 1. Several labels: the
    same for each label, of its two values; the score is the least of them. Numbers: the modified z-score of the
    residual, 0.6745 (r − median) / MAD, flagged beyond ±ODD; the score is −|z|, of the worst value.

    Args:
      targets: [n], or [n, k].
      predictions: [n, classes] probabilities, or [n, k] numbers; rows of NaN are not judged.
      kind: "class", "classes" or "values".
    """
    wide = predictions.astype(np.float64).reshape(len(targets), -1)
    judged = np.asarray(np.isfinite(wide).all(axis=1))
    if kind == "values":
        return _odd(targets, wide, judged)
    if kind == "classes":
        return _labels(targets, wide, judged)
    return _classes(targets, wide, judged)


def _classes(targets: np.ndarray, p: np.ndarray, judged: np.ndarray) -> Doubt:
    each = np.arange(len(targets))
    given = p[each, targets]
    others = p.copy()
    others[each, targets] = -np.inf
    threshold = np.full(p.shape[1], np.inf)
    for label in np.unique(targets[judged]):
        threshold[label] = given[judged & (targets == label)].mean()
    with np.errstate(invalid="ignore"):
        sure = np.where(p >= threshold[None, :], p, -np.inf)
    confident = sure.argmax(axis=1)
    flagged = judged & np.isfinite(sure.max(axis=1)) & (confident != targets)
    suggested = np.where(flagged, confident, np.where(judged[:, None], p, 0.0).argmax(axis=1))
    score = np.where(judged, given - others.max(axis=1), np.nan)
    return Doubt(score, flagged, np.where(judged, suggested, targets).astype(targets.dtype))


def _labels(targets: np.ndarray, p: np.ndarray, judged: np.ndarray) -> Doubt:
    positive = targets.astype(bool)
    given = np.where(positive, p, 1 - p)
    thresholds = {}
    for value in (True, False):
        own = judged[:, None] & (positive == value)
        total = np.where(own, given, 0.0).sum(axis=0)
        # A value that a label never has is suggested by nothing.
        thresholds[value] = np.where(own.any(axis=0), total / np.maximum(own.sum(axis=0), 1), np.inf)
    other = np.where(positive, thresholds[False][None, :], thresholds[True][None, :])
    with np.errstate(invalid="ignore"):
        wrong = judged[:, None] & (1 - given >= other) & (given < 0.5)
    score = np.where(judged, (2 * given - 1).min(axis=1), np.nan)
    return Doubt(score, np.asarray(wrong.any(axis=1)), np.where(wrong, ~positive, positive).astype(targets.dtype))


def _odd(targets: np.ndarray, predictions: np.ndarray, judged: np.ndarray) -> Doubt:
    residual = targets.reshape(len(targets), -1).astype(np.float64) - predictions
    known = residual[judged]
    score = np.full(len(targets), np.nan)
    if len(known):
        middle = np.median(known, axis=0)
        spread = np.median(np.abs(known - middle[None, :]), axis=0) / 0.6745
        spread = np.where(spread > 0, spread, known.std(axis=0))
        score[judged] = -np.max(np.abs(known - middle[None, :]) / np.where(spread > 0, spread, 1.0)[None, :], axis=1)
    with np.errstate(invalid="ignore"):
        flagged = score < -ODD
    suggested = np.where(judged[:, None], predictions, targets.reshape(len(targets), -1))
    return Doubt(score, flagged, suggested.reshape(targets.shape).astype(targets.dtype))


def exact_duplicates(examples: Examples) -> np.ndarray:
    """[n] int: the first example with the very same input; an example's own number where that is itself."""
    first: dict[bytes, int] = {}
    every = np.arange(len(examples))
    found = every.copy()
    for rows, inputs in _blocks(examples, every):
        for row, values in zip(rows, inputs, strict=True):
            digest = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).digest()
            found[row] = first.setdefault(digest, int(row))
    return found


def near_duplicates(examples: Examples, rows: np.ndarray) -> list[tuple[int, int, float]]:
    """(example, the most like it of those before, cosine) of those that are nearly the same, in their order.

    What is compared is inputs without the mean of all; of inputs without an inner order (tables), values in units of
    their standard deviation. They are sketched in SKETCH random directions, which keep angles (Johnson and
    Lindenstrauss 1984), and the pairs that this finds are compared as they are: memory goes with the number of
    examples, not with its square.

    Args:
      examples: with inputs that are numbers.
      rows: which of them are compared.
    """
    if len(rows) < 2:
        return []
    mean, scale = _moments(examples, rows)
    sketch = _sketches(examples, rows, mean, scale)
    found = []
    for start in range(0, len(rows), BLOCK):
        own = sketch[start : start + BLOCK]
        likeness = own @ sketch[: start + len(own)].T
        # Only what comes before counts.
        likeness[np.arange(len(own))[:, None] + start <= np.arange(likeness.shape[1])[None, :]] = -1.0
        best = likeness.argmax(axis=1)
        for place in np.flatnonzero(likeness[np.arange(len(own)), best] >= NEAR - SLACK):
            pair = rows[[start + place, best[place]]]
            a, b = _centred(examples.fetch(pair)[0], mean, scale)
            cosine = float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))
            if cosine >= NEAR:
                found.append((int(pair[0]), int(pair[1]), cosine))
    return found


def _blocks(examples: Examples, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, inputs) of CHUNK examples at a time."""
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        yield part, examples.fetch(part)[0]


def _moments(examples: Examples, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, scale) [d] of every value of an input; the scale is 1 but in tables."""
    total, squares = np.zeros(1), np.zeros(1)
    table = False
    for _, inputs in _blocks(examples, rows):
        values = inputs.reshape(len(inputs), -1).astype(np.float64)
        table = inputs.ndim == 2
        total, squares = total + values.sum(axis=0), squares + np.square(values).sum(axis=0)
    mean = total / len(rows)
    std = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0.0))
    return mean, np.where(table & (std > 1e-6 * np.abs(mean)), std, 1.0)


def _centred(inputs: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (inputs.reshape(len(inputs), -1) - mean[None, :]) / scale[None, :]


def _sketches(examples: Examples, rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """[n, k] float32 of length 1 each; of 0 where an input is the mean itself."""
    kept = np.arange(0, len(mean), -(-len(mean) // WIDEST))
    directions = None
    if len(kept) > SKETCH:
        directions = np.random.default_rng(0).standard_normal((len(kept), SKETCH), np.float32)
    found = np.empty((len(rows), len(kept) if directions is None else SKETCH), np.float32)
    for number, (_, inputs) in enumerate(_blocks(examples, rows)):
        values = _centred(inputs, mean, scale)[:, kept].astype(np.float32)
        values = values if directions is None else values @ directions
        length = np.linalg.norm(values, axis=1, keepdims=True)
        found[number * CHUNK : number * CHUNK + len(values)] = values / np.where(length > 0, length, 1.0)
    return found
