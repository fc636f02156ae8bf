"""Points and axes of a chart: long lines made shorter, round numbers for axes."""

import itertools
import math

import numpy as np

from jtrain.io.report.html import number

MOST = 1000  # points of a line: more than a screen has columns
MEANS = 100


def thin(xs: np.ndarray, ys: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points (an even number) with the same ends, and of each piece of the line its least and greatest
    value: no peak goes. The gaps of a longer line are closed."""
    if len(xs) <= most:
        return xs, ys
    there = np.isfinite(ys)
    xs, ys = xs[there], ys[there]
    if len(xs) <= most:
        return xs, ys
    edges = np.linspace(1, len(xs) - 1, most // 2, dtype=np.int64)  # the first and the last point are kept by name
    kept = [0]
    for start, stop in itertools.pairwise(edges):
        piece = ys[start:stop]
        kept += sorted({start + int(piece.argmin()), start + int(piece.argmax())})
    kept.append(len(xs) - 1)
    return xs[kept], ys[kept]


def means(xs: np.ndarray, ys: np.ndarray, pieces: int = MEANS) -> tuple[np.ndarray, np.ndarray]:
    """The middle and the mean of each of `pieces` equal pieces of a line, whose gaps are closed."""
    there = np.isfinite(ys)
    parts = [part for part in np.array_split(np.flatnonzero(there), pieces) if len(part)]
    return np.array([xs[part].mean() for part in parts]), np.array([ys[part].mean() for part in parts])


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within a range: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.9999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)] if last - first < 100 else [low]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis: powers of ten, or 1, 2 and 5 of them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in range(first, last + 1) for f in factors]
        found = [float(f"{tick:.12g}") for tick in found if low <= tick <= high]
        if len(found) <= 6:
            return found or [low]
    every = math.ceil(len(found) / 6)
    return [tick for tick in found if round(math.log10(tick)) % every == 0] or found[:1]


def short(tick: float) -> str:
    """A number of an axis."""
    size = abs(tick)
    if size >= 1e4 and size < 1e9:
        return f"{tick / 1e6:g}M" if size >= 1e6 else f"{tick / 1e3:g}k"
    return number(tick, 6)
