"""The one training loop: restore, step, log, evaluate, checkpoint, finish."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from jtrain import mesh as meshes
from jtrain import session
from jtrain.coach.told import Verdict
from jtrain.coaching import Coaching
from jtrain.control import Control
from jtrain.describe import forecast, header
from jtrain.errors import ConfigError, Interrupted
from jtrain.evaluation import Aborted
from jtrain.failure import explain, roll_back
from jtrain.io.profile import ProfileWindow
from jtrain.io.progress import Screen
from jtrain.io.record import Record, measured
from jtrain.io.stopwatch import Stopwatch
from jtrain.peers import ALONE, Peers
from jtrain.readout import Readout
from jtrain.result import Result
from jtrain.run import Run
from jtrain.signals import Signals
from jtrain.state import TrainState, to_flat
from jtrain.step import advance
from jtrain.supervise import Supervisor

READ_EVERY = 100  # updates: at least so often are numbers fetched, so that a NaN is noticed
CALL_SECONDS = 0.1  # a call of several updates takes no longer, so that a signal is soon answered

Judge = Callable[[int, dict[str, Any]], str]


def train(
    run: Run,
    workdir: str | Path | None = None,
    *,
    screen: Screen | None = None,
    force: bool = False,
    branch: str = "",
    peers: Peers | None = None,
    judge: Judge | None = None,
) -> Result:
    """Trains a run to its end; with a workdir that holds a part of it, from there.

    Args:
      run: from `jtrain.assemble`.
      workdir: folder for checkpoints, metrics.jsonl and the rest; None writes nothing.
      screen: where progress is shown; None shows nothing.
      force: resume although the workdir's config or data differ in what must not change.
      branch: 'OLD', 'OLD@best' or 'OLD@STEP': a new workdir begins with that state of another run.
      peers: from `jtrain.connect()`, where several processes train one run; the first of them speaks.
      judge: (updates done, metrics of the validation split) -> why the run ends there, '' to go on; asked after each
        evaluation but the last, in every process. A run that it ends is not tested.

    Raises:
      NonFiniteError: the loss or the gradient is not finite; earlier checkpoints stay.
      Interrupted: SIGTERM or Ctrl-C; the state of that very step is in the workdir.
      ConfigError, DataError, HeldError: the workdir cannot be used; nothing is written.
    """
    screen, peers = screen or Screen.quiet(), peers or ALONE
    if not isinstance(run, Run):
        raise ConfigError(f"train: needs a run of jtrain.assemble(config), got {type(run).__name__}")
    if jax.process_count() != peers.processes:
        raise ConfigError(f"train: JAX has {jax.process_count()} processes; pass peers=jtrain.connect() to train")
    supervisor = Supervisor.of(run)
    peers.begin()
    with (
        contextlib.closing(screen),
        Signals(active=workdir is not None) as signals,  # first: restoring and compiling take time
        session.open_record(run, workdir, screen, force=force, branch=branch, peers=peers) as (record, state, control),
    ):
        shown = screen if peers.leads else Screen.quiet()
        training = _Training(run, record, shown, control, signals, supervisor, peers, judge)
        with contextlib.closing(training.profile):
            return training.to_the_end(state)


@dataclasses.dataclass
class _Training:
    """One run on its way, and its control state."""

    run: Run
    record: Record
    screen: Screen
    control: Control
    signals: Signals
    supervisor: Supervisor
    peers: Peers
    judge: Judge | None
    given_up: bool = False
    verdict: Verdict | None = None  # for which the run is ended early
    leaving: int | None = None  # the signal by which all processes have agreed to stop here
    best: TrainState | None = None  # kept here only where early stopping has no workdir to keep it

    def __post_init__(self) -> None:
        self.total = self.run.clock.total
        self.block = meshes.must_block(self.run.mesh)
        self.most = self.run.per_call  # updates a call
        self.watch = Stopwatch(self.run.batch_size)
        self.readout = Readout(self.run, self.record, self.screen, self.watch)
        self.coaching = Coaching(self.run, self.record, self.peers)
        window = self.run.config.log.profile if self.peers.leads else ""
        self.profile = ProfileWindow(self.record.folder, window, total=self.total, event=self.record.event)

    def to_the_end(self, state: TrainState) -> Result:
        step = int(state.step)
        for line in (*header(self.run, self.record.folder), *self.coaching.begin(self.control, step)):
            self.screen.line(line)
        if step:
            self.record.event("resume", f"update {step} of {self.total}, from its checkpoint", step)
        self.peers.exchange("first step", step)  # the first collective gives those who are behind little time
        while True:
            state, step = self.at_boundary(state, step)
            if step == self.total or self.control.stopped or self.given_up:
                return self.finish(state, step)
            state, step = self.forward(state, step)

    def forward(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """Runs to the next step at which anything is due, or to the step that a signal or a NaN stops."""
        stop = step + 1 if self.watch.starting else self.run.next_stop(step, READ_EVERY)

        def on_step(done: int, sums: Any) -> bool:
            self.readout.read(self.control)
            if self.watch.starting:
                jax.block_until_ready(sums)
                self.tell_time(done)
            return self.readout.suspect

        states, sums, done = advance(
            self.run.phase(step).train_steps, [state], [self.give], step, stop, most=self.most, block=self.block,
            may=lambda _: self.may(), on_step=on_step,
        )  # fmt: skip
        self.readout.put(sums[0])
        if done > step and done == self.run.phase(done).start:
            return self.enter(states[0], done), done
        return states[0], done

    def enter(self, state: TrainState, step: int) -> TrainState:
        """The state in the next phase; but what failed before it is looked at in the form that it failed in."""
        self.readout.bound(step, self.control)
        self.readout.read(self.control)
        if self.readout.suspect:
            return state
        self.record.event("phase", f"{self.run.phase_words(step)} from update {step} on", step)
        self.watch.begin_again()
        self.coaching.begin_phase(self.control)
        return self.run.enter(state, step)

    def give(self, step: int, count: int) -> tuple[Any, Any]:
        self.peers.at(f"data of update {step + 1}")
        with self.watch.waiting():
            given = self.coaching.taken(step) or self.run.give(step, count)
        self.peers.at(f"{'compiling for ' if self.watch.starting else ''}update {step + 1}")
        return given

    def at_boundary(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """Does what is due after `step` updates: log, evaluate, save; or saves and leaves after a signal."""
        last = step == self.total
        self.record.poll()
        for text in (text for feed in self.run.feeds.values() for text in feed.news()):
            self.record.event("data", text, step)
        self.profile.at(step, state)
        self.readout.bound(step, self.control)
        evaluating = step > self.control.evaluated and (last or step % self.run.eval_every == 0)
        saving = step > 0 and (last or step % self.run.save_every == 0)
        if evaluating or saving or self.readout.suspect or self.leaving:
            self.readout.read(self.control)
        if self.readout.suspect:
            self.readout.suspect = False
            failed = int(state.extra["failed"]) if "failed" in state.extra else -1
            if failed >= 0:
                return self.failed(state, failed)
        if self.leaving:
            self.leave(state, step)
        improved = False
        if evaluating and "val" in self.run.feeds:
            improved = self.evaluate(state, step)
            state = session.with_lr_scale(self.run, state, self.control)
        if evaluating and not self.given_up:
            self.diagnose(state, step)
        with self.watch.paused():
            self.coaching.probe(state, self.control, step)
        if saving or improved or (self.control.stopped and evaluating):
            self.save(state, step)
        return state, step

    def failed(self, state: TrainState, update: int) -> tuple[TrainState, int]:
        """The gradient of `update` (from 0) is not finite, and the state has stood still since."""
        limit = self.run.config.train.on_nan_limit
        if self.run.options.on_nan == "rollback" and self.control.rollbacks < limit:
            self.record.wait()
            state, self.control = roll_back(self.run, self.record, self.control, update)
            self.readout.drop()
            self.coaching.drop()
            return state, int(state.step)
        error = explain(self.run, state, update, record=self.record, control=self.control, peers=self.peers)
        self.coaching.judge(self.control, update, ended=True, failed=True)
        self.record.draw(self.run.watch, step=update, report=self.run.config.log.report)
        self.peers.exchange("failed", update, only=0)  # whoever leaves first ends the others: all is written by now
        raise error

    def evaluate(self, state: TrainState, step: int) -> bool:
        """Evaluates on the validation split; True if it is the best so far."""
        self.peers.at(f"evaluation after update {step}")
        with self.watch.paused():
            try:
                found = self.run.evaluate(state, "val", stop=lambda: not self.may())
            except Aborted:
                self.leave(state, step)
        self.record.row(step, self.run.clock.epoch(step), "val", found)
        self.control.evaluated = step
        for kind, text in self.supervisor.after_evaluation(self.control, step, found):
            self.record.event(kind, text, step)
        ending = step == self.total or self.control.stopped
        if self.judge and not ending and (why := self.peers.first("judge", self.judge(step, found))):
            self.given_up = True
            self.record.event("given_up", f"stops after update {step} of {self.total}, because {why}", step)
        improved = self.control.best is not None and self.control.best["step"] == step
        if improved:
            self.record.best(self.control.best or {})
            if self.supervisor.stopping and self.record.folder is None:
                self.best = jax.tree.map(jnp.copy, state)
        return improved

    def diagnose(self, state: TrainState, step: int) -> None:
        """What the coach says of the curves so far; it may end the run, for a study to begin another."""
        ended = step == self.total or self.control.stopped > 0
        with self.watch.paused():
            self.verdict = self.coaching.judge(self.control, step, ended=ended, state=state)
        if self.verdict:
            self.given_up = True
            text = f"stops after update {step} of {self.total} to act on this: {self.verdict.action}"
            self.record.event("given_up", text, step)

    def save(self, state: TrainState, step: int, *, block: bool = False) -> None:
        if self.record.folder is None:
            return
        self.peers.at(f"save after update {step}")
        with self.watch.paused():
            best = self.control.best["step"] if self.control.best else None
            self.record.save(step, to_flat(state), dataclasses.asdict(self.control), best_step=best, block=block)

    def leave(self, state: TrainState, step: int) -> NoReturn:
        """Saves this very step and raises Interrupted."""
        number = self.leaving or 15
        if step:
            self.save(state, step, block=True)
        saved = "saved; the same command resumes" if step else "nothing to save yet"
        text = f"signal {number}: stopped after update {step} of {self.total}, {saved}"
        self.record.event("interrupted", text, step)
        self.record.draw(self.run.watch, step=step, report=self.run.config.log.report)
        raise Interrupted(text, number)

    def finish(self, state: TrainState, step: int) -> Result:
        """Measures the last state (the best one, after early stopping) on the test split, once; draws the curves. One
        that was given up is not measured: nobody is to choose by it."""
        self.readout.read(self.control)
        if self.control.stopped and self.control.best:  # what is told from here on is of the best
            step = self.control.best["step"]
            state = self.best or session.place_state(self.run, self.record.restore_step(step))
        at_end = {row["split"]: row for row in self.record.rows if row["step"] == step}
        at_end = self.peers.first("end", at_end)  # what an earlier part has measured, the first process knows
        self.peers.at(f"test after update {step}")
        if "test" in self.run.feeds and "test" not in at_end and not self.given_up:
            try:
                found = self.run.evaluate(state, "test", stop=lambda: not self.may())
            except Aborted:
                self.leave(state, step)
            self.record.row(step, self.run.clock.epoch(step), "test", found)
            at_end["test"] = self.record.rows[-1]
        self.record.wait()
        self.record.ended = not self.given_up
        self.record.draw(self.run.watch, step=step, report=self.run.config.log.report)
        self.peers.at("")
        by_split = {split: measured(row) for split, row in at_end.items() if split != "train"}
        return Result(state, self.record.rows, by_split, self.control.best, self.record.folder, self.verdict)

    def may(self) -> bool:
        """Whether the processes begin another piece of work together; each piece is asked for once."""
        if self.leaving is None:
            self.leaving = self.peers.grant(self.signals.received)
        return self.leaving is None

    def tell_time(self, done: int) -> None:
        """After the first steps: how many updates a call are soon done, and how long the run will take."""
        seconds = self.watch.first_steps(done)
        if seconds is None:
            return
        if self.run.per_call > 1 and not self.run.config.train.steps_per_call:
            most = max(1, min(self.run.per_call, int(CALL_SECONDS / seconds)))
            self.most = self.peers.first("pace", most)  # all processes must cut updates into the same calls
        for line in forecast(self.run, seconds, done):
            self.screen.line(line)
