"""Metrics as sums and counts: added over batches and devices, and made one number at the end."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import losses, scores
from jtrain.errors import ConfigError
from jtrain.scores import accuracy, mean
from jtrain.table import did_you_mean

Sums = dict[str, jax.Array]  # name -> float32 [k + 1]: k weighted sums, weight
Totals = dict[str, list[float]]  # the same on the host, in double precision

_TOP = re.compile(r"top([1-9]\d{0,8})_accuracy")


@functools.partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["widths"])
@dataclasses.dataclass(frozen=True)
class Packed(Mapping[str, Any]):
    """Sums by name that lie in one array: one result to write, hand over and fetch, not one a metric.

    Attributes:
      array: [..., all widths together].
      widths: (name, k + 1) of each, in order.
    """

    array: Any
    widths: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, sums: Mapping[str, jax.Array]) -> "Packed":
        """Of sums [k + 1]."""
        return cls(jnp.concatenate(list(sums.values())), tuple((name, len(each)) for name, each in sums.items()))

    def __getitem__(self, name: str) -> Any:
        start = 0
        for each, width in self.widths:
            if each == name:
                return self.array[..., start : start + width]
            start += width
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.widths)

    def __len__(self) -> int:
        return len(self.widths)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number, or an array, that is made from sums over examples alone: so it depends on no batch size.

    Attributes:
      values: (outputs, targets) -> [batch] or [batch, k], added up with the examples' weights.
      result: (sums float64 [k], weight) -> a number or an array; NaN where nothing was counted.
      higher_is_better: which way it improves.
      in_training: cheap enough for every training step; else for evaluation alone.
    """

    values: Callable[[jax.Array, jax.Array], jax.Array]
    result: Callable[[np.ndarray, float], Any] = mean
    higher_is_better: bool = False
    in_training: bool = True


def weighted_sums(per_example: Mapping[str, jax.Array], weight: jax.Array) -> Sums:
    """Sums and count of every metric; examples of weight 0 have no part in it, be their values NaN.

    Args:
      per_example: name -> [batch] or [batch, k].
      weight: [batch], 0 for padding.
    """
    count = weight.sum()[None]

    def sums(values: jax.Array) -> jax.Array:
        each = weight.reshape(-1, *(1 for _ in values.shape[1:]))
        return jnp.concatenate([jnp.atleast_1d(jnp.where(each > 0, each * values, 0.0).sum(axis=0)), count])

    return {name: sums(values) for name, values in per_example.items()}


def add_to(totals: Totals, many: Mapping[str, np.ndarray]) -> None:
    """Adds fetched sums [n, …], of n updates or batches, to `totals`: one after another, in double precision.

    So it does not matter in how many parts they come.
    """
    for name, found in many.items():
        total = np.array(totals.get(name, np.zeros(found.shape[1:])), np.float64)
        for values in found:
            total += values
        totals[name] = list(map(float, total))


def means(totals: Mapping[str, list[float]], metrics: Mapping[str, Metric] = {}) -> dict[str, Any]:
    """What the totals come to; the loss comes first, the others by name.

    Args:
      totals: name -> the sums, then the count.
      metrics: by name; those that are not in it are plain means.

    Returns:
      Numbers; arrays where a metric's result is one.
    """
    order = sorted(totals, key=lambda name: (name != "loss", name))
    results = {name: metrics[name].result if name in metrics else mean for name in order}
    return {name: results[name](np.asarray(totals[name][:-1]), totals[name][-1]) for name in order}


def _top(k: int) -> Metric:
    return Metric(functools.partial(scores.top_accuracy, k=k), higher_is_better=True)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, higher_is_better=True),
    "top5_accuracy": _top(5),
    "mean_class_accuracy": Metric(scores.recalled, scores.mean_recall, higher_is_better=True),
    "macro_f1": Metric(scores.agreement, scores.macro_f1, higher_is_better=True),
    "confusion": Metric(scores.pairs, scores.matrix, in_training=False),
    "label_accuracy": Metric(scores.label_accuracy, higher_is_better=True),
    "exact_match": Metric(scores.exact_match, higher_is_better=True),
    "label_f1": Metric(scores.label_agreement, scores.macro_f1, higher_is_better=True),
    "mse": Metric(losses.mse),
    "mae": Metric(losses.mae),
    "rmse": Metric(losses.mse, scores.root),
    "r2": Metric(scores.spread, scores.r2, higher_is_better=True),
    "token_accuracy": Metric(accuracy, higher_is_better=True),
    "perplexity": Metric(scores.nll, scores.perplexity),
    "bits_per_token": Metric(scores.nll, scores.bits),
}
# The kinds of targets that a metric is for.
METRIC_TAKES: dict[str, frozenset[str]] = {
    "accuracy": frozenset({"class"}),
    "top5_accuracy": frozenset({"class"}),
    "mean_class_accuracy": frozenset({"class"}),
    "macro_f1": frozenset({"class"}),
    "confusion": frozenset({"class"}),
    "label_accuracy": frozenset({"classes"}),
    "exact_match": frozenset({"classes"}),
    "label_f1": frozenset({"classes"}),
    "mse": frozenset({"values"}),
    "mae": frozenset({"values"}),
    "rmse": frozenset({"values"}),
    "r2": frozenset({"values"}),
    "token_accuracy": frozenset({"tokens"}),
    "perplexity": frozenset({"tokens"}),
    "bits_per_token": frozenset({"tokens"}),
}


def named(name: str) -> Metric:
    """The metric called `name`: of METRICS, or "top3_accuracy" and the like for any number.

    Raises:
      ConfigError: there is no such metric.
    """
    if name in METRICS:
        return METRICS[name]
    top = _TOP.fullmatch(name)
    if top is None:
        raise ConfigError(f"metrics: no such metric {name!r}{did_you_mean(name, METRICS)}")
    return _top(int(top[1]))


def takes(name: str) -> frozenset[str]:
    """The kinds of targets that the metric called `name` is for; raises ConfigError as `named` does."""
    named(name)
    return METRIC_TAKES.get(name, METRIC_TAKES["top5_accuracy"])
