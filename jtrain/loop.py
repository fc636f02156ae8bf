"""The one training loop: restore, step, log, evaluate, checkpoint, finish; and `advance`, which moves states."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from jtrain import mesh as meshes
from jtrain import metrics, session
from jtrain.describe import header
from jtrain.errors import ConfigError, Interrupted, NonFiniteError
from jtrain.evaluation import Aborted
from jtrain.io.progress import Screen, duration_words
from jtrain.io.record import Record
from jtrain.io.stopwatch import Stopwatch
from jtrain.run import Run
from jtrain.session import Control, Signals
from jtrain.state import TrainState, to_flat

TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, metrics.Sums]]
Give = Callable[[int], tuple[Any, Any]]  # step -> (data, rows)

IN_FLIGHT = 2  # steps handed to the device ahead of the last one known to be done
READ_EVERY = 100  # updates: at least so often are numbers fetched, so that a NaN is noticed
LONG_RUN = 30 * 60  # seconds: from here on the smaller recipe is named early


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      state: after the last update.
      history: the rows of metrics.jsonl, those of earlier parts of a resumed run included.
      metrics: {'val': {...}, 'test': {...}} of the last state, for the splits there are.
      best: {'step', 'metric', 'value'} on the validation split, or None.
      workdir: where the files are, or None.
    """

    state: TrainState
    history: list[dict[str, Any]]
    metrics: dict[str, dict[str, float]]
    best: dict[str, Any] | None
    workdir: Path | None


def advance(
    train_step: TrainStep,
    states: Sequence[TrainState],
    feeds: Sequence[Give],
    start: int,
    stop: int,
    *,
    block: bool = False,
    on_step: Callable[[int, metrics.Sums], bool] | None = None,
) -> tuple[list[TrainState], list[list[metrics.Sums]], int]:
    """Moves every state from update `start` to update `stop`.

    Args:
      train_step: compiled `(state, data, rows) -> (state, sums)`; donates its state.
      states: one a member; not to be used afterwards.
      feeds: step -> (data, rows); one for all members, or one each.
      start: updates that every state has done.
      stop: updates that it shall have done.
      block: wait for every step (simulated devices).
      on_step: called with the updates done and the first member's sums once a step is on its way;
        when it returns True, no further step is begun.

    Returns:
      The new states, the sums of every update (on the device) by member, and the updates done.
    """
    states = list(states)
    sums: list[list[metrics.Sums]] = [[] for _ in states]
    if len(feeds) not in (1, len(states)):
        raise ValueError(f"{len(feeds)} feeds for {len(states)} states; give one, or one each")
    for step in range(start, stop):
        given = [feed(step) for feed in feeds]
        for i, state in enumerate(states):
            states[i], found = train_step(state, *given[i % len(given)])
            sums[i].append(found)
        if block:
            jax.block_until_ready(states)
        elif len(sums[-1]) >= IN_FLIGHT:
            jax.block_until_ready(sums[-1][-IN_FLIGHT])
        if on_step is not None and on_step(step + 1, sums[0][-1]):
            return states, sums, step + 1
    return states, sums, stop


def train(run: Run, workdir: str | Path | None = None, *, screen: Screen | None = None, force: bool = False) -> Result:
    """Trains a run to its end; with a workdir that holds a part of it, from there.

    Args:
      run: from `jtrain.assemble`.
      workdir: folder for checkpoints, metrics.jsonl and the rest; None writes nothing.
      screen: where progress is shown; None shows nothing.
      force: resume although the workdir's config differs in what must not change.

    Raises:
      NonFiniteError: the loss or the gradient is not finite; earlier checkpoints stay.
      Interrupted: SIGTERM or Ctrl-C; the state of that very step is in the workdir.
      ConfigError, DataError, HeldError: the workdir cannot be used; nothing is written.
    """
    screen = screen or Screen.quiet()
    if not isinstance(run, Run):
        raise ConfigError(f"train: needs a run of jtrain.assemble(config), got {type(run).__name__}")
    with (
        contextlib.closing(screen),
        Signals(active=workdir is not None) as signals,  # first: restoring and compiling take time
        session.open_record(run, workdir, screen, force=force) as (record, state, control),
    ):
        return _Training(run, record, screen, control, signals).to_the_end(state)


