"""What acting on the diagnosis brings: healthy runs and runs whose lr is wrong, with and without, by the test metric.

    python benchmarks/act_proof.py --folder runs/act-proof [--cases fault_cases] [--only NAME] [--share 0/2]

The runs are those of the corpus of faulty runs (`fault_cases`) that are healthy, or whose lr is too high, too low, or
stays high: what `act` can mend. Each is trained twice from the same config: with `diagnose.attempts = 0`, and with 2.
All attempts together do no more updates than the one run, which is asserted. Both count with the test score of the
state that is best on the validation split; the error is what is missing to a perfect score, as in the corpus.

The rule of judging was written before any case was run:
- An injected fault counts where it does harm without `act`, by the corpus's rule: an error above the mean of the
  healthy runs of its task with the plain recipe, by more than 15 % of it and more than 0.02.
- `act` is better where its error is lower; equal is not better, and so is a fault that nothing was done about.
- On a healthy run it is worse where its error is higher by more than 0.01, or of a loss, by more than 1 %.
Claimed: better in 80 % of the faulty runs that count, and worse on no healthy one.

What was run is kept in the folder: the same command goes on there; it takes some 10 to 30 s a case on 2 CPU cores.
"""

import argparse
import importlib
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from fault_cases import HEALTHY, Case
from fault_corpus import build
from fault_tasks_4 import TASKS

import jtrain
from jtrain import config as configs
from jtrain.io.cache import use_compile_cache

FAULTS = ("lr_high", "lr_low", "late_lr")
WANTED = 0.8
HARM, HARM_LEAST = 1.15, 0.02
WORSE = 0.01


def trained(case: Case, attempts: int) -> dict[str, Any]:
    """The error on the test split of the best state, None where there is none, and what was done."""
    run = build(case)
    own = run.again(configs.changed(run.config, diagnose__attempts=attempts, log__report=False), run.data)
    run.close()
    study = jtrain.act(own)
    assert study.found["updates"] <= study.found["total"]
    task, score = TASKS[case.task], (study.found.get("test") or {}).get(TASKS[case.task].score)
    error = abs(task.perfect - score) if score is not None and math.isfinite(score) else None
    acts = [{key: one[key] for key in ("kind", "verdict", "after", "text")} for one in study.found["acts"]]
    return {"error": error, "acts": acts, "updates": study.found["updates"], "total": study.found["total"]}


def measured(path: Path, case: Case) -> dict[str, Any]:
    """Both sides of a case, from the folder where they were run before."""
    if path.is_file():
        return json.loads(path.read_text())
    found = {"without": trained(case, 0), "with": trained(case, 2)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found) + "\n")
    return found


def errors(found: dict[str, Any]) -> tuple[float, float]:
    """(without, with); a state that is not finite is worse than any."""
    told = [found[side]["error"] for side in ("without", "with")]
    without, acted = (math.inf if error is None else error for error in told)
    return without, acted


def main() -> int:
    """Runs what is missing, then prints a line for each case and PASS or FAIL for both claims; 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/act-proof"))
    parser.add_argument("--cases", default="fault_cases", help="module whose cases() are run")
    parser.add_argument("--only", default="", help="part of the names of the cases")
    parser.add_argument("--share", default="0/1", help="i/n: every n-th case from i on, for several processes")
    given = parser.parse_args()
    use_compile_cache()
    first, every = map(int, given.share.split("/"))
    wanted = [case for case in importlib.import_module(given.cases).cases() if case.fault in (HEALTHY, *FAULTS)]
    wanted = [case for case in wanted if given.only in case.name][first::every]
    found = {}
    for case in wanted:
        found[case.name] = measured(given.folder / f"{case.name}.json", case)
        without, acted = errors(found[case.name])
        done = ", ".join(f"{one['verdict']}: {one['kind']}" for one in found[case.name]["with"]["acts"])
        print(f"  {case.name:<32} error {without:.4f} → {acted:.4f}  {done or 'nothing done'}", flush=True)
    plain: dict[str, list[float]] = {}
    for case in wanted:
        if case.fault == HEALTHY and set(case.changes) <= {"seed"}:
            plain.setdefault(case.task, []).append(errors(found[case.name])[0])
    better, counted, worse, healthy = 0, 0, [], 0
    for case in wanted:
        without, acted = errors(found[case.name])
        if case.fault == HEALTHY:
            healthy += 1
            margin = WORSE * without if TASKS[case.task].score == "loss" else WORSE
            worse += [f"{case.name} ({without:.4f} → {acted:.4f})"] if acted > without + margin else []
        elif case.task in plain and without > max(HARM * (own := statistics.mean(plain[case.task])), own + HARM_LEAST):
            counted += 1
            better += acted < without
            if acted >= without:
                print(f"  not better: {case.name}")
    share = better / max(1, counted)
    print(f"{'PASS' if share >= WANTED else 'FAIL'}  act is better in {better} of {counted} faulty runs ({share:.0%})")
    print(f"{'FAIL' if worse else 'PASS'}  act is worse on {len(worse)} of {healthy} healthy runs {', '.join(worse)}")
    return 0 if share >= WANTED and not worse else 1


if __name__ == "__main__":
    sys.exit(main())
