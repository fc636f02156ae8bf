"""Start times: `import jtrain`, `--help`, and the first step of digits on a cold and a warm compile cache.

    python benchmarks/start_time.py [--rounds 5]

Every figure is of a new process; medians of rounds in turn, with their range.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAIN = [sys.executable, "-m", "jtrain.main", f"--config={ROOT}/configs/digits.py", "--config.log.every=1steps"]


def whole(command: list[str]) -> float:
    """Seconds of a whole process."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - begun


def first_step(cache: Path) -> float:
    """Seconds from the command to the first progress line, which is printed when step 1 is done."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*TRAIN, f"--workdir={folder}/run", "--config.train.total=3steps"]
        begun = time.perf_counter()
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
            assert process.stdout is not None
            seconds = next(
                time.perf_counter() - begun for line in process.stdout if "examples/s" in line or "/3 " in line
            )
            process.communicate()
            if process.returncode:
                raise SystemExit(f"{command} ended with {process.returncode}")
    return seconds


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    base = [sys.executable, "-c", "pass"]
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            bare = whole(base)
            found.setdefault("import jtrain", []).append(whole([sys.executable, "-c", "import jtrain"]) - bare)
            found.setdefault("jtrain --help", []).append(whole([sys.executable, "-m", "jtrain.main", "--help"]))
            found.setdefault("first step of digits, cold cache", []).append(first_step(Path(cache)))
            found.setdefault("first step of digits, warm cache", []).append(first_step(Path(cache)))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, {rounds} rounds"
    )
    for name, seconds in found.items():
        print(f"{name:<36} {statistics.median(seconds):6.2f} s  ({min(seconds):.2f}–{max(seconds):.2f})")


if __name__ == "__main__":
    main()
