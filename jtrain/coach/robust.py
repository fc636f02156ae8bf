"""Robust statistics of short, noisy curves; all of them follow a change of the curve's unit."""

import math

import numpy as np

TO_SIGMA = 1.4826  # × median absolute deviation: the standard deviation of normal noise


def spread(values: np.ndarray) -> float:
    """A standard deviation that a few outliers do not move; 0 of fewer than 2 values."""
    if len(values) < 2:
        return 0.0
    return TO_SIGMA * float(np.median(np.abs(values - np.median(values))))


def jitter(values: np.ndarray) -> float:
    """Standard deviation of single values about their smooth course, from second differences (variance 6 σ²); 0 of
    fewer than 4 values."""
    if len(values) < 4:
        return 0.0
    bends = values[2:] - 2 * values[1:-1] + values[:-2]
    return TO_SIGMA * float(np.median(np.abs(bends))) / math.sqrt(6.0)


def middle(values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted median; NaN of none."""
    if not len(values):
        return math.nan
    order = np.argsort(values)
    share = np.cumsum(weights[order]) - 0.5 * weights[order]
    return float(np.interp(0.5 * weights.sum(), share, values[order]))


def running(values: np.ndarray, reach: int) -> np.ndarray:
    """[n] median of each value and `reach` neighbours to each side, of fewer at the ends."""
    return np.array([np.median(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))])


def ranks(values: np.ndarray) -> np.ndarray:
    """[n] place of each value in ascending order, the mean place of equal ones."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2.0)[which]


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one of them is constant."""
    ra, rb = ranks(a), ranks(b)
    if np.ptp(ra) == 0 or np.ptp(rb) == 0:
        return 0.0
    return float(np.corrcoef(ra, rb)[0, 1])
