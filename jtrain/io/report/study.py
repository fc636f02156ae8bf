"""The page of a study: its conclusion, table and picture, what it found, and the config that it was asked about."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from jtrain.io.report.html import Markup, details, esc, number, pairs, plainly, section, table
from jtrain.io.report.read import Files

MOST_ROWS = 500


def headline(files: Files) -> str:
    """What the study answers, in its own sentence."""
    study = files.study
    name = esc(study.get("study", "a study"))
    if "conclusion" not in study:
        count = f"{files.pieces:,} {'piece is' if files.pieces == 1 else 'pieces are'} done"
        said = f"Unfinished: {count}; the same command goes on."
        return f'<p class="soft">Study: {name}</p><p class="lead note">{esc(said)}</p>'
    look = "lead" if study.get("ok", True) else "lead note"
    notes = "".join(f'<p class="note small">{esc(note)}.</p>' for note in files.notes)
    return f'<p class="soft">Study: {name}</p><p class="{look}">{esc(study["conclusion"])}</p>{notes}'


def sections(files: Files) -> list[str]:
    """All parts of the page but those that runs have too."""
    found = files.study.get("found")
    found = dict(found) if isinstance(found, Mapping) else {}
    decisions = found.pop("decisions", None)
    return [_decisions(decisions), _picture(files), _table(files.study.get("rows")), _found(found)]


def _decisions(decisions: Any) -> str:
    """What was decided, in order, each with its reason."""
    rows = [one for one in decisions if isinstance(one, Mapping)] if isinstance(decisions, list) else []
    items = []
    for row in rows:
        rest = [(key, value) for key, value in row.items() if key not in ("stage", "decision", "reason")]
        more = f'<p class="soft small">{esc(" · ".join(f"{k} {plainly(v)}" for k, v in rest))}</p>' if rest else ""
        items.append(
            f"<li><div><h3>{esc(row.get('stage', ''))}</h3><p>{esc(plainly(row.get('decision', '')))}</p>"
            f'<p class="soft small">{esc(plainly(row.get("reason", "")))}</p>{more}</div></li>'
        )
    return section("decisions", "Decisions", f'<ol class="steps">{"".join(items)}</ol>' if items else "")


def _picture(files: Files) -> str:
    if not files.picture.startswith(b"\x89PNG"):
        return ""
    data = base64.b64encode(files.picture).decode()
    words = f"picture of the study {files.study.get('study', '')}; its numbers are in the table"
    image = f'<img class="picture" src="data:image/png;base64,{data}" alt="{esc(words)}">'
    return section("picture", "Picture", image)


def _table(rows: Any) -> str:
    rows = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    if not names:
        return ""
    cells = [[row.get(name) for name in names] for row in rows[:MOST_ROWS]]
    words = [name.replace("_", " ") for name in names]
    more = f'<p class="soft small">The first {MOST_ROWS} of {len(rows):,} rows.</p>' if len(rows) > MOST_ROWS else ""
    return section("table", "Table", table(words, cells, caption="Table of the study", sortable=len(rows) > 1) + more)


def _found(found: Mapping[str, Any]) -> str:
    """Single values as they are, small groups of numbers in a line, the rest to unfold."""
    short: list[tuple[str, Any]] = []
    long = []
    for name, value in found.items():
        words = str(name).replace("_", " ")
        if isinstance(value, Mapping) and value and not any(isinstance(v, Mapping | list) for v in value.values()):
            short.append((words, Markup(_line([(k, plainly(v)) for k, v in value.items()]))))
        elif isinstance(value, list) and len(value) <= 12 and not any(isinstance(v, Mapping | list) for v in value):
            short.append((words, ", ".join(map(plainly, value))))
        elif isinstance(value, Mapping | list) and value:
            count = f"{len(value):,} {'entry' if len(value) == 1 else 'entries'}"
            long.append(details(f"{words}: {count}", f"<pre>{esc(_short(value))}</pre>"))
        elif isinstance(value, str) and len(value) > 400:
            long.append(details(words, f"<pre>{esc(value[:20_000])}</pre>"))
        else:
            short.append((words, value if isinstance(value, str) else Markup(esc(_plain(value)))))
    return section("found", "Found", (pairs(short) if short else "") + "".join(long))


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else plainly(value)


def _line(values: Sequence[tuple[str, str]]) -> str:
    shown = [f"{esc(k)} {esc(v)}" for k, v in values[:40]]
    return " · ".join(shown) + (" · …" if len(values) > 40 else "")


def _short(value: Any) -> str:
    text = plainly(value)
    return text if len(text) <= 20_000 else f"{text[:20_000]}…"
