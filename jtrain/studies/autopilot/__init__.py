"""`autopilot`: from data and a model to a trained one: lint, overfit, batch size, ladder, trials, train with act."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import ml_collections

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.errors import ConfigError
from jtrain.io.progress import Screen
from jtrain.run import Run
from jtrain.studies.act.final import FINAL
from jtrain.studies.autopilot.recipe import SMALLEST
from jtrain.studies.autopilot.report import report
from jtrain.studies.autopilot.stages import Pilot
from jtrain.studies.journal import open_study
from jtrain.studies.study import Study


def autopilot(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """Finds a recipe for data and a model, and trains by it; every decision is told with its reason.

    What the config has at its default is decided; what it has otherwise is yours and stays. The stages are studies in
    folders of their own, which go on where they were stopped.

    Args:
      given: a config or a run; it stays as it is. `study.autopilot` holds budget and minutes.
      workdir: for all files; the same command goes on there. None leaves nothing.
      model: with a config: as `assemble` takes it.
      data: with a config: as `assemble` takes it.
      screen: None shows nothing.

    Returns:
      `found`: "decisions", each {"stage", "decision", "reason", "updates", "seconds"}; "config" what was set, by dotted
      key; "val" and "test" the metrics of the state in "folder"; "updates" of the "budget". `ok` is False where the
      model cannot learn a few examples by heart, or no state is left that is finite.

    Raises:
      ConfigError, DataError: see `open_study`.
    """
    free = [key for key in configs.schema() if key.startswith(("log.", "lint.", "mesh.devices"))]
    if isinstance(given, ml_collections.ConfigDict):
        given, model, data = _assembled(given, model, data), None, None
    with (
        open_study("autopilot", given, workdir, model=model, data=data, screen=screen, may_change=free) as journal,
        contextlib.ExitStack() as stack,
    ):
        folder = journal.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pilot = Pilot(journal, folder)
        failed = pilot.fly()
        found = {"config": pilot.values, "budget": pilot.budget, "folder": None, **pilot.metrics}
        if not failed and journal.folder is not None:
            found["folder"] = str(journal.folder / FINAL)
        return journal.finish(report(journal.run, pilot.decisions, found, failed))


def _assembled(config: ml_collections.ConfigDict, model: Any, data: Any) -> Run:
    """The run of a config; where there are fewer examples than a batch has by default, with the smallest batch."""
    try:
        return assemble(config, model=model, data=data)
    except ConfigError as error:
        default = configs.schema()["train.batch_size"].default
        if not str(error).startswith("train.batch_size") or config.train.batch_size != default:
            raise
        return assemble(configs.changed(config, train__batch_size=SMALLEST), model=model, data=data)
