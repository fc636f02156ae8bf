"""`ladder` against an exhaustive grid of whole runs, and its rungs against as many processes in turn.

    python benchmarks/ladder_proof.py [--tasks digits,cifar,charlm] [--seed 0]     (cifar: set TFDS_DATA_DIR)
    python benchmarks/ladder_proof.py --speed [--updates 100,1000] [--rounds 3]

The grid trains whole runs by `jtrain.train`, with `optimizer.lr` itself, at every rung of the notes from GRID's first
to its last, as many seeds as the task says. The ladder passes where its lr is no further than one rung (×10/3) from the
grid's best mean of the watched metric at the end on the validation split (of equal ones the nearest). Where it is
further, the table says whether the grid itself tells the two apart: by more than two standard errors over its seeds.

Speed: one process of `ladder` with 8 rungs, each of as many updates as the run, against 8 processes of training, one
rung each; whole processes by the clock, first one round unmeasured, so that the caches of compiled programs are warm
for both. Passed at 4× for 100 updates, and 2.5× for 1,000. Rungs that the ladder gives up are part of what it saves;
it is shown how many updates were done, and what the ratio is without giving up (by the time of an update).
"""

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from lr_cases import TASKS, config_of

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.errors import NonFiniteError
from jtrain.io.cache import use_compile_cache
from jtrain.io.progress import Screen
from jtrain.loop import train
from jtrain.studies.ladder import ladder
from jtrain.studies.ladder.answer import lr_of
from jtrain.studies.short import is_higher_better
from jtrain.studies.study import table

GRID = range(-2, 8)  # 1e-4 to 3
RUNG = 10 / 3 * 1.001
RATIO = {100: 4.0, 1000: 2.5}  # what passes, by updates
SMALL_CNN = ("--config=digits", "--config.model.cnn.features=(8,16)", "--config.train.batch_size=32")
LRS = [lr_of(i, 0.0, 3.0) for i in range(-3, 5)]


def grid(task: str, seed: int) -> tuple[list[dict], bool]:
    """(the grid's rows, whether more is better): the metric of every seed at each lr."""
    seeds = TASKS[task][2]
    run = assemble(config_of(task, seed))
    rows, higher = [], is_higher_better(run, run.watch)
    for lr in [lr_of(i, 0.0, 3.0) for i in GRID]:
        whole, values = run.again(configs.changed(run.config, optimizer__lr=lr), run.data), []
        for number in range(seeds):
            one = whole.reseed(seed + number)
            with contextlib.suppress(NonFiniteError):
                values.append(train(one).metrics["val"][run.watch])
        good = len(values) == seeds and all(map(math.isfinite, values))
        sd = float(np.std(values, ddof=1)) if good and seeds > 1 else None
        rows.append({"lr": lr, run.watch: float(np.mean(values)) if good else None, "sd": sd, "seeds": seeds})
        print(f"  grid of {task}: {rows[-1]}", flush=True)
    return rows, higher


def judged(task: str, seed: int) -> bool:
    """Runs ladder and grid of one task, prints both; whether they agree."""
    begun = time.perf_counter()
    study = ladder(config_of(task, seed), screen=Screen())
    middle = time.perf_counter()
    rows, higher = grid(task, seed)
    metric = next(name for name in rows[0] if name not in ("lr", "sd", "seeds"))
    done = [row for row in rows if row[metric] is not None]
    sign = 1 if higher else -1
    top = max(sign * row[metric] for row in done)
    best = [row for row in done if sign * row[metric] == top]
    lr = study.found["lr"]
    print(table(rows))
    if lr is None:
        print(f"FAIL  {task}: the ladder has no answer; the grid's best is {best[0]['lr']:g}")
        return False
    away = min(max(lr / row["lr"], row["lr"] / lr) for row in best)
    near = min(done, key=lambda row: abs(math.log(row["lr"] / lr)))
    told, bests = "", ", ".join(f"{row['lr']:g}" for row in best)
    if away > RUNG and near["sd"] is not None:
        error = math.sqrt((near["sd"] ** 2 + best[0]["sd"] ** 2) / near["seeds"])
        same = top - sign * near[metric] <= 2 * error
        told = f"; the grid {'does not tell' if same else 'tells'} {near['lr']:g} from its best"
    print(
        f"{'PASS' if away <= RUNG else 'FAIL'}  {task}: ladder {lr:g} ({study.found['low']:g} to "
        f"{study.found['high']:g}) in {middle - begun:.0f} s, grid {bests} in "
        f"{time.perf_counter() - middle:.0f} s: ×{away:.3g} apart{told}\n",
        flush=True,
    )
    return away <= RUNG


def seconds(*words: str) -> float:
    """Of one process of jtrain."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "jtrain.main", *words], capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: diverged, or the best is at the edge
        raise RuntimeError(done.stderr)
    return time.perf_counter() - begun


def faster(updates: int, rounds: int) -> bool:
    """Times both, in turn; whether the ladder is as much faster as is claimed."""
    total = f"--config.train.total={updates}steps"
    own = ("total=100%", "rungs=8", "most=8", "refine=False", "seeds=1")
    found, last = [], {}
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            options = [f"--config.study.ladder.{word}" for word in own]
            one = seconds("ladder", *SMALL_CNN, total, *options, f"--workdir={folder}/ladder")
            last = json.loads((Path(folder) / "ladder" / "study.json").read_text())
            several = sum(
                seconds(*SMALL_CNN, total, f"--config.optimizer.lr={lr}", f"--workdir={folder}/{lr}") for lr in LRS
            )
        done = sum(row["updates"] for row in last["rows"])
        words = "warming" if number == 0 else f"×{several / one:.2f}"
        print(
            f"  {updates} updates: ladder {one:.1f} s ({done} updates), 8 processes {several:.1f} s: {words}",
            flush=True,
        )
        if number:
            found.append((several / one, several / (one * 8 * updates / done)))
    ratios, least = zip(*found, strict=True)
    ratio, wanted = statistics.median(ratios), RATIO.get(updates, 1.0)
    print(
        f"{'PASS' if ratio >= wanted else 'FAIL'}  8 rungs of {updates} updates: ×{ratio:.2f} "
        f"(of {rounds} rounds {min(ratios):.2f} to {max(ratios):.2f}); wanted ×{wanted:g}; "
        f"at least ×{statistics.median(least):.2f} had none been given up\n",
        flush=True,
    )
    return ratio >= wanted


def main() -> None:
    """Prints PASS or FAIL for each claim; ends with 1 where one fails."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--tasks", default="digits,cifar,charlm")
    given.add_argument("--seed", type=int, default=0, help="of the config: other weights, order and validation split")
    given.add_argument("--speed", action="store_true")
    given.add_argument("--updates", default="100,1000")
    given.add_argument("--rounds", type=int, default=3)
    options = given.parse_args()
    use_compile_cache()
    if options.speed:
        passed = [faster(int(updates), options.rounds) for updates in options.updates.split(",")]
    else:
        passed = [judged(task, options.seed) for task in options.tasks.split(",")]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
