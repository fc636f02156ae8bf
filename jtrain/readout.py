"""The numbers of a run's updates: left on the device until the next ones are under way, then read, added and logged."""

from typing import Any

import jax
import numpy as np

from jtrain import metrics
from jtrain.control import Control
from jtrain.errors import NonFiniteError
from jtrain.flops import make_mfu
from jtrain.io.progress import Screen
from jtrain.io.record import Record
from jtrain.io.stopwatch import Stopwatch
from jtrain.run import Run
from jtrain.step import Sums


class Readout:
    """What has been dispatched but not yet read.

    Attributes:
      suspect: a number that was read is not finite.
    """

    def __init__(self, run: Run, record: Record, screen: Screen, watch: Stopwatch) -> None:
        self.suspect = False
        self._run, self._record, self._screen, self._watch = run, record, screen, watch
        self._mfu = make_mfu(run)
        self._pending: Sums = []  # on the device, since the last boundary
        self._unread: tuple[int, Sums] | None = None  # of updates up to a boundary, still on the device

    def put(self, sums: Sums) -> None:
        """Takes the sums of the next updates, which may still be under way."""
        self._pending += sums

    def bound(self, step: int, control: Control) -> None:
        """Notes that what was put is of the updates up to `step`, to be read later."""
        if self._pending:
            self.read(control)
            self._unread, self._pending = (step, self._pending), []

    def drop(self) -> None:
        """Forgets what was not read."""
        self._pending, self._unread = [], None

    def read(self, control: Control) -> None:
        """Fetches the numbers that were left on the device into `control`; at a log point, writes its row.

        Raises:
          NonFiniteError: more updates were skipped than may be.
        """
        if self._unread is None:
            return
        (step, sums), self._unread = self._unread, None
        skipped = self._add(sums, step, control)
        run = self._run
        if step <= control.logged or (step != run.clock.total and step % run.log_every):
            return
        control.logged = step
        found, control.totals = metrics.means(control.totals, run.task.metrics), {}
        found = {name: value for name, value in found.items() if name not in ("non_finite", "overflow")}
        if self._mfu:
            with self._watch.paused():  # the first time the model is traced
                self._mfu(step - 1, None)
        rate, wait = self._watch.lap(step)
        lrs = run.lrs(step - 1, control.lr_factors)
        row: dict[str, Any] = found | lrs | {"examples_per_second": rate, "data_wait": wait}
        if self._mfu:
            row["mfu"] = self._mfu(step - 1, rate)
        if skipped:
            row["skipped"] = control.skipped + control.overflows
        epoch = run.clock.epoch(step)
        self._record.row(step, epoch, "train", row)
        self._screen.progress(
            step=step, total=run.clock.total, epoch=epoch, rate=rate, loss=row["loss"], lr=row["lr"], wait=wait,
            batch_size=run.batch_size,
        )  # fmt: skip

    def _add(self, sums: Sums, step: int, control: Control) -> bool:
        """Adds fetched sums to the control state; True if this run counts skipped updates."""
        counts, fetched = [count for count, _ in sums], jax.device_get([found for _, found in sums])
        pieces = [
            {name: pair[:count] for name, pair in found.items()} for count, found in zip(counts, fetched, strict=True)
        ]
        found = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        bad = step - sum(counts) + 1 + np.flatnonzero(found["non_finite"][:, 0])
        metrics.add_to(control.totals, found)
        control.overflows += int(found["overflow"][:, 0].sum()) if "overflow" in found else 0
        if self._run.options.on_nan != "skip":
            self.suspect = self.suspect or len(bad) > 0
            return self._run.options.loss_scaling
        control.skipped += len(bad)
        if len(bad):
            text = f"update {bad[0]}: not finite, passed over ({len(bad)} of {sum(counts)})"
            self._record.event("skip", text, step)
        limit = self._run.config.train.on_nan_limit
        if control.skipped > limit:
            raise NonFiniteError(
                f"{control.skipped} updates were skipped up to {step}, more than train.on_nan_limit {limit}"
            )
        return True
