"""The folder `final` of a study: a run with one checkpoint, which `eval`, `predict` and `export` take."""

import json
import shutil
from pathlib import Path
from typing import Any

from jtrain.errors import DataError
from jtrain.io import shelf
from jtrain.io.workdir import disk_error
from jtrain.run import Run
from jtrain.session import place_state
from jtrain.weights_source import read_checkpoint

FINAL = "final"
FILES = ("config.json", "metrics.jsonl", "events.jsonl", "coach.json", "best.json", "curves.png", "report.html")


def make_final(source: Path, step: int, target: Path) -> None:
    """Copies one checkpoint of a run, and what was written about the run, into a folder that is there whole or not.

    Args:
      source: workdir of the run.
      step: of the checkpoint.
      target: the new folder; left as it is where it is there.

    Raises:
      DataError: there is no such checkpoint, or the copy cannot be written.
    """
    if target.is_dir():
        return
    if step not in shelf.steps(source / "checkpoints"):
        raise DataError(f"{source}: lost its checkpoint {step}; choose a new --workdir")
    temporary = target.with_name(f".{target.name}.tmp-copy")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source / "checkpoints" / str(step), temporary / "checkpoints" / str(step))
        for name in FILES:
            if (source / name).is_file():
                shutil.copy2(source / name, temporary / name)
        temporary.rename(target)
    except OSError as error:
        raise disk_error(target, error) from error


def measure_final(run: Run, folder: Path) -> dict[str, dict[str, float]]:
    """Scalar metrics of the one state of a final folder on the validation and test splits, for those there are."""
    restored = read_checkpoint(folder, "latest", key="--workdir", event=lambda kind, text: None, abstract=run.abstract)
    state = place_state(run, restored)
    found: dict[str, dict[str, float]] = {}
    for split in ("val", "test"):
        if split in run.feeds:
            values: dict[str, Any] = run.evaluate(state, split)
            found[split] = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    return found


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Removes all checkpoints of a finished run but the newest and the best."""
    checkpoints = folder / "checkpoints"
    for step in shelf.steps(checkpoints)[:-keep]:
        if step != best:
            shelf.remove(checkpoints, step)


def coach_of(folder: Path) -> dict[str, Any]:
    """What coach.json of a run says; {} where there is none."""
    path = folder / "coach.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found
