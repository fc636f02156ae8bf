"""Rates between log points; time spent in evaluations and saves, and the first compile, are left out."""

import contextlib
import time
from collections.abc import Iterator

FIRST_STEPS = 3  # timed one by one, to tell early how long a run will take


class Stopwatch:
    """Measures examples a second and the share of time spent waiting for data."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._first = 0.0  # when the first step was done: its compile is behind
        self._seen = 0
        self._since: float | None = None
        self._since_step = 0
        self._away = self._away_first = 0.0  # since the last lap, since the first step
        self._wait = 0.0

    @property
    def starting(self) -> bool:
        """True during the first steps."""
        return self._seen < FIRST_STEPS

    def first_steps(self, step: int) -> float | None:
        """To be called when each of the first steps is done; after the last of them, seconds a step."""
        now = time.perf_counter()
        self._seen += 1
        if self._seen == 1:
            self._first, self._since, self._since_step = now, now, step
            self._away = self._wait = self._away_first = 0.0
        return (now - self._first - self._away_first) / (self._seen - 1) if self._seen == FIRST_STEPS else None

    def begin_again(self) -> None:
        """Another program takes the next steps: the first of them are timed one by one."""
        self._seen = 0

    def lap(self, step: int) -> tuple[float | None, float | None]:
        """(examples a second, share of time waiting for data) since the last call; None where no step was timed."""
        now = time.perf_counter()
        steps, since = step - self._since_step, self._since
        waited, away = self._wait, self._away
        self._since, self._since_step, self._away, self._wait = now, step, 0.0, 0.0
        if since is None or steps <= 0 or now - since - away <= 0:
            return None, None
        elapsed = now - since - away
        return steps * self._batch_size / elapsed, min(1.0, waited / elapsed)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside is not training."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            away = time.perf_counter() - begun
            self._away += away
            self._away_first += away

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside is waiting for data."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._wait += time.perf_counter() - begun
