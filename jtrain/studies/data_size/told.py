"""What a study of the data comes to: the table, the sentence, and the list of suspicious examples."""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.data.examples import Examples, Subset
from jtrain.io.workdir import write_text_atomic
from jtrain.run import Run
from jtrain.studies.data_size.curve import FARTHEST, WORTHWHILE, Curve, rounded
from jtrain.studies.data_size.picture import draw_error, draw_loss, draw_scores, sheet
from jtrain.studies.study import Study
from jtrain.studies.suspects import Doubt

TABLE, SHEET = "suspects.csv", "suspects.png"
MOST_WRONG = 0.3  # of all labels: where more of them look wrong, it is the models that are
COLUMNS = ("row", "given", "suggested", "score", "mislabelled", "duplicate_of", "duplicate", "same_target")


def error_of(row: Mapping[str, Any], error: str) -> float:
    """What is called the error of a run: "… loss", "1 − metric" or the metric itself; NaN where there is none."""
    value = row["loss"] if error.endswith("loss") else row["value"]
    value = math.nan if value is None else float(value)
    return 1 - value if error.startswith("1 − ") else value


@dataclasses.dataclass(frozen=True)
class Judged:
    """The examples of a pool, and what is to be said against them.

    Attributes:
      pool: the examples.
      given: [n, …] their targets.
      doubt: of their labels; None where they cannot be judged.
      first: [n] the first example with the same input.
      near: (example, one before that is nearly the same, cosine).
    """

    pool: Examples
    given: np.ndarray
    doubt: Doubt | None
    first: np.ndarray
    near: Sequence[tuple[int, int, float]]

    @property
    def twins(self) -> dict[int, tuple[int, str]]:
        """{example: (one before it, "exact" or "near")}."""
        found = {row: (before, "near") for row, before, _ in self.near}
        return found | {int(row): (int(self.first[row]), "exact") for row in np.flatnonzero(self._again)}

    @property
    def contradictions(self) -> list[int]:
        """Examples that are the same as one before them, or nearly, but have another target."""
        return [row for row, (before, _) in sorted(self.twins.items()) if not self.same(row, before)]

    @property
    def _again(self) -> np.ndarray:
        return self.first != np.arange(len(self.first))

    def same(self, row: int, other: int) -> bool:
        """Whether two have the same target."""
        return bool(np.array_equal(self.given[row], self.given[other]))

    def worst(self, count: int) -> list[int]:
        """The examples that are most likely mislabelled."""
        return [] if self.doubt is None else [int(row) for row in self.doubt.worst_first()[:count]]

    def listed(self, count: int) -> list[dict[str, Any]]:
        """Rows of the table: the flagged and at least `count` of the worst, then the other duplicates."""
        twins = self.twins
        flagged = 0 if self.doubt is None else int(self.doubt.flagged.sum())
        rows = self.worst(max(count, flagged))
        rows += [row for row in sorted(twins) if row not in set(rows)]
        found = []
        for row in rows:
            line: dict[str, Any] = {"row": self.source(row), "given": row}
            line["given"] = self.given[row]
            if self.doubt is not None:
                line |= {"suggested": self.doubt.suggested[row], "score": float(self.doubt.score[row])}
                line["mislabelled"] = "yes" if self.doubt.flagged[row] else "no"
            if row in twins:
                before, kind = twins[row]
                same = "yes" if self.same(row, before) else "no"
                line |= {"duplicate_of": self.source(before), "duplicate": kind, "same_target": same}
            found.append(line)
        return found

    def source(self, row: int) -> int:
        """An example's number in the data's own training split."""
        return int(self.pool.rows[row]) if isinstance(self.pool, Subset) else row


