"""config -> data on its way to the device: splits cut and checked, feeds, and normalising."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain.data import augment, sources
from jtrain.data.broken import Tolerant
from jtrain.data.examples import (
    DataSet,
    Examples,
    Subset,
    TargetKind,
    Wanted,
    check_finite,
    check_targets,
    check_tokens,
    cut_validation,
    targets_of,
)
from jtrain.data.feed import Feed, is_resident
from jtrain.data.workers import Workers, usable_cores, worker_count
from jtrain.errors import ConfigError
from jtrain.models.prepare import Scaling
from jtrain.models.whitening import whitening_filters
from jtrain.tasks import NEEDS, Facts, needs

STATISTICS_EXAMPLES = 10_000  # evenly spaced, from which normalising is measured
STREAMED_EXAMPLES = 1_000  # the same where each must be decoded
FINGERPRINT_EXAMPLES = 64  # evenly spaced, by which a resumed run knows its data again
WORDS = {"class": "class numbers", "classes": "0 or 1 for every class", "values": "numbers", "tokens": "tokens"}


def load(config: ml_collections.ConfigDict, given: Any) -> DataSet:
    """The data set of a config, or the one given, with a validation split: its own, or one cut from train.

    Raises:
      ConfigError, DataError: it is missing, or its values are wrong; the message names the split.
    """
    if isinstance(given, DataSet) and given.ready:
        return given
    wanted = Wanted(config.seed, needs(config.task.name, configs.choice(config, "task")[0]))
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
    if config.data.examples:
        seen = Tolerant(dataset.train, config.data.broken, "train")
        rows = choose(seen, dataset.targets, config.data.examples, config.seed)
        dataset = dataclasses.replace(dataset, train=Subset(dataset.train, rows))
    tolerant: dict[str, Any] = {
        name: Tolerant(examples, config.data.broken, name) for name, examples in _splits(dataset).items()
    }
    dataset = dataclasses.replace(dataset, **tolerant)
    if wanted.targets not in ("any", dataset.targets):
        raise ConfigError(
            f"task.name: {config.task.name!r} needs {WORDS[wanted.targets]} as targets, but those of {dataset.name} "
            f"are {WORDS[dataset.targets]}; {_fitting_task(dataset.targets)}"
        )
    for name, examples in _splits(dataset).items():
        if is_resident(examples, config.data.placement):
            _check(dataset, name, *examples.arrays())
    return dataclasses.replace(dataset, ready=True)


def _fitting_task(targets: TargetKind) -> str:
    names = [name for name, needed in NEEDS.items() if needed == targets]
    return f"set task.name to {' or '.join(map(repr, names))}, or choose other data"


def _splits(dataset: DataSet) -> dict[str, Examples]:
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: examples for name, examples in splits.items() if examples is not None}


def _check(
    dataset: DataSet, where: str, inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray | None = None
) -> None:
    check_targets(targets, dataset.targets, dataset.num_outputs, where, rows)
    if dataset.targets == "tokens":
        check_tokens(inputs, dataset.num_outputs, where, rows)
    check_finite(inputs, where, rows)


def feeds(config: ml_collections.ConfigDict, dataset: DataSet, mesh: jax.sharding.Mesh) -> dict[str, Feed]:
    """A feed for every split; those that stream share the processes that decode."""
    accelerators = 0 if meshes.is_cpu(mesh) else mesh.size
    count = worker_count(config.data.workers, accelerators, usable_cores())
    workers = Workers(count) if count else None
    return {
        name: Feed(
            examples, mesh, resident=is_resident(examples, config.data.placement),
            check=functools.partial(_check, dataset, name), workers=workers,
            numbered=name == "train" and augment.visits(config.augment),
        )
        for name, examples in _splits(dataset).items()
    }  # fmt: skip


def statistics(config: ml_collections.ConfigDict, dataset: DataSet) -> Scaling:
    """(mean, std) of the last axis of the inputs: the config's, else measured on a fixed part of the training examples.

    None: no normalising; tokens, and inputs without such an axis, are taken as they are.

    Raises:
      ConfigError: the config's mean and std do not suit the inputs.
    """
    sample, _ = dataset.train.fetch(np.arange(1))
    if not config.data.normalize or sample.ndim < 2 or dataset.targets == "tokens":
        return None
    if config.data.mean:
        given = np.asarray(config.data.mean), np.asarray(config.data.std)
        for name, values in zip(("mean", "std"), given, strict=True):
            if len(values) not in (1, sample.shape[-1]):
                raise ConfigError(
                    f"data.{name}: has {len(values)} numbers, the inputs have {sample.shape[-1]} channels; "
                    "give one, or one for each, in the unit of the inputs"
                )
        return given[0] * np.ones(sample.shape[-1]), given[1] * np.ones(sample.shape[-1])
    return _moments(_inputs(config, dataset), sample.shape[-1])


def whitening(config: ml_collections.ConfigDict, dataset: DataSet, scaling: Scaling) -> np.ndarray | None:
    """Filters [size, size, channels, features] that whiten patches of the inputs, measured on a fixed part of the
    training examples; None: none are asked for.

    Args:
      config: with the side of the patches, `data.whiten`, and `data.whiten_eps`.
      dataset: of images.
      scaling: mean and std by which images are normalised before; None: they are not.

    Raises:
      ConfigError: the inputs are no images, are smaller than the patches, or are all one constant.
    """
    size = config.data.whiten
    if not size:
        return None
    sample, _ = dataset.train.fetch(np.arange(1))
    if sample.ndim != 4 or min(sample.shape[1:3]) < size:
        raise ConfigError(
            f"data.whiten: patches of {size}×{size} pixels need images [height, width, channels] of that size or more, "
            f"the inputs are {list(sample.shape[1:])}; 0 whitens nothing"
        )
    mean, std = scaling if scaling is not None else (np.zeros(()), np.ones(()))
    images = ((inputs - mean) / std for inputs in _inputs(config, dataset))
    return whitening_filters(images, size, config.data.whiten_eps)


def facts(config: ml_collections.ConfigDict, dataset: DataSet, inputs: Scaling, *, own_targets: bool) -> Facts:
    """What a task must know of the data; with `own_targets` it makes them of the inputs, whose scaling is given."""
    sample, _ = dataset.train.fetch(np.arange(1))
    mean, std, least, most = np.zeros(()), np.ones(()), -math.inf, math.inf
    if own_targets and sample.ndim > 1:
        measured = inputs is not None and not config.data.mean
        mean, std = inputs if measured and inputs else _moments(_inputs(config, dataset), sample.shape[-1])
    elif dataset.targets == "values" and not own_targets:
        train = _targets(config, dataset.train)
        mean, std = _moments([train], dataset.num_outputs)
        every = [train, *(_targets(config, split) for split in (dataset.val, dataset.test) if split is not None)]
        least, most = float(min(map(np.min, every))), float(max(map(np.max, every)))
    return Facts(dataset.num_outputs, tuple(sample.shape[1:]), mean, std, least, most)


def _targets(config: ml_collections.ConfigDict, examples: Examples) -> np.ndarray:
    """Targets [n, …] of all examples on the device, of a fixed part of those that stream."""
    whole = is_resident(examples, config.data.placement)
    rows = np.arange(len(examples)) if whole else _spread(len(examples), STREAMED_EXAMPLES)
    return targets_of(examples, rows)


def _inputs(config: ml_collections.ConfigDict, dataset: DataSet) -> Iterator[np.ndarray]:
    """Inputs [m, …] of a fixed part of the training examples without broken ones, in parts: float64 takes room."""
    resident = is_resident(dataset.train, config.data.placement)
    rows = _spread(len(dataset.train), STATISTICS_EXAMPLES if resident else STREAMED_EXAMPLES)
    for part in np.array_split(rows, 20):
        if len(part):
            inputs, _ = dataset.train.fetch(part)
            yield inputs[_good(dataset.train, part)]


def _good(examples: Examples, rows: np.ndarray) -> np.ndarray:
    """[b] bool: which of the examples that were fetched are not broken."""
    return examples.weights(rows) > 0 if isinstance(examples, Tolerant) else np.ones(len(rows), bool)


def _moments(parts: Iterable[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std) [width] of the last axis; what is constant to the last digits of float32 has std 1."""
    first: np.ndarray | None = None
    total, count = np.zeros((2, width)), 0
    for part in parts:
        values = part.reshape(-1, width).astype(np.float64)
        first = values[0] if first is None else first
        values = values - first  # else the squares of large means swallow what varies
        total += values.sum(axis=0), np.square(values).sum(axis=0)
        count += len(values)
    offset, square = total / count
    std, mean = np.sqrt(np.maximum(square - offset**2, 0.0)), offset + first
    return mean, np.where(std > 2 * np.finfo(np.float32).eps * np.abs(mean), std, 1.0)


