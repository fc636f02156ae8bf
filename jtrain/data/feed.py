"""What a step is given: resident data and row numbers, or placed batches made ahead. The batches are the same."""

import collections
import concurrent.futures
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jtrain import mesh as meshes
from jtrain.data.broken import Fetched, Tolerant
from jtrain.data.examples import Examples
from jtrain.data.order import Order, eval_batches
from jtrain.data.workers import Unsendable, Workers, decodes, drained

RESIDENT_LIMIT = 1 << 30  # bytes: `auto` keeps a split on the device up to here
AHEAD = 2  # batches placed ahead of the step when streaming; with workers one more than there are, if that is more

Given = tuple[Any, Any]  # (data, rows) of a step
Check = Callable[[np.ndarray, np.ndarray, np.ndarray], None]  # of a fetched batch: inputs, targets, row numbers


def is_resident(examples: Examples, placement: str) -> bool:
    """Whether a split is kept on the device: `placement` is auto, resident or streamed."""
    return placement == "resident" or (placement == "auto" and examples.nbytes <= RESIDENT_LIMIT)


class Feed:
    """One split on its way to the device.

    Args:
      examples: the split; where it is Tolerant, its broken records have weight 0. Resident data have an array "weight"
        [n] float32 then, but only if any is broken.
      mesh: the devices; batches are cut over them, resident data copied to each. A process fetches what its own
        devices hold.
      resident: keep all examples on the device.
      check: called on every streamed batch, without broken records; raises DataError on bad values. Threads call it.
      workers: fetch streamed examples, where that is work; None fetches them in this process, one batch at a time.
      numbered: streamed batches hold their examples' numbers too, "row" [batch] int32.
    """

    def __init__(
        self, examples: Examples, mesh: Mesh, *, resident: bool, check: Check, workers: Workers | None = None,
        numbered: bool = False,
    ) -> None:  # fmt: skip
        self.examples = examples
        self._numbered = numbered
        self.resident = resident
        self._mesh = mesh
        self._check = check
        self._source = examples.base if isinstance(examples, Tolerant) else examples
        self._workers = workers if not resident and decodes(examples) else None
        self._threads = self._workers.count if self._workers is not None else 1
        self._reach = max(AHEAD, self._threads + 1)
        self._data: dict[str, jax.Array] | None = None
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._ahead: dict[int, concurrent.futures.Future[Given]] = {}
        self._order: Order | None = None  # of the batches made ahead
        self._sendable = True
        self._alone = threading.Lock()  # held while this process itself fetches
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()

    @property
    def loaders(self) -> int:
        """Processes that decode for this split; 0: this one does."""
        return self._workers.count if self._workers is not None else 0

    def train_batches(self, order: Order, step: int, count: int, most: int) -> Given:
        """(data, rows [most, batch]) of `count` updates from `step` on, the rows behind them -1; streamed, (data,
        None) of the one."""
        if not self.resident:
            return self.train_batch(order, step)
        rows = np.full((most, order.batch_size), -1, np.int32)
        rows[:count] = order.rows_of(step, count)
        return self._whole(), meshes.place(rows, meshes.for_batches(self._mesh, order.batch_size))

    def train_batch(self, order: Order, step: int) -> Given:
        """(data, rows) of update `step`; streamed batches of the next steps are begun."""
        if self.resident:
            return self._resident(order.rows(step))
        steps = range(step, step + self._reach + 1)
        if order is not self._order:
            self._drop(list(self._ahead))
            self._order = order
        self._drop([s for s in self._ahead if s not in steps])
        for s in steps:
            if s not in self._ahead:
                self._ahead[s] = self._executor().submit(self._ordered, order, s)
        return self._ahead.pop(step).result()

    def eval_batches(self, batch_size: int, most: int = 0) -> Iterator[Given]:
        """(data, rows) of batches that hold every example once, in order, or `most` of them; the last is padded.
        Streamed ones are made ahead."""
        batches = eval_batches(len(self.examples), batch_size, most)
        if self.resident:
            yield from map(self._resident, batches)
            return
        ahead: collections.deque[concurrent.futures.Future[Given]] = collections.deque()
        try:
            for rows in batches:
                ahead.append(self._executor().submit(self._streamed, rows))
                if len(ahead) > self._reach:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # also where the evaluation is left
            for future in ahead:
                future.cancel()

    def news(self) -> list[str]:
        """A line for everything that went wrong since the last call and was passed over."""
        lines = drained(self._news)
        lines += self.examples.news() if isinstance(self.examples, Tolerant) else []
        return lines + (self._workers.news() if self._workers is not None else [])

    def close(self) -> None:
        """Ends the threads that make batches ahead, and the workers: they start anew where another feed needs them."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool, self._ahead = None, {}
        if self._workers is not None:
            self._workers.close()

    def _executor(self) -> concurrent.futures.ThreadPoolExecutor:
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, thread_name_prefix="feed")
        return self._pool

    def _ordered(self, order: Order, step: int) -> Given:
        return self._streamed(order.rows(step))

    def _drop(self, steps: list[int]) -> None:
        for step in steps:
            self._ahead.pop(step).cancel()

    def _resident(self, rows: np.ndarray) -> Given:
        return self._whole(), meshes.place(rows, meshes.for_batch(self._mesh, len(rows)))

    def _whole(self) -> dict[str, jax.Array]:
        """All examples on the device."""
        if self._data is None:
            inputs, targets = self.examples.arrays()
            data = {"inputs": np.asarray(inputs), "targets": np.asarray(targets)}
            weight = self._weight(np.arange(len(self.examples)))
            if not weight.all():
                data["weight"] = weight
            # A copy, as the arrays may be a caller's.
            self._data = meshes.place(data, meshes.replicated(self._mesh), copy=True)
        return self._data

    def _streamed(self, rows: np.ndarray) -> Given:
        size, rows = len(rows), rows[meshes.local_rows(self._mesh, len(rows))]
        fetched = np.maximum(rows, 0)
        inputs, targets = self._fetch(fetched)
        weight = self._weight(fetched)
        good = weight > 0
        if good.all():
            self._check(inputs, targets, fetched)
        elif good.any():
            self._check(inputs[good], targets[good], fetched[good])
        batch = {"inputs": inputs, "targets": targets, "weight": weight * (rows >= 0).astype(np.float32)}
        if self._numbered:
            batch["row"] = rows
        return meshes.place_local(batch, self._mesh, size), None

    def _weight(self, rows: np.ndarray) -> np.ndarray:
        """[b] float32 of examples that were fetched."""
        return self.examples.weights(rows) if isinstance(self.examples, Tolerant) else np.ones(len(rows), np.float32)

    def _fetch(self, rows: np.ndarray) -> Fetched:
        return self.examples.fetch_by(self._read, rows) if isinstance(self.examples, Tolerant) else self._read(rows)

    def _read(self, rows: np.ndarray) -> Fetched:
        """(inputs, targets) from a worker, or from this process where there is none or it cannot have the examples."""
        if self._workers is not None and self._sendable:
            try:
                return self._workers.fetch(self._source, rows)
            except Unsendable as error:
                with self._alone:
                    if self._sendable:
                        self._news.put(f"loader processes cannot have these examples, this one reads them ({error})")
                    self._sendable = False
        with self._alone:
            return self._source.fetch(rows)
