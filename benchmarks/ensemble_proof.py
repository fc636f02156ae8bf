"""Proof of `ensemble`: five members of a small CNN on CIFAR-10 gain over the mean member by more than their noise.

    TFDS_DATA_DIR=… python benchmarks/ensemble_proof.py [WORKDIR]

The recipe is configs/cifar.py:small on 8,000 examples for 4 epochs, with smaller batches (and the lr by as much), so
that it ends in minutes on 2 CPU cores. Seeds are 0 to 4. A claim holds where the gain is above twice its noise, which
is the paired bootstrap over the 10,000 test examples and the spread of the members together. The same command goes on
after a kill. Exit code 1 where a claim does not hold.
"""

import sys
import tempfile
import time

import jtrain
from jtrain.io.progress import Screen

MEMBERS = 5
TIMES_NOISE = 2.0
OPTIONS = {
    "data.examples": "8000", "train.total": "4epochs", "train.batch_size": "64", "optimizer.lr": "0.1",
    "study.ensemble.members": str(MEMBERS),
}  # fmt: skip


def main() -> int:
    """Runs the study, prints a line for each claim; 0 where all hold."""
    workdir = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="ensemble-")
    begun = time.perf_counter()
    study = jtrain.ensemble(jtrain.load("cifar:small", OPTIONS), workdir, screen=Screen())
    print(f"\n{'claim':<44}{'gain':>9}{'noise':>9}{'ratio':>8}")
    held = []
    for name, rule in study.found["rules"].items():
        ratio = rule["gain"] / max(rule["noise"], 1e-12)
        held.append(ratio > TIMES_NOISE)
        words = f"{name} of {MEMBERS} beats the mean member"
        print(f"{words:<44}{rule['gain']:>9.4f}{rule['noise']:>9.4f}{ratio:>8.1f}  {'PASS' if held[-1] else 'FAIL'}")
    print(f"{time.perf_counter() - begun:.0f} s, files in {workdir}")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
