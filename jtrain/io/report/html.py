"""The words of a report's HTML: everything that was not written here goes through `esc`."""

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

NONE = "–"  # in place of a number that is not there
# What no HTML may hold: control characters, and halves of surrogate pairs (parts of file names that are no UTF-8).
_BAD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Left to right marks and the like would show other text than is there.
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def esc(value: Any) -> str:
    """Any value as text of HTML, also within a quoted attribute."""
    return html.escape(_TURNS.sub("�", _BAD.sub("�", str(value))), quote=True)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 4) -> str:
    """A number in few characters: 12,345 · 0.0123 · 3e-05 as 3e-5; a dash for none."""
    if not is_number(value):
        return NONE
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        return f"{int(value):,}" if abs(value) < 1e12 else f"{value:.{digits - 1}e}"
    if 1e4 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return re.sub(r"e([+-])0*(\d+)", lambda m: f"e{m[1].strip('+')}{m[2]}", f"{value:.{digits}g}")


def plainly(value: Any) -> str:
    """A value of a config or of what a study found, as text: not yet escaped."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 6)
    if isinstance(value, str):
        return value or "(empty)"
    if value is None:
        return NONE
    return json.dumps(value, ensure_ascii=False, default=str)


def measure(value: Any) -> str:
    """A measured number, always to four digits, so that those in a column can be compared: 0.9900, 2,618, 1.000."""
    if not is_number(value):
        return NONE
    size = abs(float(value))
    return f"{float(value):#.4g}".rstrip(".") if 1e-4 <= size < 1e3 else number(float(value))


def cell(value: Any, *, right: bool = False, head: bool = False) -> str:
    """A cell of a table, its numbers to the right where the column is of numbers."""
    if isinstance(value, Markup):
        inner = value.text
    elif value is None or value == "":
        inner = NONE if value is None else ""
    else:
        is_text = isinstance(value, bool) or not isinstance(value, int | float)
        inner = esc(plainly(value)) if is_text else number(value)
    is_long = not right and not isinstance(value, Markup) and len(inner) > 40
    look = ' class="n"' if right else ' class="text"' if is_long else ""
    return f'<th scope="row"{look}>{inner}</th>' if head else f"<td{look}>{inner}</td>"


class Markup:
    """Text that is HTML already; `number`: it is one, in words of its own."""

    def __init__(self, text: str, *, number: bool = False) -> None:
        self.text, self.number = text, number


def _is_numeric(values: Sequence[Any]) -> bool:
    """Whether a column is of numbers."""
    there = [value for value in values if value is not None and value != ""]
    return bool(there) and all(value.number if isinstance(value, Markup) else _is_any_number(value) for value in there)


def _is_any_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def table(
    names: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str, best: int = -1, sortable: bool = False
) -> str:
    """A table that scrolls inside a box of its own; the first cell of a row heads it.

    Args:
      names: of the columns, plain text.
      rows: of plain values, or `Markup`.
      caption: what the table is, for those who hear it.
      best: the number of the row to be marked; -1: none.
      sortable: a press on a column's head sorts by it, where scripts run.
    """
    rows = [list(row) for row in rows]
    numeric = [_is_numeric([row[i] for row in rows if i < len(row)]) for i in range(len(names))]
    head = "".join(
        f'<th scope="col"{" class=n" if right else ""}>{esc(name)}</th>'
        for name, right in zip(names, numeric, strict=True)
    )
    body = []
    for place, row in enumerate(rows):
        cells = [cell(value, right=numeric[i], head=i == 0) for i, value in enumerate(row)]
        look = ' class="best"' if place == best else ""
        body.append(f"<tr{look}>{''.join(cells)}</tr>")
    kind = ' class="sortable"' if sortable else ""
    return scrolled(
        f"<table{kind}><caption>{esc(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>",
        caption,
    )


def scrolled(inner: str, label: str) -> str:
    """A box in which what is too wide is scrolled, also by keys."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(label)}">{inner}</div>'


def pairs(items: Iterable[tuple[str, Any]]) -> str:
    """Names and values, as a list of terms."""
    rows = []
    for name, value in items:
        shown = value.text if isinstance(value, Markup) else esc(plainly(value))
        rows.append(f"<div><dt>{esc(name)}</dt><dd>{shown}</dd></div>")
    return f'<dl class="pairs">{"".join(rows)}</dl>'


def section(name: str, title: str, body: str) -> str:
    """A part of the page with its heading; '' where there is nothing in it."""
    if not body:
        return ""
    return f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{esc(title)}</h2>{body}</section>'


def details(title: str, body: str) -> str:
    """What is unfolded by a press."""
    return f"<details><summary>{esc(title)}</summary>{body}</details>"


def page(title: str, head: str, sections: Sequence[str], *, style: str, script: str, foot: str) -> str:
    """The whole file; nothing in it may load anything, and its own policy forbids it.

    Args:
      title: plain text.
      head: HTML under the title.
      sections: from `section`; empty ones are left out.
      style: CSS.
      script: JavaScript, without which the page works.
      foot: plain text of the last line.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    there = [text for text in sections if text]
    links = [re.match(r'<section id="([\w-]+)".*?<h2[^>]*>(.*?)</h2>', text, re.S) for text in there]
    menu = "".join(f'<a href="#{link[1]}">{link[2]}</a>' for link in links if link)
    nav = f'<nav aria-label="Parts of this page">{menu}</nav>' if len(there) > 1 else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{esc(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{esc(title)}</h1>{head}{nav}</header>\n<main>\n"
        + "\n".join(there)
        + f"\n</main>\n<footer>{esc(foot)}</footer>\n<script>{script}</script>\n</body>\n</html>\n"
    )