@dataclasses.dataclass(frozen=True)
class Found:
    """All that the study found.

    Attributes:
      run: that it is about.
      error: what is called so.
      runs: a row for each run of the learning curve.
      curve: None: no runs were asked for.
      judged: None: examples were not asked about.
    """

    run: Run
    error: str
    runs: Sequence[Mapping[str, Any]]
    curve: Curve | None
    judged: Judged | None

    def errors(self) -> list[tuple[int, float, float]]:
        """(examples, error, loss) of every run that came to an end; NaN where there is none."""
        loss = "ema/loss" if self.run.watch.startswith("ema/") else "loss"
        good = [row for row in self.runs if not row["failed"]]
        return [(row["examples"], error_of(row, self.error), error_of(row, loss)) for row in good]

    def study(self, worst: int) -> Study:
        """The result; nothing is written."""
        found: dict[str, Any] = {}
        if self.curve is not None:
            curve, told = self.curve, not self.curve.trouble
            found = {"of": self.error, "noise": curve.noise, "trouble": curve.trouble}
            found |= dict(zip(("a", "b", "c"), curve.parameters, strict=True)) if told else {}
            for name, times in (("error", 1), ("twice", 2), ("ten_times", 10)):
                found[name] = float(curve.at(times * curve.now)) if told else None
                low, high = curve.between(float(times * curve.now)) if told else (math.nan, math.nan)
                found[f"{name}_between"] = [float(low), float(high)]
            found["stops"] = curve.stops if told else None
        if self.judged is not None:
            kinds = [kind for _, kind in self.judged.twins.values()]
            found |= {
                "mislabelled": None if self.judged.doubt is None else int(self.judged.doubt.flagged.sum()),
                "duplicates": kinds.count("exact"), "near_duplicates": kinds.count("near"),
                "contradictions": len(self.judged.contradictions), "suspects": self.judged.worst(worst),
            }  # fmt: skip
        parts = [self._more_data(), self._suspects()]
        conclusion = "; ".join(part for part in parts if part) or "nothing was asked: shares and folds are off"
        return Study("data_size", conclusion, self._rows(), found, self._draw)

    def save(self, folder: Path, worst: int) -> None:
        """Writes suspects.csv and, where the inputs are images, suspects.png."""
        if self.judged is None:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for line in self.judged.listed(worst):
            shown = {name: self._named(line[name]) for name in ("given", "suggested") if name in line}
            writer.writerow(line | shown)
        write_text_atomic(folder / TABLE, text.getvalue())
        self._sheet(folder / SHEET, worst)

    def _rows(self) -> list[dict[str, Any]]:
        """A row for each number of examples."""
        found = []
        measured, curve = self.errors(), self.curve
        for size in sorted({row["examples"] for row in self.runs}):
            own = np.array([[error, loss] for n, error, loss in measured if n == size]).reshape(-1, 2)
            mean, sd = _mean_sd(own[:, 0])
            line = {"examples": size, "share": size / len(self.run.data.train), self.error: mean, "± sd": sd}
            if not self.error.endswith("loss"):
                line["loss"] = _mean_sd(own[:, 1])[0]
            if curve is not None and not curve.trouble:
                line["curve"] = float(curve.at(size))
            failed = sum(1 for row in self.runs if row["examples"] == size and row["failed"])
            found.append(line | ({"failed": failed} if failed else {}))
        if curve is not None and not curve.trouble:
            for times in (2, 10):
                low, high = curve.between(float(times * curve.now))
                n = times * curve.now
                line = {"examples": n, "share": float(times), "curve": float(curve.at(n))}
                found.append(line | {"from": float(low), "to": float(high)})
        return found

    def _more_data(self) -> str:
        curve = self.curve
        if curve is None:
            return ""
        if curve.trouble:
            return f"what more data would bring cannot be told: {curve.trouble}"
        now, stops = float(curve.at(curve.now)), curve.stops
        (low, high), (far_low, far_high) = curve.between(2.0 * curve.now), curve.between(10.0 * curve.now)
        text = (
            f"{self.error} is {now:.3g} with all {curve.now:,} examples and falls as {curve.words()}: "
            f"{float(curve.at(2 * curve.now)):.3g} ({low:.3g} to {high:.3g}) is to be expected of twice as many, "
            f"{float(curve.at(10 * curve.now)):.3g} ({far_low:.3g} to {far_high:.3g}) of ten times; "
        )
        rule = f"doubling gains less than {curve.noise:.2g}, by which runs differ, or {WORTHWHILE:.0%}"
        if math.isinf(stops):
            return f"{text}more data pays up to {FARTHEST} times as many at least"
        if stops <= curve.now:
            return f"{text}more data does not pay any more (from about {rounded(stops)} on {rule})"
        return f"{text}more data pays up to about {rounded(stops)} examples (then {rule})"

    def _suspects(self) -> str:
        judged = self.judged
        if judged is None:
            return ""
        kinds = [kind for _, kind in judged.twins.values()]
        parts = []
        if judged.doubt is not None:
            count, all_of = int(judged.doubt.flagged.sum()), len(judged.given)
            words = f"{count:,} of {all_of:,} examples look mislabelled ({count / all_of:.1%})"
            if count > MOST_WRONG * all_of:
                words = f"labels cannot be judged: the models contradict {count / all_of:.0%} of them, and are too weak"
            parts.append(words)
        else:
            parts.append("labels are not judged: the task has none, or no run came to its end")
        parts.append(f"{kinds.count('exact'):,} are duplicates and {kinds.count('near'):,} nearly so")
        if judged.contradictions:
            parts.append(f"{len(judged.contradictions):,} of these contradict one another")
        return f"{', '.join(parts)}: see {TABLE}"

    def _named(self, target: Any) -> str:
        """A target in words."""
        names, target = self.run.names, np.asarray(target)
        if self.run.data.targets == "class":
            return str(names[int(target)]) if names else str(int(target))
        if self.run.data.targets == "classes":
            return "+".join(str(names[i]) if names else str(i) for i in np.flatnonzero(target)) or "none"
        return " ".join(f"{value:.4g}" for value in target.reshape(-1)[:16])

    def _sheet(self, path: Path, worst: int) -> None:
        """A PNG of the worst images, the given label → the suggested one above each."""
        judged = self.judged
        rows = [] if judged is None else judged.worst(worst)
        if judged is None or judged.doubt is None or not rows:
            return
        titles = []
        for row in rows:
            given, suggested = self._named(judged.given[row]), self._named(judged.doubt.suggested[row])
            words = given if given == suggested else f"{given} → {suggested}"
            titles.append(f"{judged.source(row)}\n{words}{'' if judged.doubt.flagged[row] else ' ?'}")
        sheet(path, judged.pool.fetch(np.array(rows))[0], titles)

    def _draw(self, figure: Any) -> None:
        panels: list[Callable[[Any], None]] = []
        curve, judged = self.curve, self.judged
        if curve is not None:
            errors = [(n, error) for n, error, _ in self.errors() if math.isfinite(error)]
            panels.append(lambda axes: draw_error(axes, curve, self.error, errors))
            losses = [(n, loss) for n, _, loss in self.errors() if math.isfinite(loss)]
            panels += [] if self.error.endswith("loss") else [lambda axes: draw_loss(axes, losses)]
        if judged is not None and judged.doubt is not None:
            doubt, numbers = judged.doubt, self.run.data.targets == "values"
            panels.append(lambda axes: draw_scores(axes, doubt, numbers))
        figure.set_size_inches(max(8, 4.2 * len(panels)), 4.5)
        figure.suptitle("data size: what more examples bring, and which are to be doubted")
        for axes, panel in zip(np.atleast_1d(figure.subplots(1, max(1, len(panels)))), panels, strict=False):
            panel(axes)


def _mean_sd(values: np.ndarray) -> tuple[float, float | None]:
    values = values[np.isfinite(values)]
    mean = float(values.mean()) if len(values) else math.nan
    return mean, float(values.std(ddof=1)) if len(values) > 1 else None
