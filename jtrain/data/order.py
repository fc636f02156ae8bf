"""Which examples are in which batch: a pure function of (seed, step)."""

import threading
from collections.abc import Iterator

import numpy as np

from jtrain.errors import ConfigError


class Order:
    """Training batches cut from the endless row of epochs, each epoch one permutation of all examples.

    A batch may straddle two epochs, so that none is dropped or seen twice in one epoch. Nothing is
    kept between calls but the last permutations, so any step may be asked for at any time, by any thread.

    Args:
      examples: in an epoch.
      batch_size: examples of one step, over all devices.
      seed: of the run.
      shuffle: False goes through the examples in their own order.

    Raises:
      ConfigError: a batch is larger than an epoch.
    """

    def __init__(self, examples: int, batch_size: int, seed: int, shuffle: bool = True) -> None:
        if batch_size > examples:
            raise ConfigError(
                f"train.batch_size: {batch_size} is larger than the {examples} training examples; "
                f"use {examples} at most"
            )
        self.examples, self.batch_size = examples, batch_size
        self._seed, self._shuffle = seed, shuffle
        self._epochs: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def rows(self, step: int) -> np.ndarray:
        """Example numbers of the batch of update `step`: [batch_size] int32."""
        return self.rows_of(step, 1)[0]

    def rows_of(self, step: int, count: int) -> np.ndarray:
        """Those of `count` updates from `step` on: [count, batch_size] int32."""
        epoch, start = divmod(step * self.batch_size, self.examples)
        # Always a copy: a caller that writes to it cannot change later batches.
        found = np.empty(count * self.batch_size, np.int32)
        done = 0
        while done < len(found):
            part = self._epoch(epoch)[start : start + len(found) - done]
            found[done : done + len(part)] = part
            done, epoch, start = done + len(part), epoch + 1, 0
        return found.reshape(count, self.batch_size)

    def _epoch(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._epochs:
                rows = np.arange(self.examples, dtype=np.int32)
                if self._shuffle:
                    key = np.array([self._seed, epoch], np.uint64)
                    rows = np.random.Generator(np.random.Philox(key=key)).permutation(rows)
                while len(self._epochs) > 1:
                    self._epochs.pop(next(iter(self._epochs)))
                self._epochs[epoch] = rows
            return self._epochs[epoch]


def eval_batches(examples: int, batch_size: int, most: int = 0) -> Iterator[np.ndarray]:
    """Every example number once, in order, as [batch_size] int32; the last batch is filled up with -1.

    Args:
      examples: how many there are.
      batch_size: of a batch.
      most: so many of them at most, the same ones every time, drawn by chance; 0: all.
    """
    numbers = np.arange(examples, dtype=np.int32)
    if 0 < most < examples:
        numbers = np.sort(np.random.default_rng(0).choice(numbers, most, replace=False))
    for start in range(0, len(numbers), batch_size):
        rows = np.full(batch_size, -1, np.int32)
        some = numbers[start : start + batch_size]
        rows[: len(some)] = some
        yield rows
