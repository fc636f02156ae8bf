"""What a comparison found: its table, what is claimed of it, and the file of a row; see harness.py."""

import argparse
import dataclasses
import datetime
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

Better = Literal["lower", "higher"]


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
      name: in the table.
      module: of benchmarks/contenders/.
      case: what its `prepare` is given; of JSON's types.
      peer: runs in the peers' environment (benchmarks/requirements.txt) instead of ours.
      family: forms of one program, such as torch with 1 and 2 threads; a claim against the family is against the
        fastest of them.
      environment: variables of its process.
    """

    name: str
    module: str
    case: dict[str, Any] = dataclasses.field(default_factory=dict)
    peer: bool = False
    family: str = ""
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Entry:
    """What was found of one contender.

    Attributes:
      status: "ok", "DIFFERS" in arithmetic, "UNCHECKED" for want of a reference, or "FAIL".
      why: of a status that is not "ok".
      difference: the greatest relative one of its check numbers to the reference's; None: not compared.
      seconds: a unit of work, by round.
      peak_bytes: the most memory that its process ever held.
    """

    contender: Contender
    status: str = "ok"
    why: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    numbers: list[float] = dataclasses.field(default_factory=list)
    difference: float | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Seconds a unit of work; NaN where nothing was measured."""
        return statistics.median(self.seconds) if self.seconds else math.nan


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Median of paired ratios, and their range."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> "Ratio":
        """Of ours / theirs, pair by pair."""
        found = [a / b for a, b in zip(ours, theirs, strict=True)]
        return cls(statistics.median(found), min(found), max(found))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g}–{self.greatest:.3g})"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A ratio of ours to theirs beside what it must be.

    Attributes:
      what: is compared, for the reader.
      better: "lower": times (or bytes) ours / theirs; "higher": rates ours / theirs.
      ratio: None: not measured.
      passes: the least that is asked for.
      great: what is aimed at.
      why: it was not measured.
    """

    what: str
    ours: str
    against: str
    better: Better
    ratio: Ratio | None
    passes: float
    great: float
    why: str = ""

    @property
    def verdict(self) -> str:
        """'great', 'pass', 'below' or 'not measured'."""
        if self.ratio is None:
            return "not measured"
        sign = 1 if self.better == "higher" else -1
        reached = [sign * self.ratio.median >= sign * line for line in (self.great, self.passes)]
        return "great" if reached[0] else "pass" if reached[1] else "below"


@dataclasses.dataclass
class Comparison:
    """What `compare` found: entries by contender, in the order given."""

    title: str
    unit: str
    reference: str
    rounds: int
    entries: dict[str, Entry]
    load: tuple[float, float]

    def best(self, name: str) -> Entry | None:
        """The contender of that name, or the fastest of that family, which must be "ok"; None: there is none."""
        found = [e for e in self.entries.values() if name in (e.contender.name, e.contender.family)]
        if not found:
            raise KeyError(f"no contender or family {name!r}")
        sound = [e for e in found if e.status == "ok" and e.seconds]
        return min(sound, key=lambda e: e.median) if sound else None

    def claim(self, what: str, ours: str, against: str, *, better: Better, passes: float, great: float) -> Claim:
        """What is measured of `ours` against `against`, each a contender or a family; see `Claim`."""
        mine, other = self.best(ours), self.best(against)
        if mine is None or other is None:
            name = ours if mine is None else against
            found = [e for e in self.entries.values() if name in (e.contender.name, e.contender.family)]
            reasons = "; ".join(f"{e.contender.name} {e.status}: {e.why}" for e in found)
            return Claim(what, ours, against, better, None, passes, great, reasons)
        pair = (mine, other) if better == "lower" else (other, mine)
        ratio = Ratio.of(*(entry.seconds for entry in pair))
        return Claim(what, mine.contender.name, other.contender.name, better, ratio, passes, great)


def table(found: Comparison) -> str:
    """A comparison as text: every contender, those that failed too."""
    lines = [f"{found.title}   ({found.rounds} rounds, load {found.load[0]:.1f} → {found.load[1]:.1f})"]
    width = max(len(name) for name in found.entries)
    lines.append(
        f"  {'':<{width}} {'time/' + found.unit:>12} {found.unit + 's/s':>12}  "
        f"{'× ' + found.reference + ' (range)':<26} {'memory':>8} {'differs':>8}"
    )
    reference = found.entries[found.reference]
    for name, entry in found.entries.items():
        lines.append(f"  {name:<{width}} " + _figures(entry, reference))
    versions: dict[str, str] = {}
    for entry in found.entries.values():
        versions |= {key: value for key, value in entry.versions.items() if key != "threads"}
    return "\n".join([*lines, "  " + ", ".join(f"{key} {value}" for key, value in sorted(versions.items()))])


def _figures(entry: Entry, reference: Entry) -> str:
    if entry.status == "FAIL":
        return f"{'FAIL':>12}  {entry.why}"
    ratio = str(Ratio.of(entry.seconds, reference.seconds)) if reference.seconds else "–"
    difference = "–" if entry.difference is None else f"{entry.difference:.0e}"
    threads = f"  {entry.versions['threads']} threads" if "threads" in entry.versions else ""
    note = f"  {entry.status} {entry.why}" if entry.status != "ok" else threads
    return (
        f"{seconds_words(entry.median):>12} {1 / entry.median:>12,.4g}  {ratio:<26} "
        f"{entry.peak_bytes / 2**20:>4,.0f} MiB {difference:>8}{note}"
    )


def seconds_words(seconds: float) -> str:
    """'31.2 µs', '4.56 ms', '1.23 s'."""
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def machine() -> dict[str, Any]:
    """The machine that this runs on."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def arguments(doc: str | None, rounds: int = 7) -> argparse.Namespace:
    """`--rounds` and `--out` of a row's script; its head is printed: the machine, and the load."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=rounds, help="turns of each contender")
    parser.add_argument("--out", type=Path, help="write the row to this file, for benchmarks/report.py")
    given = parser.parse_args()
    found = machine()
    print(
        f"{found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB, {found['system']}, "
        f"Python {found['python']}, load {os.getloadavg()[0]:.1f}"
    )
    return given


def report(row: str, what: str, comparisons: Sequence[Comparison], claims: Sequence[Claim], out: Path | None) -> None:
    """Prints the claims of a row, and writes all of it to `out`."""
    for claim in claims:
        found = str(claim.ratio) if claim.ratio else f"– {claim.why}"
        asked = f"pass {claim.passes:g}, great {claim.great:g}, {claim.better} is better"
        print(f"{row}  {claim.what}: {claim.ours} against {claim.against}: {found}  {claim.verdict}  ({asked})")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(as_json(row, what, comparisons, claims), indent=1, ensure_ascii=False) + "\n")


def as_json(row: str, what: str, comparisons: Sequence[Comparison], claims: Sequence[Claim]) -> dict[str, Any]:
    """A row as the file holds it; its verdict is the worst of its claims'."""
    order = ("below", "not measured", "pass", "great")
    return {
        "id": row,
        "what": what,
        "verdict": min((claim.verdict for claim in claims), key=order.index, default="not measured"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "claims": [_claim_json(claim) for claim in claims],
        "comparisons": [_comparison_json(found) for found in comparisons],
    }


def _claim_json(claim: Claim) -> dict[str, Any]:
    ratio = dataclasses.asdict(claim.ratio) if claim.ratio else None
    return {
        "what": claim.what, "ours": claim.ours, "against": claim.against, "better": claim.better, "ratio": ratio,
        "pass": claim.passes, "great": claim.great, "verdict": claim.verdict, "why": claim.why,
    }  # fmt: skip


def _comparison_json(found: Comparison) -> dict[str, Any]:
    return {
        "title": found.title, "unit": found.unit, "reference": found.reference, "rounds": found.rounds,
        "load": list(found.load),
        "contenders": [
            {
                "name": name, "family": entry.contender.family, "status": entry.status, "why": entry.why,
                "versions": entry.versions, "difference": entry.difference,
                "seconds_per_unit": entry.median if entry.seconds else None, "peak_bytes": entry.peak_bytes or None,
            }
            for name, entry in found.entries.items()
        ],
    }  # fmt: skip