class _Training:
    """One run on its way: what has been dispatched but not yet read, and the control state."""

    def __init__(self, run: Run, record: Record, screen: Screen, control: Control, signals: Signals) -> None:
        self.run = run
        self.record = record
        self.screen = screen
        self.control = control
        self.signals = signals
        self.total = run.clock.total
        self.pending: list[metrics.Sums] = []  # on the device, since the last log point
        self.unread: tuple[int, list[metrics.Sums]] | None = None  # numbers up to a step, still on the device
        self.block = meshes.must_block(run.mesh)
        self.watch = Stopwatch(run.batch_size)

    def to_the_end(self, state: TrainState) -> Result:
        for line in header(self.run, self.record.folder):
            self.screen.line(line)
        step = int(state.step)
        if step:
            self.record.event("resume", f"update {step} of {self.total}, from its checkpoint", step)
        while True:
            self.at_boundary(state, step)
            if step == self.total:
                break
            state, step = self.forward(state, step)
        return self.finish(state)

    def forward(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """Runs to the next step at which anything is due, or to the step that a signal stops."""
        every = (self.run.log_every, self.run.eval_every, self.run.save_every, READ_EVERY)
        stop = min([self.total, *((step // n + 1) * n for n in every)])
        first = step

        def on_step(done: int, sums: metrics.Sums) -> bool:
            self.read()
            if self.watch.starting:
                jax.block_until_ready(sums)
                self.tell_time(done)
            return self.stopped()

        states, sums, step = advance(
            self.run.train_step, [state], [self.give], first, stop, block=self.block, on_step=on_step
        )
        self.pending += sums[0]
        return states[0], step

    def give(self, step: int) -> tuple[Any, Any]:
        with self.watch.waiting():
            return self.run.feeds["train"].train_batch(self.run.order, step)

    def at_boundary(self, state: TrainState, step: int) -> None:
        """Does what is due after `step` updates: log, evaluate, save; or saves and leaves after a signal."""
        last = step == self.total
        self.record.poll()
        if self.pending:
            self.read()
            self.unread, self.pending = (step, self.pending), []
        if self.signals.received:
            self.leave(state, step)
        improved = False
        if step > self.control.evaluated and (last or step % self.run.eval_every == 0) and "val" in self.run.feeds:
            improved = self.evaluate(state, step)
        if step and (last or improved or step % self.run.save_every == 0):
            self.save(state, step)

    def read(self) -> None:
        """Fetches the numbers that were left on the device; at a log point, writes its row."""
        if self.unread is None:
            return
        (step, sums), self.unread = self.unread, None
        self.add(sums, step)
        if step <= self.control.logged or (step != self.total and step % self.run.log_every):
            return
        self.control.logged = step
        found, self.control.totals = metrics.means(self.control.totals), {}
        rate, wait = self.watch.lap(step)
        row: dict[str, Any] = found | self.lrs(step - 1) | {"examples_per_second": rate, "data_wait": wait}
        epoch = self.run.clock.epoch(step)
        self.record.row(step, epoch, "train", row)
        self.screen.progress(
            step=step, total=self.total, epoch=epoch, rate=rate, loss=row["loss"], lr=row["lr"], wait=wait,
            batch_size=self.run.batch_size,
        )  # fmt: skip

    def lrs(self, step: int) -> dict[str, float]:
        """The true lr of update `step` (from 0), and of every group: schedule × multiplier × lr_scale."""
        scale = math.prod(self.control.lr_factors.values())
        return {name: lr * scale for name, lr in self.run.optimizer.lrs(step).items()}

    def add(self, sums: list[metrics.Sums], step: int) -> None:
        """Adds fetched sums to the control state; raises NonFiniteError at the first that is not finite."""
        fetched = jax.device_get(sums)
        for i, found in enumerate(fetched):
            for name in ("loss", "grad_norm"):
                if not math.isfinite(float(found[name][0])):
                    self.not_finite(name, float(found[name][0]), step - len(fetched) + i + 1)
        metrics.add_to(self.control.totals, fetched)

    def not_finite(self, name: str, value: float, step: int) -> None:
        what = {"loss": "the loss", "grad_norm": "the gradient norm"}[name]
        saved = self.record.newest_step()
        there = f"the checkpoint of update {saved} is whole" if saved else "no checkpoint was saved before"
        text = (
            f"{what} is {value} at update {step} of {self.total} (lr {self.lrs(step - 1)['lr']:.3g}); {there}; "
            "try optimizer.lr a third as large, or clip.name=norm"
        )
        self.record.event("non_finite", text, step)
        raise NonFiniteError(text)

    def evaluate(self, state: TrainState, step: int) -> bool:
        """Evaluates on the validation split; True if it is the best so far."""
        self.read()
        with self.watch.paused():
            try:
                found = self.run.evaluate(state, "val", stop=self.stopped)
            except Aborted:
                self.leave(state, step)
        self.record.row(step, self.run.clock.epoch(step), "val", found)
        self.control.evaluated = step
        task, value = self.run.task, found[self.run.task.watch]
        sign = 1 if task.higher_is_better else -1
        best = self.control.best
        if math.isfinite(value) and (best is None or sign * value > sign * best["value"]):
            self.control.best = {"step": step, "metric": f"val/{task.watch}", "value": value}
            self.record.best(self.control.best)
            return True
        return False

    def save(self, state: TrainState, step: int, *, block: bool = False) -> None:
        if self.record.folder is None:
            return
        self.read()
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
        self.record.draw(self.run.task.watch)
        raise Interrupted(text, number)

    def finish(self, state: TrainState) -> Result:
        """Measures the last state on the test split, once, and draws the curves."""
        self.read()
        at_end = {row["split"]: row for row in self.record.rows if row["step"] == self.total}
        if "test" in self.run.feeds and "test" not in at_end:
            try:
                found = self.run.evaluate(state, "test", stop=self.stopped)
            except Aborted:
                self.leave(state, self.total)
            self.record.row(self.total, self.run.clock.epoch(self.total), "test", found)
            at_end["test"] = self.record.rows[-1]
        self.record.wait()
        self.record.draw(self.run.task.watch)
        names = ("loss", *self.run.task.metrics)
        by_split = {split: {n: row[n] for n in names} for split, row in at_end.items() if split != "train"}
        return Result(state, self.record.rows, by_split, self.control.best, self.record.folder)

    def stopped(self) -> bool:
        return self.signals.received is not None

    def tell_time(self, done: int) -> None:
        """After the first steps: how long the run will take, when that is long."""
        seconds = self.watch.first_steps(done)
        if seconds is None:
            return
        left = seconds * (self.total - done)
        if left > LONG_RUN:
            smaller = self.run.config.log.smaller
            hint = f"; a smaller recipe: --config={smaller}" if smaller else ""
            self.screen.line(
                f"at {self.run.batch_size / seconds:,.0f} examples/s "
                f"this run takes about {duration_words(left)} here{hint}"
            )
