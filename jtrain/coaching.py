"""The coach beside a run: lint at its start, diagnosis after each evaluation, the noise scale in between."""

import dataclasses
from typing import Any

from jtrain.coach import noise_scale
from jtrain.coach.curves import Curves
from jtrain.coach.diagnose import diagnose
from jtrain.coach.lint import lint
from jtrain.coach.noise_scale import Noise
from jtrain.coach.told import Finding, Verdict, as_json
from jtrain.config import chosen
from jtrain.control import Control
from jtrain.data.augment import mixes
from jtrain.facts import facts_of_run
from jtrain.io.record import Record
from jtrain.io.workdir import write_json_atomic
from jtrain.noise import NoiseProbe
from jtrain.peers import Peers
from jtrain.run import Run
from jtrain.state import TrainState


class Coaching:
    """What the coach says of one run; its workdir keeps it as coach.json. Nothing here changes what is trained."""

    def __init__(self, run: Run, record: Record, peers: Peers) -> None:
        self._run, self._record, self._peers = run, record, peers
        self._mode = run.config.diagnose.mode
        self._findings: list[Finding] = []
        self._verdicts: list[Verdict] = []
        self._probe = NoiseProbe(run) if run.noise_every else None
        self._noise: dict[str, Any] | None = None
        self._guess: float | None = None

    def begin(self, control: Control) -> list[str]:
        """The warnings of lint, and that a probe has nothing to measure."""
        if not self._peers.leads:
            return []
        self._findings = lint(facts_of_run(self._run), tuple(self._run.config.lint.silence))
        lines = [finding.line() for finding in self._findings if finding.level == "warning"]
        if self._probe is not None and not self._probe.chunks:
            lines.append(f"diagnose.noise_every: a batch of {self._run.batch_size} is too small to be cut into chunks")
        self._write(control, ended=False)
        return lines

    def probe(self, state: TrainState, control: Control, step: int) -> None:
        """Where one is due, measures the noise of the next batch's gradient; what the probe before it has found is
        read then, long done."""
        due = self._probe is not None and step % self._run.noise_every == 0 and step < self._run.clock.total
        if self._probe is not None and due and self._probe.chunks:
            self._read(control, step)
            self._probe.put(state, step, self._run.give(step, 1))

    def judge(self, control: Control, step: int, *, ended: bool, failed: bool = False) -> Verdict | None:
        """Judges the run by its rows so far; what is told for the first time is an event.

        Args:
          control: remembers what was told.
          step: updates done.
          ended: no row will follow.
          failed: what ended it is a loss or gradient of the next update that is not finite.

        Returns:
          The verdict that the run is to be ended for, in the mode "act"; in all processes the same.
        """
        if ended and self._probe is not None:
            self._read(control, step)
        acting = None
        if self._peers.leads:
            if self._mode != "off":
                self._find_guess()
                curves = Curves.of_rows(self._record.rows, **self._facts(control))
                curves = dataclasses.replace(curves, failed_at=step + 1 if failed else None, best_step=_best(control))
                self._verdicts = diagnose(curves, ended=ended, silence=tuple(self._run.config.diagnose.silence))
                self._tell(control, step)
                acting = next((verdict for verdict in self._verdicts if verdict.act), None)
            self._write(control, ended=ended)
        if self._mode != "act" or ended:
            return None
        told = self._peers.first("diagnose", as_json(acting) if acting else None)
        return Verdict.from_json(told) if told else None

    def _tell(self, control: Control, step: int) -> None:
        for verdict in self._verdicts:
            if verdict.name not in control.told:
                control.told.append(verdict.name)
                self._record.event("diagnose", verdict.line(), step)

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
        suggestion = noise_scale.suggest(estimate, self._run.batch_size, self._run.optimizer.lr, family)
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
            "final_lr": run.lrs(run.clock.total - 1, control.lr_factors)["lr"],
            "mixed": mixes(run.config.augment),
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
        if self._record.folder is None:
            return
        told = {
            "lint": [as_json(finding) for finding in self._findings],
            "diagnosis": [as_json(verdict) for verdict in self._verdicts],
            "noise": self._noise,
            "curves": self._facts(control),
            "ended": ended,
        }
        write_json_atomic(self._record.folder / "coach.json", told)


def _best(control: Control) -> int | None:
    return control.best["step"] if control.best else None
