"""Judges `diagnose` on a folder of labelled runs, as `fault_corpus.py` makes them.

    python benchmarks/diagnose_proof.py FOLDER [--write docs/diagnose_corpus.md --title "Part 1"] [--all]

Prints the confusion matrix (what was injected against the first warning), the share of faulty runs that were named
right, false alarms on healthy runs at their end, and on the way (live: asked at every evaluation, a warning anywhere
counts). What counts as faulty, harmless and right is written in fault_corpus.py. Passes with at least 90 % named right
and less than 5 % false alarms, at the end and live.
"""

import argparse
import collections
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.coach.curves import Curves
from jtrain.coach.diagnose import VERDICTS, diagnose
from jtrain.coach.told import Verdict

NAMED, ALARMS = 0.9, 0.05
WORSE, BY = 0.15, 0.02  # of the healthy error, and absolutely, by which a fault must do harm
ALWAYS = ("spikes", "wrong_metric")
NOTHING = "no warning"
KNOWN = (
    "total", "guess", "watch", "higher_is_better", "final_lr", "failed_at", "updates_per_epoch", "mixed", "harder",
    "normed",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Judged:
    """One run of the corpus.

    Attributes:
      facts: its first line.
      kind: 'healthy', 'faulty' or 'harmless'.
      said: name of the first warning at the end, or NOTHING.
      live: names of the first warnings on the way, without those that said nothing, and the update of each.
      verdicts: all, at the end.
    """

    facts: dict[str, Any]
    kind: str
    said: str
    live: list[tuple[int, str]]
    verdicts: list[Verdict]

    @property
    def right(self) -> bool:
        """Whether the end says what is so."""
        return self.said in self.allowed

    @property
    def allowed(self) -> set[str]:
        """Names that are right."""
        return set(self.facts["names"]) | ({NOTHING} if self.kind != "faulty" else set())


def read(path: Path) -> tuple[dict[str, Any], Curves]:
    """(facts, curves) of one run."""
    facts, *rows = (json.loads(line) for line in path.read_text().splitlines())
    known = {name: facts.get(name) for name in KNOWN}
    curves = Curves.of_rows(rows, facts.get("line") or [], **known)
    return facts, dataclasses.replace(curves, best_step=curves.until(math.inf).best_step)


def judge(folder: Path) -> list[Judged]:
    """Every run of a folder."""
    runs = [read(path) for path in sorted(folder.glob("*.jsonl"))]
    healthy = collections.defaultdict(list)
    for facts, _ in runs:
        if facts["fault"] == "healthy" and set(facts["changes"]) <= {"seed"}:
            healthy[facts["task"]].append(_error(facts))
    found = []
    for facts, curves in runs:
        usual = float(np.mean(healthy[facts["task"]]))
        harm = _error(facts) > usual + max(WORSE * usual, BY) or facts["fault"] in ALWAYS
        kind = "healthy" if facts["fault"] == "healthy" else "faulty" if harm else "harmless"
        verdicts = diagnose(curves, ended=True)
        live = []
        for step in curves.val_step[:-1]:
            said = _first(diagnose(curves.until(step), ended=False))
            if said != NOTHING:
                live.append((int(step), said))
        found.append(Judged(facts, kind, _first(verdicts), live, verdicts))
    return found


def matrix(runs: list[Judged]) -> list[str]:
    """A table in Markdown: what was injected (and whether it did harm) against the first warning."""
    columns = [NOTHING, *(name for name in VERDICTS if any(run.said == name for run in runs))]
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for run in runs:
        row = run.facts["fault"] + (", harmless" if run.kind == "harmless" else "")
        counts[row][run.said] += 1
    lines = ["| injected | runs | " + " | ".join(columns) + " |", "|---|" + "---|" * (len(columns) + 1)]
    for row in sorted(counts, key=lambda name: ("harmless" in name, name != "healthy", name)):
        cells = [str(counts[row][name] or "") for name in columns]
        lines.append(f"| {row} | {sum(counts[row].values())} | " + " | ".join(cells) + " |")
    return lines


def summary(runs: list[Judged]) -> tuple[list[str], bool]:
    """(the shares that count, whether all pass)."""
    faulty = [run for run in runs if run.kind == "faulty"]
    healthy = [run for run in runs if run.kind == "healthy"]
    harmless = [run for run in runs if run.kind == "harmless"]
    named = sum(run.right for run in faulty) / max(1, len(faulty))
    at_end, on_way = sum(not run.right for run in healthy), sum(bool(run.live) for run in healthy)
    alarms, live = at_end / max(1, len(healthy)), on_way / max(1, len(healthy))
    early = sum(any(name in run.facts["names"] for _, name in run.live) for run in faulty)
    wrong = sum(any(name not in run.facts["names"] for _, name in run.live) for run in faulty)
    fine = sum(run.right for run in harmless)
    lines = [
        f"- faulty runs named right: {sum(run.right for run in faulty)} of {len(faulty)}, {named:.1%}",
        f"- false alarms on healthy runs at the end: {at_end} of {len(healthy)}, {alarms:.1%}",
        f"- false alarms on healthy runs on the way: {on_way} of {len(healthy)}, {live:.1%}",
        f"- faulty runs named right on the way: {early} of {len(faulty)}; named otherwise at some evaluation: {wrong}",
        f"- injected, but harmless: {len(harmless)}; of these silent or named right: {fine}",
    ]
    return lines, named >= NAMED and alarms < ALARMS and live < ALARMS


def write(path: Path, title: str, lines: list[str]) -> None:
    """Puts a section into a page, in the place of one of the same title."""
    text = path.read_text() if path.exists() else "# The corpus by which diagnose was set and judged\n"
    parts = text.split("\n## ")
    parts = [part for part in parts if not part.startswith(f"{title}\n")]
    parts.append("\n".join([title, "", *lines, ""]))
    path.write_text("\n## ".join([parts[0].rstrip() + "\n", *sorted(part.rstrip() + "\n" for part in parts[1:])]))


def _first(verdicts: list[Verdict]) -> str:
    return next((verdict.name for verdict in verdicts if verdict.level == "warning"), NOTHING)


def _error(facts: dict[str, Any]) -> float:
    return math.inf if facts["error"] is None else float(facts["error"])


def main() -> None:
    """Prints what is wrong, the matrix and the shares; ends with 1 where a share fails."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("folder")
    given.add_argument("--write", default="", help="a page, whose section --title is replaced")
    given.add_argument("--title", default="Part 1, for setting thresholds")
    given.add_argument("--all", action="store_true", help="print every verdict")
    options = given.parse_args()
    runs = judge(Path(options.folder))
    for run in runs:
        if options.all or not run.right or (run.live and run.kind == "healthy"):
            mark = "ok   " if run.right else "WRONG"
            live = f"; live: {', '.join(f'{name} at {step}' for step, name in run.live[:3])}" if run.live else ""
            print(f"{mark} {run.kind:<8} {run.facts['name']}: {run.said}{live}")
            for verdict in run.verdicts if options.all or not run.right else ():
                print(f"        {verdict.line()}")
    lines, passed = summary(runs)
    table = [f"{len(runs)} runs.", "", *matrix(runs), "", *lines]
    print("\n".join(["", *table, "", "PASS" if passed else "FAIL"]))
    if options.write:
        write(Path(options.write), options.title, table)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
