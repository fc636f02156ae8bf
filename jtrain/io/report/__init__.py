"""report.html: one file that shows a run, a study, or several of them; it loads nothing and needs no server."""

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtrain.errors import DataError
from jtrain.io.environment import environment, without_home
from jtrain.io.report import coach as coach_part
from jtrain.io.report import compare as compare_part
from jtrain.io.report import made as made_part
from jtrain.io.report import mistakes as mistakes_part
from jtrain.io.report import story as story_part
from jtrain.io.report import study as study_part
from jtrain.io.report.curves import curves
from jtrain.io.report.html import is_number, page, section, table
from jtrain.io.report.mistakes import Mistakes
from jtrain.io.report.read import Files, Row, read_files
from jtrain.io.report.style import SCRIPT, STYLE
from jtrain.io.workdir import write_text_atomic

NAME, COMPARISON = "report.html", "comparison.html"


def write_report(
    folder: str | Path, *, rows: Sequence[Row] | None = None, mistakes: Mistakes | None = None,
    defaults: Mapping[str, Any] | None = None, out: Path | None = None,
) -> Path:  # fmt: skip
    """Writes the report of a workdir from its files: of a run, finished or not, or of a study.

    Args:
      folder: the workdir.
      rows: of its metrics.jsonl, where they are at hand.
      mistakes: from `jtrain.verbs.report`, which has the run's state; None leaves them out.
      defaults: {key: default} of the options that differ from it; None: as run.json has it.
      out: the file; None: report.html in the folder.

    Returns:
      The file that was written.

    Raises:
      DataError: the folder holds neither a run nor a study, or the file cannot be written.
    """
    folder = Path(folder)
    files = read_files(folder, rows)
    if not files.kind:
        raise DataError(f"{folder}: holds neither a run nor a study; a run's folder has a config.json")
    path = out or folder / NAME
    if files.kind == "study":
        head, parts = study_part.headline(files), study_part.sections(files)
    else:
        head, parts = story_part.headline(files), _of_run(files, mistakes)
    parts += [made_part.config(files, defaults), made_part.environment(files), made_part.command(files)]
    write_text_atomic(path, _page(files.name, head, parts))
    return path


def write_comparison(
    folders: Sequence[Path], out: Path, *, skipped: Sequence[str] = (), lower: Mapping[str, bool] | None = None
) -> Path:
    """Writes one page that compares several runs; studies among them are listed.

    Args:
      folders: workdirs.
      out: the file.
      skipped: of folders that were passed over, why.
      lower: metric -> whether less of it is better; of a loss it always is.

    Returns:
      The file that was written.

    Raises:
      DataError: none of them holds a run or a study, or the file cannot be written.
    """
    found = [read_files(folder) for folder in folders]
    passed = [f"{files.folder}: holds neither a run nor a study; it is left out." for files in found if not files.kind]
    runs, studies = ([files for files in found if files.kind == kind] for kind in ("run", "study"))
    if not runs and not studies:
        raise DataError(f"{', '.join(map(str, folders))}: none of them holds a run or a study")
    rank = _rank(runs)
    sign = 1 if rank[1] == "loss" or (lower or {}).get(rank[1], False) else -1

    def key(files: Files) -> tuple[bool, float, float]:
        value, loss = compare_part.score(files, rank), files.at(rank[0]).get("loss")
        return value is None, sign * (value or 0.0), loss if is_number(loss) else math.inf

    runs.sort(key=key)
    head = compare_part.headline(runs, studies, [*skipped, *passed], rank)
    title = f"{len(runs) + len(studies)} {'runs' if not studies else 'studies' if not runs else 'folders'} compared"
    write_text_atomic(out, _page(title, head, compare_part.sections(runs, studies, rank, out)))
    return out


def _of_run(files: Files, mistakes: Mistakes | None) -> list[str]:
    names = [split for split in ("train", "val", "test") if files.at(split)]
    results = story_part.results(files)
    words = {"train": "training", "val": "validation"}
    head = ["metric", *(words.get(split, split) for split in names)]
    shown = table(head, results, caption="The last value of each metric on each split") if names else ""
    return [
        section("curves", "Curves", curves(files)),
        section("results", "Results", shown),
        coach_part.diagnosis(files),
        coach_part.lint(files),
        coach_part.noise(files),
        *(mistakes_part.sections(mistakes) if mistakes else ()),
    ]


def _rank(runs: Sequence[Files]) -> tuple[str, str]:
    """(split, metric) that half the runs, or most, can be ordered by: the metric that most of them watch, else the
    loss; on 'val' before 'test', by which nobody is to choose."""
    watched = [files.watch for files in runs]
    common = max(dict.fromkeys(watched), key=watched.count, default="loss")
    choices = [(split, metric) for metric in (common, "loss") for split in ("val", "test", "train")]
    counts = [sum(compare_part.score(files, rank) is not None for files in runs) for rank in choices]
    enough = [rank for rank, count in zip(choices, counts, strict=True) if 2 * count >= len(runs) and count]
    return enough[0] if enough else choices[counts.index(max(counts))]


def _page(title: str, head: str, parts: Sequence[str]) -> str:
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    foot = f"Written by jtrain {environment()['jtrain']} on {now}. This file loads nothing from anywhere."
    return without_home(page(title, head, list(parts), style=STYLE, script=SCRIPT, foot=foot))
