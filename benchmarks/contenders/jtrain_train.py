"""jtrain as its users run it: `jtrain.train` with a workdir, all features on; it pauses at its log points."""

import dataclasses
import tempfile
from typing import Any

import jax
from contenders import common

import jtrain
from jtrain.io.progress import Screen
from jtrain.run import Run
from jtrain.state import to_flat


class Pausing(Screen):
    """A screen that shows nothing, and pauses the training at every log point."""

    turns: common.Turns

    def progress(self, **told: Any) -> None:
        """Passes the loss on."""
        self.turns.point(told["loss"])


def prepare(case: dict[str, Any]) -> common.Paused:
    """A run that is paused before its first update."""
    run = make_run(case)
    screen = Pausing.quiet()

    def train(turns: common.Turns) -> None:
        screen.turns = turns
        with tempfile.TemporaryDirectory() as folder:
            jtrain.train(run, folder, screen=screen)

    settle = lambda: jax.block_until_ready(jax.live_arrays())  # noqa: E731
    return common.Paused(case, {"jax": jax.__version__}, common.Turns(train, settle))


def make_run(case: dict[str, Any]) -> Run:
    """What the case describes: the checkpoints far away, nothing evaluated, the first weights those of all contenders.

    Args:
      case: "model" and "options" of it; "batch", "lr", "momentum", "log_every"; perhaps "augment", "ema" and
        "steps_per_call".
    """
    c = jtrain.config.base()
    c.data.validation, c.data.normalize = 0.0, bool(case.get("pixels"))
    c.model.name = case["model"]
    for name, value in case["options"].items():
        setattr(c.model[case["model"]], name, tuple(value) if isinstance(value, list) else value)
    c.optimizer.name, c.optimizer.lr = "sgd", case["lr"]
    c.optimizer.sgd.momentum, c.optimizer.sgd.weight_decay = case["momentum"], 0.0
    c.schedule.name = "constant"
    c.augment = case.get("augment", "")
    if "ema" in case:
        c.ema.decay = case["ema"]
    if "steps_per_call" in case:
        c.train.steps_per_call = case["steps_per_call"]
    c.train.batch_size, c.train.total = case["batch"], "1e8steps"
    c.log.every = f"{case['log_every']}steps"
    c.train.eval_every = c.checkpoint.every = "1e8steps"
    run = jtrain.assemble(c, data={"train": common.data(case)})
    paths = {path: leaf for path, leaf in to_flat(run.shapes).items() if path.startswith("params/")}
    drawn = common.weights({path.removeprefix("params/"): leaf.shape for path, leaf in paths.items()})
    given = {f"params/{path}": array for path, array in drawn.items()}
    return dataclasses.replace(run, make=lambda _: run.make(given))
