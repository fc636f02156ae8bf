"""What arrays of examples tell: twins in two splits, and targets that do not vary."""

import numpy as np

ALIKE = 0.5  # share of training examples with a twin, from which on equal inputs tell nothing

FEW = 32  # rows that are compared whole


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` numbers below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, most).astype(np.int64))


def share_among(test: np.ndarray, train: np.ndarray, most: int) -> float | None:
    """Share of test examples that are training examples too, bit for bit.

    Args:
      test: inputs [m, …] of some test examples.
      train: inputs [n, …] of all training examples.
      most: training examples that are looked for among the others.

    Returns:
      None where half of the training examples have a twin among themselves: then equal inputs tell nothing.
    """
    wide, flat = train.reshape(len(train), -1), test.reshape(len(test), -1)
    order = np.random.default_rng(0).permutation(wide.shape[1])
    first = np.ascontiguousarray(wide[:, order[0]])  # read once for all of them: it leaves few rows to look at

    def equals(one: np.ndarray) -> int:
        left = np.flatnonzero(first == one[order[0]])
        for column in order[1:]:
            if len(left) <= FEW:
                break
            left = left[wide[left, column] == one[column]]
        return int((wide[left] == one[None, :]).all(axis=1).sum())

    if np.mean([equals(wide[row]) > 1 for row in spread(len(wide), most)]) >= ALIKE:
        return None
    return float(np.mean([equals(row) > 0 for row in flat]))


def constants(targets: np.ndarray) -> int:
    """How many of the target values [n] or [n, k] are the same for all examples."""
    wide = targets.reshape(len(targets), -1)
    return int((wide.min(axis=0) == wide.max(axis=0)).sum()) if len(wide) > 1 else 0


def whole_numbers(targets: np.ndarray) -> int | None:
    """How many different targets [n] there are, where all are whole numbers; else None."""
    if targets.ndim != 1 or not np.array_equal(targets, np.round(targets)):
        return None
    return len(np.unique(targets))
