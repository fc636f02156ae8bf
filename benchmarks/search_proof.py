"""What 20 trials of `jtrain search` gain on digits over the config as it is, judged on the test split by other seeds.

    python benchmarks/search_proof.py [--folder runs/search-proof] [--trials 20] [--seeds 5]

The config is `jtrain.config.base()`, all defaults: an MLP on scikit-learn's digits. One search, with a seed of its own,
chooses on its validation split; what it has chosen and what was there before are then trained with each of the judging
seeds and measured on the test split, which nobody has looked at. Stopped or killed, the script goes on where it was.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import jtrain
from jtrain.io.progress import Screen

DEVIATIONS = 2.0  # of the untuned runs: by so many the tuned mean must be above theirs
SEARCH_SEED = 100  # no judging seed


def accuracy(folder: Path, seed: int, point: dict[str, Any]) -> float:
    """Test accuracy of a run, trained now unless it was before."""
    config = jtrain.config.base()
    config.seed = seed
    for key, value in point.items():
        config = jtrain.config.changed(config, **{key.replace(".", "__"): value})
    return jtrain.train(jtrain.assemble(config), folder).metrics["test"]["accuracy"]


def main() -> int:
    """Prints a table and PASS or FAIL; 1 where the claim fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/search-proof"))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    config = jtrain.config.base()
    config.seed = SEARCH_SEED
    config.study.search.trials = given.trials
    study = jtrain.search(config, given.folder / "search", screen=Screen(live=False))
    best = study.found["best"]

    found: dict[str, list[float]] = {"untuned": [], "tuned": []}
    print(f"\n{'seed':>4}  {'untuned':>8}  {'tuned':>8}   test accuracy")
    for seed in range(given.seeds):
        for name, point in (("untuned", {}), ("tuned", best)):
            found[name].append(accuracy(given.folder / f"{name}-{seed}", seed, point))
        print(f"{seed:>4}  {found['untuned'][-1]:>8.4f}  {found['tuned'][-1]:>8.4f}", flush=True)
    mean = {name: statistics.mean(values) for name, values in found.items()}
    sd = {name: statistics.stdev(values) for name, values in found.items()}
    print(f"mean  {mean['untuned']:>8.4f}  {mean['tuned']:>8.4f}\n  sd  {sd['untuned']:>8.4f}  {sd['tuned']:>8.4f}")
    gain = (mean["tuned"] - mean["untuned"]) / sd["untuned"]
    passed = gain >= DEVIATIONS
    told = f"{given.trials} trials gain {gain:+.1f} standard deviations of the untuned runs, {DEVIATIONS:g} are claimed"
    print(f"{'PASS' if passed else 'FAIL'}  {told}; {study.found['command']}")
    (given.folder / "proof.json").write_text(json.dumps({"best": best, **found, "passed": passed}, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
