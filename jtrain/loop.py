"""The one training loop: restore, step, log, evaluate, checkpoint, finish."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from jtrain import mesh as meshes
from jtrain import metrics, session
from jtrain.control import Control
from jtrain.describe import forecast, header
from jtrain.errors import ConfigError, Interrupted, NonFiniteError
from jtrain.evaluation import Aborted
from jtrain.failure import explain
from jtrain.io.progress import Screen
from jtrain.io.record import Record, measured
from jtrain.io.stopwatch import Stopwatch
from jtrain.run import Result, Run
from jtrain.signals import Signals
from jtrain.state import TrainState, to_flat
from jtrain.step import advance
from jtrain.supervise import Supervisor

READ_EVERY = 100  # updates: at least so often are numbers fetched, so that a NaN is noticed
LONG_RUN = 30 * 60  # seconds: from here on the smaller recipe is named early


def train(
    run: Run,
    workdir: str | Path | None = None,
    *,
    screen: Screen | None = None,
    force: bool = False,
    branch: str = "",
) -> Result:
    """Trains a run to its end; with a workdir that holds a part of it, from there.

    Args:
      run: from `jtrain.assemble`.
      workdir: folder for checkpoints, metrics.jsonl and the rest; None writes nothing.
      screen: where progress is shown; None shows nothing.
      force: resume although the workdir's config or data differ in what must not change.
      branch: 'OLD', 'OLD@best' or 'OLD@STEP': a new workdir begins with that state of another run.

    Raises:
      NonFiniteError: the loss or the gradient is not finite; earlier checkpoints stay.
      Interrupted: SIGTERM or Ctrl-C; the state of that very step is in the workdir.
      ConfigError, DataError, HeldError: the workdir cannot be used; nothing is written.
    """
    screen = screen or Screen.quiet()
    if not isinstance(run, Run):
        raise ConfigError(f"train: needs a run of jtrain.assemble(config), got {type(run).__name__}")
    supervisor = Supervisor.of(run)
    with (
        contextlib.closing(screen),
        Signals(active=workdir is not None) as signals,  # first: restoring and compiling take time
        session.open_record(run, workdir, screen, force=force, branch=branch) as (record, state, control),
    ):
        return _Training(run, record, screen, control, signals, supervisor).to_the_end(state)


class _Training:
    """One run on its way: what has been dispatched but not yet read, and the control state."""

    def __init__(
        self, run: Run, record: Record, screen: Screen, control: Control, signals: Signals, supervisor: Supervisor
    ) -> None:
        self.run = run
        self.record = record
        self.screen = screen
        self.control = control
        self.signals = signals
        self.supervisor = supervisor
        self.total = run.clock.total
        self.pending: list[metrics.Sums] = []  # on the device, since the last log point
        self.unread: tuple[int, list[metrics.Sums]] | None = None  # numbers up to a step, still on the device
        self.suspect = False  # a number that was read is not finite
        self.best: TrainState | None = None  # kept here only where early stopping has no workdir to keep it
        self.block = meshes.must_block(run.mesh)
        self.watch = Stopwatch(run.batch_size)

    def to_the_end(self, state: TrainState) -> Result:
        for line in header(self.run, self.record.folder):
            self.screen.line(line)
        step = int(state.step)
        if step:
            self.record.event("resume", f"update {step} of {self.total}, from its checkpoint", step)
        while True:
            state, step = self.at_boundary(state, step)
            if step == self.total or self.control.stopped:
                return self.finish(state, step)
            state, step = self.forward(state, step)

    def forward(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """Runs to the next step at which anything is due, or to the step that a signal or a NaN stops."""
        stop = self.run.next_stop(step, READ_EVERY)

        def on_step(done: int, sums: metrics.Sums) -> bool:
            self.read()
            if self.watch.starting:
                jax.block_until_ready(sums)
                self.tell_time(done)
            return self.suspect or self.stopped()

        states, sums, done = advance(
            self.run.phase(step).train_step, [state], [self.give], step, stop, block=self.block, on_step=on_step
        )
        self.pending += sums[0]
        if done == self.run.phase(done).start:
            return self.enter(states[0], done), done
        return states[0], done

    def enter(self, state: TrainState, step: int) -> TrainState:
        """The state in the next phase; but what failed before it is looked at in the form that it failed in."""
        self.read()
        self.unread, self.pending = (step, self.pending), []
        self.read()
        if self.suspect:
            return state
        self.record.event("phase", f"{self.run.phase_words(step)} from update {step} on", step)
        return self.run.enter(state, step)

    def give(self, step: int) -> tuple[Any, Any]:
        with self.watch.waiting():
            return self.run.feeds["train"].train_batch(self.run.order, step)

    def at_boundary(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """Does what is due after `step` updates: log, evaluate, save; or saves and leaves after a signal."""
        last = step == self.total
        self.record.poll()
        for feed in self.run.feeds.values():
            for text in feed.news():
                self.record.event("data", text, step)
        if self.pending:
            self.read()
            self.unread, self.pending = (step, self.pending), []
        evaluating = step > self.control.evaluated and (last or step % self.run.eval_every == 0)
        saving = step > 0 and (last or step % self.run.save_every == 0)
        if evaluating or saving or self.suspect or self.stopped():
            self.read()
        if self.suspect:
            self.suspect = False
            failed = int(state.extra["failed"]) if "failed" in state.extra else -1
            if failed >= 0:
                return self.failed(state, failed)
        if self.stopped():
            self.leave(state, step)
        improved = False
        if evaluating and "val" in self.run.feeds:
            improved = self.evaluate(state, step)
            state = session.with_lr_scale(self.run, state, self.control)
        if saving or improved or (self.control.stopped and evaluating):
            self.save(state, step)
        return state, step

    def read(self) -> None:
        """Fetches the numbers that were left on the device; at a log point, writes its row."""
        if self.unread is None:
            return
        (step, sums), self.unread = self.unread, None
        skipped = self.add(sums, step)
        if step <= self.control.logged or (step != self.total and step % self.run.log_every):
            return
        self.control.logged = step
        found, self.control.totals = metrics.means(self.control.totals, self.run.task.metrics), {}
        found = {name: value for name, value in found.items() if name not in ("non_finite", "overflow")}
        rate, wait = self.watch.lap(step)
        lrs = self.run.lrs(step - 1, self.control.lr_factors)
        row: dict[str, Any] = found | lrs | {"examples_per_second": rate, "data_wait": wait}
        if skipped:
            row["skipped"] = self.control.skipped + self.control.overflows
        epoch = self.run.clock.epoch(step)
        self.record.row(step, epoch, "train", row)
        self.screen.progress(
            step=step, total=self.total, epoch=epoch, rate=rate, loss=row["loss"], lr=row["lr"], wait=wait,
            batch_size=self.run.batch_size,
        )  # fmt: skip

    def add(self, sums: list[metrics.Sums], step: int) -> bool:
        """Adds fetched sums to the control state; True if this run counts skipped updates."""
        fetched = jax.device_get(sums)
        bad = [step - len(fetched) + i + 1 for i, found in enumerate(fetched) if found["non_finite"][0]]
        metrics.add_to(self.control.totals, fetched)
        self.control.overflows += sum(int(found["overflow"][0]) for found in fetched if "overflow" in found)
        if self.run.options.on_nan != "skip":
            self.suspect = self.suspect or bool(bad)
            return self.run.options.loss_scaling
        self.control.skipped += len(bad)
        if bad:
            self.record.event("skip", f"update {bad[0]}: not finite, passed over ({len(bad)} of {len(sums)})", step)
        limit = self.run.config.train.on_nan_limit
        if self.control.skipped > limit:
            raise NonFiniteError(
                f"{self.control.skipped} updates were skipped up to {step}, more than train.on_nan_limit {limit}"
            )
        return True

    def failed(self, state: TrainState, update: int) -> tuple[TrainState, int]:
        """The gradient of `update` (from 0) is not finite, and the state has stood still since."""
        limit = self.run.config.train.on_nan_limit
        if self.run.options.on_nan == "rollback" and self.control.rollbacks < limit:
            return self.roll_back(update)
        saved, lr = self.record.newest_step(), self.run.lrs(update, self.control.lr_factors)["lr"]
        text = explain(self.run, state, update, folder=self.record.folder, saved=saved, lr=lr)
        self.record.event("non_finite", text, update)
        raise NonFiniteError(text)

    def roll_back(self, update: int) -> tuple[TrainState, int]:
        """Goes back to the last good checkpoint (or the start) with a smaller lr."""
        before, rollbacks = self.control.lr_factors, self.control.rollbacks + 1
        old = before.get("rollback", 1.0)
        own = {"user": before["user"], "rollback": old * self.run.config.train.rollback_scale}
        self.record.wait()
        state, self.control = session.restore_again(self.run, self.record)
        factors = self.control.lr_factors | own  # the plateau's factor goes back with its memory
        self.control = dataclasses.replace(self.control, lr_factors=factors, rollbacks=rollbacks)
        self.pending, self.unread = [], None
        step = int(state.step)
        why = f"the gradient of update {update + 1} is not finite"
        text = f"lr factor {old:g} → {factors['rollback']:g}, back to update {step}, because {why}"
        self.record.event("rollback", text, step)
        return session.with_lr_scale(self.run, state, self.control), step

    def evaluate(self, state: TrainState, step: int) -> bool:
        """Evaluates on the validation split; True if it is the best so far."""
        with self.watch.paused():
            try:
                found = self.run.evaluate(state, "val", stop=self.stopped)
            except Aborted:
                self.leave(state, step)
        self.record.row(step, self.run.clock.epoch(step), "val", found)
        self.control.evaluated = step
        for kind, text in self.supervisor.after_evaluation(self.control, step, found):
            self.record.event(kind, text, step)
        improved = self.control.best is not None and self.control.best["step"] == step
        if improved:
            self.record.best(self.control.best or {})
            if self.supervisor.stopping and self.record.folder is None:
                self.best = jax.tree.map(jnp.copy, state)
        return improved

    def save(self, state: TrainState, step: int, *, block: bool = False) -> None:
        if self.record.folder is None:
            return
        with self.watch.paused():
            best = self.control.best["step"] if self.control.best else None
            self.record.save(step, to_flat(state), dataclasses.asdict(self.control), best_step=best, block=block)

    def leave(self, state: TrainState, step: int) -> NoReturn:
        """Saves this very step and raises Interrupted."""
        number = self.signals.received or 15
        if step:
            self.save(state, step, block=True)
        saved = "saved; the same command resumes" if step else "nothing to save yet"
        text = f"signal {number}: stopped after update {step} of {self.total}, {saved}"
        self.record.event("interrupted", text, step)
        self.record.draw(self.run.watch)
        raise Interrupted(text, number)

    def finish(self, state: TrainState, step: int) -> Result:
        """Measures the last state (the best one, after early stopping) on the test split, once; draws the curves."""
        self.read()
        if self.control.stopped and self.control.best:  # what is told from here on is of the best
            step = self.control.best["step"]
            state = self.best or session.place_state(self.run, self.record.restore_step(step))
        at_end = {row["split"]: row for row in self.record.rows if row["step"] == step}
        if "test" in self.run.feeds and "test" not in at_end:
            try:
                found = self.run.evaluate(state, "test", stop=self.stopped)
            except Aborted:
                self.leave(state, step)
            self.record.row(step, self.run.clock.epoch(step), "test", found)
            at_end["test"] = self.record.rows[-1]
        self.record.wait()
        self.record.draw(self.run.watch)
        by_split = {split: measured(row) for split, row in at_end.items() if split != "train"}
        return Result(state, self.record.rows, by_split, self.control.best, self.record.folder)

    def stopped(self) -> bool:
        return self.signals.received is not None

    def tell_time(self, done: int) -> None:
        """After the first steps: how long the run will take, when that is long."""
        seconds = self.watch.first_steps(done)
        if seconds is not None and seconds * (self.total - done) > LONG_RUN:
            self.screen.line(forecast(self.run, seconds, done))
