"""config -> data on its way to the device: splits cut and checked, feeds, and normalising."""

import dataclasses
import functools
import zlib
from typing import Any, Literal

import jax
import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain.data import sources
from jtrain.data.examples import DataSet, Examples, TargetKind, Wanted, check_finite, check_targets, cut_validation
from jtrain.data.feed import Feed, is_resident
from jtrain.errors import ConfigError

STATISTICS_EXAMPLES = 10_000  # evenly spaced, from which normalising is measured
FINGERPRINT_EXAMPLES = 64  # evenly spaced, by which a resumed run knows its data again


def load(config: ml_collections.ConfigDict, given: Any, targets: TargetKind | Literal["any"]) -> DataSet:
    """The data set of a config, or the one given, with a validation split: its own, or one cut from train.

    `targets` is what the task needs.

    Raises:
      ConfigError, DataError: it is missing, or its values are wrong; the message names the split.
    """
    wanted = Wanted(config.seed, targets)
    if isinstance(given, DataSet):
        dataset = given
    elif given is not None:
        dataset = sources.from_arrays(given, wanted)
    else:
        source, source_options = configs.choice(config, "data")
        dataset = source(wanted, **source_options)
    if dataset.val is not None:
        if config.data.validation not in (0.0, configs.schema()["data.validation"].default):
            raise ConfigError(
                f"data.validation: {config.data.validation:g} would cut a validation split from train, "
                f"but {dataset.name} has one of its own; leave it out, or the split"
            )
    elif config.data.validation > 0:
        train, val = cut_validation(dataset.train, config.data.validation, config.seed)
        dataset = dataclasses.replace(dataset, train=train, val=val)
    for name, examples in _splits(dataset).items():
        if is_resident(examples, config.data.placement):
            _check(dataset, name, *examples.arrays())
    return dataset


def _splits(dataset: DataSet) -> dict[str, Examples]:
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: examples for name, examples in splits.items() if examples is not None}


def _check(
    dataset: DataSet, where: str, inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray | None = None
) -> None:
    check_targets(targets, dataset.targets, dataset.num_outputs, where, rows)
    check_finite(inputs, where, rows)


def feeds(config: ml_collections.ConfigDict, dataset: DataSet, mesh: jax.sharding.Mesh) -> dict[str, Feed]:
    """A feed for every split."""
    return {
        name: Feed(
            examples, mesh, resident=is_resident(examples, config.data.placement),
            check=functools.partial(_check, dataset, name),
        )
        for name, examples in _splits(dataset).items()
    }  # fmt: skip


def statistics(config: ml_collections.ConfigDict, train: Examples) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """(mean, std) of the last axis of the inputs over a fixed part of the training examples; None: no normalising."""
    sample, _ = train.fetch(np.arange(1))
    if not config.data.normalize or sample.ndim < 2:
        return None, None
    total = np.zeros((2, sample.shape[-1]))
    count = 0
    for rows in np.array_split(_spread(len(train), STATISTICS_EXAMPLES), 20):  # in parts: float64 is 8 times uint8
        values = train.fetch(rows)[0].reshape(-1, sample.shape[-1]).astype(np.float64)
        total += values.sum(axis=0), np.square(values).sum(axis=0)
        count += len(values)
    mean, square = total / count
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    return mean, np.where(std > 1e-6 * np.maximum(1.0, np.abs(mean)), std, 1.0)  # a constant channel stays constant


def fingerprint(dataset: DataSet) -> dict[str, int]:
    """What tells this data from other data: sizes, classes, and a checksum of some training examples."""
    inputs, targets = dataset.train.fetch(_spread(len(dataset.train), FINGERPRINT_EXAMPLES))
    checksum = zlib.crc32(targets.tobytes(), zlib.crc32(inputs.tobytes()))
    sizes = {name: len(examples) for name, examples in _splits(dataset).items()}
    return sizes | {"outputs": dataset.num_outputs, "checksum": checksum}


def _spread(examples: int, most: int) -> np.ndarray:
    """At most `most` example numbers, evenly spaced."""
    return np.unique(np.linspace(0, examples - 1, most).astype(np.int64))
