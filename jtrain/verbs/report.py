"""`report`: one HTML file that shows a run with its mistakes, a study, or several of them side by side."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtrain import config as configs
from jtrain import config_files
from jtrain.errors import ConfigError, DataError, JtrainError
from jtrain.io.progress import Screen
from jtrain.io.report import COMPARISON, NAME, write_comparison, write_report
from jtrain.io.report.mistakes import Mistakes
from jtrain.io.report.read import Files, read_files
from jtrain.io.report.story import how_it_ended
from jtrain.metrics import METRICS
from jtrain.verbs.report_mistakes import find_mistakes
from jtrain.verbs.restored import moved, open_run, open_state


def report(
    *workdirs: str | Path, screen: Screen | None = None, out: str | Path | None = None, at: str | int = "",
    model: Any = None, data: Any = None, overrides: dict[str, str] | None = None, trust: bool = False,
) -> Path:  # fmt: skip
    """Writes report.html, or comparison.html, and returns its path.

    Of one run: its curves and all that its files say, and, from its state and data, the confusion matrix and the worst
    mistakes. Where these cannot be restored the report is written without them, and says why. Of one study: its answer,
    table and picture. Of several workdirs: one page that compares the runs and lists the studies; folders that hold
    neither are named and passed over.

    Args:
      workdirs: of runs or studies.
      screen: where to show what is done.
      out: the file, or its folder; None: report.html in the workdir; for several comparison.html in the folder that
        they are all in, or in the current one where that is / or cannot be written to.
      at: of one run, the state whose mistakes are shown: latest, best, or a step; '': the one that was tested.
      model: as `assemble` takes it, for a run that was given one.
      data: likewise.
      overrides: {dotted key: text} on top of the run's config, for devices and where the data is.
      trust: take the parts "module:Name" that the run's config.json names: they are imported and called.

    Raises:
      ConfigError: no workdir is given. DataError: none of them holds a run or a study; the file cannot be written.
    """
    screen = screen or Screen.quiet()
    if not workdirs:
        raise ConfigError("report: needs the folder of a run or study, or several: jtrain report runs/*")
    if not all(isinstance(workdir, str | Path) for workdir in workdirs):
        raise ConfigError("report: takes folders one by one: jtrain.report(*folders)")
    folders = list(dict.fromkeys(Path(workdir) for workdir in workdirs))
    if len(folders) > 1:
        path = _compare(folders, out, screen)
    else:
        path = _show(
            folders[0], out, screen, at, {"model": model, "data": data, "overrides": overrides, "trust": trust}
        )
    screen.line(f"report: {path}")
    return path


def _show(folder: Path, out: str | Path | None, screen: Screen, at: str | int, given: dict[str, Any]) -> Path:
    """The report of one workdir."""
    files = read_files(folder)
    if not files.kind:
        there = (folder / "config.json").is_file()
        why = "its config.json is damaged" if there else "no config.json"
        raise DataError(f"--workdir: {folder} holds neither a run nor a study ({why})")
    place = _file(out, folder / NAME)
    mistakes = None
    if files.kind == "run" and any((folder / "checkpoints").glob("[0-9]*")):
        mistakes = _mistakes(files, screen, at, given)
    return write_report(folder, mistakes=mistakes, defaults=_defaults(folder), out=place)


def _mistakes(files: Files, screen: Screen, at: str | int, given: dict[str, Any]) -> Mistakes | None:
    """Where the run's state is wrong; where it cannot be had, why."""
    wanted = at or ("best" if how_it_ended(files)[0] == "early_stopping" else "latest")
    try:
        with contextlib.closing(open_run(files.folder, **given)) as run:
            own = "" if "test" in run.feeds or given["data"] is not None or moved(given["overrides"]) else "val"
            state = open_state(run, files.folder, wanted, screen=screen, held_out=own)
            return find_mistakes(run, state)
    except JtrainError as error:
        if at and isinstance(error, ConfigError | DataError) and "--at" in str(error):
            raise
        text = " ".join(str(error).split())
        screen.line(f"report: without mistakes: {text}")
        return Mistakes(note=f"The mistakes of this run are not shown, as it could not be restored: {text}.")


def _compare(folders: list[Path], out: str | Path | None, screen: Screen) -> Path:
    """The page of several workdirs."""
    found, skipped = [], []
    for folder in folders:
        if folder.is_dir() and read_kind(folder):
            found.append(folder)
        elif folder.is_dir():
            skipped.append(f"{folder}: holds neither a run nor a study; it is left out.")
        elif not folder.is_file():  # of runs/* whatever else lies there
            skipped.append(f"{folder}: there is no such folder; it is left out.")
    for text in skipped:
        screen.line(f"report: {text}")
    if not found:
        raise DataError(f"{', '.join(map(str, folders[:5]))}: none of them holds a run or a study")
    common = Path(os.path.commonpath([folder.absolute().parent for folder in found]))
    lower = {name: not metric.higher_is_better for name, metric in METRICS.items()}
    own = common == Path(common.anchor) or not os.access(common, os.W_OK)
    place = _file(out, (Path.cwd() if own else common) / COMPARISON)
    return write_comparison(found, place, skipped=skipped, lower=lower)


def read_kind(folder: Path) -> str:
    """'run', 'study', or '' for a folder that holds neither."""
    if (folder / "study.json").is_file() or (folder / "study.jsonl").is_file():
        return "study"
    return "run" if (folder / "config.json").is_file() else ""


def _defaults(folder: Path) -> Mapping[str, Any] | None:
    """{key: default} of the options that differ from it; None for a config that cannot be read."""
    try:
        config = config_files.from_json(folder / "config.json")
    except JtrainError:
        return None
    return {key: default for key, (default, _) in config_files.changes(configs.base(), config).items()}


def _file(out: str | Path | None, usual: Path) -> Path:
    """Where the page goes; raises DataError when its folder cannot be made."""
    if out is None:
        return usual
    path = Path(out)
    if str(out).endswith(os.sep) or path.is_dir():
        path = path / usual.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out={out}: cannot make the folder {path.parent}: {error.strerror}") from error
    return path
