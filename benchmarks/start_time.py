"""Start times: `import jtrain`, `--help`, a refused typo, and the first step of digits on a cold and a warm cache.

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


def whole(command: list[str], code: int = 0) -> float:
    """Seconds of a whole process, which must end with `code`."""
    begun = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, cwd=ROOT)
    if done.returncode != code:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr.decode()}")
    return time.perf_counter() - begun


def validation() -> float:
    """Seconds to build the base config and refuse one wrong value of it, in this process."""
    from jtrain import config as configs
    from jtrain.errors import ConfigError

    begun = time.perf_counter()
    config = configs.base()
    config.train.batch_size = -1
    try:
        configs.validate(config)
    except ConfigError:
        return time.perf_counter() - begun
    raise SystemExit("a batch size of -1 was accepted")


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
            typo = [*TRAIN, "--config.train.batchsize=3"]
            found.setdefault("a mistyped option refused", []).append(whole(typo, code=2))
            found.setdefault("a wrong value refused, in process", []).append(validation())
            found.setdefault("first step of digits, cold cache", []).append(first_step(Path(cache)))
            found.setdefault("first step of digits, warm cache", []).append(first_step(Path(cache)))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, {rounds} rounds"
    )
    for name, seconds in found.items():
        print(f"{name:<36} {statistics.median(seconds):7.3f} s  ({min(seconds):.3f}–{max(seconds):.3f})")


if __name__ == "__main__":
    main()
