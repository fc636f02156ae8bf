"""The course of a run: what all signs need of its curves, computed once."""

import dataclasses
import functools
import math

import numpy as np

from jtrain.coach.curves import Curves
from jtrain.coach.robust import jitter, middle, running
from jtrain.coach.way import Way, way_of

SMOOTH = 0.03  # of the rows: reach of the running median to each side
END = 0.15  # of the run: over so much at its end a level is measured
HIGH = 0.3  # of the peak: an lr that ends above it has not decayed
TINY = 1e-30  # what is below is as good as nothing
FAR = 1e12  # times the loss of a guess: what is beyond is as good as infinite


@dataclasses.dataclass(frozen=True)
class Course:
    """The curves of a run with their scale.

    Attributes:
      curves: as logged.
      ended: no further row will come.
    """

    curves: Curves
    ended: bool

    @functools.cached_property
    def known(self) -> np.ndarray:
        """[n] bool: rows whose loss is finite."""
        return np.isfinite(self.curves.loss)

    @functools.cached_property
    def loss(self) -> np.ndarray:
        """Finite training losses."""
        return self.curves.loss[self.known]

    @functools.cached_property
    def updates(self) -> np.ndarray:
        """Updates of their intervals."""
        return self.curves.updates[self.known]

    @functools.cached_property
    def step(self) -> np.ndarray:
        """Updates done at their ends."""
        return self.curves.step[self.known]

    @property
    def done(self) -> float:
        """Updates done."""
        return self.curves.done

    @functools.cached_property
    def time(self) -> np.ndarray:
        """Middle of each interval, as a share of the updates done."""
        return (self.step - 0.5 * self.updates) / max(self.done, 1.0)

    def far(self, share: float) -> bool:
        """Whether so much of the run is done that what is left of it will not mend what is seen."""
        return self.ended or (bool(self.curves.total) and self.done >= share * (self.curves.total or 0))

    @functools.cached_property
    def scale(self) -> float:
        """Loss of a guess; that of the first row where it is unknown."""
        guess = self.curves.guess
        known = guess is not None and math.isfinite(guess) and guess > 0
        found = float(guess or 0.0) if known else (abs(float(self.loss[0])) if len(self.loss) else 1.0)
        return found if found > TINY else 1.0

    @functools.cached_property
    def smooth(self) -> np.ndarray:
        """Running median of the losses."""
        return running(np.minimum(self.loss, FAR * self.scale), self._reach)

    @property
    def _reach(self) -> int:
        return max(1, round(SMOOTH * len(self.loss)))

    @property
    def smooth_noise(self) -> float:
        """Standard deviation that is left of the noise in the smooth curve; a median has 1.25 times that of a mean."""
        return 1.25 * jitter(self.loss) / math.sqrt(2 * self._reach + 1)

    @functools.cached_property
    def noise(self) -> float:
        """Standard deviation of a row about its smooth course, over the second half."""
        return jitter(self.loss[len(self.loss) // 2 :])

    def level(self, first: float, last: float = 1.0) -> float:
        """Median loss between two shares of the updates done; of the nearest row where there is none between."""
        inside = (self.time >= first) & (self.time <= last)
        if not inside.any():
            inside = np.arange(len(self.time)) == np.abs(self.time - 0.5 * (first + last)).argmin()
        return middle(self.loss[inside], self.updates[inside])

    @functools.cached_property
    def end(self) -> float:
        """The loss at the end."""
        return self.level(1.0 - END)

    @functools.cached_property
    def lr(self) -> np.ndarray | None:
        """Of the rows, None where it is unknown or 0 throughout."""
        if self.curves.lr is None:
            return None
        lr = np.nan_to_num(self.curves.lr[self.known])
        return lr if len(lr) and lr.max() > 0 else None

    @functools.cached_property
    def way(self) -> Way | None:
        """What the line probe has seen, None without it."""
        return way_of(self.curves, self.scale, self.curves.total or self.done)

    @property
    def averaged(self) -> bool:
        """Whether averaged weights are what is judged: these need no lr that decays."""
        return any(name.startswith("ema/") for name in self.curves.val)

    @property
    def stays_high(self) -> bool | None:
        """Whether the lr never falls far below its peak, neither so far nor as it is planned; None: unknown."""
        if self.lr is None:
            return None
        last = self.curves.final_lr if self.curves.final_lr is not None else (self.lr[-1] if self.ended else None)
        return None if last is None else bool(min(last, self.lr[-1]) >= HIGH * self.lr.max())

    @functools.cached_property
    def travelled(self) -> np.ndarray:
        """Sum of the lrs up to the end of each row, as a share of that so far: the time that gradient descent knows.

        A schedule that decays makes every curve flat at its end; over this axis it does not. Updates where no lr is
        known.
        """
        lr = np.ones(len(self.loss)) if self.lr is None else self.lr
        way = np.cumsum(lr * self.updates)
        return way / way[-1] if way[-1] > 0 else np.linspace(0.0, 1.0, len(way) + 1)[1:]

    def reached(self, part: float, *, val: bool = False) -> float:
        """Share of the way travelled after which so large a part of the whole fall is done; 1 if never.

        Args:
          part: of the fall from the loss of a guess, or the first loss if that is higher, to the one at the end.
          val: of the validation loss; else of the smooth training loss.
        """
        places = self.travelled - 0.5 * np.diff(self.travelled, prepend=0.0)
        values, end = self.smooth, self.end
        if val:
            places, values = np.interp(self.val[0], self.step, self.travelled), self.val[1]
            end = self.val_end
        lowest = np.minimum.accumulate(values)
        top = max(self.scale, float(lowest[0]))
        if not self.ended and not val:
            # What falls within the first rows, which a running median does not show, falls fast: not certain yet.
            top = max(top, min(float(self.loss[0]), FAR * self.scale))
        level = top - part * (top - end)
        below = np.flatnonzero(lowest <= level)
        if not len(below):
            return 1.0
        i = int(below[0])
        before, high = (places[i - 1], lowest[i - 1]) if i else (0.0, top)
        share = (high - level) / (high - lowest[i]) if high > lowest[i] else 0.0
        return float(np.clip(before + share * (places[i] - before), 0.0, 1.0))

    @functools.cached_property
    def val(self) -> tuple[np.ndarray, np.ndarray]:
        """(updates done, loss) of the evaluations with a finite loss."""
        loss = self.curves.val.get("loss", np.zeros(0))
        known = np.isfinite(loss)
        return self.curves.val_step[known], loss[known]

    @functools.cached_property
    def val_end(self) -> float:
        """Median validation loss of the last sixth of the evaluations, of two at least; NaN where there is none."""
        loss = self.val[1]
        return float(np.median(loss[-max(2, len(loss) // 6) :])) if len(loss) else float("nan")
