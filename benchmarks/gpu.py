"""G1 to G4: speed on one GPU, in pieces that each take minutes, so that what is interrupted goes on where it was.

    python benchmarks/gpu.py pack --tfds DIR --pack cifar10.npz                 once, where the data set and jtrain are
    python benchmarks/gpu.py run --pack cifar10.npz --out DIR --references DIR  on the machine with the GPU

`run` needs jax with its GPU, flax, optax, numpy and pillow; jtrain and what it imports (ml_collections, absl, yaml,
safetensors, scipy, tqdm) may lie on PYTHONPATH. torch is needed only for what jtrain is compared with, in the
interpreter that JTRAIN_BENCH_PYTHON names (or this one), and orbax only for the save of G4. Every piece is a process of
its own and leaves DIR/<piece>.json; `run` begins no piece after --minutes, and exits with 75 while some are left: the
same command goes on. Rows are written to DIR/results/G1.json … from what is there: what is not measured says so.
`--references` holds training scripts of others that read cifar10/train.pt in their folder and print a table with a
column time_seconds; each file *.py is run as it is, but for the number of its runs. `--tiny` measures nothing: it tries
all of it, on a CPU too.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from findings import Claim, Comparison, Contender, Entry, Ratio, report, table
from gpu_data import IMAGES, PAIR, read_pack

HERE = Path(__file__).resolve().parent
AGAIN = 75  # exit status while pieces are left: EX_TEMPFAIL
CHUNK = 5  # seeds of a piece
WHAT = {
    "G1": "CIFAR-10 with cifar_fast: seconds of training and accuracy over seeds, compiling apart",
    "G2": "ResNet-18, bfloat16, batch 1024: images/s",
    "G3": "8 learning rates of a small CNN as one program",
    "G4": "fused steps; how long a save of 90 MB blocks",
}


def pieces(given: argparse.Namespace) -> dict[str, list[str]]:
    """Every piece by name, with its arguments for gpu_pieces.py or gpu_reference.py; those of jtrain first."""
    chunks = range(0, given.seeds, CHUNK)
    found = {
        f"G1.jtrain.{first}": ["jtrain", "cifar", str(first), str(min(CHUNK, given.seeds - first))] for first in chunks
    }
    found |= {"G2.jtrain": ["jtrain", "resnet"], "G3.jtrain": ["jtrain", "members"], "G4.steps": ["jtrain", "steps"]}
    found |= {"G4.save": ["jtrain", "save"], "G2.torch": ["torch", "resnet"]}
    scripts = sorted(Path(given.references).glob("*.py")) if given.references else []
    found |= {f"G1.{script.stem}": ["torch", "script", str(script.resolve()), str(given.seeds)] for script in scripts}
    return found


def run_piece(command: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """What a piece found: {"status": "ok", …}, or "FAIL" with the last line that it wrote to standard error."""
    kind, *arguments = command
    peer = os.environ.get("JTRAIN_BENCH_PYTHON", sys.executable)
    interpreter, file = (peer, "gpu_reference.py") if kind == "torch" else (sys.executable, "gpu_pieces.py")
    words = [interpreter, str(HERE / file), *arguments, "--pack", str(given.pack.resolve()), "--out", str(given.out)]
    # Without filtering the last line is the error; and processes that take turns on a GPU must not hold all of it.
    environment = os.environ | {"JAX_TRACEBACK_FILTERING": "off", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            words + ["--tiny"] * given.tiny, capture_output=True, text=True, timeout=given.most * 60, env=environment,
            check=False,
        )  # fmt: skip
        lines = done.stdout.strip().splitlines()
        why = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        found = {"status": "ok"} | json.loads(lines[-1]) if done.returncode == 0 and lines else {"why": why[0]}
    except subprocess.TimeoutExpired:
        found = {"why": f"took more than {given.most:g} minutes"}
    except OSError as error:
        found = {"why": f"{interpreter}: {error.strerror}"}
    return {"status": "FAIL"} | found | {"took": time.perf_counter() - begun}


def run(given: argparse.Namespace) -> int:
    """Does the pieces that are left, until the time is up; writes the rows. Returns the exit status."""
    given.out.mkdir(parents=True, exist_ok=True)
    if given.references and not (given.out / IMAGES).exists():
        arrays = read_pack(given.pack)  # here, since the others may have no pillow
        flat = {f"{split}_{what}": arrays[split][i] for split in arrays for i, what in enumerate(PAIR)}
        np.savez(given.out / IMAGES, **flat)  # type: ignore[arg-type]
    begun, found = time.monotonic(), {}
    for name, command in pieces(given).items():
        file = given.out / f"{name}{'.tiny' * given.tiny}.json"
        if file.exists() and (kept := json.loads(file.read_text()))["status"] == "ok":
            found[name] = kept
            continue
        if time.monotonic() - begun > given.minutes * 60:
            continue
        found[name] = run_piece(command, given)
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text(json.dumps(found[name]) + "\n")
        unfinished.replace(file)
        print(f"{name}: {found[name]['status']} {found[name].get('why', '')} ({found[name]['took']:.0f} s)", flush=True)
    left = [name for name in pieces(given) if name not in found]
    write_rows(found, given.out / "results")
    print(f"{len(left)} pieces left; the same command goes on" if left else "all pieces are done")
    return AGAIN if left else 0


def write_rows(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """G1.json to G4.json in the form of all rows; a claim that no GPU measured is 'not measured', and says why."""
    rows = {"G1": rows_g1, "G2": rows_g2, "G3": rows_g3, "G4": rows_g4}
    for row, claims_of in rows.items():
        own = {name: piece for name, piece in found.items() if name.startswith(f"{row}.")}
        sound = {name: piece for name, piece in own.items() if piece["status"] == "ok" and piece["device"]}
        reasons = [f"{name}: {piece['why']}" for name, piece in own.items() if piece["status"] != "ok"]
        idle = [name for name, piece in own.items() if piece["status"] == "ok" and not piece["device"]]
        reason = "; ".join(reasons + ["no GPU"] * bool(idle)) or "not run"
        comparisons, claims = claims_of(sound, reason)
        for comparison in comparisons:
            print(table(comparison))
        report(row, WHAT[row], comparisons, claims, folder / f"{row}.json")


def rows_g1(found: dict[str, Any], reason: str) -> tuple[list[Comparison], list[Claim]]:
    """Seconds and accuracy over seeds, against each reference."""
    ours: dict[str, list[float]] = {"seconds": [], "accuracy": []}
    for name, piece in found.items():
        if name.startswith("G1.jtrain."):
            ours = {key: values + piece[key] for key, values in ours.items()}
    others = {name.removeprefix("G1."): piece for name, piece in found.items() if "G1.jtrain." not in name}
    claims = []
    for name, piece in (others or {"references": None}).items():
        for what, key, better, passes, great in (
            ("seconds of training", "seconds", "lower", 1.5, 1.0), ("mean accuracy", "accuracy", "higher", 0.9995, 1.0),
        ):  # fmt: skip
            ratio = means(ours[key], piece[key]) if piece and ours[key] else None
            claims.append(Claim(what, "jtrain", name, better, ratio, passes, great, "" if ratio else reason))  # type: ignore[arg-type]
    measured = {"jtrain": ours["seconds"]} if ours["seconds"] else {}
    return comparison("training to the end", "run", measured | {n: p["seconds"] for n, p in others.items()}), claims


def rows_g2(found: dict[str, Any], reason: str) -> tuple[list[Comparison], list[Claim]]:
    """Images/s against torch, and as such."""
    seconds = {name.removeprefix("G2."): piece["seconds"] for name, piece in found.items()}
    against = means(seconds["torch"], seconds["jtrain"]) if len(seconds) == 2 else None
    ours = seconds.get("jtrain")
    rate = Ratio(*(1 / at for at in (float(np.median(ours)), max(ours), min(ours)))) if ours else None
    jtrain = found.get("G2.jtrain", {})
    words = f"images/s; MFU {jtrain['mfu']:.3f}" if jtrain.get("mfu") else "images/s"
    claims = [
        Claim("images/s", "jtrain", "torch, compiled", "higher", against, 1.0, 1.0, "" if against else reason),
        Claim(words, "jtrain", "–", "higher", rate, 0.0, 60_000.0, "" if rate else reason),
    ]
    return comparison("ResNet-18", "image", seconds), claims


def rows_g3(found: dict[str, Any], reason: str) -> tuple[list[Comparison], list[Claim]]:
    """One program against eight runs in turn."""
    piece = found.get("G3.jtrain")
    ratio = Ratio.of(piece["in turn"], piece["one program"]) if piece else None
    claim = Claim("steps/s", "one program", "in turn", "higher", ratio, 2.0, 4.0, "" if ratio else reason)
    both = {name: piece[name] for name in ("in turn", "one program")} if piece else {}
    return comparison("8 learning rates", "step", both), [claim]


def rows_g4(found: dict[str, Any], reason: str) -> tuple[list[Comparison], list[Claim]]:
    """Steps a call, and the milliseconds of a save."""
    steps, save = found.get("G4.steps", {}).get("seconds", {}), found.get("G4.save", {}).get("milliseconds")
    best = min((n for n in steps if n != "1"), key=lambda n: float(np.median(steps[n])), default=None)
    ratio = Ratio.of(steps["1"], steps[best]) if best else None
    stall = Ratio(float(np.median(save)), min(save), max(save)) if save else None
    claims = [
        Claim("steps/s", f"{best or 'several'} a call", "1 a call", "higher", ratio, 2.0, 4.0, "" if ratio else reason),
        Claim("milliseconds that a save blocks", "jtrain", "–", "lower", stall, 20.0, 8.0, "" if stall else reason),
    ]
    return comparison("fused steps", "step", {f"{n} a call": values for n, values in steps.items()}), claims


def means(ours: list[float], theirs: list[float]) -> Ratio:
    """The ratio of means, and what two standard errors of either leave of it; seeds are no pairs."""
    ratio = float(np.mean(ours) / np.mean(theirs))
    error = math.hypot(*(float(np.std(v) / max(len(v), 1) ** 0.5 / np.mean(v)) for v in (ours, theirs)))
    return Ratio(ratio, ratio * (1 - 2 * error), ratio * (1 + 2 * error))


def comparison(title: str, unit: str, seconds: dict[str, list[float]]) -> list[Comparison]:
    """[the comparison], or [] where nothing was measured; as many rounds of each as there are of all."""
    if not seconds:
        return []
    rounds = min(map(len, seconds.values()))
    entries = {name: Entry(Contender(name, "gpu_pieces"), seconds=values[:rounds]) for name, values in seconds.items()}
    return [Comparison(title, unit, next(iter(seconds)), rounds, entries, (os.getloadavg()[0], os.getloadavg()[0]))]


def pack(given: argparse.Namespace) -> int:
    """Writes the JPEGs and labels of a prepared TFDS cifar10 into one file."""
    import tensorflow_datasets as tfds

    folder = sorted((given.tfds / "cifar10").iterdir())[-1]
    decoders = {"image": tfds.decode.SkipDecoding()}
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        source = tfds.builder_from_directory(folder).as_data_source(split=split, decoders=decoders)
        arrays |= packed(split, ((record["image"], record["label"]) for record in source))
    np.savez(given.pack, **arrays)  # type: ignore[arg-type]
    return 0


def packed(split: str, examples: Iterator[tuple[bytes, int]]) -> dict[str, np.ndarray]:
    """The arrays of a split: files in a row, where each ends, labels."""
    files, labels = zip(*examples, strict=True)
    return {
        f"{split}_files": np.frombuffer(b"".join(files), np.uint8), f"{split}_ends": np.cumsum([*map(len, files)]),
        f"{split}_labels": np.array(labels, np.int32),
    }  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("pack", help="JPEGs and labels of a TFDS folder into one file")
    one.add_argument("--tfds", type=Path, required=True)
    one.set_defaults(do=pack)
    two = commands.add_parser("run", help="measure what is not measured yet, and write the rows")
    two.add_argument("--out", type=Path, required=True, help="what is done, and the rows, are kept here")
    two.add_argument("--references", type=Path, help="folder of training scripts to compare G1 with")
    two.add_argument("--seeds", type=int, default=20)
    two.add_argument("--minutes", type=float, default=5.0, help="after which no further piece is begun")
    two.add_argument("--most", type=float, default=4.5, help="minutes that a piece may take")
    two.add_argument("--tiny", action="store_true", help="try everything at a size that any machine can")
    two.set_defaults(do=run)
    for command in (one, two):
        command.add_argument("--pack", type=Path, required=True, help="the file of the data")
    given = parser.parse_args(words)
    return int(given.do(given))


if __name__ == "__main__":
    sys.exit(main())
