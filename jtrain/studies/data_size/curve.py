"""The learning curve error = a·n^(-b) + c: its fit, what it says of more data, and whether it can say anything."""

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np

LEAST_SIZES = 4  # different numbers of examples that a curve of three parameters asks for
EXPLAINED = 0.8  # of the variance between sizes that the curve must explain
VISIBLE = 2.0  # standard deviations of the mean by which the error must fall from the smallest size to the largest
SURE = 0.5  # of the error now: what is foretold for twice the data must be known to this, from end to end
WORTHWHILE = 0.01  # of the error that doubling the data must gain
FARTHEST = 10  # times the data of now, up to where the end of the gain is looked for
LEAST_WEIGHT = 0.02  # of the greatest error: as what an error of 0 counts in weighing
DRAWS = 200  # of the residuals, by which the fit's uncertainty is told
INNER = (10.0, 90.0)  # percentiles of them that are told
EXPONENTS = (0.02, 2.0)  # of n; measured ones lie from 0.07 to 0.9 (Hestness et al. 2017; Viering and Loog 2022)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A fitted curve of the error.

    Attributes:
      now: n of all examples.
      parameters: (a, b, c) of a·(n / now)^(-b) + c.
      draws: [DRAWS, 3], the same of redrawn residuals.
      noise: standard deviation of the error between runs with the same number of examples.
      trouble: why nothing can be told from it; empty: it can.
    """

    now: int
    parameters: np.ndarray
    draws: np.ndarray
    noise: float
    trouble: str

    def at(self, n: np.ndarray | float) -> np.ndarray:
        """The error at n examples."""
        return _curve(np.asarray(n, np.float64) / self.now, *self.parameters)

    def between(self, n: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Its lower and upper end: INNER percentiles of the draws."""
        a, b, c = (self.draws[:, i].reshape(-1, *(1 for _ in np.shape(n))) for i in range(3))
        values = a * (np.asarray(n, np.float64)[None] / self.now) ** -b + c
        low, high = np.percentile(values, INNER, axis=0)
        return low, high

    def gain(self, n: np.ndarray | float) -> np.ndarray:
        """What doubling n examples takes from the error."""
        return self.at(n) - self.at(2 * np.asarray(n))

    @property
    def stops(self) -> float:
        """The number of examples from which on doubling gains less than the noise or than WORTHWHILE of the error;
        infinite beyond FARTHEST times the data of now."""
        n = self.now * np.geomspace(1e-3, FARTHEST, 4000)
        idle = self.gain(n) <= np.maximum(self.noise, WORTHWHILE * self.at(n))
        last = np.flatnonzero(~idle)
        if not len(last):
            return float(n[0])
        return float(n[last[-1] + 1]) if last[-1] + 1 < len(n) else math.inf

    def words(self) -> str:
        """The formula, of n examples."""
        a, b, c = self.parameters
        return f"{a * self.now**b:.3g}·n^-{b:.2f} + {c:.2g}"


def fit(sizes: Sequence[int], errors: Sequence[float], now: int) -> Curve:
    """Fits a curve to the errors of runs, by least squares weighted as counts of errors scatter (variance ∝ error).

    Args:
      sizes: [m] training examples of each run.
      errors: [m], finite, 0 is perfect; several runs of a size tell the noise.
      now: training examples that there are in all.
    """
    n, y = np.asarray(sizes, np.float64), np.asarray(errors, np.float64)
    different = np.unique(n)
    lines = np.full((1, 3), np.nan)
    if len(different) < LEAST_SIZES:
        few = f"{len(different)} different sizes were measured, a curve asks for {LEAST_SIZES}"
        return Curve(now, lines[0], lines, math.nan, few)
    means = np.array([y[n == size].mean() for size in different])
    counts = np.array([(n == size).sum() for size in different])
    weight = np.sqrt(np.maximum(y, max(means.max() * LEAST_WEIGHT, 1e-12)))
    best = min((_fitted(n / now, y, weight, b) for b in (0.2, 0.5, 1.0, 1.8)), key=lambda found: found[1])
    parameters = best[0]
    residual = (y - _curve(n / now, *parameters)) / weight
    noise = _noise(n, y)
    if math.isnan(noise):  # one run each: what the curve leaves
        noise = float(np.sqrt(np.mean((residual * weight) ** 2) * len(y) / max(len(y) - 3, 1)))
    random = np.random.default_rng(0)
    wider = math.sqrt(len(y) / max(len(y) - 3, 1))  # residuals of a fit are smaller than the errors
    drawn = [
        _fitted(
            n / now, _curve(n / now, *parameters) + wider * weight * random.choice(residual, len(y)), weight,
            float(parameters[1]),
        )[0]
        for _ in range(DRAWS)
    ]  # fmt: skip
    curve = Curve(now, parameters, np.array(drawn), noise, "")
    return dataclasses.replace(curve, trouble=_trouble(curve, different, means, counts))


def _trouble(curve: Curve, sizes: np.ndarray, means: np.ndarray, counts: np.ndarray) -> str:
    unsure = curve.noise * math.sqrt(1 / counts[0] + 1 / counts[-1])
    if means[0] - means[-1] <= VISIBLE * unsure:
        return "the error does not fall with the data by more than the runs differ"
    left = np.sum(counts * (means - curve.at(sizes)) ** 2)
    explained = 1 - left / np.sum(counts * (means - np.average(means, weights=counts)) ** 2)
    if explained < EXPLAINED:
        return f"the points do not follow a power law (it explains {max(explained, 0.0):.0%} of their variance)"
    low, high = curve.between(2.0 * curve.now)
    if high - low > SURE * max(float(curve.at(curve.now)), 1e-12):
        return f"the points scatter too much: for twice the data anything from {low:.3g} to {high:.3g} is likely"
    return ""


def _noise(n: np.ndarray, y: np.ndarray) -> float:
    """Pooled standard deviation of runs of the same size, of the larger half of the sizes: it falls with the error."""
    sizes = np.unique(n)
    groups = [y[n == size] for size in sizes[len(sizes) // 2 :]]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return math.nan
    return math.sqrt(sum(float(np.sum((group - group.mean()) ** 2)) for group in groups) / freedom)


def _curve(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    return a * x**-b + c


def _fitted(x: np.ndarray, y: np.ndarray, weight: np.ndarray, b: float) -> tuple[np.ndarray, float]:
    """((a, b, c), sum of the weighted squares), begun at the exponent b."""
    from scipy.optimize import OptimizeWarning, curve_fit

    floor = max(float(y.min()), 1e-12)
    start = (max(float(np.median(y)) - 0.5 * floor, 1e-9), b, 0.5 * floor)
    bounds = ((0.0, EXPONENTS[0], 0.0), (np.inf, EXPONENTS[1], floor))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # the covariance is not asked for
        try:
            found, _ = curve_fit(_curve, x, y, start, weight, bounds=bounds, max_nfev=2000)
        except RuntimeError:  # no end after so many: the start is what there is
            found = np.asarray(start)
    return found, float(np.sum(((_curve(x, *found) - y) / weight) ** 2))


def rounded(count: float) -> str:
    """A number of examples to two digits."""
    digits = 10.0 ** max(0, math.floor(math.log10(max(count, 1.0))) - 1)
    return f"{round(count / digits) * digits:,.0f}"
