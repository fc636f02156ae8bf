"""docs/benchmarks.md and benchmarks/baseline.json, from the files that the rows' scripts have written.

    python benchmarks/report.py [--measure] [--results benchmarks/results]

With --measure the rows P1 to P10 are measured first, under 30 minutes on 2 cores. A row without a file is "not
measured". The baseline holds the ratios of all claims, for `make bench-quick`.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from findings import seconds_words

ROOT = Path(__file__).resolve().parents[1]
RESULTS, BASELINE, PAGE = (
    ROOT / name for name in ("benchmarks/results", "benchmarks/baseline.json", "docs/benchmarks.md")
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the page: what is measured against what, what was asked for, and the script that measures it."""

    what: str
    against: str
    asked: str
    script: str


ROWS = {
    "P1": Row("time per step of a tiny MLP (64-64-10, batch 32), every feature on", "a bare `jax.jit` loop",
              "1.25×, aim 1.10×; fused aim 0.55×", "mlp_step.py"),
    "P2": Row("images/s of a small CNN, batch 128", "the same in plain Flax; Keras-JAX", "1.3×, aim 1.45×",
              "small_cnn.py"),
    "P3": Row("images/s of ResNet-20 with augmentation, batch norm, EMA", "a bare loop of the same model",
              "0.95×, aim 0.99×", "resnet20.py"),
    "P4": Row("crop + flip + normalise on CIFAR shapes", "the best torch DataLoader; the best NumPy",
              "10× and 3×, aim 25× and 6×", "input.py"),
    "P5": Row("time to the end of the first step, ResNet-18, new process; empty cache; warm cache",
              "a program of the shape of Flax's official examples", "0.6× and 0.35×, aim 0.37× and 0.2×", "start.py"),
    "P6": Row("peak memory of P1 and P3", "the bare loop", "1.10×, aim 1.03×", "memory.py"),
    "P7": Row("a 90 MB checkpoint while training: blocking; slowdown", "orbax async alone; no save",
              "1.5× and 5 %, aim 1.0× and 2 %", "checkpoint.py"),
    "P8": Row("images/s on 8 simulated devices, fixed global batch, small CNN", "1 device", "0.85×, aim 0.95×",
              "devices.py"),
    "P9": Row("evaluation images/s on 10,007 examples; exact count; one compile", "a bare forward loop",
              "0.95×, aim 0.99×", "evaluation.py"),
    "P10": Row("the same tiny MLP", "Keras-JAX fit, Lightning, torch eager, Flax's NNX example loop",
               "faster than all, aim 5×", "peers.py"),
    "G1": Row("CIFAR-10 to 94 %, mean of at least 20 seeds, compile time apart", "airbench94_muon; hiverge's record",
              "1.5×, aim 1.0×", "gpu.py"),
    "G2": Row("ResNet-18 bf16, batch 1024: images/s and MFU", "torch, channels-last, compiled", "1.0×, aim 60,000/s",
              "gpu.py"),
    "G3": Row("8 learning rates of a small CNN as one program", "8 in turn, warm", "2×, aim 4×", "gpu.py"),
    "G4": Row("fused steps 1/4/16/64; stall of a 90 MB save", "1 step a call; –", "2× and 20 ms, aim 4× and 8 ms",
              "gpu.py"),
}  # fmt: skip

HEAD = """# Benchmarks

Made by `make bench` (`benchmarks/report.py`; do not edit). Contenders run in processes of their own and take turns in
one run; a ratio is the median over the rounds of ours to theirs in the same round, with the least and the greatest.
That all compute the same is checked first. Ratios of times and memory are good when small (↓), those of rates when
large (↑). Timings of one machine say little of another: its name stands at each row.
"""


