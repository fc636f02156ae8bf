"""Records that cannot be read: they keep their places in the batches, with weight 0, up to a limit."""

import threading
from collections.abc import Callable

import numpy as np

from jtrain.data.examples import BrokenRecord, Examples, gather, targets_of
from jtrain.errors import DataError

Fetched = tuple[np.ndarray, np.ndarray]  # (inputs [b, …], targets [b, …])
Fetch = Callable[[np.ndarray], Fetched]


class Tolerant:
    """A split in which some records may be broken: another example stands in their places, and their weight is 0.

    It is the first of the split that can be read, so the same one whatever was read before: a model may look at
    all of a batch at once (batch normalisation), which zeros would skew. A record once found broken stays so, whatever
    batch it comes in. Several threads may use it at once. It is put around a split last, after any cut: a Subset around
    it would not pass the weights on.

    Args:
      base: the split.
      limit: how many different records may be broken; 0: none.
      name: of the split, for messages.
    """

    def __init__(self, base: Examples, limit: int, name: str) -> None:
        self.base, self.limit, self.name = base, limit, name
        self.broken: dict[int, str] = {}  # row -> why
        self._news: list[str] = []
        self._example: Fetched | None = None  # [1, …], the one that stands in for those
        self._arrays: Fetched | None = None  # only where some are broken; else the base keeps its own
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.base)

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs and targets as arrays."""
        return self.base.nbytes

    def fetch(self, rows: np.ndarray) -> Fetched:
        """The examples numbered `rows` [b]; raises DataError above the limit."""
        return self.fetch_by(self.base.fetch, rows)

    def fetch_by(self, fetch: Fetch, rows: np.ndarray) -> Fetched:
        """The same by another way to the base's records: `fetch` does what `base.fetch` does, in another process."""
        if self._arrays is not None:
            return self._arrays[0][rows], self._arrays[1][rows]
        good = self.weights(rows) > 0
        try:
            found = [fetch(rows[good])] if good.any() else []
        except BrokenRecord:  # one after another shows which, and whether there are more
            found = []
            for place in np.flatnonzero(good):
                one = self._one(fetch, int(rows[place]))
                good[place] = one is not None
                found += [one] if one is not None else []
        if good.all() and len(found) == 1:
            return found[0]
        inputs, targets = (np.repeat(part, len(rows), axis=0) for part in self._stand_in(fetch))
        if found:
            inputs[good] = np.concatenate([part[0] for part in found])
            targets[good] = np.concatenate([part[1] for part in found])
        return inputs, targets

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Targets alone; raises DataError above the limit.

        A broken record keeps its own where it can be read, whether or not the record was found broken before: only so
        are they the same on every way to them.
        """
        try:
            return targets_of(self.base, rows)
        except BrokenRecord:
            return np.concatenate([self._target(int(row)) for row in rows])

    def arrays(self) -> Fetched:
        """All examples; raises DataError above the limit."""
        if self._arrays is not None:
            return self._arrays
        try:
            return self.base.arrays()
        except BrokenRecord:
            self._arrays = gather(self, np.arange(len(self)))
            return self._arrays

    def weights(self, rows: np.ndarray) -> np.ndarray:
        """float32 [b]: 0 for what has been found broken among `rows` [b], 1 for all else. Fetch them first."""
        with self._lock:
            if not self.broken:
                return np.ones(len(rows), np.float32)
            return np.array([int(row) not in self.broken for row in rows], np.float32)

    def news(self) -> list[str]:
        """A line for every record found broken since the last call."""
        with self._lock:
            lines, self._news = self._news, []
        return lines

    def _one(self, fetch: Fetch, row: int) -> Fetched | None:
        """One example [1, …], or None if it is broken."""
        try:
            return fetch(np.array([row]))
        except BrokenRecord as error:
            self._add(row, error)
            return None

    def _target(self, row: int) -> np.ndarray:
        """Of one example [1, …]."""
        try:
            return targets_of(self.base, np.array([row]))
        except BrokenRecord as error:
            self._add(row, error)
            return self._stand_in(self.base.fetch)[1]

    def _stand_in(self, fetch: Fetch) -> Fetched:
        """The first example [1, …] that can be read."""
        for row in range(len(self)):
            if self._example is not None:
                return self._example
            example = self._one(fetch, row) if row not in self.broken else None
            if example is not None:  # another thread may have kept its own by now, which is the same
                self._example = example
                return example
        raise DataError(f"data: no record of {self.name} can be read; the first: {self.broken[0]}")

    def _add(self, row: int, error: BrokenRecord) -> None:
        with self._lock:
            if row in self.broken:  # another thread was faster, or the batch has it twice
                return
            what = f"record {row} of {self.name} cannot be read ({error})"
            count = len(self.broken) + 1
            if count > self.limit:
                allowed = f"{self.limit} broken ones may be passed over" if self.limit else "none may be passed over"
                raise DataError(f"data.broken: {what}; {allowed}: mend the data, or raise data.broken") from error
            self.broken[row] = str(error)
            self._news.append(f"{what}: weight 0 ({count} of at most {self.limit})")
