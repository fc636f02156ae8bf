"""docs/benchmarks.md and the regression guard, from results that were made up."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import findings
import quick
import report
from findings import Claim, Comparison, Contender, Entry, Ratio


def result(median, least, greatest, *, better="higher", row="P3", why=""):
    """A row's file as the scripts write it, with one contender that failed."""
    sound, broken = (
        Entry(Contender("ours", "m"), seconds=[0.002, 0.002]),
        Entry(Contender("theirs", "m"), "FAIL", "no | pipe"),
    )
    found = Comparison("t", "image", "ours", 2, {"ours": sound, "theirs": broken}, (0.5, 1.25))
    ratio = Ratio(median, least, greatest) if median else None
    claim = Claim("images/s", "ours", "theirs", better, ratio, 0.95, 0.99, why)
    return json.loads(json.dumps(findings.as_json(row, "what", [found], [claim])))


def rows_of(page, name):
    return [line for line in page.splitlines() if line.startswith(f"| {name} |")]


def test_every_row_of_the_page_is_there_and_what_was_not_measured_says_so():
    page = report.page({"P3": result(0.97, 0.9, 1.1)})
    assert [len(rows_of(page, name)) for name in report.ROWS] == [1] * 14
    assert all("| not measured |" in rows_of(page, name)[0] for name in report.ROWS if name != "P3")
    assert "images/s: 0.97 (0.9–1.1) ↑" in rows_of(page, "P3")[0]
    assert "**pass**" in rows_of(page, "P3")[0]


def test_the_page_names_the_machine_and_the_contender_that_failed():
    page = report.page({"P3": result(0.97, 0.9, 1.1)})
    assert findings.machine()["cpu"] in page
    assert "load 0.5 → 1.2" in page
    assert "| ours | 2 ms | 500 | – |  |" in page
    assert "| theirs | – | – | – | FAIL: no / pipe |" in page


def test_a_claim_that_could_not_be_measured_tells_why():
    line = rows_of(report.page({"P3": result(None, 0, 0, why="theirs FAIL: no pipe")}), "P3")[0]
    assert "theirs FAIL: no pipe" in line
    assert "**not measured**" in line


def test_the_script_of_every_row_of_this_processor_exists():
    folder = Path(report.__file__).parent
    assert [
        row.script for name, row in report.ROWS.items() if name[0] == "P" and not (folder / row.script).exists()
    ] == []


@pytest.mark.parametrize(
    ("now", "better", "word"),
    [
        ((0.96, 0.90, 1.00), "higher", "as before"),
        ((0.80, 0.70, 0.97), "higher", "as before"),  # the stored median is within the new range
        ((0.80, 0.70, 0.85), "higher", "worse"),
        ((1.20, 1.15, 1.30), "higher", "better"),
        ((1.20, 1.15, 1.30), "lower", "worse"),
        ((0.80, 0.70, 0.85), "lower", "better"),
    ],
)
def test_a_ratio_has_moved_when_each_median_is_outside_of_the_others_range(now, better, word):
    stored = report.baseline({"P3": result(0.95, 0.92, 1.0, better=better)})
    found = report.baseline({"P3": result(*now, better=better)})
    assert quick.movements(stored, found) == {"P3, images/s": word}


def test_what_can_no_longer_be_measured_and_what_is_new_is_named():
    stored = report.baseline({"P3": result(0.95, 0.92, 1.0)})
    assert quick.movements(stored, {"P3": {}}) == {"P3, images/s": "not measured"}
    assert quick.movements({}, stored) == {"P3, images/s": "new"}
