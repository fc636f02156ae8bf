"""The folder `final` of a study: a run with one checkpoint, which `eval`, `predict` and `export` take."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jtrain.errors import DataError
from jtrain.io import shelf
from jtrain.io.manifest import encode, read_manifest
from jtrain.io.workdir import disk_error, write_json_atomic
from jtrain.run import Run
from jtrain.session import place_state
from jtrain.weights_source import read_checkpoint

FINAL = "final"
FILES = ("config.json", "metrics.jsonl", "events.jsonl", "coach.json", "best.json", "curves.png", "report.html")


def make_final(source: Path, step: int, target: Path) -> None:
    """Copies one checkpoint of a run, and what was written about the run, into a folder that is there whole or not. The
    one checkpoint is also the best there.

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
        _call_best(temporary, step)
        temporary.rename(target)
    except OSError as error:
        raise disk_error(target, error) from error


def _call_best(folder: Path, step: int) -> None:
    """Makes the one checkpoint of a folder the best of it: the run's own best may be another, which is not there."""
    path = folder / "checkpoints" / str(step)
    manifest = read_manifest(path, step)
    best = manifest["control"].get("best")
    if not best or best["step"] == step:
        return
    name = best["metric"].partition("/")[2]
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    value = next((row.get(name) for row in rows if row["step"] == step and row["split"] == "val"), None)
    own = None if value is None else best | {"step": step, "value": value}
    (path / "manifest.json").write_bytes(encode(manifest | {"control": manifest["control"] | {"best": own}}))
    (folder / "best.json").unlink(missing_ok=True)
    if own is not None:
        write_json_atomic(folder / "best.json", own)


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


def prune(folder: Path, keep: int, stays: Collection[int]) -> None:
    """Removes all checkpoints of a finished run but the newest and those that are to stay."""
    checkpoints = folder / "checkpoints"
    for step in shelf.steps(checkpoints)[:-keep]:
        if step not in stays:
            shelf.remove(checkpoints, step)


def coach_of(folder: Path) -> dict[str, Any]:
    """What coach.json of a run says; {} where there is none."""
    path = folder / "coach.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found
