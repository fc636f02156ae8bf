"""Curves as SVG in a page: drawn here as text, no library, readable at any width.

The drawing alone is stretched to the width of its box; strokes are not, and words and numbers stand beside it as HTML.
So they have the size of the page's text on a phone and on a wide screen.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from jtrain.io.report.html import esc, number
from jtrain.io.report.points import log_ticks, means, short, thin, ticks

MANY = 250  # lines of more points are pale, and means of pieces of them drawn over them
FEW = 32  # so many points are drawn as dots too
DASHES = ("", "7 4", "2 4", "9 3 2 3", "12 4", "4 3")
Place = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # values -> thousandths of the drawing
LEAST, MOST = 1e-150, 1e150  # beyond them the arithmetic of an axis ends
WIDE_RANGE = 20.0  # from this quotient of the greatest and the least value on, the axis is logarithmic


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
      name: in the legend.
      xs, ys: of its points; NaN in `ys` is a gap.
      look: 0 to 5, the colour and the dash.
      dots: 'auto': at each point, where they are few; 'only': no line; 'ring': one point to be seen from afar; 'no'.
    """

    name: str
    xs: Sequence[float] | np.ndarray
    ys: Sequence[float] | np.ndarray
    look: int = 1
    dots: str = "auto"


@dataclasses.dataclass(frozen=True)
class Mark:
    """A vertical line at an update, with a sign over the chart that a list explains; `told` by the coach."""

    at: float
    sign: str
    words: str
    told: bool = False


