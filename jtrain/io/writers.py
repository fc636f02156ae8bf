"""Where numbers and events of a run go: lines of JSON, and TensorBoard files."""

import datetime
import json
import math
import numbers
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtrain.errors import ConfigError, DataError
from jtrain.io.workdir import disk_error, open_append, plain

FLUSH_SECONDS = 10.0  # a TensorBoard flush waits for the disk; not at each row


class JsonlWriter:
    """Rows as lines of JSON, each flushed when written; NaN and infinities become null (JSON has none)."""

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_append(path)
            self._begun = os.fstat(self._file.fileno())
        except OSError as error:
            raise disk_error(path, error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row; raises DataError when the disk refuses it, or the file is no longer where it was."""
        # The replacement of what UTF-8 cannot hold (part of a file name) is a JSON escape.
        line = json.dumps(plain(row), ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        try:
            self._check_place()
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise disk_error(self.path, error) from error

    def sync(self) -> None:
        """Waits until all rows are on the disk; raises DataError as `write` does."""
        try:
            self._check_place()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error

    def close(self) -> None:
        """Ends the file; harmless when closed already."""
        try:
            self._file.close()
        except OSError as error:
            raise disk_error(self.path, error) from error

    def _check_place(self) -> None:
        # A deleted or renamed file takes all that is written into it, and nobody finds it again.
        try:
            is_there = os.path.samestat(os.stat(self.path), self._begun)
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        if not is_there:
            raise DataError(
                f"{self.path}: was moved or deleted while the run wrote it; "
                "put its folder back and start the same command again"
            )


class EventWriter:
    """events.jsonl: what a run did by itself, as rows of time (UTC), step, kind and text. Never cut."""

    def __init__(self, path: Path):
        self._rows = JsonlWriter(path)

    def write(self, kind: str, text: str, step: int | None = None) -> None:
        """Adds an event, on the disk when this returns; `step` is null where an event has none."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._rows.write({"time": now, "step": step, "kind": kind, "text": text})
        self._rows.sync()

    def close(self) -> None:
        """Ends the file."""
        self._rows.close()


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """{'<split>/<metric>': number} of a row, but for its step: those that metrics.jsonl holds as numbers."""
    return {
        f"{row['split']}/{name}": float(number)
        for name, number in row.items()
        if name != "step" and isinstance(number, numbers.Real) and math.isfinite(number)
    }


def check_tensorboard() -> None:
    """Raises ConfigError when tensorboardX is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise ConfigError("log.tensorboard: needs tensorboardX: pip install 'jtrain[tensorboard]'") from error


class TensorBoardWriter:
    """Rows as TensorBoard scalars named `<split>/<metric>`.

    Records go to the file in the caller's thread: tensorboardX's SummaryWriter writes in a thread of
    its own, and when that dies of a full disk, its queue blocks the training for ever.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        """Args:
        folder: gets one event file per run and resume.
        purge_step: TensorBoard hides what older files hold from this step on.

        Raises:
          ConfigError: tensorboardX is not installed.
          DataError: the file cannot be made.
        """
        check_tensorboard()
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        self._event, self._summary = Event, Summary
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = _event_file(folder)
            self._records = RecordWriter(str(self.path))
        except OSError as error:
            raise disk_error(folder, error) from error
        self._flushed = time.monotonic()
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._put(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds the numbers of a row at its `step`; null values, text and tables are left out."""
        values = [
            self._summary.Value(tag=f"{row['split']}/{name}", simple_value=float(number))
            for name, number in row.items()
            if name != "step" and isinstance(number, numbers.Real)
        ]
        self._put(self._event(wall_time=time.time(), step=int(row["step"]), summary=self._summary(value=values)))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Waits until all rows are on the disk."""
        try:
            self._records.flush()
        except OSError as error:
            raise self._error(error) from error
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Ends the file."""
        try:
            self._records.close()
        except OSError as error:
            raise self._error(error) from error

    def _put(self, event: Any) -> None:
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> DataError:
        return disk_error(self.path, error)


def _event_file(folder: Path) -> Path:
    """A new name: TensorBoard reads files in the order of their names, and two may start in one second."""
    number = int(time.time())
    while list(folder.glob(f"events.out.tfevents.{number}.*")):
        number += 1
    return folder / f"events.out.tfevents.{number}.{socket.gethostname()}.{os.getpid()}"
