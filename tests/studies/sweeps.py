"""Synthetic sweeps of the learning rate whose true answer is known, for the test and the proof of `lr_find`."""

import dataclasses

import numpy as np

LEVELS = {"quiet": 0.02, "noisy": 0.1, "loud": 0.3}  # standard deviation of one loss, share of the fall
CURVES, SEEDS, UPDATES = 20, 3, 200
LOW, HIGH = 1e-6, 10.0
RISEN = 0.1  # of the fall: where the noise-free loss has blown up


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A noise-free curve: loss = start - fall · sigmoid(log(lr / middle) / width) + fall · (lr / wild)².

    `truth` is the geometric middle of the lr of its steepest descent in log lr and the lr at which it has risen from
    its minimum by RISEN of the fall, both found on a fine grid.
    """

    start: float
    fall: float
    middle: float
    width: float
    wild: float

    def loss(self, lrs):
        down = 1 / (1 + np.exp(-np.log(lrs / self.middle) / self.width))
        return self.start - self.fall * down + self.fall * (lrs / self.wild) ** 2

    @property
    def truth(self):
        lrs = np.geomspace(LOW, HIGH, 200_001)
        losses = self.loss(lrs)
        steepest = lrs[np.argmin(np.gradient(losses, np.log(lrs)))]
        bottom = int(np.argmin(losses))
        risen = bottom + int(np.argmax(losses[bottom:] >= losses[bottom] + RISEN * (losses[0] - losses[bottom])))
        return float(np.sqrt(steepest * lrs[risen]))


def sweeps():
    """CURVES of them, of many forms."""
    rng = np.random.default_rng(7)
    for _ in range(CURVES):
        start = rng.uniform(0.5, 5.0)
        middle = 10 ** rng.uniform(-4.5, -1.5)
        yield Sweep(
            start, start * rng.uniform(0.2, 0.9), middle, rng.uniform(0.3, 1.2), middle * 10 ** rng.uniform(1.0, 2.0)
        )


def lrs():
    return np.geomspace(LOW, HIGH, UPDATES)


def noisy(sweep, level, number):
    """Losses [SEEDS, UPDATES] with noise of a share of the fall; NaN from where they are a thousand times the start."""
    rng = np.random.default_rng([number, int(1000 * level)])
    clean = sweep.loss(lrs())
    losses = clean + level * sweep.fall * rng.normal(size=(SEEDS, UPDATES))
    return np.where(clean < 1000 * sweep.start, losses, np.nan)
