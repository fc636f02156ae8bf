"""The regression guard: P1, P3 and P4 with few rounds, beside the ratios of benchmarks/baseline.json.

    python benchmarks/quick.py [--rounds 3]

A ratio has moved when neither median lies within the range of the other measurement. Exit code 1 if any got worse or
could not be measured, else 0.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from findings import machine
from report import BASELINE, baseline, measure, read_results

QUICK = ("P1", "P3", "P4")


def movements(stored: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, str]:
    """{'P1, time per step': 'as before' | 'better' | 'worse' | 'not measured' | 'new'} of every claim of the rows
    `found` and the same rows `stored`, both as `baseline` makes them."""
    said = {}
    for row in found:
        before, now = stored.get(row, {}), found[row]
        for what in {**before, **now}:
            if what not in now:
                word = "not measured"
            elif what not in before:
                word = "new"
            else:
                word = _moved(before[what], now[what])
            said[f"{row}, {what}"] = word
    return said


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    inside = [a["least"] <= b["median"] <= a["greatest"] for a, b in ((before, now), (now, before))]
    if any(inside):
        return "as before"
    return "better" if (now["median"] > before["median"]) == (now["better"] == "higher") else "worse"


def main() -> int:
    """Measures, compares and prints."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    stored = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        measure(QUICK, Path(folder), f"--rounds={given.rounds}")
        results = read_results(Path(folder))
    found = {name: baseline(results).get(name, {}) for name in QUICK}
    said = movements(stored, found)
    print("\nagainst benchmarks/baseline.json:")
    for where, word in said.items():
        row, what = where.split(", ", 1)
        old, new = (part.get(row, {}).get(what) for part in (stored, found))
        figures = " → ".join(
            f"{one['median']:.3g} ({one['least']:.3g}–{one['greatest']:.3g})" if one else "–" for one in (old, new)
        )
        print(f"  {where}: {figures}  {word}")
        if old and old["machine"] != machine()["cpu"]:
            print(f"    stored on another machine: {old['machine']}")
    return 1 if {"worse", "not measured"} & set(said.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
