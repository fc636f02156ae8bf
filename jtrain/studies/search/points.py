"""Where the trials of a search lie, as far as that is known before any is run: grid, random and quasi-random points."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jtrain.errors import ConfigError
from jtrain.studies.search.space import Axis, Point

Sampler = Literal["auto", "grid", "random", "quasi", "bayes"]


def sequence(
    axes: Sequence[Axis], sampler: Sampler, trials: int, seed: int, own: Point | None = None
) -> list[Point | None]:
    """The points of all trials by their number, as far as they are known beforehand; None: what comes out of the
    others decides. They do not depend on how many workers there are, nor on who takes which.

    Optuna's own grid and quasi-random samplers number the points as they are asked for, and two workers may then get
    the same one.

    Args:
      axes: of the space.
      sampler: see `Search`.
      trials: at most; a grid has as many as it has points.
      seed: of what is drawn.
      own: the first point of all samplers but the grid, None for none.

    Raises:
      ConfigError: the least grid has more points.
    """
    if sampler == "grid":
        return _grid(axes, trials, seed)
    first: list[Point | None] = [] if own is None else [dict(own)]
    known = {"random": trials, "quasi": trials, "auto": math.ceil(trials / 2), "bayes": len(first)}[sampler]
    shares = _random(len(axes), known, seed) if sampler == "random" else _sobol(len(axes), known, seed)
    drawn: list[Point | None] = [
        {axis.key: axis.at(u) for axis, u in zip(axes, row, strict=True)} for row in shares[: known - len(first)]
    ]
    points = [*first, *drawn][:trials]
    return points + [None] * (trials - len(points))


def _random(width: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, width))


def _sobol(width: int, count: int, seed: int) -> np.ndarray:
    """Points of a scrambled Sobol sequence, [count, width] (Owen, 1998; the notes' quasi-random search)."""
    from scipy.stats import qmc

    engine = qmc.Sobol(width, scramble=True, rng=seed)
    return engine.random_base2(max(count - 1, 0).bit_length())[:count]


def _grid(axes: Sequence[Axis], trials: int, seed: int) -> list[Point | None]:
    """All combinations of as many values of each number as there are trials for, in an order that is drawn, so that
    a part of them is spread over all."""
    levels = [len(axis.choices) or 2 for axis in axes]
    if math.prod(levels) > trials:
        raise ConfigError(
            f"study.search.trials: the least grid of this space has {math.prod(levels)} points, got {trials}; "
            "give as many, or choose another sampler"
        )
    growing = True
    while growing:
        growing = False
        for i, axis in enumerate(axes):
            most = axis.high - axis.low + 1 if axis.whole else math.inf
            if not axis.choices and levels[i] < most and math.prod(levels) // levels[i] * (levels[i] + 1) <= trials:
                levels[i] += 1
                growing = True
    values = []
    for axis, count in zip(axes, levels, strict=True):
        if axis.choices:
            values.append(axis.choices)
            continue
        spaced = np.geomspace(axis.low, axis.high, count) if axis.log else np.linspace(axis.low, axis.high, count)
        values.append(tuple(dict.fromkeys(axis.taken(round(v) if axis.whole else v) for v in spaced.tolist())))
    keys = [axis.key for axis in axes]
    points: list[Point | None] = [dict(zip(keys, each, strict=True)) for each in itertools.product(*values)]
    return [points[i] for i in np.random.default_rng(seed).permutation(len(points))]
