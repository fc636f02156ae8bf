"""What a run leaves behind: rows, events and checkpoints; without a folder, rows in memory alone."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtrain.errors import DataError
from jtrain.io.checkpoint import Abstract, Checkpoints, Restored
from jtrain.io.contents import await_folder
from jtrain.io.environment import write_end
from jtrain.io.hosted import Hosted
from jtrain.io.manifest import Damaged, digest_of
from jtrain.io.plots import curves
from jtrain.io.progress import Screen
from jtrain.io.services import open_services
from jtrain.io.workdir import cut_rows, remove_leftovers, write_json_atomic
from jtrain.io.writers import EventWriter, JsonlWriter, TensorBoardWriter
from jtrain.peers import ALONE, Peers

# Files of a run that are written as a whole.
REPLACED = (
    "config.json", "metrics.jsonl", "best.json", "curves.png", "report.html", "run.json", "coach.json", "wandb.json",
    "mlflow.json",
)  # fmt: skip


class Record:
    """The files of one run, opened for writing. Of several processes the first writes all but the checkpoints.

    Args:
      folder: the workdir, held by the caller; None keeps rows in memory and saves nothing.
      screen: where events and evaluations are shown.
      keep: newest checkpoints to keep, beside the best.
      tensorboard: also write event files.
      services: targets of logging services by name, as of `check_services`; '' is off.
      config: all options by dotted key, for the services.
      peers: the processes of the run, which all make the same calls.

    Attributes:
      rows: of metrics.jsonl.
      ended: to be set when the run has come to its end, which is what the services are told on `close`.
    """

    def __init__(
        self, folder: Path | None, *, screen: Screen, keep: int = 1, tensorboard: bool = False,
        services: Mapping[str, str] | None = None, config: Mapping[str, Any] | None = None, peers: Peers = ALONE,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.ended = False
        self._began = time.monotonic()
        self._peers = peers
        self.rows: list[dict[str, Any]] = []
        self._screen = screen
        self._tensorboard_wanted = tensorboard
        self._metrics: JsonlWriter | None = None
        self._events: EventWriter | None = None
        self._tensorboard: TensorBoardWriter | None = None
        self._services, self._config = services or {}, config or {}
        self._hosted: list[Hosted] = []
        self._checkpoints: Checkpoints | None = None
        if folder is not None:
            if peers.leads:
                self._events = EventWriter(folder / "events.jsonl")
            self._checkpoints = Checkpoints(folder / "checkpoints", keep=keep, event=self.event, peers=peers)
            if peers.leads:
                self._checkpoints.clean()
                remove_leftovers(folder, REPLACED)

    def restore(self, abstract: Abstract) -> Restored | None:
        """The newest whole checkpoint, or None when there is none; for all processes the one that the first found."""
        if self._checkpoints is None:
            return None
        restored = self._checkpoints.restore(None, abstract) if self._peers.leads else None
        found = self._peers.first("restore", [restored.step, self.digest(restored.step)] if restored else None)
        if self._peers.leads or found is None:
            return restored
        step, digest = found
        return self.restore_same(step, digest, abstract)

    def restore_newest(self, abstract: Abstract) -> Restored | None:
        """The newest whole checkpoint as this process alone finds it."""
        assert self._checkpoints is not None
        return self._checkpoints.restore(None, abstract)

    def restore_same(self, step: int, digest: str, abstract: Abstract) -> Restored:
        """The checkpoint that the first process restored; raises DataError where it is not the same here."""
        assert self._checkpoints is not None
        assert self.folder is not None
        try:
            await_folder(self.folder / "checkpoints" / str(step))
        except Damaged as error:
            raise DataError(str(error)) from error
        if self.digest(step) != digest:
            raise DataError(
                f"{self.folder}: process {self._peers.process} finds another checkpoint {step} there than process 0; "
                "the workdir must be on a file system that all processes share"
            )
        restored = self._checkpoints.restore(step, abstract)
        assert restored is not None
        return restored

    def digest(self, step: int) -> str:
        """By which a checkpoint is known again: a checksum of its manifest, which has checksums of all else."""
        assert self.folder is not None
        return digest_of(self.folder / "checkpoints" / str(step))

    def restore_step(self, step: int) -> Restored:
        """A checkpoint of this run; raises DataError when it is missing or damaged."""
        assert self._checkpoints is not None
        restored = self._checkpoints.restore(step, None)
        assert restored is not None
        return restored

    def keep_rows(self, count: int, step: int) -> None:
        """Cuts metrics.jsonl back to its first `count` rows, those of the restored `step`, and opens it.

        A file that has lost rows is put aside: the checkpoints are worth more than the log.
        """
        if self.folder is None or not self._peers.leads:
            self.rows = []
            return
        for writer in (self._metrics, self._tensorboard):
            if writer:
                writer.close()
        path = self.folder / "metrics.jsonl"
        try:
            self.rows = cut_rows(path, count)
        except DataError as error:
            aside = path.with_name("metrics.damaged.jsonl")
            if path.exists():
                path.replace(aside)
            self.event("metrics", f"{error}; a new file is begun, what was there is in {aside.name}", step)
        self._metrics = JsonlWriter(path)
        if self._tensorboard_wanted:
            self._tensorboard = TensorBoardWriter(self.folder / "tensorboard", purge_step=step + 1 if step else None)
        for hosted in self._hosted:
            hosted.cut(self.rows)
        self._hosted = self._hosted or open_services(self._services, self.folder, self._config, self.rows)

    def put_rows_aside(self) -> int:
        """Keeps the rows of a run that begins again under another name; returns how many there were."""
        assert self.folder is not None
        path = self.folder / "metrics.jsonl"
        count = len(path.read_bytes().splitlines()) if path.exists() else 0
        if count:
            path.replace(path.with_name("metrics.before.jsonl"))
        return count

    def row(self, step: int, epoch: float, split: str, values: dict[str, Any]) -> None:
        """Writes one row of metrics."""
        row = {"step": step, "epoch": round(epoch, 6), "split": split} | values
        self.rows.append(row)
        if self._metrics:
            self._metrics.write(row)
        if self._tensorboard:
            self._tensorboard.write(row)
        for hosted in self._hosted:
            hosted.added()
        if split != "train" and self._peers.leads:
            self._screen.row(row)

    def event(self, kind: str, text: str, step: int | None = None) -> None:
        """One line in events.jsonl and on the screen; of other processes than the first, only what they alone know."""
        if self._events:
            self._events.write(kind, text, step)
        if self._peers.leads:
            self._screen.line(f"{kind}: {text}")
        elif kind == "data":
            self._screen.line(f"process {self._peers.process}: {kind}: {text}")

    def best(self, best: dict[str, Any]) -> None:
        """Writes best.json."""
        if self.folder is not None and self._peers.leads:
            write_json_atomic(self.folder / "best.json", best)

    def save(
        self, step: int, state: dict[str, Any], control: dict[str, Any], *, best_step: int | None, block: bool
    ) -> None:
        """Saves a checkpoint; the rows so far are safe on the disk before it counts."""
        if self._checkpoints:
            if self._metrics:
                self._metrics.sync()
            control = control | {"rows": len(self.rows)}
            self._checkpoints.save(step, state, control, best_step=best_step, block=block)

    def newest_step(self) -> int | None:
        """The newest committed checkpoint."""
        if not self._checkpoints:
            return None
        self._checkpoints.wait()
        return max(self._checkpoints.steps(), default=None)

    def draw(self, watch: str, *, step: int, report: bool) -> None:
        """Writes curves.png from the rows so far, the end of this session in run.json, and report.html where it is
        wanted; what fails is an event, not the end of a run."""
        if self.folder is None or not self._peers.leads:
            return
        try:
            write_end(self.folder, step=step, seconds=time.monotonic() - self._began)
            if report:
                from jtrain.io.report import write_report  # not before: a start takes less time without it

                write_report(self.folder, rows=self.rows)
        except Exception as error:
            self.event("report", f"report.html was not written: {error!r}")
        if not self.rows:
            return
        try:
            curves(self.rows, self.folder / "curves.png", title=self.folder.name, metric=watch)
        except Exception as error:
            self.event("curves", f"curves.png was not drawn: {error!r}")

    def poll(self) -> None:
        """Raises DataError if a save under way has failed; tells what became of the logging services."""
        if self._checkpoints:
            self._checkpoints.poll()
        self._tell_news()

    def wait(self) -> None:
        """Waits for the save under way; raises DataError if it failed."""
        if self._checkpoints:
            self._checkpoints.wait()

    def _tell_news(self) -> None:
        for hosted in self._hosted:
            for text in hosted.news():
                self.event(hosted.name, text)

    def close(self) -> None:
        """Ends the writers and waits for a save under way, and a little for the logging services."""
        try:
            if self._checkpoints:
                self._checkpoints.close()
            for hosted in self._hosted:
                hosted.end(finished=self.ended)
            for hosted in self._hosted:
                hosted.close()
            self._tell_news()
        finally:
            for writer in (self._metrics, self._events, self._tensorboard):
                if writer:
                    writer.close()


def measured(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of an evaluation's row."""
    return {name: value for name, value in row.items() if name not in ("step", "epoch", "split")}
