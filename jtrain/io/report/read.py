"""What a workdir's files say, for a report: whatever is damaged or missing is left out and told, never raised."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtrain.durations import Duration
from jtrain.io.contents import Damaged
from jtrain.io.environment import read_environment
from jtrain.io.manifest import read_manifest
from jtrain.io.report.html import is_number

Row = Mapping[str, Any]
MOST_PICTURE = 1 << 20  # bytes of study.png that go into a page


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of one workdir.

    Attributes:
      name: of its folder.
      folder: where it is.
      config: dotted key -> value.
      rows: of metrics.jsonl, each with a whole `step`; in the order of the file.
      events: of events.jsonl.
      best: of best.json.
      coach: of coach.json.
      made: of run.json.
      study: of study.json.
      kind: 'run', 'study', or '' for neither.
      pieces: of study.jsonl: how much of a study is done.
      picture: study.png.
      notes: what could not be read.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    rows: Sequence[Row]
    events: Sequence[Row]
    best: Mapping[str, Any]
    coach: Mapping[str, Any]
    made: Mapping[str, Any]
    study: Mapping[str, Any]
    kind: str
    pieces: int
    picture: bytes
    notes: Sequence[str]

    @functools.cached_property
    def last(self) -> int:
        """The last update that any row is of."""
        return max((row["step"] for row in self.rows), default=0)

    @functools.cached_property
    def total(self) -> int | None:
        """Updates of the whole run; None where no file says it."""
        if is_number(self.made.get("total")):
            return int(self.made["total"])
        try:
            duration = Duration.parse(str(self.config.get("train.total", "")))
        except ValueError:
            return None
        if duration.unit == "steps":
            return int(duration.amount)
        per_epoch = self.updates_per_epoch
        if duration.unit == "examples" and is_number(size := self.config.get("train.batch_size")) and size:
            return -int(-duration.amount // int(size))
        return round(float(duration.amount) * per_epoch) if per_epoch and duration.unit == "epochs" else None

    @functools.cached_property
    def updates_per_epoch(self) -> float | None:
        """As the rows have it."""
        for row in reversed(self.rows):
            if row["step"] > 0 and is_number(row.get("epoch")) and row["epoch"] > 0:
                return float(row["step"] / row["epoch"])
        return None

    @functools.cached_property
    def watch(self) -> str:
        """The metric by which the best is chosen, such as 'accuracy'; the first there is where none is."""
        metric = self.best.get("metric")
        if isinstance(metric, str) and metric:
            return metric.partition("/")[2] or metric
        return next(iter(self.metrics), "loss")

    @functools.cached_property
    def metrics(self) -> list[str]:
        """Names of the metrics, the watched one first."""
        names: dict[str, None] = {}
        for row in self.rows:
            for name, value in row.items():
                if name not in NO_METRICS and not name.startswith(("lr/", "ema/")) and is_number(value):
                    names[name] = None
        metric = str(self.best.get("metric", "")).partition("/")[2].removeprefix("ema/")
        return sorted(names, key=lambda name: name != metric)

    def at(self, split: str) -> Row:
        """The last row of a split; {} where there is none."""
        return next((row for row in reversed(self.rows) if row.get("split") == split), {})


NO_METRICS = {
    "step", "epoch", "split", "loss", "lr", "grad_norm", "examples_per_second", "data_wait", "mfu", "time", "seconds",
}  # fmt: skip


def read_files(folder: Path, rows: Sequence[Row] | None = None) -> Files:
    """All that a report is made from.

    Args:
      folder: the workdir.
      rows: those of metrics.jsonl, where they are at hand.
    """
    notes: list[str] = []
    config = _flat(_object(folder / "config.json", notes))
    found = [dict(row) for row in rows] if rows is not None else _lines(folder / "metrics.jsonl", notes)
    found = [row for row in found if isinstance(row.get("step"), int) and row["step"] >= 0]
    pieces = _lines(folder / "study.jsonl", [])
    study = _object(folder / "study.json", notes)
    if pieces and not study:
        study = {"study": str(pieces[0].get("study", "a study"))}
    kind = "study" if study else "run" if config and (found or not pieces) else ""
    made = read_environment(folder)
    if (folder / "run.json").is_file() and not made:
        notes.append("run.json cannot be read")
    if not made and kind == "run":
        made = _of_checkpoint(folder)
    picture = b""
    if kind == "study":
        with contextlib.suppress(OSError):
            if (folder / "study.png").stat().st_size <= MOST_PICTURE:
                picture = (folder / "study.png").read_bytes()
            else:
                notes.append(f"study.png is larger than {MOST_PICTURE:,} bytes: it is not shown here")
    name = folder.name or folder.resolve().name
    return Files(
        name, folder, config, found, _lines(folder / "events.jsonl", notes), _object(folder / "best.json", notes),
        _object(folder / "coach.json", notes), made, study, kind, max(0, len(pieces) - 1), picture, tuple(notes),
    )  # fmt: skip


def _object(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        pass
    notes.append(f"{path.name} cannot be read")
    return {}


def _lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; a line that a kill has torn is none."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
        return []
    rows, torn = [], 0
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line.strip():
            torn += 1
    if torn:
        notes.append(f"{path.name}: {torn:,} {'line is' if torn == 1 else 'lines are'} torn or damaged, and left out")
    return rows


def _flat(config: Mapping[str, Any], prefix: str = "", levels: int = 32) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and levels:
            found |= _flat(value, f"{prefix}{key}.", levels - 1)
        else:
            found[f"{prefix}{key}"] = value
    return found


def _of_checkpoint(folder: Path) -> dict[str, Any]:
    """Devices and data of a run that left no run.json, as its newest checkpoint has them."""
    steps = [path for path in folder.glob("checkpoints/*") if path.name.isdecimal()]
    for path in sorted(steps, key=lambda path: -int(path.name))[:1]:
        with contextlib.suppress(Damaged):
            control = read_manifest(path, int(path.name))["control"]
            return {key: control[key] for key in ("devices", "data") if control.get(key)}
    return {}
