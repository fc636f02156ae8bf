import math
import re

import numpy as np
import page_check
import pytest

from jtrain.io.report.chart import Line, Mark, chart
from jtrain.io.report.html import esc, measure, number
from jtrain.io.report.points import log_ticks, means, short, thin, ticks
from jtrain.io.report.style import STYLE


def drawn(html, number=0):
    """The points of a chart's line, as it draws them: [n, 2] in thousandths of its sides."""
    path = re.findall(r'<path class="line[^"]*"[^>]* d="([^"]*)"', html)[number]
    return np.array([[float(x), float(y)] for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)])


def axes(html):
    """(ends of x, ends of y, logarithmic?) of a chart."""
    found = re.search(r'data-x="(\S+) (\S+)" data-y="(\S+) (\S+)" data-log="(\d)"', html)
    left, right, low, high = map(float, found.groups()[:4])
    return (left, right), (low, high), found[5] == "1"


def test_points_can_be_read_back_from_a_linear_chart():
    xs, ys = np.arange(20.0) * 7, np.sin(np.arange(20.0))
    html = chart("t", [Line("a", xs, ys)], key="k")
    (left, right), (low, high), log = axes(html)
    points = drawn(html)
    assert not log
    assert np.allclose(left + points[:, 0] / 1000 * (right - left), xs, atol=0.1)
    assert np.allclose(low + (1 - points[:, 1] / 1000) * (high - low), ys, atol=2e-3)


def test_points_can_be_read_back_from_a_logarithmic_chart():
    xs, ys = np.arange(1, 20.0), np.geomspace(1e-6, 1e3, 19)
    html = chart("t", [Line("a", xs, ys)], key="k")
    _, (low, high), log = axes(html)
    points = drawn(html)
    assert log
    found = np.exp(np.log(low) + (1 - points[:, 1] / 1000) * np.log(high / low))
    assert np.allclose(found, ys, rtol=5e-3)


def test_a_gap_is_a_gap_and_a_lone_point_is_seen():
    html = chart(
        "t", [Line("a", [1, 2, 3, 4, 5], [1, 2, math.nan, 3, 4]), Line("b", [1, 2, 3], [1, math.nan, 2])], key="k"
    )
    first, second = re.findall(r'data-name="." d="([^"]*)"', html)
    assert re.sub(r"[^ML]", "", first) == "MLML"
    assert re.sub(r"[^ML]", "", second) == "MM"
    assert html.count("h0") >= 2


def test_a_chart_without_finite_values_is_left_out():
    assert chart("t", [Line("a", [1, 2], [math.nan, math.nan]), Line("b", [], [])], key="k") == ""


def test_a_chart_says_what_it_shows_to_those_who_do_not_see_it():
    page = page_check.Page(chart("Loss <1>", [Line("a&b", [1, 2, 3], [3.0, 1.0, 2.0])], key="k"))
    assert not page.wrong
    assert "a&b: from 3 to 2, least 1, greatest 3" in page.text
    assert ("svg", "k-t k-d") in [(tag, a.get("aria-labelledby")) for tag, a in page.attributes]
    assert {"k-t", "k-d"} <= set(page.ids)


def test_lines_are_told_apart_by_dash_and_colour():
    html = chart("t", [Line(str(i), [1, 2], [i, i], i) for i in range(6)], key="k")
    looks = re.findall(r'<path class="line (?:thin )?(c\d)"(?: stroke-dasharray="([^"]*)")? data-name', html)
    assert len({colour for colour, _ in looks}) == 6
    assert len({dash for _, dash in looks}) == 6


def test_signs_that_would_lie_on_one_another_become_one():
    marks = [Mark(at, str(i), "w") for i, at in enumerate((10, 11, 12, 900), 1)]
    html = chart("t", [Line("a", [0, 1000], [1, 2])], key="k", marks=marks, signs=True)
    assert re.findall(r'<span class="mark"[^>]*>([^<]*)<', html) == ["1–3", "4"]
    assert html.count('class="event"') == 4


