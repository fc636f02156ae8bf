"""The coach beside a run: lint at its start, diagnosis after each evaluation, the noise scale in between."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypeVar

from jtrain.coach import noise_scale
from jtrain.coach.curves import Curves
from jtrain.coach.diagnose import diagnose
from jtrain.coach.lint import lint
from jtrain.coach.noise_scale import LEAST_PROBES, Noise
from jtrain.coach.rows import line_rows, number
from jtrain.coach.told import Finding, Verdict, as_json
from jtrain.config import choice, chosen
from jtrain.control import Control
from jtrain.data.augment import mixes
from jtrain.data.feed import Given
from jtrain.facts import facts_of_run
from jtrain.io.record import Record
from jtrain.io.workdir import write_json_atomic
from jtrain.line import LineProbe
from jtrain.models.prepare import carries
from jtrain.noise import NoiseProbe
from jtrain.peers import Peers
from jtrain.run import Run
from jtrain.state import TrainState

T = TypeVar("T")

FLIPS = ("flip_lr", "flip_ud", "flip_alternating")  # after which training is hardly harder than validation
DROPOUT = 0.1  # up to which it is not either
JUDGE_EVERY = 0.02  # of the run: what takes long to judge, a log of many rows, is then of a long run


class Coaching:
    """What the coach says of one run; its workdir keeps it as coach.json. Nothing here changes what is trained."""

    def __init__(self, run: Run, record: Record, peers: Peers) -> None:
        self._run, self._record, self._peers = run, record, peers
        self._mode = run.config.diagnose.mode
        self._findings: list[Finding] = []
        self._verdicts: list[Verdict] = []
        self._probe = NoiseProbe(run) if run.noise_every else None
        self._line = LineProbe(run) if self._mode != "off" else None
        self._looks: list[dict[str, float]] = []
        self._noise: dict[str, Any] | None = None
        self._guess: float | None = None
        self._judged = 0  # updates that were done then
        self._failed: set[str] = set()
        self._given: tuple[int, Given] | None = None

    def begin(self, control: Control, step: int) -> list[str]:
        """The warnings of lint, and that a probe has nothing to measure.

        Args:
          control: of the run.
          step: updates done; what was said of these is kept.
        """
        if not self._peers.leads:
            return []
        ended = self._safely("coach.json", lambda: self._recall(step), False)
        silence = tuple(self._run.config.lint.silence)
        self._findings = self._safely("lint", lambda: lint(facts_of_run(self._run), silence), [])
        lines = [finding.line() for finding in self._findings if finding.level == "warning"]
        if self._probe is not None and not self._probe.chunks:
            lines.append(f"diagnose.noise_every: a batch of {self._run.batch_size} is too small to be cut into chunks")
        elif self._probe is not None and (probes := -(-self._run.clock.total // self._run.noise_every)) < LEAST_PROBES:
            lines.append(
                f"diagnose.noise_every: {probes} probes in this run are too few, {LEAST_PROBES} tell something"
            )
        self._write(control, ended=ended)
        return lines

    def probe(self, state: TrainState, control: Control, step: int) -> None:
        """Where one is due, measures the noise of the next batch's gradient; what the probe before it has found is
        read then, long done."""
        due = self._probe is not None and step % self._run.noise_every == 0 and step < self._run.clock.total
        if self._probe is not None and due and self._probe.chunks:
            self._read(control, step)
            self._peers.at(f"compiling for a probe after update {step}")
            given = self._run.give(step, 1)
            self._probe.put(state, step, given)
            self._given = (step, given) if given[1] is None else None

    def taken(self, step: int) -> Given | None:
        """The streamed batch of an update, where it was probed: it need not be made again."""
        found, self._given = self._given, None
        return found[1] if found is not None and found[0] == step else None

    def begin_phase(self, control: Control) -> None:
        """Other parameters are trained from now on: theirs is another noise."""
        self.drop()
        control.noise, self._noise = {}, None
        control.told = [name for name in control.told if name != "noise_scale"]

    def drop(self) -> None:
        """Forgets a probe that was not read, and its batch, and from where the weights came."""
        self._given = None
        if self._probe is not None:
            self._probe.drop()
        if self._line is not None:
            self._line.drop()

    def judge(
        self, control: Control, step: int, *, ended: bool, failed: bool = False, state: TrainState | None = None
    ) -> Verdict | None:
        """Judges the run by its rows so far, but not more often than is worth it; what is told for the first time is an
        event.

        Args:
          control: remembers what was told.
          step: updates done.
          ended: no row will follow.
          failed: what ended it is a loss or gradient of the next update that is not finite.
          state: after these updates, where it was evaluated: the line probe is made with it, if one is due.

        Returns:
          The verdict that the run is to be ended for, in the mode "act"; in all processes the same.
        """
        if ended and self._probe is not None:
            self._read(control, step)
        if state is not None:
            self._look(state, step)
        if not ended and step - self._judged < JUDGE_EVERY * self._run.clock.total:
            return None
        self._judged, acting = step, None
        if self._peers.leads:
            if self._mode != "off":
                found = self._safely("diagnose", lambda: self._diagnosed(control, step, ended, failed), None)
                self._verdicts = found if found is not None else self._verdicts
                self._tell(control, step)
                acting = next((verdict for verdict in found or [] if verdict.act), None)
            self._write(control, ended=ended)
        if self._mode != "act" or ended:
            return None
        told = self._peers.first("diagnose", as_json(acting) if acting else None)
        return Verdict.from_json(told) if told else None

    def _diagnosed(self, control: Control, step: int, ended: bool, failed: bool) -> list[Verdict]:
        self._find_guess()
        curves = Curves.of_rows(self._record.rows, self._looks, **self._facts(control))
        best = control.best["step"] if control.best else None
        curves = dataclasses.replace(curves, failed_at=step + 1 if failed else None, best_step=best)
        return diagnose(curves, ended=ended, silence=tuple(self._run.config.diagnose.silence))

    def _safely(self, what: str, work: Callable[[], T], otherwise: T) -> T:
        """Nothing that only watches may end a run: what fails is an event, once."""
        try:
            return work()
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                self._record.event("coach", f"{what} failed, training goes on without it: {error!r}")
            return otherwise

    def _recall(self, step: int) -> bool:
        """Takes up what an earlier part of the run was told; whether that was its end."""
        path = self._record.folder and self._record.folder / "coach.json"
        if not path or not step or not path.is_file():
            return False
        told = json.loads(path.read_text())
        self._verdicts = [Verdict.from_json(verdict) for verdict in told["diagnosis"]]
        self._noise, self._guess = told["noise"], told["curves"]["guess"]
        self._looks = [dict(seen) for seen in line_rows(told) if number(seen["step"]) <= step]
        return bool(told["ended"]) and step == self._run.clock.total

    def _tell(self, control: Control, step: int) -> None:
        for verdict in self._verdicts:
            if verdict.name not in control.told:
                control.told.append(verdict.name)
                self._record.event("diagnose", verdict.line(), step)

    def _look(self, state: TrainState, step: int) -> None:
        """After an evaluation: measures, where that is due, how the loss goes on along the way of the weights."""
        line = self._line
        if line is None or not line.due(step):
            return
        self._peers.at(f"line probe after update {step}")
        self._looks = [seen for seen in self._looks if seen["step"] < step]  # of a run that was rolled back
        failed: dict[str, float] | None = {}
        if self._peers.processes > 1:  # who fails alone must not leave the others waiting
            found = line.measure(state, step)
        else:
            found = self._safely("line probe", lambda: line.measure(state, step), failed)
        if found:
            self._looks.append(found)
        elif found is failed:  # as where there is no room for it: it would again
            self._line = None

    def _read(self, control: Control, step: int) -> None:
        assert self._probe is not None
        found = self._probe.read()
        if found is None:
            return
        noise = noise_scale.add(Noise(**control.noise), *found)
        control.noise = dataclasses.asdict(noise)
        estimate = noise_scale.estimate(noise)
        if estimate is None:
            return
        family = self._run.optimizer.core.family
        scales = bool(self._run.config.optimizer.reference_batch)
        lr = self._run.optimizer.lr
        suggestion = noise_scale.suggest(estimate, self._run.batch_size, lr, family, scales=scales)
        self._noise = {
            "step": step, "noise_scale": estimate.noise_scale, "low": estimate.low, "high": estimate.high,
            "suggested_batch": suggestion.batch, "suggested_lr": suggestion.lr, "text": suggestion.text,
        }  # fmt: skip
        if "noise_scale" not in control.told:
            control.told.append("noise_scale")
            self._record.event("noise_scale", suggestion.text, step)

    def _facts(self, control: Control) -> dict[str, Any]:
        """What of a run its rows do not tell, as `Curves` takes it; kept in coach.json for whoever reads them later."""
        run = self._run
        known = run.task.metrics.get(run.watch.split("/")[-1])
        return {
            "guess": self._guess,
            "total": run.clock.total,
            "updates_per_epoch": run.clock.epoch_examples / run.batch_size,
            "watch": run.watch,
            "higher_is_better": known is not None and known.higher_is_better,
            # What reduces on a plateau will do nobody knows.
            "final_lr": None if run.config.plateau.metric else run.lrs(run.clock.total - 1, control.lr_factors)["lr"],
            "mixed": mixes(run.config.augment),
            "normed": carries(run.shapes.model_state),
            "harder": is_harder(run),
        }

    def _find_guess(self) -> None:
        """The loss of a guess; asked once, and not at the start: JAX compiles a program for it."""
        run = self._run
        if self._guess is None and run.task.guess is not None:
            self._guess = float(run.task.guess())
        elif self._guess is None and run.config.task.name == "regression" and run.config.data.normalize:
            # Of targets in units of their spread; of other losses a guess is not known.
            self._guess = 1.0 if chosen("loss", run.config.loss.name, "regression") == "mse" else None

    def _write(self, control: Control, *, ended: bool) -> None:
        folder = self._record.folder
        if folder is not None:
            self._safely(
                "coach.json", lambda: write_json_atomic(folder / "coach.json", self._told(control, ended)), None
            )

    def _told(self, control: Control, ended: bool) -> dict[str, Any]:
        return {
            "lint": [as_json(finding) for finding in self._findings],
            "diagnosis": [as_json(verdict) for verdict in self._verdicts],
            "noise": self._noise,
            "line": self._looks,
            "curves": self._facts(control),
            "ended": ended,
        }


def is_harder(run: Run) -> bool | None:
    """Whether training examples are harder than those of validation, by dropout, augmentation or smoothed labels; None
    where that is not known of a model or task of yours."""
    config = run.config
    ops = [op.partition("(")[0].strip() for op in config.augment.split("|")] if config.augment else []
    if any(op not in FLIPS for op in ops) or choice(config, "loss")[1].get("label_smoothing"):
        return True
    if config.model.name not in config.model or run.task.pretext is not None:
        return None
    own = config.model[config.model.name].items()
    return any(value > DROPOUT for name, value in own if name.endswith("dropout") or name == "stochastic_depth")
