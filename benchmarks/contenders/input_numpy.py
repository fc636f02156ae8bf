"""Crop, flip and normalise a batch in NumPy. case: batch; way 'windows' | 'pixels' | 'loop' | 'threads'."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from contenders.input_data import BLOCK, COUNT, MEAN, PAD, SIDE, STD, images, padded, shares


class InNumpy:
    """Takes batches of a padded copy of the data, whose making is not counted; bytes until the last operation."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.size, self.way = case["batch"], getattr(self, f"_{case['way']}")
        self.padded = padded(images())
        self.windows = np.lib.stride_tricks.sliding_window_view(self.padded, (SIDE, SIDE), axis=(1, 2))
        self.flat = self.padded.reshape(-1, 3)
        self.scale = np.tile(1 / STD, SIDE * SIDE).reshape(SIDE, SIDE, 3)
        self.shift = np.tile(-MEAN / STD, SIDE * SIDE).reshape(SIDE, SIDE, 3)
        self.rng, self.order, self.next = np.random.default_rng(1), np.arange(0), 0
        self.pool = ThreadPoolExecutor(2)
        self.versions = {"numpy": np.__version__}

    def block(self) -> tuple[float, float]:
        """(seconds, images)."""
        begun, done = time.perf_counter(), 0
        while time.perf_counter() - begun < BLOCK:
            done += len(self.batch(self.rows()))
        return time.perf_counter() - begun, done

    def check(self) -> list[float]:
        """See `shares`."""
        rows = self.rows()
        return shares(images(), rows[:32], self.batch(rows)[:32])

    def rows(self) -> np.ndarray:
        """The next example numbers."""
        if self.next + self.size > len(self.order):
            self.order, self.next = self.rng.permutation(COUNT), 0
        self.next += self.size
        return self.order[self.next - self.size : self.next]

    def batch(self, rows: np.ndarray) -> np.ndarray:
        """Float32 [batch, 32, 32, 3]."""
        top, left = self.rng.integers(0, 2 * PAD + 1, (2, len(rows)))
        return self.way(rows, top, left, self.rng.random(len(rows)) < 0.5)

    def _normalised(self, crops: np.ndarray) -> np.ndarray:
        out = np.multiply(crops, self.scale, dtype=np.float32)
        out += self.shift
        return out

    def _windows(self, rows: np.ndarray, top: np.ndarray, left: np.ndarray, mirror: np.ndarray) -> np.ndarray:
        """A gather of sliding windows, then a copy of those that are mirrored."""
        crops = np.ascontiguousarray(self.windows[rows, top, left].transpose(0, 2, 3, 1))
        crops[mirror] = crops[mirror, :, ::-1]
        return self._normalised(crops)

    def _pixels(self, rows: np.ndarray, top: np.ndarray, left: np.ndarray, mirror: np.ndarray) -> np.ndarray:
        """One gather of whole pixels by their places, mirrored ones backwards."""
        wide, line = SIDE + 2 * PAD, np.arange(SIDE)
        column = np.where(mirror[:, None], line[::-1], line) + left[:, None]
        start = (rows * wide + top)[:, None] + line
        return self._normalised(self.flat.take(start[:, :, None] * wide + column[:, None], axis=0))

    def _loop(self, rows: np.ndarray, top: np.ndarray, left: np.ndarray, mirror: np.ndarray) -> np.ndarray:
        """A slice per image."""
        crops = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
        for i, (row, y, x, backwards) in enumerate(
            zip(rows.tolist(), top.tolist(), left.tolist(), mirror.tolist(), strict=True)
        ):
            crop = self.padded[row, y : y + SIDE, x : x + SIDE]
            crops[i] = crop[:, ::-1] if backwards else crop
        return self._normalised(crops)

    def _threads(self, *drawn: np.ndarray) -> np.ndarray:
        """Windows, a half of the batch by each of two threads."""
        half = len(drawn[0]) // 2
        parts = [tuple(values[cut] for values in drawn) for cut in (slice(half), slice(half, None))]
        return np.concatenate(list(self.pool.map(lambda part: self._windows(*part), parts)))


def prepare(case: dict[str, Any]) -> InNumpy:
    """The contender."""
    return InNumpy(case)
