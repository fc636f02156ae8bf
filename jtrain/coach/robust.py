"""Robust statistics of short, noisy curves; all of them follow a change of the curve's unit."""

import math

import numpy as np

TO_SIGMA = 1.4826  # × median absolute deviation: the standard deviation of normal noise


def spread(values: np.ndarray) -> float:
    """A standard deviation that a few outliers do not move; 0 of fewer than 2 values."""
    if len(values) < 2:
        return 0.0
    return TO_SIGMA * float(np.median(np.abs(values - np.median(values))))


def spreads(windows: np.ndarray) -> np.ndarray:
    """[n] `spread` of each row of [n, w], NaN left out; each row holds a number."""
    middles = np.nanmedian(windows, axis=1)
    return TO_SIGMA * np.asarray(np.nanmedian(np.abs(windows - middles[:, None]), axis=1))


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
    count = len(values)
    found = np.array([np.median(values[max(0, i - reach) : i + reach + 1]) for i in range(min(reach, count))])
    if count <= reach:
        return found
    last = np.array(
        [
            np.median(values[i - reach :]) if i >= reach else np.median(values)
            for i in range(max(reach, count - reach), count)
        ]
    )
    if count <= 2 * reach:
        return np.concatenate([found, last])
    inner = np.median(np.lib.stride_tricks.sliding_window_view(values, 2 * reach + 1), axis=1)
    return np.concatenate([found, inner, last])


def around(values: np.ndarray, before: int, after: int) -> np.ndarray:
    """[n, before + 1 + after] each value among its neighbours, NaN where there are none."""
    padded = np.pad(values.astype(float), (before, after), constant_values=math.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, before + 1 + after)


def roughness(values: np.ndarray) -> float:
    """As `jitter`, from third differences (variance 20 σ²), which do not see a bend either; 0 of fewer than 4."""
    if len(values) < 4:
        return 0.0
    return TO_SIGMA * float(np.median(np.abs(np.diff(values, 3)))) / math.sqrt(20.0)


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