def chart(
    title: str, lines: Sequence[Line], *, key: str, wide: bool = False, marks: Sequence[Mark] = (),
    signs: bool = False, zero: bool = False, diagonal: bool = False, log: bool | None = None,
    x: tuple[float, float] | None = None, x_name: str = "updates",
) -> str:  # fmt: skip
    """A figure with its legend and axes; '' where no line has a finite point.

    Args:
      title: of the figure, plain text.
      lines: to be drawn, later ones on top.
      key: unique in the page, of letters and digits.
      wide: over the whole width of the page.
      marks: at updates.
      signs: the signs of the marks stand above the chart.
      zero: the axis begins at 0.
      diagonal: targets against predictions: both axes are the same, and the line where they are equal is drawn.
      log: a logarithmic axis; None: where the values ask for it.
      x: the ends of the horizontal axis; None: those of the lines.
      x_name: what the horizontal axis counts.
    """
    lines = [line for line in lines if np.isfinite(np.asarray(line.ys, np.float64)).any()]
    if not lines:
        return ""
    lines = [dataclasses.replace(line, ys=np.clip(np.asarray(line.ys, np.float64), -MOST, MOST)) for line in lines]
    arrays = [thin(np.asarray(line.xs, np.float64), np.asarray(line.ys)) for line in lines]
    x, y = x or _range([xs for xs, _ in arrays]), _range([ys for _, ys in arrays])
    log = (not zero and y[0] > LEAST and y[1] / y[0] >= WIDE_RANGE) if log is None else log and y[0] > LEAST
    y = (0.0, y[1]) if zero and not log and y[0] >= 0 else y
    if diagonal:
        x = y = (min(x[0], y[0]), max(x[1], y[1]))
    low, high = _padded(y, log, fixed=zero and not log and y[0] == 0)
    by = 0.012 * (x[1] - x[0]) or 0.5  # no point lies on the frame
    left, right = (low, high) if diagonal else (x[0] - by, x[1] + by)

    def place(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across = (xs - left) / (right - left)
        up = (np.log(ys / low) / math.log(high / low)) if log else (ys - low) / (high - low)
        return across * 1000, (1 - up) * 1000

    y_ticks = log_ticks(low, high) if log else ticks(low, high)
    x_ticks = [tick for tick in ticks(left, right, 6) if diagonal or float(tick).is_integer()] or [left]
    inner = [f'<path class="grid" d="M0 {_at(place, left, tick)[1]}H1000"/>' for tick in y_ticks]
    shown = [mark for mark in marks if left <= mark.at <= right]
    for mark in shown:
        x_at = _at(place, mark.at, high)[0]
        inner.append(f'<path class="event{" told" if mark.told else ""}" d="M{x_at} 0V1000"/>')
    if diagonal:
        inner.append('<path class="event" d="M0 1000L1000 0"/>')
    alone = len(lines) == 1
    for line, (xs, ys) in zip(lines, arrays, strict=True):
        if len(xs) > MANY and line.dots == "auto":
            inner.append(f'<path class="pale c{line.look}" d="{_joined(*place(xs, ys))}"/>')
            xs, ys = means(np.asarray(line.xs, np.float64), np.asarray(line.ys, np.float64))
        inner.append(_drawn(line, *place(xs, ys), alone))
    words = _in_words(lines, log, x_name)
    data = f' data-x="{left:.9g} {right:.9g}" data-y="{low:.9g} {high:.9g}" data-log="{int(log)}"'
    drawing = (
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{esc(title)}</title><desc id="{key}-d">{esc(words)}</desc>{"".join(inner)}'
        '<path class="frame" d="M0 0V1000H1000"/></svg>'
    )
    above = _signs(shown, left, right) if signs else ""
    return (
        f'<figure class="chart{" wide" if wide else ""}{" square" if diagonal else ""}">'
        f"<figcaption><h3>{esc(title)}</h3>{'' if alone else _legend(lines)}</figcaption>"
        f'<div class="plot"><div class="marks{" some" if above else ""}" aria-hidden="true">{above}</div>'
        f'<div class="ys" aria-hidden="true">{"".join(_y_label(place, left, tick) for tick in y_ticks)}</div>'
        f'<div class="area"{data if not diagonal else ""}>{drawing}'
        '<div class="at"></div><div class="read" aria-hidden="true"></div></div>'
        f'<div class="xs" aria-hidden="true">{_x_labels(place, x_ticks, high)}</div></div></figure>'
    )


def swatch(look: int, dots: str = "auto") -> str:
    """A line's look, for a legend."""
    if dots in ("only", "ring"):
        inner = f'<path class="{"ring" if dots == "ring" else "dots"} c{look}" d="M12 5h0"/>'
        inner += '<path class="hole" d="M12 5h0"/>' if dots == "ring" else ""
    else:
        inner = f'<path class="line c{look}"{_dash(look)} d="M0 5H24"/>'
    return f'<svg viewBox="0 0 24 10" aria-hidden="true">{inner}</svg>'


def _drawn(line: Line, xs: np.ndarray, ys: np.ndarray, alone: bool) -> str:
    """The paths of a line whose points are in the drawing's own units; without dashes where it is `alone`."""
    there = np.isfinite(ys)
    places = _places(xs, ys)
    name = f' data-name="{esc(line.name)}"'
    dots = "".join(f"M{place}h0" for place, ok in zip(places, there, strict=True) if ok)
    hidden = "".join(f"M{place}" for place, ok in zip(places, there, strict=True) if ok)
    if line.dots == "ring":
        return (
            f'<path class="ring c{line.look}" d="{dots}"/><path class="hole" d="{dots}"/>'
            f'<path{name} d="{hidden}"/>'
        )  # fmt: skip
    if line.dots == "only":
        return f'<path class="dots c{line.look}" d="{dots}"/>'
    thinner = " thin" if len(places) > FEW and line.look == 0 else ""
    drawn = f'<path class="line{thinner} c{line.look}"{"" if alone else _dash(line.look)}{name} d="{_joined(xs, ys)}"/>'
    count = int(there.sum())
    if line.dots == "no":
        return drawn
    single = "".join(
        f"M{place}h0" for i, place in enumerate(places)
        if there[i] and not (i and there[i - 1]) and not (i + 1 < len(places) and there[i + 1])
    )  # fmt: skip
    points = dots if count <= FEW and line.look != 0 else single  # a point without neighbours is no line
    return drawn + (f'<path class="dots c{line.look}" d="{points}"/>' if points else "")


def _places(xs: np.ndarray, ys: np.ndarray) -> list[str]:
    there = np.isfinite(ys)
    return [f"{x:.1f} {y:.1f}".replace(".0", "") for x, y in zip(xs, np.where(there, ys, 0), strict=True)]


def _joined(xs: np.ndarray, ys: np.ndarray) -> str:
    """A path through the points, broken where there are gaps."""
    words, joined = [], False
    for place, ok in zip(_places(xs, ys), np.isfinite(ys), strict=True):
        if ok:
            words.append(f"{'L' if joined else 'M'}{place}")
        joined = bool(ok)
    return "".join(words)


def _dash(look: int) -> str:
    return f' stroke-dasharray="{DASHES[look]}"' if DASHES[look] else ""


def _range(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    everything = np.concatenate(arrays)
    everything = everything[np.isfinite(everything)]
    return float(everything.min()), float(everything.max())


def _padded(y: tuple[float, float], log: bool, *, fixed: bool) -> tuple[float, float]:
    low, high = y
    if log:
        by = (high / low) ** 0.05
        return low / by, high * by
    by = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    return (low if fixed else low - by), high + by


def _at(place: Place, x: float, y: float) -> tuple[str, str]:
    across, down = place(np.asarray([x]), np.asarray([y]))
    return f"{across[0]:.1f}", f"{down[0]:.1f}"


def _y_label(place: Place, left: float, tick: float) -> str:
    return f'<span style="top:{float(_at(place, left, tick)[1]) / 10:.2f}%">{esc(short(tick))}</span>'


def _x_labels(place: Place, found: Sequence[float], high: float) -> str:
    words = []
    for i, tick in enumerate(found):
        share = float(_at(place, tick, high)[0]) / 10
        edge = "first" if share < 3 else "last" if share > 97 else ""
        rare = "rare" if i % 2 and len(found) > 4 else ""
        look = " ".join(filter(None, ("x", edge, rare)))
        words.append(f'<span class="{look}" style="left:{share:.2f}%">{esc(short(tick))}</span>')
    return "".join(words)


def _legend(lines: Sequence[Line]) -> str:
    items = "".join(f"<li>{swatch(line.look, line.dots)}{esc(line.name)}</li>" for line in lines)
    return f'<ul class="legend">{items}</ul>'


def _signs(marks: Sequence[Mark], left: float, right: float) -> str:
    """The signs above a chart; those that would lie on one another become one."""
    groups: list[list[Mark]] = []
    for mark in sorted(marks, key=lambda mark: mark.at):
        # On a phone a sign takes a twentieth of the width, one of two numbers twice that.
        if groups and (mark.at - groups[-1][0].at) / (right - left) < (0.06 if len(groups[-1]) == 1 else 0.13):
            groups[-1].append(mark)
        else:
            groups.append([mark])
    words = []
    for group in groups:
        share = min(max((group[0].at - left) / (right - left) * 100, 1.5), 98.5)
        sign = group[0].sign if len(group) == 1 else f"{group[0].sign}–{group[-1].sign}"
        told = " told" if any(mark.told for mark in group) else ""
        words.append(f'<span class="mark{told}" style="left:{share:.2f}%">{esc(sign)}</span>')
    return "".join(words)


def _in_words(lines: Sequence[Line], log: bool, x_name: str) -> str:
    """What the chart shows, for those who do not see it."""
    told = []
    for line in lines:
        ys = np.asarray(line.ys, np.float64)
        ys = ys[np.isfinite(ys)]
        if len(ys) == 1:
            told.append(f"{line.name}: {number(float(ys[0]))}")
        else:
            ends = f"from {number(float(ys[0]))} to {number(float(ys[-1]))}"
            told.append(f"{line.name}: {ends}, least {number(float(ys.min()))}, greatest {number(float(ys.max()))}")
    return f"Over {x_name}{', logarithmic axis' if log else ''}. " + "; ".join(told) + "."
