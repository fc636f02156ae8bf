"""The gradient noise scale: from the gradient's norm at two batch sizes to the batch size that still pays."""

import dataclasses
import math
from typing import Literal

MOST_APART = 2.0  # silent until the ends of the interval are no further apart than this factor
LEAST_PROBES = 10
LEAST_SHARE = 0.005  # a probe's share of the averages, once there are 600: from then on about the last 400 count
FORGET = 3.0  # before that the average of t probes is their mean weighed by the square of their number
SUITS = 2.0  # a batch within this factor of the noise scale is left as it is
# 99 % of a normal distribution lie within ± this many standard deviations. Not 95 %: one looks after every probe, and
# speaks at the first interval that is narrow, which too often is one that is narrow by chance.
Z = 2.575829


@dataclasses.dataclass(frozen=True)
class Noise:
    """What all probes came to: plain numbers, `Noise(**dataclasses.asdict(noise))` is the same.

    Attributes:
      probes: how many.
      concentration: the sum of the squares of their shares in the averages, which add up to 1.
      s, g: averages of the estimates of S = tr(Σ), Σ the covariance of single examples' gradients, and of |G|².
      ss, sg, gg: (co)variances of the estimates of single probes about these averages, weighed alike.
    """

    probes: int = 0
    concentration: float = 1.0
    s: float = 0.0
    g: float = 0.0
    ss: float = 0.0
    sg: float = 0.0
    gg: float = 0.0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The noise scale S / |G|² in examples, with the ends of its 99 % interval."""

    noise_scale: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A batch size, the lr that goes with it by the rule of the optimizer's family, and both in a sentence."""

    batch: int
    lr: float
    text: str


def add(noise: Noise, chunk_sq: float, whole_sq: float, chunk: float, whole: float) -> Noise:
    """The averages with one more probe; a probe that is not finite, or whose sizes are equal, is passed over.

    E|g_B|² = |G|² + S / B for the mean gradient g_B of B examples. So S = (|g_b|² - |g_B|²) / (1/b - 1/B) and
    |G|² = |g_B|² - S / B are unbiased (McCandlish et al. 2018, An Empirical Model of Large-Batch Training, appendix
    A.1). Their quotient is not: hence averages of both, and one quotient in the end.

    Args:
      noise: so far.
      chunk_sq: squared norm of the mean gradient of a chunk, averaged over the chunks of a batch.
      whole_sq: that of the batch's mean gradient.
      chunk: examples of a chunk.
      whole: examples of the batch; infinity where it is all the examples that there are.
    """
    if not all(map(math.isfinite, (chunk_sq, whole_sq, chunk))) or not 0 < chunk < whole:
        return noise
    s = (chunk_sq - whole_sq) / (1.0 / chunk - 1.0 / whole)
    g = whole_sq - s / whole
    share = max(LEAST_SHARE, FORGET / (FORGET + noise.probes))
    rest, ds, dg = 1.0 - share, s - noise.s, g - noise.g
    return Noise(
        probes=noise.probes + 1,
        concentration=rest**2 * noise.concentration + share**2,
        s=noise.s + share * ds,
        g=noise.g + share * dg,
        ss=rest * (noise.ss + share * ds * ds),
        sg=rest * (noise.sg + share * ds * dg),
        gg=rest * (noise.gg + share * dg * dg),
    )


def estimate(noise: Noise) -> Estimate | None:
    """The quotient of the averages and its interval; None until that is narrow, or |G|² cannot be told from 0.

    The interval is Fieller's (1954, Some problems in interval estimation): all quotients R for which the average of
    S - R |G|² is within t standard errors of 0, by the spread of the probes.
    """
    found = interval(noise)
    return found if found is not None and found.high <= MOST_APART * found.low else None


def interval(noise: Noise) -> Estimate | None:
    """The same however wide it is; None while there are few probes, or |G|² cannot be told from 0."""
    if noise.probes < LEAST_PROBES or noise.g <= 0.0 or noise.s <= 0.0:
        return None
    of_mean = noise.concentration / (1.0 - noise.concentration)  # variance of an average / weighed variance
    t_sq = _t_quantile(1.0 / noise.concentration - 1.0) ** 2
    a = noise.g**2 - t_sq * of_mean * noise.gg
    b = noise.s * noise.g - t_sq * of_mean * noise.sg
    c = noise.s**2 - t_sq * of_mean * noise.ss
    if a <= 0.0:
        return None
    root = math.sqrt(max(0.0, b**2 - a * c))  # below 0 by rounding alone: the quotient itself is inside
    return Estimate(noise.s / noise.g, max(0.0, (b - root) / a), (b + root) / a)


def suggest(
    found: Estimate, batch_size: int, lr: float, family: Literal["sgd", "adam"], *, scales: bool = False
) -> Suggestion:
    """The batch size that the noise scale implies: the power of two next to it, or the one in force if that is near.

    A batch of B examples needs (1 + noise / B) times the updates of a huge one, and (1 + B / noise) times the examples
    of a tiny one (McCandlish et al. 2018, equation 2.11): at the noise scale both are 2. The lr moves with the batch:
    linearly for SGD (Goyal et al. 2017), by the square root for the Adam family (Malladi et al. 2022).

    Args:
      found: from `estimate`.
      batch_size: in force.
      lr: in force.
      family: of the optimizer.
      scales: the lr moves with the batch by itself (`optimizer.reference_batch`): then it is left alone.
    """
    scale = found.noise_scale
    known = f"noise scale {scale:,.0f} examples ({found.low:,.0f} to {found.high:,.0f})"
    if batch_size / SUITS <= scale <= batch_size * SUITS:
        return Suggestion(batch_size, lr, f"{known}: the batch of {batch_size:,} suits it, leave it")
    batch = 2 ** max(0, round(math.log2(scale)))
    ratio = batch / batch_size
    by, rule = (ratio, "linear, for SGD") if family == "sgd" else (math.sqrt(ratio), "square root, for the Adam family")
    updates = (1.0 + scale / batch) / (1.0 + scale / batch_size)
    examples = (1.0 + batch / scale) / (1.0 + batch_size / scale)
    if batch > batch_size:
        why = f"the gradient of {batch_size:,} examples is mostly noise"
    else:
        why = f"{batch_size:,} examples an update are more than its gradient needs"
    moved = f"{lr:.4g} → {lr * by:.4g} ({rule}{'; optimizer.reference_batch does that by itself' * scales})"
    text = (
        f"{known}: {why}; a batch of {batch:,} needs about {_times(updates)} the updates and {_times(examples)} the "
        f"examples, with lr {moved}"
    )
    return Suggestion(batch, lr * by, text)


def _times(ratio: float) -> str:
    return f"{ratio:.2g}×"


def _t_quantile(freedom: float) -> float:
    """The 99.5 % quantile of Student's t distribution, to 1.5 % from 4 degrees of freedom on.

    Args:
      freedom: degrees of freedom, not necessarily whole.

    By the expansion of Abramowitz & Stegun (1964), 26.7.5.
    """
    z, n = Z, freedom
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    third = (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0
    return z + first / n + second / n**2 + third / n**3
