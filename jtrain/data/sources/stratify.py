"""The test split that a source cuts itself: of every class the same share, and the same for every run."""

import numpy as np

from jtrain.table import Fraction


def in_test(labels: np.ndarray, share: Fraction, seed: int) -> np.ndarray:
    """Which examples are for the test [n] bool: `share` of each class at random, the same for equal (labels, seed).

    Args:
      labels: class numbers [n], whole numbers; all equal where there are no classes.
      share: of each class, rounded, at least one example of it; but one is always left to train on. 0 is none.
      seed: the source's own constant, never the run's.
    """
    chosen = np.zeros(len(labels), bool)
    if not share:
        return chosen
    generator = np.random.Generator(np.random.Philox(seed))
    by_class = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[by_class])) + 1
    for rows in np.split(by_class, ends):
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        chosen[generator.permutation(rows)[:count]] = True
    return chosen
