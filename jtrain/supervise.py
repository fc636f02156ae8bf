"""Control from outside the step, between evaluations: the best, reduce on plateau, early stopping."""

import dataclasses
import math
from typing import Any

from jtrain.control import Control
from jtrain.errors import ConfigError
from jtrain.optim.plateau import EarlyStopping, Plateau, is_better, watching
from jtrain.run import Run
from jtrain.table import did_you_mean


@dataclasses.dataclass(frozen=True)
class Supervisor:
    """What watches the evaluations of one run; None where it is off.

    Attributes:
      plateau, stopping: (metric such as 'val/loss', rule).
    """

    run: Run
    plateau: tuple[str, Plateau] | None
    stopping: tuple[str, EarlyStopping] | None

    @classmethod
    def of(cls, run: Run) -> "Supervisor":
        """From a run's config; raises ConfigError for a metric that the run does not have."""
        return cls(run, _rule(run, "plateau", Plateau), _rule(run, "early_stopping", EarlyStopping))

    def after_evaluation(self, control: Control, step: int, found: dict[str, float]) -> list[tuple[str, str]]:
        """Notes an evaluation in the control state; returns (kind, text) of what changed.

        Args:
          control: is changed: best, factor of the lr, whether the run is to stop.
          step: updates done.
          found: metrics of the validation split.
        """
        named = {f"val/{name}": value for name, value in found.items()}
        watch = f"val/{self.run.watch}"
        best = control.best
        mode = _mode(self.run, watch)
        if math.isfinite(named[watch]) and (best is None or is_better(named[watch], best["value"], mode)):
            control.best = {"step": step, "metric": watch, "value": named[watch]}
        events = []
        if self.plateau:
            metric, rule = self.plateau
            old = control.lr_factors.get("plateau", 1.0)
            control.plateau, new = rule.step(control.plateau, named[metric], old, self.run.optimizer.lr)
            if new != old:
                control.lr_factors["plateau"] = new
                since = f"{metric} has not improved in {rule.patience + 1} evaluations (now {named[metric]:.4g})"
                events.append(("plateau", f"lr factor {old:g} → {new:g}, because {since}"))
        if self.stopping:
            metric, stopping = self.stopping
            control.stopping, stop = stopping.step(control.stopping, named[metric])
            if stop:
                control.stopped = step
                since = f"{metric} has not improved in {stopping.patience} evaluations"
                events.append(
                    ("early_stopping", f"stops after update {step} of {self.run.clock.total}, because {since}")
                )
        return events


def _rule(run: Run, section: str, cls: type) -> Any:
    options = run.config[section].to_dict()
    metric = options.pop("metric")
    if not metric:
        defaults = {name: default for name, (_, default) in watching(cls).items() if name != "metric"}
        for name, value in options.items():
            if value != defaults[name]:
                raise ConfigError(
                    f"{section}.{name}: is set to {value!r}, but {section}.metric is ''; name one to watch"
                )
        return None
    if "val" not in run.feeds:
        raise ConfigError(f"{section}.metric: there is no validation split to watch; set data.validation")
    names = ["val/loss", *(f"val/{name}" for name in run.task.metrics if name != "confusion")]
    if run.options.ema_decay:
        names += [name.replace("val/", "val/ema/") for name in names]
    if metric not in names:
        raise ConfigError(f"{section}.metric: no such metric {metric!r}{did_you_mean(metric, names)}")
    return metric, cls(mode=_mode(run, metric), **options)


def _mode(run: Run, metric: str) -> str:
    known = run.task.metrics.get(metric.split("/")[-1])  # a loss is none of them: less is better
    return "max" if known is not None and known.higher_is_better else "min"