def measure(names: Iterable[str], folder: Path, *more: str) -> None:
    """Runs the scripts of rows, each with the arguments `more`; a script that fails leaves no file of its row."""
    for name in names:
        out = folder / f"{name}.json"
        out.unlink(missing_ok=True)
        script = Path(__file__).with_name(ROWS[name].script)
        done = subprocess.run([sys.executable, str(script), f"--out={out}", *more], check=False)
        if done.returncode:
            print(f"{name}: {script.name} ended with {done.returncode}", flush=True)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """What was measured, by row."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {row["id"]: row for row in found}


def baseline(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{row: {claim: {"median", "least", "greatest", "better", "machine"}}} of what was measured."""
    return {
        name: {
            claim["what"]: claim["ratio"] | {"better": claim["better"], "machine": results[name]["machine"]["cpu"]}
            for claim in results[name]["claims"]
            if claim["ratio"]
        }
        for name in ROWS
        if name in results
    }


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of docs/benchmarks.md."""
    lines = [HEAD, "| row | what | against | measured | asked for | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for name, row in ROWS.items():
        for measured, verdict in _claims(results.get(name)):
            lines.append(f"| {name} | {row.what} | {row.against} | {measured} | {row.asked} | {verdict} |")
    for name, row in ROWS.items():
        if name in results:
            lines += ["", f"## {name}: {row.what}", "", *_details(results[name], row.script)]
    return "\n".join(lines) + "\n"


def _claims(result: Mapping[str, Any] | None) -> Iterable[tuple[str, str]]:
    """(measured, verdict) of a row's claims."""
    if result is None or not result["claims"]:
        yield "–", "not measured"
        return
    for claim in result["claims"]:
        arrow = "↓" if claim["better"] == "lower" else "↑"
        found = _ratio_words(claim["ratio"]) if claim["ratio"] else f"– {claim['why']}"
        yield f"{claim['what']}: {found} {arrow}", f"**{claim['verdict']}**"


def _ratio_words(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.3g} ({ratio['least']:.3g}–{ratio['greatest']:.3g})"


def _details(result: Mapping[str, Any], script: str) -> list[str]:
    """The tables of a row."""
    machine = result["machine"]
    load = ", ".join(f"{found['load'][0]:.1f} → {found['load'][1]:.1f}" for found in result["comparisons"])
    lines = [
        f"`python benchmarks/{script}`, {result['date'][:10]}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}; load {load or '–'}."
    ]
    for found in result["comparisons"]:
        lines += ["", f"{found['title']}, {found['rounds']} rounds:", ""]
        lines += [f"| | a {found['unit']} | {found['unit']}s/s | peak memory | |", "| --- | --- | --- | --- | --- |"]
        lines += map(_contender, found["contenders"])
        versions = {k: v for one in found["contenders"] for k, v in one["versions"].items() if k != "threads"}
        lines += ["", ", ".join(f"{key} {value}" for key, value in sorted(versions.items()))] if versions else []
    return lines


def _contender(found: Mapping[str, Any]) -> str:
    seconds, peak = found["seconds_per_unit"], found["peak_bytes"]
    threads = f"{found['versions']['threads']} threads" if "threads" in found["versions"] else ""
    note = threads if found["status"] == "ok" else f"{found['status']}: {found['why']}"
    figures = f"{seconds_words(seconds)} | {1 / seconds:,.4g}" if seconds else "– | –"
    return f"| {found['name']} | {figures} | {f'{peak / 2**20:,.0f} MiB' if peak else '–'} | {note.replace('|', '/')} |"


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.measure:
        measure([name for name in ROWS if name.startswith("P")], given.results)
    results = read_results(given.results)
    PAGE.write_text(page(results))
    BASELINE.write_text(json.dumps(baseline(results), indent=1, ensure_ascii=False) + "\n")
    missing = [name for name in ROWS if name not in results]
    print(
        f"{PAGE.relative_to(ROOT)}: {len(results)} rows" + (f"; not measured: {', '.join(missing)}" if missing else "")
    )


if __name__ == "__main__":
    main()
