"""Which initializers differ, by the metrics of their seeds: pure."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

ALPHA = 0.05  # chance of a difference being told where there is none
ALIKE = 10.0  # × the values of a pair: the spread of what lies higher, as it all but diverged, says nothing of them

Values = Mapping[str, Sequence[float | None]]  # by initializer the metric of each seed, None of a run that diverged


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the runs say.

    Attributes:
      best: the best mean of those that never diverged, "" where all did or a single seed tells nothing.
      tied: those that do not differ from it, itself among them.
      worse: those that do.
      diverged: those of which any seed diverged.
      chances: by pair, "a / b", the corrected chance of such a difference where there is none.
      recommended: what to set; "" where the config's own is among the tied, or nothing is told.
    """

    best: str
    tied: list[str]
    worse: list[str]
    diverged: list[str]
    chances: dict[str, float]
    recommended: str

    def chance(self, name: str) -> float | None:
        """That of its difference from the best."""
        return next((p for pair, p in self.chances.items() if set(pair.split(" / ")) == {name, self.best}), None)


def judged(values: Values, own: str, *, higher: bool, least: float) -> Verdict:
    """Which differ, and which to take.

    Args:
      values: of at least one initializer.
      own: the config's.
      higher: more is better.
      least: spread, as a share of the largest value of a pair, below which none is taken.
    """
    diverged = [name for name, each in values.items() if None in each]
    steady = {name: [v for v in each if v is not None] for name, each in values.items() if name not in diverged}
    if not steady or any(len(each) < 2 for each in steady.values()):
        return Verdict("", list(steady), [], diverged, {}, "")
    sign = 1.0 if higher else -1.0
    best = max(steady, key=lambda name: sign * float(np.mean(steady[name])))
    chances = holm(_welch(steady, least))
    verdict = Verdict(best, [], [], diverged, chances, "")
    worse = [name for name in steady if name != best and (verdict.chance(name) or 0.0) < ALPHA]
    tied = [name for name in steady if name not in worse]
    return dataclasses.replace(verdict, tied=tied, worse=worse, recommended="" if own in tied else best)


def _welch(groups: Mapping[str, Sequence[float]], least: float) -> dict[str, float]:
    """{pair: two-sided chance} of Welch's t-test (1947), with no standard deviation below the median or `least`."""
    from scipy import stats

    spreads = {name: float(np.std(each, ddof=1)) for name, each in groups.items()}
    tops = {name: max(map(abs, each)) for name, each in groups.items()}
    found = {}
    for a, b in itertools.combinations(groups, 2):
        top = max(tops[a], tops[b])
        floor = max(float(np.median([spreads[n] for n in groups if tops[n] <= ALIKE * top])), least * top)
        if floor == 0:  # all are 0
            found[f"{a} / {b}"] = 1.0
            continue
        sides = [(np.mean(groups[n]), max(spreads[n], floor), len(groups[n])) for n in (a, b)]
        found[f"{a} / {b}"] = float(stats.ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue)
    return found


def holm(chances: Mapping[str, float]) -> dict[str, float]:
    """Chances corrected for their number: p₍ᵢ₎ ← max over j ≤ i of min(1, (m - j + 1) p₍ⱼ₎) (Holm 1979)."""
    largest, found = 0.0, {}
    for place, name in enumerate(sorted(chances, key=lambda n: chances[n])):
        largest = max(largest, min(1.0, (len(chances) - place) * chances[name]))
        found[name] = largest
    return {name: found[name] for name in chances}
