"""A study's hold on its workdir: what is done is written at once, so that the same command goes on from there."""

import contextlib
import dataclasses
import json
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from jtrain import config_files
from jtrain.assembly import assemble
from jtrain.errors import ConfigError, DataError, HeldError
from jtrain.io.progress import Screen
from jtrain.io.report import NAME, write_report
from jtrain.io.workdir import (
    Workdir,
    disk_error,
    open_append,
    plain,
    remove_leftovers,
    write_text_atomic,
)
from jtrain.run import Run
from jtrain.state import to_flat
from jtrain.studies.study import Study
from jtrain.study_options import STUDY_OPTIONS

PIECES = "study.jsonl"
TURN = 60.0  # seconds in which the others of a shared folder have begun or ended


@dataclasses.dataclass
class Journal:
    """A study on its way.

    Attributes:
      name: of the study.
      run: that it is about; its config holds the study's options.
      options: those of `study_options`, of this study.
      screen: where it tells how far it is.
      folder: the workdir; None writes nothing.
      shared: other processes may be at work in the folder.
    """

    name: str
    run: Run
    options: Any
    screen: Screen
    folder: Path | None
    _done: dict[str, Any]
    shared: bool = False

    def piece(self, key: str, compute: Callable[[], Any]) -> Any:
        """What `compute()` gives, plain JSON; from the workdir, where it was done before. NaN and infinities come back
        as None, at once as later.

        Args:
          key: of the piece: equal keys must mean equal work.
          compute: does it.
        """
        if key not in self._done:
            value = plain(compute())
            if self.folder is not None:
                _append(self.folder / PIECES, {"key": key, "value": value})
            self._done[key] = json.loads(json.dumps(value))
        return self._done[key]

    def has(self, key: str) -> bool:
        """Whether a piece is done."""
        return key in self._done

    def told(self, text: str) -> None:
        """A line on the screen."""
        self.screen.line(text)

    def finish(self, study: Study) -> Study:
        """Shows table and conclusion, writes the result, and gives it back."""
        for line in study.table().splitlines():
            self.screen.line(f"  {line}")
        self.screen.line(f"{self.name}: {study.conclusion}")
        if self.folder is not None:
            with _turn(self.folder) if self.shared else contextlib.nullcontext():
                study.save(self.folder)
                page = [NAME] if self.run.config.log.report and self._report(self.folder) else []
            self.screen.line(f"  files in {self.folder}: {', '.join([*page, 'study.json', 'study.png'])}")
        return study

    def _report(self, folder: Path) -> bool:
        """Whether the page could be written; the study is done, whatever becomes of it."""
        try:
            write_report(folder)
        except Exception as error:
            self.screen.line(f"report: {NAME} was not written: {error!r}")
            return False
        return True


