"""Several splits as one."""

from collections.abc import Sequence

import numpy as np

from jtrain.data.examples import Examples, targets_of


class Joined:
    """Several splits one after another, numbered through.

    Args:
      parts: of equal shapes and dtypes.
    """

    def __init__(self, parts: Sequence[Examples]) -> None:
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def fetch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples numbered `rows` [b]."""
        inputs, targets = zip(*(self.parts[n].fetch(own) for n, own in self._split(rows)), strict=True)
        return self._merged(rows, inputs), self._merged(rows, targets)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Targets alone."""
        return self._merged(rows, [targets_of(self.parts[n], own) for n, own in self._split(rows)])

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs and targets."""
        return sum(part.nbytes for part in self.parts)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """A copy of all."""
        inputs, targets = zip(*(part.arrays() for part in self.parts), strict=True)
        return np.concatenate(inputs), np.concatenate(targets)

    def _of(self, rows: np.ndarray) -> np.ndarray:
        """[b]: the number of the part that each is in."""
        return np.searchsorted(self._ends, rows, side="right")

    def _split(self, rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """(part, numbers within it) of the parts that rows are in."""
        of = self._of(rows)
        starts = self._ends - [len(part) for part in self.parts]
        return [(int(n), rows[of == n] - starts[n]) for n in np.unique(of)]

    def _merged(self, rows: np.ndarray, found: Sequence[np.ndarray]) -> np.ndarray:
        """What was found part by part, in the order of `rows`."""
        places = np.argsort(self._of(rows), kind="stable")
        together = np.concatenate(found)
        merged = np.empty_like(together)
        merged[places] = together
        return merged
