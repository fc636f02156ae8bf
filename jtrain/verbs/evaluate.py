"""`eval`: the metrics of a workdir's state on a split."""

import contextlib
from pathlib import Path
from typing import Any

from jtrain.errors import ConfigError
from jtrain.io.progress import Screen
from jtrain.run import Run
from jtrain.table import did_you_mean
from jtrain.verbs.restored import open_run, open_state


def evaluate(
    workdir: str | Path, *, split: str = "test", at: str | int = "latest", model: Any = None, data: Any = None,
    overrides: dict[str, str] | None = None, screen: Screen | None = None,
) -> dict[str, float]:  # fmt: skip
    """Loss and metrics over a whole split; the workdir is only read.

    Args:
      workdir: of a run.
      split: train, val or test.
      at: latest, best, or a step.
      model: as `assemble` takes it, for a run that was given one.
      data: likewise.
      overrides: {dotted key: text} on top of the run's config, for devices, the log and where the data is.
      screen: where to show it.
    """
    screen = screen or Screen.quiet()
    with contextlib.closing(open_run(workdir, overrides=overrides, model=model, data=data)) as run:
        check_split(run, split)
        state = open_state(run, workdir, at, screen=screen)
        found = run.evaluate(state, split)
    step = int(state.step)
    screen.row({"step": step, "epoch": run.clock.epoch(step), "split": split} | found)
    return found


def check_split(run: Run, split: str) -> None:
    """Raises ConfigError when the data has no such split."""
    if split not in run.feeds:
        raise ConfigError(f"--split={split}: {run.data.name} has no such split{did_you_mean(split, run.feeds)}")