@contextlib.contextmanager
def open_study(
    name: str,
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
    shared: bool = False,
    may_change: Collection[str] = (),
) -> Iterator[Journal]:
    """A study of a config or of an assembled run; with a workdir that holds a part of it, from there.

    Args:
      name: of the study.
      given: a config from `jtrain.config.base()` or `jtrain.load`, or a run of `jtrain.assemble`.
      workdir: folder for study.json, study.png and what is done so far; None writes nothing.
      model: with a config: as `assemble` takes it.
      data: with a config: as `assemble` takes it.
      screen: None shows nothing.
      shared: several processes may be at work in the folder at once: each holds it only while it begins and ends.
      may_change: keys that may differ from what the folder was begun with.

    Raises:
      ConfigError: the workdir holds something else, or `given` is neither.
      DataError: it cannot be written. HeldError: another process holds it.
    """
    screen = screen or Screen.quiet()
    if jax.process_count() > 1:
        raise ConfigError(f"{name}: runs in one process; start it once")
    if isinstance(given, Run):
        if model is not None or data is not None:
            raise ConfigError(f"{name}: a run has its model and data already; give them with a config")
        run = given
    elif isinstance(given, ml_collections.ConfigDict):
        run = assemble(given, model=model, data=data)
    else:
        raise ConfigError(f"{name}: needs a config or a run of jtrain.assemble, got {type(given).__name__}")
    options = STUDY_OPTIONS[name](**run.config.study[name].to_dict())
    with contextlib.ExitStack() as stack:
        stack.callback(run.close)
        stack.callback(screen.close)
        folder, done = None, {}
        if workdir is not None:
            folder = Path(workdir)
            if not (shared and (folder / "lock").exists()):  # else another may just be beginning
                _refuse_other(folder, name, run, may_change, shared)
            with contextlib.ExitStack() as turn:
                (turn if shared else stack).enter_context(_turn(folder) if shared else Workdir(folder))
                _refuse_other(folder, name, run, may_change, shared)
                remove_leftovers(folder, ("config.json", "study.json", "study.png", NAME))
                done = _begin(folder, name, run)
            if done:
                so_far = "1 piece is" if len(done) == 1 else f"{len(done)} pieces are"
                screen.line(f"{name}: goes on in {folder}, {so_far} done")
            else:
                screen.line(f"{name}: in {folder}; stopped, it goes on with --workdir={folder}")
        try:
            yield Journal(name, run, options, screen, folder, done, shared)
        except ConfigError:
            if (
                folder is not None and not shared and _is_bare(folder)
            ):  # refused before any work: nothing is left behind
                for path in (folder / "config.json", folder / PIECES):
                    path.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Holds a shared folder for a moment, once the others have let go of it; raises HeldError when they do not."""
    hold, end = Workdir(folder), time.monotonic() + TURN
    while True:
        try:
            hold.acquire()
            break
        except HeldError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        hold.release()


def study_in(folder: str | Path) -> str:
    """The name of the study that a folder holds, "" for none."""
    return str((_rows(Path(folder) / PIECES) or [{}])[0].get("study", ""))


def _refuse_other(folder: Path, name: str, run: Run, may_change: Collection[str], shared: bool) -> None:
    """Raises ConfigError for a folder that holds something that is not this study."""
    if not folder.is_dir() or not any(p.name != "lock" and ".tmp-" not in p.name for p in folder.iterdir()):
        return
    if _is_bare(folder) and not shared:
        return
    first, path = _rows(folder / PIECES)[:1], folder / "config.json"
    if not first:
        what = "a run" if (folder / "checkpoints").is_dir() else "files"
        raise ConfigError(f"--workdir: {folder} holds {what} but no study; choose a new or empty folder")
    if first[0].get("study") != name:
        raise ConfigError(f"--workdir: {folder} holds another study, {first[0].get('study')}; choose a new folder")
    if not path.is_file():
        raise DataError(f"--workdir: {folder} lost its config.json; choose a new folder")
    for key, (old, new) in config_files.changes(config_files.from_json(path), run.config).items():
        if key not in may_change and (not key.startswith("study.") or key.startswith(f"study.{name}.")):
            raise ConfigError(
                f"{key}: {folder} holds a study with {old!r}, the command says {new!r}; choose another --workdir"
            )
    if first[0].get("data") != run.fingerprint:
        raise ConfigError(f"--workdir: {folder} holds a study of other data; choose another")
    if first[0].get("model") != _model_digest(run):  # of a model that a program gave the config tells nothing
        raise ConfigError(f"--workdir: {folder} holds a study of another model; choose another")


def _is_bare(folder: Path) -> bool:
    """Whether a study has begun in a folder, or was about to, and has done nothing there."""
    names = {path.name for path in folder.iterdir() if ".tmp-" not in path.name} - {"lock"}
    return names <= {"config.json", PIECES} and PIECES in names and len(_rows(folder / PIECES)) <= 1


def _begin(folder: Path, name: str, run: Run) -> dict[str, Any]:
    """{key: value} of the pieces that are done; writes what a new study begins with."""
    rows = _rows(folder / PIECES)
    if len(rows) <= 1 and (not rows or _is_bare(folder)):
        head = json.dumps({"study": name, "data": run.fingerprint, "model": _model_digest(run)})
        write_text_atomic(folder / PIECES, head + "\n")  # first: what has it alone is free for any study
        write_text_atomic(folder / "config.json", config_files.to_json(run.config))
    return {row["key"]: row["value"] for row in rows[1:] if "key" in row}


def _model_digest(run: Run) -> int:
    """By which the model is known again: paths, shapes and types of its parameters and state."""
    arrays = {path: leaf for path, leaf in to_flat(run.shapes).items() if path.startswith(("params/", "model_state/"))}
    return zlib.crc32(repr([(path, leaf.shape, str(leaf.dtype)) for path, leaf in sorted(arrays.items())]).encode())


def _rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; a last one that a kill has torn is none."""
    if not path.is_file():
        return []
    rows = []
    try:
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    except OSError as error:
        raise disk_error(path, error) from error
    return rows


def _append(path: Path, row: dict[str, Any]) -> None:
    try:
        with open_append(path) as file:
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(path, error) from error
