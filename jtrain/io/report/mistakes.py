"""Where a model is wrong: the confusion matrix, the worst mistakes as pictures, the largest residuals."""

import base64
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jtrain.io.report.chart import Line, chart
from jtrain.io.report.html import NONE, Markup, details, esc, number, scrolled, section, table

MOST_CLASSES = 30  # of a confusion matrix; of more, the pairs that are confused most
MOST_PAIRS = 20
SMALL_PICTURE = 64  # pixels up to which an image is shown as its pixels, not smoothed
MOST_PICTURES = 1_000_000  # bytes of all pictures in a page


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An example that was taken for what it is not.

    Attributes:
      example: its number in the split.
      truth, predicted: names of the classes.
      probability: that the model gives the predicted class, 0 to 1.
      truth_probability: that it gives the true one.
      picture: of the example, as PNG; b"" where it is no image.
      side: pixels of the longer side of the image.
    """

    example: int
    truth: str
    predicted: str
    probability: float
    truth_probability: float
    picture: bytes = b""
    side: int = 0


@dataclasses.dataclass(frozen=True)
class Residual:
    """An example whose number was predicted wrongly; `output` names the number where there are several."""

    example: int
    output: str
    target: float
    predicted: float


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """What is known of a model's errors on one split.

    Attributes:
      split: 'train', 'val' or 'test'.
      step: updates of the state that was looked at.
      looked_at: examples that were predicted.
      of: examples of the split.
      wrong: how many were predicted wrongly, of `looked_at`; -1 where that has no meaning.
      names: of the classes.
      confusion: [classes, classes], how often each true class (a row) was taken for which; None: not of classes.
      worst: the worst first.
      residuals: the largest first.
      pairs: (name of an output, targets [n], predictions [n]) of numbers.
      note: why there is nothing, in a sentence.
    """

    split: str = ""
    step: int = 0
    looked_at: int = 0
    of: int = 0
    wrong: int = -1
    names: Sequence[str] = ()
    confusion: np.ndarray | None = None
    worst: Sequence[Mistake] = ()
    residuals: Sequence[Residual] = ()
    pairs: Sequence[tuple[str, np.ndarray, np.ndarray]] = ()
    note: str = ""


def sections(found: Mistakes) -> list[str]:
    """The sections of a page; '' for those with nothing in them."""
    if found.note:
        return [section("mistakes", "Mistakes", f'<p class="note">{esc(found.note)}</p>')]
    split = {"val": "validation"}.get(found.split, found.split)
    whole = "all" if found.looked_at == found.of else f"{found.looked_at:,} evenly spread of"
    over = f"Over {whole} {found.of:,} examples of the {split} split, by the state after update {found.step:,}"
    return [_confusion(found, over), _worst(found, over), _residuals(found, over)]


def _confusion(found: Mistakes, over: str) -> str:
    if found.confusion is None:
        return ""
    counts = np.asarray(found.confusion)
    names = [*found.names, *map(str, range(len(found.names), len(counts)))]
    right = int(np.trace(counts))
    total = int(counts.sum())
    said = f"{over}: {right:,} right, {total - right:,} wrong."
    few = len(counts) <= MOST_CLASSES
    body = _matrix(counts, names) if few else ""
    pairs = _confused(counts, names)
    if not few and pairs:
        body += pairs
    elif pairs:
        body += details("The pairs that are confused most", pairs)
    recalls = _recalls(counts, names)
    body += details("Each class" if few else "The classes that are found least", recalls) if recalls else ""
    how = " A row for each true class, a column for each that was predicted." if few else ""
    return section("confusion", "Confusion", f'<p class="soft small">{esc(said + how)}</p>{body}')


def _matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th scope="col" title="{esc(name)}">{esc(name)}</th>' for name in names[: len(counts)])
    body = []
    for i, row in enumerate(counts):
        cells = []
        for j, count in enumerate(row):
            if count:
                kind, most = ("hit", 0.5) if i == j else ("miss", 0.65)
                # Few mistakes must be seen: the root lifts small shares.
                shade = most * float(shares[i, j]) ** 0.5
                cells.append(f'<td class="{kind}" style="--a:{shade:.2f}">{int(count):,}</td>')
            else:
                cells.append('<td class="nil">·</td>')
        body.append(f'<tr><th scope="row" title="{esc(names[i])}">{esc(names[i])}</th>{"".join(cells)}</tr>')
    caption = "How often each true class, a row, was predicted as which, a column"
    inner = (
        f'<table><caption>{caption}</caption><thead><tr><th scope="col">true</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )
    return f'<div class="confusion">{scrolled(inner, caption)}</div>'


def _confused(counts: np.ndarray, names: Sequence[str]) -> str:
    off = counts.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]
    rows = []
    for place in order.tolist():
        i, j = divmod(place, len(counts))
        if off[i, j] > 0:
            share = 100 * off[i, j] / counts[i].sum()
            rows.append([names[i], names[j], int(off[i, j]), Markup(f"{share:.1f} %", number=True)])
    title = "Pairs of classes that are confused most"
    return table(["true", "predicted as", "times", "of that class"], rows, caption=title) if rows else ""


def _recalls(counts: np.ndarray, names: Sequence[str]) -> str:
    there, taken = counts.sum(axis=1), counts.sum(axis=0)
    right = np.diag(counts)
    known = np.flatnonzero(there)
    shares = right[known] / there[known]
    order = known[np.argsort(shares, kind="stable")][:MOST_CLASSES]
    rows = []
    for i in order.tolist():
        precision = Markup(f"{100 * right[i] / taken[i]:.1f} %", number=True) if taken[i] else None
        rows.append([names[i], int(there[i]), Markup(f"{100 * right[i] / there[i]:.1f} %", number=True), precision])
    return table(
        ["class", "examples", "found (recall)", "right when predicted (precision)"],
        rows,
        caption="Classes, least found first",
    )


def _worst(found: Mistakes, over: str) -> str:
    if not found.worst:
        return ""
    said = f"The wrong predictions to whose true class the model gave the least probability. {over}."
    lead = f'<p class="soft small">{esc(said)}</p>'
    if not any(mistake.picture for mistake in found.worst):
        rows = [
            [f"{m.example:,}", m.truth, m.predicted, m.probability, m.truth_probability] for m in found.worst
        ]  # fmt: skip
        names = ["example", "true", "predicted", "its probability", "of the true class"]
        return section("worst", "Worst mistakes", lead + table(names, rows, caption="Worst mistakes"))
    figures, spent = [], 0
    for mistake in found.worst:
        spent += len(mistake.picture)
        if spent > MOST_PICTURES:
            break
        figures.append(_face(mistake))
    small = all(mistake.side <= SMALL_PICTURE for mistake in found.worst)
    return section(
        "worst", "Worst mistakes", f'{lead}<div class="faces{" pixels" if small else ""}">{"".join(figures)}</div>'
    )


def _face(mistake: Mistake) -> str:
    image = ""
    if mistake.picture:
        data = base64.b64encode(mistake.picture).decode()
        words = f"example {mistake.example}: {mistake.truth}, taken for {mistake.predicted}"
        image = f'<img src="data:image/png;base64,{data}" alt="{esc(words)}">'
    return (
        f"<figure>{image}<figcaption>{esc(mistake.truth)} → <b>{esc(mistake.predicted)}</b> "
        f"{_percent(mistake.probability)}<br>"
        f'<span class="soft">true {_percent(mistake.truth_probability)}<br>no. {mistake.example:,}</span>'
        "</figcaption></figure>"
    )


def _percent(share: float) -> str:
    if not np.isfinite(share):
        return NONE
    words = f"{100 * share:.0f}" if share >= 0.01 or share == 0 else number(100 * share, 2)
    return f"{words}&nbsp;%"


def _residuals(found: Mistakes, over: str) -> str:
    charts = []
    for i, (name, targets, predicted) in enumerate(found.pairs):
        title = f"Predictions over targets{f': {name}' if name else ''}"
        dots = Line("examples", targets, predicted, 1, dots="only")
        charts.append(chart(title, [dots], key=f"pairs{i}", diagonal=True, x_name="targets"))
    rows: list[list[Any]] = []
    several = any(residual.output for residual in found.residuals)
    for one in found.residuals:
        own = [one.output] if several else []
        rows.append([f"{one.example:,}", *own, one.target, one.predicted, one.predicted - one.target])
    names = ["example", *(["output"] if several else []), "target", "predicted", "difference"]
    body = f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""
    if rows:
        body += "<h3>The largest differences</h3>" + table(names, rows, caption="The largest differences")
    lead = f'<p class="soft small">{esc(over)}. On the line a prediction equals its target.</p>' if body else ""
    return section("residuals", "Predictions", body and lead + body)
