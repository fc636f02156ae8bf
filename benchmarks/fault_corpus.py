"""Makes the corpus of labelled runs by which `diagnose` is set and judged: healthy ones, and faults that are injected.

    python benchmarks/fault_corpus.py --out FOLDER [--part 1|2|3|4] [--only NAME] [--share 0/2]

Each run is a file of JSON lines: what is known of it, the probes of its line among that, then its rows as in
metrics.jsonl. Files that are there stay.

The rules, which were written before any run was made:
- The right name of each run stands in its case table before it is run (`fault_cases`: part 1, for setting thresholds;
  `fault_cases_2`: part 2, for judging; `fault_cases_3`: part 3, for judging after the line probe; `fault_cases_4`:
  part 4, for judging after it was mended with parts 1 to 3 in sight).
- A fault counts as one only where it does harm. The error of a run is what is missing of its test score to a perfect
  one (1 − accuracy, 1 − R², or the loss itself). An injected fault did harm where its error is above that of its
  task's healthy runs (the mean of those with the plain recipe) by more than 15 % of it and more than 0.02. Where it
  did none, the run is put aside: 'harmless', for which both the name of the fault and no warning are right, and which
  counts neither among the faulty nor among the healthy runs.
- 'spikes' and 'wrong_metric' always count: that bad batches go by and that the wrong checkpoint is kept is the fault,
  whatever the last weights are worth.
"""

import argparse
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_cases
import fault_cases_2
import fault_cases_3
import fault_cases_4
import numpy as np
from fault_cases import Case
from fault_tasks import Splits, config_of
from fault_tasks_4 import TASKS, missing

import jtrain
from jtrain.coaching import is_harder
from jtrain.config import base
from jtrain.data.order import Order
from jtrain.errors import NonFiniteError
from jtrain.io.cache import use_compile_cache
from jtrain.io.workdir import plain
from jtrain.models.prepare import carries
from jtrain.run import Run

SPIKED = 48  # broken examples, which no other batch holds
EVERY, UNTIL = 0.17, 0.75  # shares of the run: between two of their batches, and after which there are none
PART = 4  # one of so many examples of such a batch is broken
PARTS = {1: fault_cases.cases, 2: fault_cases_2.cases, 3: fault_cases_3.cases, 4: fault_cases_4.cases}
QUIET = {"diagnose.mode": "report", "log.report": False}  # what is said of them is not looked at: not kept
Recipe = dict[str, Any]


@dataclasses.dataclass
class Made:
    """A run in the making."""

    recipe: Recipe
    data: Splits | None
    strength: float
    order: Callable[[Run], Order] | None = None
    flip: bool = False


class Spiked(Order):
    """An order whose last examples come in a few batches alone, one of `part` examples, after `every` of the run."""

    def __init__(self, run: Run, seed: int, every: float, part: int) -> None:
        super().__init__(run.order.examples - SPIKED, run.batch_size, seed)
        self.part, gap = part, max(2, round(every * run.clock.total))
        self.at = set(range(gap, round(UNTIL * run.clock.total), gap))
        self.random = np.random.default_rng(seed)

    def rows_of(self, step: int, count: int) -> np.ndarray:
        """The rows of `count` updates, those at a spike from the broken examples."""
        found = super().rows_of(step, count)
        for number in range(count):
            if step + number in self.at:
                some = self.batch_size // self.part
                found[number, :some] = self.examples + self.random.integers(0, SPIKED, some)
        return found


def _lr(made: Made, factor: float) -> None:
    made.recipe["optimizer.lr"] = made.recipe["optimizer.lr"] * factor


def _late(made: Made) -> None:
    _lr(made, made.strength)
    made.recipe |= {"schedule.name": "constant", "schedule.warmup": "5%"}


def _no_shuffle(made: Made) -> None:
    assert made.data is not None
    inputs, targets = made.data["train"]
    rows = np.argsort(targets, kind="stable")
    made.data["train"] = inputs[rows], targets[rows]
    made.order = lambda run: Order(run.order.examples, run.batch_size, 0, shuffle=False)


def _tiny(made: Made) -> None:
    made.recipe |= {"train.batch_size": min(made.recipe["train.batch_size"], 16), "augment": ""}
    if made.data is None:
        made.recipe["data.examples"] = int(made.strength)
        return
    inputs, targets = made.data["train"]
    made.data["train"] = inputs[: int(made.strength)], targets[: int(made.strength)]


def _dead(made: Made) -> None:
    made.recipe |= {"init.name": "normal", "init.normal.std": made.strength}


def _noise(made: Made) -> None:
    assert made.data is not None
    random, classes = np.random.default_rng(23), int(made.data["train"][1].max()) + 1
    inputs, targets = made.data["train"]
    wrong = random.random(len(targets)) < made.strength
    other = (targets + random.integers(1, classes, len(targets))) % classes
    made.data["train"] = inputs, np.where(wrong, other, targets).astype(np.int32)


