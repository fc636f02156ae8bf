"""What a step is given: resident data and row numbers, or placed batches made ahead. The batches are the same."""

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jtrain import mesh as meshes
from jtrain.data.examples import Examples
from jtrain.data.order import Order, eval_batches

RESIDENT_LIMIT = 1 << 30  # bytes: `auto` keeps a split on the device up to here
AHEAD = 2  # batches placed ahead of the step when streaming

Given = tuple[Any, Any]  # (data, rows) of a step
Check = Callable[[np.ndarray, np.ndarray, np.ndarray], None]  # of a fetched batch: inputs, targets, row numbers


def is_resident(examples: Examples, placement: str) -> bool:
    """Whether a split is kept on the device: `placement` is auto, resident or streamed."""
    return placement == "resident" or (placement == "auto" and examples.nbytes <= RESIDENT_LIMIT)


class Feed:
    """One split on its way to the device.

    Args:
      examples: the split.
      mesh: the devices; batches are cut over them, resident data copied to each.
      resident: keep all examples on the device.
      check: called on every streamed batch, raises DataError on bad values.
    """

    def __init__(self, examples: Examples, mesh: Mesh, *, resident: bool, check: Check) -> None:
        self.examples = examples
        self.resident = resident
        self._mesh = mesh
        self._check = check
        self._data: dict[str, jax.Array] | None = None
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._ahead: dict[int, concurrent.futures.Future[Given]] = {}
        self._order: Order | None = None  # of the batches made ahead

    def train_batch(self, order: Order, step: int) -> Given:
        """(data, rows) of update `step`; streamed batches of the next steps are begun."""
        if self.resident:
            return self._given(order.rows(step))
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="feed")
        if order is not self._order:
            self._order, self._ahead = order, {}
        self._ahead = {s: f for s, f in self._ahead.items() if step <= s <= step + AHEAD}
        for s in range(step, step + AHEAD + 1):
            if s not in self._ahead:
                self._ahead[s] = self._pool.submit(self._train_batch, order, s)
        return self._ahead.pop(step).result()

    def _train_batch(self, order: Order, step: int) -> Given:
        return self._given(order.rows(step))

    def eval_batches(self, batch_size: int) -> Iterator[Given]:
        """(data, rows) of batches that hold every example once, in order; the last is padded."""
        for rows in eval_batches(len(self.examples), batch_size):
            yield self._given(rows)

    def close(self) -> None:
        """Ends the thread that makes batches ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool, self._ahead = None, {}

    def _given(self, rows: np.ndarray) -> Given:
        placement = meshes.for_batch(self._mesh, len(rows))
        if self.resident:
            if self._data is None:
                inputs, targets = self.examples.arrays()
                self._data = meshes.place(
                    {"inputs": np.asarray(inputs), "targets": np.asarray(targets)},
                    meshes.replicated(self._mesh),
                    copy=True,  # the arrays may be a caller's
                )
            return self._data, meshes.place(rows, placement)
        fetched = np.maximum(rows, 0)
        inputs, targets = self.examples.fetch(fetched)
        self._check(inputs, targets, fetched)
        weight = (rows >= 0).astype(np.float32)
        return meshes.place({"inputs": inputs, "targets": targets, "weight": weight}, placement), None
