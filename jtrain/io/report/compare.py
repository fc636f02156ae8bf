"""Several runs, and studies, on one page: results, where their configs differ, their curves on one another."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtrain.io.report.chart import Line, chart
from jtrain.io.report.curves import falls_far, line
from jtrain.io.report.html import Markup, esc, is_number, measure, plainly, section, table
from jtrain.io.report.read import Files
from jtrain.io.report.story import how_it_ended, pretty, seconds_of

MOST_LINES = 12  # curves on one another; of more runs, the best
MOST_KEYS = 200
SAME = ("task.name", "data.name", "data.tfds.name", "loss.name")  # else numbers are of different things
# What tells nothing of how good a run is, and differs by itself.
UNTOLD = ("log.", "checkpoint.", "diagnose.", "lint.", "study.")


def headline(runs: Sequence[Files], others: Sequence[Files], skipped: Sequence[str], rank: tuple[str, str]) -> str:
    """How many there are, which is the best, and what was passed over.

    Args:
      runs: the best first.
      others: studies.
      skipped: why a folder is not here, in words.
      rank: (split, metric) that they are ordered by.
    """
    words = [f"{len(runs):,} {'run' if len(runs) == 1 else 'runs'}"]
    if others:
        words.append(f"{len(others):,} {'study' if len(others) == 1 else 'studies'}")
    lines = [f'<p class="soft">{" · ".join(words)}</p>']
    value = score(runs[0], rank) if runs else None
    if value is not None:
        where = {"val": "validation "}.get(rank[0], f"{rank[0]} ")
        said = f"Best by {where}{pretty(rank[1])}: {runs[0].name} with {measure(value)}."
        lines.append(f'<p class="lead">{esc(said)}</p>')
    if len({tuple(plainly(files.config.get(key)) for key in SAME) for files in runs}) > 1:
        notes = ["The runs are of different tasks or data: their losses and metrics cannot be compared.", *skipped]
    else:
        notes = list(skipped)
    lines += [f'<p class="note small">{esc(text)}</p>' for text in notes]
    return "".join(lines)


def sections(runs: Sequence[Files], others: Sequence[Files], rank: tuple[str, str], out: Path) -> list[str]:
    """All parts of the page; the arguments as of `headline`, and where the page will be."""
    return [_results(runs, rank, out), _curves(runs, rank), _differences(runs), _studies(others, out)]


def score(files: Files, rank: tuple[str, str]) -> float | None:
    """The number that runs are ordered by: of the last row of the split, on 'val' of the best update where it is that
    metric by which it was chosen."""
    split, metric = rank
    best = files.best.get("value")
    if split == "val" and files.best.get("metric") == f"val/{metric}" and is_number(best):
        return float(best)
    value = files.at(split).get(metric)
    return float(value) if is_number(value) else None


def _results(runs: Sequence[Files], rank: tuple[str, str], out: Path) -> str:
    if not runs:
        return ""
    names = list(dict.fromkeys(["loss", *(name for files in runs for name in files.metrics)]))
    columns = [
        (split, name) for split in ("test", "val") for name in sorted(names, key=lambda n: n != rank[1])
        if any(is_number(files.at(split).get(name)) for files in runs)
    ]  # fmt: skip
    head = ["run", *(f"{split} {pretty(name)}" for split, name in columns), "best", "at update", "updates", "seconds"]
    times = [seconds_of(files.made) for files in runs]
    timed = any(seconds is not None for seconds in times)
    head = head if timed else head[:-1]
    rows = []
    for files, seconds in zip(runs, times, strict=True):
        cells: list[Any] = [Markup(_linked(files, out))]
        cells += [_measured(files.at(split).get(name)) for split, name in columns]
        cells += [_measured(files.best.get("value")), _value(files.best.get("step")), files.last]
        cells += [None if seconds is None else round(seconds, 1)] if timed else []
        rows.append([*cells, Markup(esc(ENDED.get(how_it_ended(files)[0], "")))])
    best = 0 if score(runs[0], rank) is not None else -1
    return section(
        "results",
        "Results",
        table([*head, "ended"], rows, caption="Results of the runs", best=best, sortable=len(rows) > 1),
    )


ENDED = {
    "done": "done", "early_stopping": "stopped early", "given_up": "given up", "non_finite": "not finite",
    "interrupted": "interrupted", "lost": "process lost", "unfinished": "unfinished",
}  # fmt: skip


def _curves(runs: Sequence[Files], rank: tuple[str, str]) -> str:
    shown = runs[:MOST_LINES]
    split = "val" if any(files.at("val") for files in shown) else "train"
    words = {"val": "validation", "train": "training"}[split]
    charts = []
    for i, name in enumerate(dict.fromkeys(("loss", rank[1]))):
        lines = [_line(files, split, name, number) for number, files in enumerate(shown)]
        charts.append(chart(f"{words.capitalize()} {pretty(name)}", lines, key=f"all{i}", wide=True))
    lines = [_line(files, "train", "lr", number) for number, files in enumerate(shown)]
    charts.append(chart("Learning rate", lines, key="lr", wide=True, log=falls_far(lines)))
    more = f'<p class="soft small">The best {MOST_LINES} of {len(runs):,} runs.</p>' if len(runs) > MOST_LINES else ""
    return section("curves", "Curves", more + f'<div class="charts">{"".join(charts)}</div>' if any(charts) else "")


def _line(files: Files, split: str, name: str, look: int) -> Line:
    rows = [row for row in files.rows if row.get("split") == split]
    # Twelve lines have six colours: those of the second half show their points instead.
    own = line(rows, name, files.name, (look + 1) % 6)
    return Line(own.name, own.xs, own.ys, own.look, dots="auto" if look >= 6 else "no")


def _differences(runs: Sequence[Files]) -> str:
    keys = dict.fromkeys(key for files in runs for key in files.config if not key.startswith(UNTOLD))
    differing = [key for key in keys if len({plainly(files.config.get(key)) for files in runs}) > 1]
    if len(runs) < 2:
        return ""
    if not differing:
        body = "<p>The configs are the same, but for what is logged and saved.</p>"
        return section("configs", "Where the configs differ", body)
    rows = [
        [key, *(Markup(esc(plainly(files.config.get(key)))) for files in runs)] for key in differing[:MOST_KEYS]
    ]  # fmt: skip
    names = ["option", *(files.name for files in runs)]
    body = table(names, rows, caption="Options in which the runs differ")
    if len(differing) > MOST_KEYS:
        body += f'<p class="soft small">The first {MOST_KEYS} of {len(differing):,} options.</p>'
    return section("configs", "Where the configs differ", body)


def _studies(others: Sequence[Files], out: Path) -> str:
    rows = [
        [
            Markup(_linked(files, out)),
            str(files.study.get("study", "")),
            str(files.study.get("conclusion", "unfinished")),
        ]
        for files in others
    ]
    return section(
        "studies", "Studies", table(["folder", "study", "conclusion"], rows, caption="Studies") if rows else ""
    )


def _linked(files: Files, out: Path) -> str:
    """The name of a run, as a link to its own report where there is one beside this page."""
    own = files.folder / "report.html"
    if not own.is_file():
        return esc(files.name)
    from urllib.parse import quote

    place = os.path.relpath(own.absolute(), out.absolute().parent)
    return f'<a href="{esc(quote(Path(place).as_posix(), errors="surrogateescape"))}">{esc(files.name)}</a>'


def _measured(value: Any) -> Markup | None:
    return Markup(measure(value), number=True) if is_number(value) else None


def _value(value: Any) -> float | None:
    return value if is_number(value) else None
