"""P5: the time from the start of a process to the end of its first step of training; and that of other commands.

    python benchmarks/start.py [--rounds 4] [--out benchmarks/results/P5.json]

ResNet-18 in its CIFAR form, batch 32, float32, from an .npz file. jtrain: its command line as it is, into a new
workdir, to the line that tells the loss of update 1; the cache of compiled programs, which it keeps by itself, once
empty and once warm. Against it a program of the shape of Flax's official examples, as it is (it keeps no cache), and
for the record with a warm one. Every figure is of whole processes.
"""

import tempfile
from pathlib import Path
from typing import Any

from contenders.process import write_images
from findings import Contender, arguments, report
from harness import compare

FLAX_CACHE = {"JAX_COMPILATION_CACHE_DIR": "{cache}", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def program(name: str, *words: str, cache: str = "empty", **own: Any) -> Contender:
    """A program of these arguments; jtrain's cache lies in a folder of its own."""
    case = {"arguments": words, "cache": cache, "until": "", "code": 0, "number": "", "environment": {}}
    case["environment"] = {"XDG_CACHE_HOME": "{cache}"} | own.pop("environment", {})
    return Contender(name, "process", case | own)


def training(data: Path) -> list[Contender]:
    """jtrain and the Flax program, on an empty and a warm cache."""
    ours = ("-m", "jtrain.main", f"--config={{here}}/start_config.py:{data}", "--workdir={folder}/run")
    theirs = ("{here}/start_flax.py", str(data))
    until: dict[str, Any] = {"until": "step 1", "number": r"([\d.]+) M parameters"}
    return [
        program("jtrain, empty cache", *ours, **until),
        program("jtrain, warm cache", *ours, cache="warm", **until),
        program("Flax program", *theirs, **until),
        program("Flax program, warm cache", *theirs, cache="warm", environment=FLAX_CACHE, **until),
    ]


def commands() -> list[Contender]:
    """Python alone, and what answers before anything is imported that takes time."""
    wrong = ("--config=digits", "--config.train.batchsize=3")
    return [
        program("python -c pass", "-c", "pass"),
        program("import jtrain", "-c", "import jtrain"),
        program("jtrain --help", "-m", "jtrain.main", "--help"),
        program("a mistyped option refused", "-m", "jtrain.main", *wrong, code=2),
    ]


def main() -> None:
    """Measures, prints and writes the row."""
    given = arguments(__doc__, rounds=4)
    with tempfile.TemporaryDirectory(prefix="jtrain-bench-") as folder:
        write_images(Path(folder) / "images.npz")
        found = compare(
            "first step of ResNet-18", training(Path(folder) / "images.npz"), reference="Flax program", unit="start",
            rounds=given.rounds, warmup=0,
        )  # fmt: skip
        small = compare("commands", commands(), reference="python -c pass", unit="start", rounds=given.rounds)
    claims = [
        found.claim(f"time to the first step, {cache} cache", f"jtrain, {cache} cache", "Flax program", better="lower",
                    passes=least, great=aim)
        for cache, least, aim in (("empty", 0.6, 0.37), ("warm", 0.35, 0.2))
    ]  # fmt: skip
    report("P5", "time to the end of the first step, ResNet-18, new process", [found, small], claims, given.out)


if __name__ == "__main__":
    main()