def choose(train: Tolerant, targets: TargetKind, count: int, seed: int) -> np.ndarray:
    """Numbers [count] of training examples drawn by seed, of class numbers as many of each class as there can be;
    broken ones that reading the targets shows are left out."""
    every = np.arange(len(train))
    labels = targets_of(train, every) if targets == "class" else None
    every = every[_good(train, every)]
    if count > len(every):
        raise ConfigError(f"data.examples: {count} asked for, there are {len(every)} to train on")
    # The second word keeps this stream apart from those of the epochs and of the validation cut.
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, 2**64 - 2], np.uint64)))
    rows = generator.permutation(every)
    if labels is not None:
        # Round by round: the first of every class, then the second of every class, and so on.
        drawn = labels[rows]
        order = np.argsort(drawn, kind="stable")
        turn = np.empty(len(rows), np.int64)
        turn[order] = np.arange(len(rows)) - np.searchsorted(drawn[order], drawn[order])
        rows = rows[np.argsort(turn, kind="stable")]
    return np.sort(rows[:count])


def fingerprint(dataset: DataSet) -> dict[str, int]:
    """What tells this data from other data: sizes, classes, and a checksum of some training examples."""
    inputs, targets = dataset.train.fetch(_spread(len(dataset.train), FINGERPRINT_EXAMPLES))
    checksum = zlib.crc32(targets.tobytes(), zlib.crc32(inputs.tobytes()))
    sizes = {name: len(examples) for name, examples in _splits(dataset).items()}
    names = zlib.crc32("\n".join(dataset.class_names).encode())
    return sizes | {"outputs": dataset.num_outputs, "checksum": checksum, "names": names}


def _spread(examples: int, most: int) -> np.ndarray:
    """At most `most` example numbers, evenly spaced."""
    return np.unique(np.linspace(0, examples - 1, most).astype(np.int64))
