"""What a sweep's losses say of the learning rate: slope in log lr, the blow-up, and how far several seeds agree."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

BURN_IN = 0.04  # share of the updates at the start that are not looked at
WIDTHS = (0.02, 0.03, 0.045)  # standard deviation of the smoothing kernel, share of the sweep
QUIET = 0.04  # share of the fall that the noise left by smoothing may be; else the next width is taken
CLEAR = 6.0  # times that noise the fall must be
RISE = 0.1  # share of the fall by which the loss has risen where it counts as blown up, …
RISE_NOISE = 3.0  # … or so many times the noise that is left, whichever is more
CEILING = 1.0  # share of the fall above the start at which losses are cut, so that a blow-up stays where it is
STEEP = 0.5  # of the steepest slope: what lies above it is the steep region
AGREE, NEAR = 10.0, 3.0  # largest / smallest suggestion of the seeds: above the first no answer, below the other sure
MOST = 2 / 3  # of the seeds must have an answer
EDGE = 0.03  # share of the sweep: a fall or a minimum so near its ends is cut off

Confidence = Literal["high", "fair", "low", "none"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """What one seed's sweep says.

    Attributes:
      smooth: the smoothed loss of every update [updates], NaN in the burn-in.
      noise: standard deviation of what smoothing has left.
      fall: from the start to the lowest smoothed loss.
      steepest: the middle of the steep region, in log lr; NaN without an answer, as are the next.
      blow_up: the lr from which on the loss stays up.
      lr: the geometric middle of `steepest` and `blow_up`.
      why: there is no answer, or ''.
    """

    smooth: np.ndarray
    noise: float
    fall: float
    steepest: float = math.nan
    blow_up: float = math.nan
    lr: float = math.nan
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """What the sweeps of all seeds say.

    Attributes:
      lr: suggested, the geometric median over seeds; None: no answer.
      low, high: the range, from the steepest descent of the first seed to half way (geometrically) between the
        suggestion and the blow-up of the last; None without an answer.
      blow_up: the geometric median over seeds; None without an answer.
      confidence: 'high': all seeds have an answer, and agree within ×NEAR; 'fair': those that have one agree within
        ×AGREE; 'low': there is one alone; 'none': no answer.
      agreement: largest / smallest suggestion of the seeds; NaN where fewer than two have one.
      why: there is no answer, or ''.
      curves: one a seed.
    """

    lr: float | None
    low: float | None
    high: float | None
    blow_up: float | None
    confidence: Confidence
    agreement: float
    why: str
    curves: tuple[Curve, ...]


def suggest(lrs: Sequence[float] | np.ndarray, losses: Sequence[Sequence[float]] | np.ndarray) -> Suggestion:
    """A learning rate and its range from sweeps, or none.

    For each seed the losses are smoothed, the steepest descent in log lr is found (Smith 2017, section 3.3, looks at it
    by eye; Gugger and Howard's fastai takes that point), and the blow-up: from where on the smoothed loss stays above
    its minimum by RISE of its fall. Suggested is the geometric middle of the two.

    Args:
      lrs: of every update [updates], ascending geometrically.
      losses: training losses [seeds, updates]; NaN to the end from where it has blown up, and of an update that was
        passed over.
    """
    logs, found = np.log(np.asarray(lrs, np.float64)), np.asarray(losses, np.float64)
    curves = tuple(_curve(logs, each) for each in found)
    answers = [curve for curve in curves if not curve.why]
    if len(answers) < MOST * len(curves):
        reasons = [curve.why for curve in curves if curve.why]
        return _none(max(reasons, key=reasons.count), curves)
    suggestions = np.array([curve.lr for curve in answers])
    agreement = float(suggestions.max() / suggestions.min()) if len(answers) > 1 else math.nan
    if agreement > AGREE:
        several = ", ".join(f"{lr:.2g}" for lr in suggestions)
        return _none(f"the seeds disagree: {several}", curves, agreement)
    lr = _middle(suggestions)
    blow_up = _middle(np.array([curve.blow_up for curve in answers]))
    low = min(curve.steepest for curve in answers)
    high = max(math.sqrt(curve.lr * curve.blow_up) for curve in answers)
    sure = agreement <= NEAR and len(answers) == len(curves)
    confidence: Confidence = "low" if math.isnan(agreement) else "high" if sure else "fair"
    return Suggestion(lr, low, high, blow_up, confidence, agreement, "", curves)


def _none(why: str, curves: tuple[Curve, ...], agreement: float = math.nan) -> Suggestion:
    return Suggestion(None, None, None, None, "none", agreement, why, curves)


def _middle(values: np.ndarray) -> float:
    """The geometric median."""
    return float(np.exp(np.median(np.log(values))))


def _curve(logs: np.ndarray, losses: np.ndarray) -> Curve:
    """What one sweep says.

    Args:
      logs: logarithms of the lrs [updates].
      losses: [updates].
    """
    updates = len(losses)
    skip = max(1, round(BURN_IN * updates))
    blank = np.full(updates, np.nan)
    known = _known(losses[skip:])
    if np.isfinite(known).sum() < max(8, updates // 10):
        return Curve(blank, math.nan, math.nan, why="the loss is not finite at the lowest lrs; lower the lowest lr")
    single = _noise(known)
    for width in WIDTHS:
        smooth, noise = _smoothed(known, width * updates, single)
        start = float(np.mean(smooth[: max(3, round(EDGE * updates))]))
        bottom = int(np.argmin(smooth))
        fall = start - float(smooth[bottom])
        if noise <= QUIET * fall:
            break
    curve = Curve(np.concatenate([blank[:skip], smooth]), noise, fall)
    if fall <= CLEAR * noise:
        what = "it never falls" if fall <= 2 * noise else "it is too noisy"
        return dataclasses.replace(curve, why=f"the loss falls by {fall:.2g}, noise of {noise:.2g} is left: {what}")
    return _located(curve, logs[skip:], smooth, bottom)


def _known(losses: np.ndarray) -> np.ndarray:
    """Losses [n], infinite from where on they stay not finite; those that only pass lie between their neighbours."""
    places = np.flatnonzero(np.isfinite(losses))
    if not len(places):
        return np.full_like(losses, np.inf)
    return np.interp(np.arange(len(losses)), places, losses[places], right=np.inf)


def _located(curve: Curve, logs: np.ndarray, smooth: np.ndarray, bottom: int) -> Curve:
    """The curve with its steep region, its blow-up and the lr between, or with why there is none."""
    edge = max(2, round(EDGE * len(smooth)))
    slopes = -np.gradient(smooth, logs)[: bottom + 1]
    peak = int(np.argmax(slopes))
    steep = slopes >= STEEP * slopes[peak]
    first, last = peak, peak
    while first > 0 and steep[first - 1]:
        first -= 1
    while last < len(steep) - 1 and steep[last + 1]:
        last += 1
    if first < edge:
        return dataclasses.replace(curve, why="the loss falls from the lowest lr on; lower the lowest lr")
    inside = slice(first, last + 1)
    steepest = float(np.average(logs[inside], weights=slopes[inside]))
    limit = smooth[bottom] + max(RISE * curve.fall, RISE_NOISE * curve.noise)
    below = np.flatnonzero(smooth <= limit)
    if below[-1] >= len(smooth) - edge:
        return dataclasses.replace(curve, why="the loss never blows up; raise the highest lr")
    blow_up = float(logs[below[-1] + 1])
    if blow_up <= steepest:
        return dataclasses.replace(curve, why="the loss blows up before it falls")
    return dataclasses.replace(
        curve, steepest=math.exp(steepest), blow_up=math.exp(blow_up),
        lr=math.exp((steepest + blow_up) / 2),
    )  # fmt: skip


def _noise(losses: np.ndarray) -> float:
    """Standard deviation of single losses around their course, before the blow-up: from second differences, in a
    robust way."""
    finite = losses[np.isfinite(losses)]
    start = float(np.median(finite[: max(5, len(losses) // 20)]))
    wild = np.flatnonzero(losses > start + 3 * (start - finite.min()))
    calm = losses[: max(int(wild[0]), 8)] if len(wild) else finite
    calm = calm[np.isfinite(calm)]
    bends = calm[2:] - 2 * calm[1:-1] + calm[:-2]
    return 1.4826 * float(np.median(np.abs(bends - np.median(bends)))) / math.sqrt(6.0)


def _smoothed(losses: np.ndarray, width: float, single: float) -> tuple[np.ndarray, float]:
    """(smoothed losses, standard deviation of the noise left in them): a Gaussian kernel, losses first cut above.

    Args:
      losses: [n], infinite where there are none.
      width: standard deviation of the kernel, in updates.
      single: standard deviation of the noise of one loss.
    """
    finite = losses[np.isfinite(losses)]
    start = float(np.median(finite[: max(5, len(losses) // 20)]))
    rough = _filtered(np.minimum(losses, start + 4 * single), width)
    ceiling = start + max(CEILING * (start - float(rough.min())), 4 * single)
    kernel = _kernel(width)
    return _filtered(np.minimum(losses, ceiling), width), single * math.sqrt(float((kernel**2).sum()))


def _filtered(losses: np.ndarray, width: float) -> np.ndarray:
    """A weighted mean of the losses about each, of fewer at the ends."""
    kernel = _kernel(width)
    reach = len(kernel) // 2
    padded = np.pad(losses, reach)
    weight = np.convolve(np.pad(np.ones(len(losses)), reach), kernel, mode="valid")
    return np.convolve(padded, kernel, mode="valid") / weight


def _kernel(width: float) -> np.ndarray:
    width = max(width, 0.5)
    steps = np.arange(-math.ceil(3 * width), math.ceil(3 * width) + 1)
    kernel = np.exp(-0.5 * (steps / width) ** 2)
    return kernel / kernel.sum()
