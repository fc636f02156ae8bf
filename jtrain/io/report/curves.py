"""A run's curves: loss, metrics, learning rate, gradient norm and speed, with what happened marked on them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtrain.io.report.chart import MANY, Line, Mark, chart
from jtrain.io.report.html import Markup, details, esc, is_number, measure, number, table
from jtrain.io.report.read import Files, Row
from jtrain.io.report.story import pretty

LOOKS = {"train": ("training", 0), "val": ("validation", 1), "test": ("test", 2)}
MARKED = {
    "plateau": "lr lowered", "rollback": "rolled back", "phase": "phase", "resume": "resumed", "branch": "branched",
    "early_stopping": "stopped early", "given_up": "given up", "non_finite": "not finite", "interrupted": "interrupted",
    "restart": "began again", "act": "acted",
}  # fmt: skip
MOST_EVENTS = 40
MOST_SHOWN = 10  # of them, before they are to be unfolded
MOST_METRICS = 12
MOST_GROUPS = 6  # as many looks as there are
MOST_ROWS = 100  # of the table of evaluations


def events(files: Files) -> list[Mark]:
    """What is marked on the curves, in order: the best, and what the run did by itself."""
    found: list[tuple[float, str]] = []
    for event in files.events:
        if event.get("kind") in MARKED and is_number(event.get("step")):
            found.append((float(event["step"]), f"{MARKED[event['kind']]}: {event.get('text', '')}"))
    best = files.best
    if is_number(best.get("step")):
        metric = pretty(str(best.get("metric", "")).partition("/")[2])
        found.append((float(best["step"]), f"best validation {metric}: {measure(best.get('value'))}"))
    found.sort(key=lambda pair: pair[0])
    if len(found) > MOST_EVENTS:
        half = MOST_EVENTS // 2
        found = found[:half] + found[-half:]
    return [Mark(at, str(i), words) for i, (at, words) in enumerate(found, 1)]


def verdict_marks(files: Files) -> list[Mark]:
    """The marks of the diagnosis, by letter."""
    told = []
    verdicts = files.coach.get("diagnosis")
    for verdict in verdicts if isinstance(verdicts, list) else ():
        marks = verdict.get("marks") if isinstance(verdict, dict) else None
        for mark in marks if isinstance(marks, list | tuple) else ():
            if isinstance(mark, list | tuple) and len(mark) == 2 and is_number(mark[0]):
                told.append((float(mark[0]), f"{verdict.get('name', '')}: {mark[1]}"))
    return [Mark(at, chr(ord("A") + i), words, told=True) for i, (at, words) in enumerate(told[:26])]


def curves(files: Files) -> str:
    """All charts, the list of what is marked on them, and the evaluations as a table."""
    rows = files.rows
    marks = [*events(files), *verdict_marks(files)]
    x = (0.0, float(max(1, files.last)))
    large = [chart("Loss", splits(rows, "loss"), key="loss", wide=True, marks=marks, signs=True, x=x)]
    train = [row for row in rows if row.get("split") == "train"]
    rates = _rates(train, files.made)
    small = [chart("Learning rate", rates, key="lr", marks=marks, log=falls_far(rates), x=x)]
    for name, title, zero in (
        ("grad_norm", "Gradient norm", False), ("examples_per_second", "Examples per second", True),
        ("data_wait", "Share of time waiting for data", True), ("mfu", "Model FLOPs utilisation", True),
    ):  # fmt: skip
        own = [line(train, name, "training", 1)]
        small.append(chart(title, own, key=name.replace("_", ""), marks=marks, zero=zero, x=x))
    small = [text for text in small if text]
    names = files.metrics[:MOST_METRICS]
    for i, name in enumerate(names):
        # The watched metric takes what an odd number of charts would leave empty.
        wide = i == 0 and (len(names) + len(small)) % 2 == 1
        text = chart(_upper(pretty(name)), splits(rows, name), key=f"m{i}", marks=marks, wide=wide, x=x)
        (large if wide else small).insert(len(large) if wide else i, text)
    if not any(large) and not small:
        return ""
    per_epoch = files.updates_per_epoch
    words = "Over optimizer updates" + (f"; an epoch is {number(per_epoch)} of them." if per_epoch else ".")
    if len(train) > MANY:
        words += " Of long curves all values are pale, and means over pieces of them strong."
    if (more := len(files.metrics) - MOST_METRICS) > 0:
        words += f" {more} more metrics are in metrics.jsonl."
    evaluations = _evaluations(files)
    return (
        f'<p class="soft small">{esc(words)}</p><div class="charts">{large[0]}</div>{_listed(files, marks)}'
        f'<div class="charts">{"".join(large[1:] + small)}</div>{evaluations}'
    )


def splits(rows: Sequence[Row], name: str) -> list[Line]:
    """A line for each split, and for averaged weights, that has this number; a test is a single ring."""
    found = []
    for split, (words, look) in LOOKS.items():
        own = [row for row in rows if row.get("split") == split]
        found.append(line(own, name, words, look, dots="ring" if split == "test" else "auto"))
        if split == "val" and any(is_number(row.get(f"ema/{name}")) for row in own):
            found.append(line(own, f"ema/{name}", "validation, averaged weights", 3))
    return found


def line(rows: Sequence[Row], key: str, name: str, look: int, *, dots: str = "auto") -> Line:
    """The values of one key over updates; what is no finite number is a gap."""
    rows = [row for row in rows if key in row]
    values = [float(row[key]) if is_number(row[key]) else math.nan for row in rows]
    return Line(name, [row["step"] for row in rows], values, look, dots)


def falls_far(rates: Sequence[Line]) -> bool:
    """Whether learning rates ask for a logarithmic axis: an end near 0 alone, as of a cosine, would take all of it."""
    lrs = [y for one in rates for y in one.ys if math.isfinite(y)]
    return bool(lrs) and 0 < float(np.median(lrs)) < max(lrs) / 20


def _rates(train: Sequence[Row], made: Mapping[str, Any]) -> list[Line]:
    """The true learning rates, and what was planned where it differs."""
    groups = list(dict.fromkeys(key for row in train for key in row if key.startswith("lr/")))[:MOST_GROUPS]
    names = groups or ["lr"]
    found = [line(train, key, key.removeprefix("lr/"), i % 5 + 1) for i, key in enumerate(names)]
    planned = made.get("schedule")
    points = planned.get("lr") if isinstance(planned, dict) and not groups else None
    points = [p for p in points if isinstance(p, list) and len(p) == 2 and all(map(is_number, p))] if points else []
    if points:
        xs, ys = zip(*points, strict=True)
        return [Line("planned", xs, ys, 0, dots="no"), *found]
    return found


def _listed(files: Files, marks: Sequence[Mark]) -> str:
    """What the signs on the loss curve mean, and what else the run noted."""
    items = [
        f'<li><span class="mark{" told" if mark.told else ""}">{esc(mark.sign)}</span>'
        f'<span class="text">update {mark.at:,.0f} · {esc(_cut(mark.words))}</span></li>'
        for mark in marks
    ]
    hidden = sum(e.get("kind") in MARKED for e in files.events) - sum(not m.told for m in marks)
    if hidden > 0:
        items.append(f"<li><span></span><span>and {hidden:,} more between them, in events.jsonl</span></li>")
    others = [e for e in files.events if e.get("kind") not in (*MARKED, "diagnose")]
    told = [
        f'<li><span></span><span class="text"><b>{esc(event.get("kind", ""))}</b> {esc(_cut(event.get("text", "")))}'
        "</span></li>"
        for event in others[:MOST_EVENTS]
    ]
    if len(others) > MOST_EVENTS:
        told.append(f"<li><span></span><span>and {len(others) - MOST_EVENTS:,} more, in events.jsonl</span></li>")
    listed = f'<ul class="events">{"".join(items[:MOST_SHOWN])}</ul>' if items else ""
    if more := items[MOST_SHOWN:]:
        listed += details(f"{len(more)} more", f'<ul class="events">{"".join(more)}</ul>')
    return listed + (
        details(f"{len(others):,} other events", f'<ul class="events">{"".join(told)}</ul>') if told else ""
    )


def _evaluations(files: Files) -> str:
    """The numbers of all evaluations, for those who would rather read; of many, evenly spread ones."""
    rows = [row for row in files.rows if row.get("split") in ("val", "test")]
    if not rows:
        return ""
    names = ["loss", *files.metrics[:MOST_METRICS]]
    kept = sorted(set(np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(int).tolist()))
    cells = [
        [
            rows[i]["step"],
            LOOKS[str(rows[i]["split"])][0],
            *(Markup(measure(rows[i].get(name)), number=True) for name in names),
        ]
        for i in kept
    ]
    title = "All evaluations" if len(kept) == len(rows) else f"{len(kept)} of {len(rows):,} evaluations"
    return details(title, table(["update", "split", *map(pretty, names)], cells, caption=title))


def _cut(text: Any, most: int = 1000) -> str:
    words = str(text).strip()
    return words if len(words) <= most else f"{words[:most]}…"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
