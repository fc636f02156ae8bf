"""`autopilot`, given nothing but data and a model, against frozen recipes tuned by hand, and against scikit-learn.

    python benchmarks/autopilot_proof.py [--tasks digits,diabetes,cancer,wine,cifar] [--seeds 3] [--folder DIR]

The rule of judging was written before anything was run. The seeds begin at 20: those below 10 were looked at while
autopilot was written, and with 10 to 12 it was judged a first time, when diabetes failed (R² 0.4894 against 0.5073):
on 36 validation examples it had taken an early state for the best. The folds tell the length since. Of every task and
seed:

* the recipe is the shipped config as it stands, but for its seed, trained by `jtrain train`: the test metric of the
  state that it ends with;
* autopilot gets `jtrain.config.base()` with the recipe's `data`, `task` and `model` sections and the seed, and nothing
  else of it: no lr, schedule, batch size, length, weight decay, augmentation or loss: `found["test"]`.

A task passes where the mean of autopilot over the seeds is not below the mean of the recipe by more than 0.005, of
accuracy or of R². Half a percent is less than a seed moves either (the table tells both standard deviations, and the
standard error of the difference of the means): a mean that is lower by chance alone fails as well, and nothing is run
again for it. Beside it is shown how many updates both took; autopilot's are all, of every stage.

`cancer` and `wine` have no recipe here: scikit-learn's tables as arrays, cut 80 : 20 by the seed, each class alike.
There autopilot has the default MLP, and is held against StandardScaler and LogisticRegression of scikit-learn with
their defaults on the same cuts, by the same margin.

`cifar` (set TFDS_DATA_DIR) is `cifar:small` on 8,000 of its training examples for both (`data.examples`), so that it
can be run on CPU; the recipe keeps its 10 epochs. It takes some 20 minutes a seed on 2 cores; the others 1 to 5.

What was run is kept in the folder: the same command goes on there.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import jtrain
from jtrain.io.cache import use_compile_cache
from jtrain.io.progress import Screen

MARGIN = 0.005
RECIPES = {"digits": "digits", "diabetes": "diabetes", "cifar": "cifar:small"}
TABLES = ("cancer", "wine")
EXAMPLES = {"cifar": 8000}


def recipe_of(task: str, seed: int) -> Any:
    """The frozen recipe."""
    config = jtrain.load(RECIPES[task])
    config.seed = seed
    config.data.examples = EXAMPLES.get(task, 0)
    return config


def given_of(task: str, seed: int) -> Any:
    """What autopilot gets: data, task and model of the recipe."""
    config, recipe = jtrain.config.base(), recipe_of(task, seed)
    with config.unlocked():
        for section in ("data", "task", "model"):
            config[section] = recipe[section]
    config.seed = seed
    return config


def table_of(task: str, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Training and test examples of a table of scikit-learn's."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    found: Any = {"cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}[task]()
    parts = train_test_split(found.data, found.target, test_size=0.2, random_state=seed, stratify=found.target)
    train, test, labels, test_labels = parts
    return {
        "train": (train.astype(np.float32), labels.astype(np.int32)),
        "test": (test.astype(np.float32), test_labels.astype(np.int32)),
    }


def baseline(task: str, seed: int, folder: Path) -> dict[str, float]:
    """The test metric and the updates of the other side."""
    if task in TABLES:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        data = table_of(task, seed)
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*data["train"])
        return {"metric": float(model.score(*data["test"])), "updates": 0}
    run = jtrain.assemble(recipe_of(task, seed))
    result = jtrain.train(run, folder)
    return {"metric": result.metrics["test"][run.task.watch], "updates": run.clock.total}


def piloted(task: str, seed: int, folder: Path) -> dict[str, float]:
    """The same of autopilot."""
    screen = Screen(live=False)
    if task in TABLES:
        config = jtrain.config.base()
        config.seed = seed
        study = jtrain.autopilot(config, folder, data=table_of(task, seed), screen=screen)
    else:
        study = jtrain.autopilot(given_of(task, seed), folder, screen=screen)
    if not study.ok:
        return {"metric": float("nan"), "updates": study.found["updates"]}
    metric = study.found["test"]
    return {"metric": metric.get("accuracy", metric.get("r2")), "updates": study.found["updates"]}


def kept(path: Path, compute: Any) -> dict[str, float]:
    """What was found before, or now, with the seconds that it took."""
    if path.is_file():
        return json.loads(path.read_text())
    begun = time.perf_counter()
    found = compute() | {"seconds": time.perf_counter() - begun}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found) + "\n")
    return found


def judged(task: str, first: int, seeds: int, folder: Path) -> bool:
    """Runs both sides of a task, prints them; whether autopilot is within the margin."""
    found: dict[str, list[float]] = {"recipe": [], "autopilot": []}
    lines = []
    for seed in range(first, first + seeds):
        where = folder / f"{task}-{seed}"
        ours = kept(where / "autopilot.json", lambda: piloted(task, seed, where / "autopilot"))  # noqa: B023
        theirs = kept(where / "recipe.json", lambda: baseline(task, seed, where / "recipe"))  # noqa: B023
        found["recipe"].append(theirs["metric"])
        found["autopilot"].append(ours["metric"])
        lines.append(
            f"  {task} seed {seed}: recipe {theirs['metric']:.4f} ({theirs['updates']} updates, "
            f"{theirs['seconds']:.0f} s), autopilot {ours['metric']:.4f} ({ours['updates']} updates, "
            f"{ours['seconds']:.0f} s)"
        )
    print("\n".join(lines))
    mean = {name: statistics.mean(values) for name, values in found.items()}
    sd = {name: statistics.stdev(values) if seeds > 1 else float("nan") for name, values in found.items()}
    error = ((sd["recipe"] ** 2 + sd["autopilot"] ** 2) / seeds) ** 0.5
    gain = mean["autopilot"] - mean["recipe"]
    passed = gain >= -MARGIN
    print(
        f"{'PASS' if passed else 'FAIL'}  {task}: autopilot {mean['autopilot']:.4f} (sd {sd['autopilot']:.4f}), "
        f"{'scikit-learn' if task in TABLES else 'recipe'} {mean['recipe']:.4f} (sd {sd['recipe']:.4f}): "
        f"{gain:+.4f} ± {error:.4f}, wanted {-MARGIN:+.3f} or more\n",
        flush=True,
    )
    return passed


def main() -> int:
    """Prints PASS or FAIL for each task; 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="digits,diabetes,cancer,wine,cifar")
    parser.add_argument("--first", type=int, default=20, help="seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/autopilot-proof"))
    given = parser.parse_args()
    use_compile_cache()
    passed = [judged(task, given.first, given.seeds, given.folder) for task in given.tasks.split(",")]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
