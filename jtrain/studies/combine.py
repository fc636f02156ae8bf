"""What the predictions of several models come to together, in NumPy: means, medians and votes, and what they score."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

Kind = Literal["class", "classes", "values", "tokens", "inputs"]  # of `Task.predictions`

BINS = 15  # of the expected calibration error
RESAMPLES = 1000  # of the bootstrap
LEAST = float(np.finfo(np.float32).tiny)  # of a probability, so that its logarithm is finite


@dataclasses.dataclass(frozen=True)
class Combined:
    """What several models say together.

    Attributes:
      values: [examples, …] float32: probabilities, shares of the votes, or numbers.
      labels: class numbers [examples, …], labels 0 or 1 [examples, labels]; None where numbers are predicted.
      calibrated: values are probabilities.
    """

    values: np.ndarray
    labels: np.ndarray | None
    calibrated: bool = False


def mean(p: np.ndarray, kind: Kind) -> Combined:
    """The mean of probabilities or numbers over members and views.

    Args:
      p: predictions [members, views, examples, …]; a view is a form of the inputs (`tta`), one where there is none.
      kind: what they are.
    """
    values = p.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return Combined(values, labels_of(values, kind), kind not in ("values", "inputs"))


def median(p: np.ndarray, kind: Kind) -> Combined:
    """The median over the members of each one's mean over its views, value by value; the arguments are `mean`'s."""
    values = np.median(p.mean(axis=1, dtype=np.float64), axis=0).astype(np.float32)
    return Combined(values, labels_of(values, kind))


def vote(p: np.ndarray, kind: Kind) -> Combined:
    """Majority vote: every view of every member has a vote, the label that it holds likeliest.

    Of labels with equally many votes the one of the greater mean probability wins. The arguments are `mean`'s; the
    values are shares of the votes.
    """
    return _voted(p.reshape(-1, *p.shape[2:]), kind)


def average_then_vote(p: np.ndarray, kind: Kind) -> Combined:
    """Each member's probabilities are averaged over its views, then every member has one vote; with one view it is
    `vote`. The arguments are `mean`'s, ties and values `vote`'s."""
    return _voted(p.mean(axis=1, dtype=np.float64), kind)


def _voted(voters: np.ndarray, kind: Kind) -> Combined:
    """Of predictions [voters, examples, …]."""
    likely = voters.mean(axis=0, dtype=np.float64)
    if kind == "classes":
        shares = (voters > 0.5).mean(axis=0)
        tied = np.abs(shares - 0.5) < 0.25 / len(voters)
        labels = np.where(tied, likely > 0.5, shares > 0.5).astype(np.int64)
        return Combined(shares.astype(np.float32), labels)
    classes = np.arange(voters.shape[-1])
    counts = np.zeros(voters.shape[1:], np.int64)
    for one in voters:
        counts += one.argmax(axis=-1)[..., None] == classes
    first = counts == counts.max(axis=-1, keepdims=True)
    labels = np.where(first, likely, -np.inf).argmax(axis=-1)
    return Combined((counts / len(voters)).astype(np.float32), labels)


Rule = Callable[[np.ndarray, Kind], Combined]
RULES: dict[str, Rule] = {"mean": mean, "vote": vote, "average_then_vote": average_then_vote}
NUMBER_RULES: dict[str, Rule] = {"mean": mean, "median": median}


def rules(kind: Kind) -> dict[str, Rule]:
    """The rules for predictions of a kind."""
    return NUMBER_RULES if kind in ("values", "inputs") else RULES


def labels_of(values: np.ndarray, kind: Kind) -> np.ndarray | None:
    """The labels that probabilities [examples, …] stand for; None of numbers."""
    if kind in ("values", "inputs"):
        return None
    return (values > 0.5).astype(np.int64) if kind == "classes" else values.argmax(axis=-1)


def scores(found: Combined, targets: np.ndarray, kind: Kind) -> dict[str, np.ndarray]:
    """What each example scores, [examples] float64, by name; the main score comes first.

    "accuracy" or "label_accuracy" is the share of right labels, "nll" the mean -log p of the targets in nats, "mse" and
    "mae" are mean squared and absolute errors.

    Args:
      found: together, or of one model.
      targets: [examples, …] as the task has them.
      kind: of the predictions.
    """
    size = len(targets)
    if found.labels is None:
        missed = (found.values.reshape(size, -1) - targets.reshape(size, -1)).astype(np.float64)
        return {"mse": np.square(missed).mean(axis=1), "mae": np.abs(missed).mean(axis=1)}
    right = (found.labels == targets).reshape(size, -1).mean(axis=1)
    accuracy = {"label_accuracy" if kind == "classes" else "accuracy": right}
    if not found.calibrated:
        return accuracy
    p = found.values.astype(np.float64)
    own = np.where(targets > 0.5, p, 1.0 - p) if kind == "classes" else _at(p, targets)
    nll = {"nll": -np.log(np.maximum(own, LEAST)).reshape(size, -1).mean(axis=1)}
    return nll | accuracy if kind == "tokens" else accuracy | nll


def reliability(found: Combined, targets: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean confidence, share that is right, count) [BINS] of predictions by confidence, in bins of equal width.

    Confidence is the greatest probability of an example or token; of labels it is each label's own probability, and
    "right" that the label is there. Empty bins are NaN, NaN, 0. The arguments are those of `scores`.
    """
    if kind == "classes":
        confidence, right = found.values.ravel(), np.asarray(targets).ravel() > 0.5
    else:
        confidence = found.values.max(axis=-1).ravel()
        right = (found.values.argmax(axis=-1) == targets).ravel()
    place = np.clip(np.ceil(confidence.astype(np.float64) * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return (
            np.bincount(place, confidence, BINS) / count, np.bincount(place, right, BINS) / count, count,
        )  # fmt: skip


def calibration_error(found: Combined, targets: np.ndarray, kind: Kind) -> float:
    """Σ count / n × |share right − confidence| over the bins of `reliability` (Guo et al. 2017, section 2, ECE)."""
    confidence, right, count = reliability(found, targets, kind)
    there = count > 0
    return float((count[there] * np.abs(right[there] - confidence[there])).sum() / count.sum())


def agreement(p: np.ndarray, targets: np.ndarray, kind: Kind) -> np.ndarray:
    """[members, members]: the share of labels that two members give alike; of numbers, how their errors correlate.

    Args:
      p: predictions [members, views, examples, …], each member's views averaged.
      targets: [examples, …].
      kind: of the predictions.
    """
    own = p.mean(axis=1, dtype=np.float64)
    if kind in ("values", "inputs"):
        errors = (own.reshape(len(own), len(targets), -1) - targets.reshape(len(targets), -1)[None]).reshape(
            len(own), -1
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.corrcoef(errors)
    labels = np.stack([np.asarray(labels_of(one, kind)).ravel() for one in own])
    return np.array([[(one == other).mean() for other in labels] for one in labels])


@dataclasses.dataclass(frozen=True)
class Gain:
    """How much better than the mean member, with its noise.

    Attributes:
      value: above 0 is better.
      examples: standard error from the examples: a bootstrap of the paired differences.
      members: standard error of the mean member's score from the spread of the members.
    """

    value: float
    examples: float
    members: float

    @property
    def noise(self) -> float:
        """Both together."""
        return float(np.hypot(self.examples, self.members))

    @property
    def sure(self) -> bool:
        """More than twice the noise."""
        return self.value > 2 * self.noise


def gain(together: np.ndarray, members: np.ndarray, *, higher_is_better: bool, seed: int = 0) -> Gain:
    """The gain of a rule over the mean member.

    Args:
      together: what each example scores with the rule, [examples].
      members: the same with each member, [members, examples].
      higher_is_better: which way the score improves.
      seed: of the bootstrap.
    """
    sign = 1.0 if higher_is_better else -1.0
    difference = sign * (together - members.mean(axis=0))
    generator, size = np.random.default_rng(seed), len(together)
    means = [difference[generator.integers(size, size=size)].mean() for _ in range(RESAMPLES)]
    spread = members.mean(axis=1).std(ddof=1) / np.sqrt(len(members)) if len(members) > 1 else 0.0
    return Gain(float(difference.mean()), float(np.std(means)), float(spread))


def average_weights(members: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The mean of several sets of weights by path (Wortsman et al. 2022, "Model soups", uniform); whole numbers and
    keys are the first one's."""
    first = members[0]
    return {
        path: np.mean([one[path] for one in members], axis=0, dtype=np.float64).astype(array.dtype)
        if np.issubdtype(array.dtype, np.floating)
        else array
        for path, array in first.items()
    }


def _at(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """values [..., classes] at class numbers [...]."""
    return np.take_along_axis(values, np.asarray(numbers)[..., None].astype(np.int64), axis=-1)[..., 0]
