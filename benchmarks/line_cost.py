"""What the line probe costs: whole runs with and without it, in turn.

    python benchmarks/line_cost.py [--configs digits,diabetes,cifar:small] [--rounds 5]

Of each config a pair of runs warms the compiled programs up; then come pairs in turn, the one that begins changing.
Printed are the median of their ratios of seconds, with the least and the greatest, and the seconds of the faster half.
`cifar:small` (set TFDS_DATA_DIR) is cut to 8,000 examples and 2 epochs.
"""

import argparse
import statistics
import time
from typing import Any

import jtrain
from jtrain.io.cache import use_compile_cache
from jtrain.run import Run


def config_of(name: str, *, on: bool) -> Any:
    """A shipped config with or without the probe."""
    config = jtrain.load(name)
    config.diagnose.line_probe = on
    config.log.report = False
    if name == "cifar:small":
        config.data.examples = 8000
        config.train.total = "2epochs"
    return config


def seconds(run: Run) -> float:
    """Of one run without a workdir."""
    begun = time.perf_counter()
    jtrain.train(run)
    return time.perf_counter() - begun


def main() -> None:
    """A line for each config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="digits,diabetes,cifar:small")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    use_compile_cache()
    for name in given.configs.split(","):
        runs = {on: jtrain.assemble(config_of(name, on=on)) for on in (True, False)}
        for run in runs.values():
            seconds(run)
        found: dict[bool, list[float]] = {True: [], False: []}
        for number in range(given.rounds):
            for on in (True, False) if number % 2 else (False, True):
                found[on].append(seconds(runs[on]))
        ratios = [a / b for a, b in zip(found[True], found[False], strict=True)]
        print(
            f"{name}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) × the run without it, "
            f"{statistics.median(found[False]):.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