def _spikes(made: Made) -> None:
    assert made.data is not None
    random = np.random.default_rng(29)
    inputs, targets = made.data["train"]
    rows = random.integers(0, len(inputs), SPIKED)
    if inputs.dtype == np.uint8:  # a wrong unit: pixels from 0 to 1 taken for floats, the broken ones far beyond
        inputs = inputs.astype(np.float32) / 255
    bad = inputs[rows] * made.strength
    made.data["train"] = np.concatenate([inputs, bad]), np.concatenate([targets, targets[random.permutation(rows)]])
    for name in ("val", "test"):
        part = made.data[name]
        if part[0].dtype == np.uint8:
            made.data[name] = part[0].astype(np.float32) / 255, part[1]
    mean = inputs.mean(axis=tuple(range(inputs.ndim - 1))), inputs.std(axis=tuple(range(inputs.ndim - 1)))
    made.recipe |= {"data.mean": tuple(map(float, mean[0])), "data.std": tuple(map(float, mean[1]))}
    every, part = made.recipe.pop("spikes.every", EVERY), made.recipe.pop("spikes.part", PART)
    made.order = lambda run: Spiked(run, run.config.seed, every, part)


def _flip(made: Made) -> None:
    made.flip = True


INJECT: dict[str, Callable[[Made], None]] = {
    "healthy": lambda made: None,
    "lr_high": lambda made: _lr(made, made.strength),
    "lr_low": lambda made: _lr(made, 1 / made.strength),
    "late_lr": _late,
    "no_shuffle": _no_shuffle,
    "tiny_data": _tiny,
    "frozen": lambda made: made.recipe.update({"lr_scale": made.strength}),
    "dead": _dead,
    "label_noise": _noise,
    "spikes": _spikes,
    "wrong_metric": _flip,
}


def build(case: Case) -> Run:
    """The run of a case, its fault injected."""
    task = TASKS[case.task]
    made = Made(task.recipe | case.changes, dict(task.data()) if task.data else None, case.strength)
    INJECT[case.fault](made)
    made.recipe["checkpoint.every"] = "100%"
    run = jtrain.assemble(config_of(made.recipe), data=made.data)
    if made.order:
        run = dataclasses.replace(run, order=made.order(run))
    if made.flip:
        flipped = {
            name: dataclasses.replace(metric, higher_is_better=not metric.higher_is_better)
            for name, metric in run.task.metrics.items()
        }
        watch = next(name for name, metric in run.task.metrics.items() if metric.higher_is_better)
        run = dataclasses.replace(run, task=dataclasses.replace(run.task, metrics=flipped, watch=watch))
    return run


def record(case: Case) -> list[dict[str, Any]]:
    """What is known of a case's run, then its rows."""
    run, began = build(dataclasses.replace(case, changes=case.changes | QUIET)), time.time()
    watched = run.task.metrics.get(run.watch.removeprefix("ema/"))
    total = run.clock.total
    with tempfile.TemporaryDirectory() as folder:
        try:
            jtrain.train(run, folder)
            failed = None
        except NonFiniteError as error:
            failed = str(error)
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        coach = json.loads((Path(folder) / "coach.json").read_text())
        events = [json.loads(line) for line in (Path(folder) / "events.jsonl").read_text().splitlines()]
    task = TASKS[case.task]
    tests = [row[task.score] for row in rows if row["split"] == "test" and row.get(task.score) is not None]
    error = abs(task.perfect - tests[-1]) if tests else math.inf
    facts = dataclasses.asdict(case) | {
        "error": error, "seconds": time.time() - began, "total": total,
        "updates_per_epoch": run.clock.epoch_examples / run.batch_size,
        "guess": run.task.guess() if run.task.guess else None, "watch": run.watch,
        "higher_is_better": bool(watched is not None and watched.higher_is_better),
        "final_lr": None if run.config.plateau.metric else run.lrs(total - 1, {"user": run.config.lr_scale})["lr"],
        "mixed": any(name in run.config.augment for name in ("mixup", "cutmix")),
        "harder": is_harder(run), "normed": carries(run.shapes.model_state),
        "failed_at": next((e["step"] for e in events if e["kind"] == "non_finite"), None), "failed": failed,
        "line": coach["line"],
    }  # fmt: skip
    return [facts, *rows]


def main() -> None:
    """Makes the runs that are not there yet."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--out", required=True)
    given.add_argument("--part", type=int, default=1, choices=list(PARTS))
    given.add_argument("--only", default="", help="part of the names of the cases to be run")
    given.add_argument("--share", default="0/1", help="i/n: every n-th case from i on, for several processes")
    options = given.parse_args()
    use_compile_cache()
    base()
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    first, every = map(int, options.share.split("/"))
    for case in PARTS[options.part]()[first::every]:
        if lacking := missing(case.task):
            print(f"{case.name}: left out, {lacking}", flush=True)
            continue
        path = folder / f"{case.name}.jsonl"
        if options.only in case.name and not path.exists():
            found = record(case)
            path.write_text("\n".join(json.dumps(plain(row)) for row in found) + "\n")
            print(f"{case.name}: error {found[0]['error']:.4g}, {found[0]['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
