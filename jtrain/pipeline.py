"""config -> data on its way to the device: splits cut and checked, feeds, and normalising."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain.data import sources
from jtrain.data.examples import DataSet, Examples, check_finite, check_labels, cut_validation
from jtrain.data.feed import Feed, is_resident
from jtrain.step import make_normalise

STATISTICS_EXAMPLES = 10_000  # examples, evenly spaced, from which normalising is measured


def load(config: ml_collections.ConfigDict, given: Any) -> DataSet:
    """The data set of a config, or the one given, with its validation split cut from train.

    Raises:
      ConfigError, DataError: it is missing, or its values are wrong; the message names the split.
    """
    if isinstance(given, DataSet):
        dataset = given
    elif given is not None:
        dataset = sources.from_arrays(given)
    else:
        source, source_options = configs.choice(config, "data")
        dataset = source(config.seed, **source_options)
    if config.data.validation > 0:
        train, val = cut_validation(dataset.train, config.data.validation, config.seed)
        dataset = dataclasses.replace(dataset, train=train, val=val)
    for name, examples in _splits(dataset).items():
        if is_resident(examples, config.data.placement):
            _check(dataset.num_classes, name, *examples.arrays())
    return dataset


def _splits(dataset: DataSet) -> dict[str, Examples]:
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: examples for name, examples in splits.items() if examples is not None}


def _check(
    num_classes: int, where: str, inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray | None = None
) -> None:
    check_labels(targets, num_classes, where, rows)
    check_finite(inputs, where, rows)


def feeds(config: ml_collections.ConfigDict, dataset: DataSet, mesh: jax.sharding.Mesh) -> dict[str, Feed]:
    """A feed for every split."""
    return {
        name: Feed(
            examples, mesh, resident=is_resident(examples, config.data.placement),
            check=functools.partial(_check, dataset.num_classes, name),
        )
        for name, examples in _splits(dataset).items()
    }  # fmt: skip


def make_prepare(
    config: ml_collections.ConfigDict, train: Examples, sample: np.ndarray
) -> Callable[[jax.Array], jax.Array]:
    """Normalising by mean and deviation of the last axis, over a fixed part of the training examples."""
    channels = sample.shape[-1:] if sample.ndim > 1 else ()
    mean, std = np.zeros(channels), np.ones(channels)
    if config.data.normalize and sample.ndim > 1:
        take = np.unique(np.linspace(0, len(train) - 1, STATISTICS_EXAMPLES).astype(np.int64))
        values = train.fetch(take)[0].reshape(-1, *channels)
        mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
        std = np.where(std > 1e-8, std, 1.0)  # a constant channel stays constant
    return make_normalise(mean, std, sample.ndim)
