"""Are planted wrong labels found? 5 % of the labels of digits and of shapes are changed, and `data_size` is asked.

    python benchmarks/data_size_proof.py [--seeds 3] [--first 10] [--out benchmarks/results/data_size.json]

Passes when of the 5 % of examples that look worst at least 80 % are planted ones, in the mean of the seeds, on each
data set. A seed draws which labels are changed, to what, and the folds and weights. The rule by which examples are
ranked is in jtrain/studies/suspects.py and knows nothing of how many there are.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

import jtrain
from jtrain.data.examples import ArrayExamples, DataSet, Wanted
from jtrain.data.sources import SOURCES
from jtrain.io.cache import use_compile_cache
from jtrain.studies.data_size import data_size

SHARE, PRECISION = 0.05, 0.8
# Shipped config, its source's options and what is changed in it. The shapes are fewer and smaller than shipped, for two
# cores, and trained to 97 % on clean labels: by that the recipe was chosen, on another `data_seed`. Half as many, at
# 92 %, were a failure (71 % of three seeds): a model that is often wrong doubts what is right.
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "digits": ("digits", "digits", {}, {}),
    "shapes": (
        "cifar:shapes", "shapes", {"examples": 6000, "test_examples": 10, "size": 16},
        {"augment": "", "train.total": "10epochs", "train.batch_size": 64, "optimizer.lr": 0.1},
    ),
}  # fmt: skip


def planted(data: DataSet, seed: int) -> tuple[DataSet, np.ndarray]:
    """(the data with SHARE of the training labels changed to another class, [n] bool: which)."""
    inputs, targets = data.train.arrays()
    random = np.random.default_rng(seed)
    rows = random.choice(len(targets), round(SHARE * len(targets)), replace=False)
    wrong = np.zeros(len(targets), bool)
    wrong[rows] = True
    changed = np.array(targets)
    changed[rows] = (changed[rows] + random.integers(1, data.num_outputs, len(rows))) % data.num_outputs
    return dataclasses.replace(data, train=ArrayExamples(inputs, changed)), wrong


def measured(name: str, seed: int) -> dict[str, float]:
    """How well the planted labels of one case are found."""
    shipped, source, options, changes = CASES[name]
    config = jtrain.load(shipped)
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    data, wrong = planted(SOURCES[source](Wanted(), **options), seed)
    count = int(wrong.sum())
    config.seed = seed
    config.study.data_size.shares = ()
    config.study.data_size.worst = count
    found = data_size(config, data=data).found
    right = int(wrong[found["suspects"]].sum())
    return {"examples": len(wrong), "planted": count, "precision": right / count, "flagged": found["mislabelled"]}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=10, help="the first of them")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    use_compile_cache()
    results: dict[str, list[dict[str, float]]] = {}
    for name in given.cases:
        results[name] = []
        for seed in range(given.first, given.first + given.seeds):
            found = measured(name, seed)
            results[name].append(found)
            print(
                f"{name:<8} seed {seed}: {found['precision']:.1%} of the worst {found['planted']} of "
                f"{found['examples']:,} examples are planted; {found['flagged']} were flagged",
                flush=True,
            )
    passed = True
    for name, rows in results.items():
        mean = statistics.mean(row["precision"] for row in rows)
        passed &= mean >= PRECISION
        print(f"{'PASS' if mean >= PRECISION else 'FAIL'}  {name}: {mean:.1%}, asked for {PRECISION:.0%}")
    if given.out:
        given.out.write_text(json.dumps({"share": SHARE, "asked": PRECISION, "results": results}, indent=1) + "\n")
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