def test_marks_outside_of_the_lines_are_left_out():
    html = chart("t", [Line("a", [0, 10], [1, 2])], key="k", marks=[Mark(50, "1", "w")], signs=True)
    assert 'class="event"' not in html


def test_thinning_keeps_ends_and_every_piece_s_least_and_greatest():
    rng = np.random.default_rng(0)
    xs, ys = np.arange(50_000.0), rng.normal(size=50_000)
    ys[31_234], ys[777] = 50.0, -50.0
    short_xs, short_ys = thin(xs, ys, 1000)
    assert len(short_xs) <= 1000
    assert (np.diff(short_xs) > 0).all()
    assert (short_xs[0], short_xs[-1]) == (0, 49_999)
    assert (short_ys.max(), short_ys.min()) == (50.0, -50.0)
    assert np.array_equal(ys[short_xs.astype(int)], short_ys)


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 1003])
def test_thinning_leaves_what_is_short_and_its_gaps(count):
    ys = np.where(np.arange(count) % 3 == 1, np.nan, 1.0)
    xs, kept = thin(np.arange(float(count)), ys, 1000)
    assert len(xs) == (count if count <= 1000 else np.isfinite(ys).sum())
    assert len(kept) == len(xs)


def test_means_of_pieces_are_the_means():
    xs, ys = means(np.arange(8.0), np.array([1, 3, np.nan, 5, 7, 9, 11, np.nan]), 3)
    assert np.allclose(xs, [0.5, 3.5, 5.5])
    assert np.allclose(ys, [2, 6, 10])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.3, 0.34, [0.3, 0.31, 0.32, 0.33, 0.34]), (-3, 12, [0, 5, 10])],
)
def test_axes_have_round_numbers(low, high, expected):
    assert ticks(low, high) == expected


def test_logarithmic_axes_have_round_numbers():
    assert log_ticks(0.9, 12) == [1, 2, 5, 10]
    assert log_ticks(1e-9, 1e9) == [1e-8, 1e-4, 1, 1e4, 1e8]
    assert log_ticks(3.1, 3.9) == [3.1]


def test_numbers_are_short():
    values = (0.0, 3, 1234567, 0.1234567, 1e-5, 2.5e-7, 12345.6, 1e20, 0.9900, math.nan, None, True)
    assert [number(v) for v in values] == [
        "0", "3", "1,234,567", "0.1235", "1e-5", "2.5e-7", "12,346", "1e20", "0.99", "–", "–", "–",
    ]  # fmt: skip
    assert [measure(v) for v in (1.0, 0.99, 2617.9, 39.9)] == ["1.000", "0.9900", "2618", "39.90"]
    assert [short(v) for v in (10_000, 2_500_000, 0.001, 500)] == ["10k", "2.5M", "0.001", "500"]


def test_text_is_escaped_and_made_printable():
    assert esc("<a href='x'>&\x07\ud800\u202e") == "&lt;a href=&#x27;x&#x27;&gt;&amp;���"
    "".join(esc(chr(i)) for i in range(0x3000)).encode()


def luminance(colour):
    """Of '#rgb' or '#rrggbb', by WCAG 2.1."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_and_lines_stand_out_in_light_and_dark():
    schemes = [dict(re.findall(r"--([\w-]+):(#\w+)", block)) for block in re.findall(r":root\{([^}]*)\}", STYLE)]
    assert len(schemes) == 2
    for colours in schemes:

        def contrast(one, other, colours=colours):
            low, high = sorted(luminance(colours[name]) + 0.05 for name in (one, other))
            return high / low

        for ground in ("ground", "card", "faint"):
            assert all(contrast(text, ground) >= 4.5 for text in ("ink", "soft", "accent")), ground
        assert contrast("warn", "warn-soft") >= 4.5
        assert contrast("ink", "accent-soft") >= 4.5
        assert all(contrast(f"s{i}", "card") >= 3 for i in range(6))
