"""`lr_find` on synthetic curves whose answer is known, and on real tasks against the ladder.

    python benchmarks/lr_find_proof.py [--tasks digits,diabetes,charlm]       ('' leaves the tasks out)

Synthetic: the curves of tests/studies/sweeps.py, 20 at each of 3 noise levels: every suggestion within ×3 of the truth,
or no answer. Real: the range holds the lr that the ladder recommends.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from lr_cases import config_of
from studies.sweeps import LEVELS, lrs, noisy, sweeps

from jtrain.io.cache import use_compile_cache
from jtrain.io.progress import Screen
from jtrain.studies.ladder import ladder
from jtrain.studies.lr_find import lr_find
from jtrain.studies.lr_find.curve import suggest
from jtrain.studies.study import table

WITHIN = 3.0


def synthetic() -> bool:
    """Prints a row for each noise level; whether all are right or silent."""
    rows = []
    for name, level in LEVELS.items():
        found = [(suggest(lrs(), noisy(sweep, level, i)).lr, sweep.truth) for i, sweep in enumerate(sweeps())]
        times = [max(lr / truth, truth / lr) for lr, truth in found if lr is not None]
        right = sum(each <= WITHIN for each in times)
        rows.append(
            {
                "curves": name, "noise of one loss / fall": level, "within ×3": right, "wrong": len(times) - right,
                "no answer": len(found) - len(times), "furthest ×": max(times, default=None),
            }
        )  # fmt: skip
    print(table(rows))
    good = not any(row["wrong"] for row in rows)
    print(f"{'PASS' if good else 'FAIL'}  synthetic curves\n", flush=True)
    return good


def real(task: str, folder: str) -> bool:
    """Whether the range holds the ladder's lr."""
    found = lr_find(config_of(task), f"{folder}/lr_find-{task}" if folder else None, screen=Screen()).found
    best = ladder(config_of(task), f"{folder}/ladder-{task}" if folder else None, screen=Screen()).found["lr"]
    if found["lr"] is None or best is None:
        print(f"FAIL  {task}: no answer ({found['why']}); the ladder's is {best}\n", flush=True)
        return False
    good = found["low"] <= best <= found["high"]
    print(
        f"{'PASS' if good else 'FAIL'}  {task}: range {found['low']:g} to {found['high']:g} "
        f"(×{found['high'] / found['low']:.3g} wide, suggested {found['lr']:g}); the ladder's lr is {best:g}\n",
        flush=True,
    )
    return good


def main() -> None:
    """Prints PASS or FAIL for each claim; ends with 1 where one fails."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--tasks", default="digits,diabetes,charlm")
    given.add_argument("--folder", default="", help="for the studies' files; '' writes none")
    options = given.parse_args()
    use_compile_cache()
    passed = [synthetic(), *(real(task, options.folder) for task in options.tasks.split(",") if task)]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
