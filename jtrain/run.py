"""What `assemble` builds: everything that training needs, frozen."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from jtrain import mesh as meshes
from jtrain import metrics
from jtrain.data.examples import ArrayExamples, DataSet
from jtrain.data.feed import Feed
from jtrain.data.order import Order
from jtrain.durations import Clock
from jtrain.evaluation import evaluate, predict
from jtrain.models.pure import Model
from jtrain.optim.groups import Groups
from jtrain.optim.optimizers import Core
from jtrain.optim.schedules import Schedule
from jtrain.state import TrainState, count, eval_params
from jtrain.step import Batch, StepOptions
from jtrain.task import Task


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The chain over trainable parameters, and what it was made of.

    Attributes:
      decayed: paths with weight decay.
      schedules: 'lr', and 'lr/<pattern>' of each group where there are several; without `lr_scale`.
      lr: the peak in force (the config's, or the default of the optimizer).
    """

    tx: optax.GradientTransformationExtraArgs
    core: Core
    groups: Groups
    decayed: frozenset[str]
    schedules: dict[str, Schedule]
    lr: float

    def lrs(self, step: int) -> dict[str, float]:
        """The lr of update `step` (from 0) by name, computed on the host: no device waits for it."""
        return {name: float(schedule(np.int64(step))) for name, schedule in self.schedules.items()}


@dataclasses.dataclass(frozen=True)
class Run:
    """What `assemble` builds. Nothing in it changes; the state is apart.

    Attributes:
      config: resolved and validated.
      fingerprint: by which a resumed run knows its data again.
      model: pure, on raw inputs; gives float32 outputs.
      eval_every, save_every, log_every: updates.
      feeds: 'train', and 'val' and 'test' where there are such splits.
      options: what is added to the plain step.
      gradient: `(state, data, rows) -> (gradients, sums, model_state)`, not compiled.
      train_step: compiled `(state, data, rows) -> (state, sums)`; the state is donated.
      eval_step: compiled `(params, model_state, data, rows) -> (sums, outputs)`.
      shapes: abstract state, for restoring and counting.
    """

    config: ml_collections.ConfigDict
    data: DataSet
    fingerprint: dict[str, int]
    task: Task
    model: Model
    model_name: str
    optimizer: Optimizer
    clock: Clock
    eval_every: int
    save_every: int
    log_every: int
    mesh: jax.sharding.Mesh
    order: Order
    feeds: dict[str, Feed]
    options: StepOptions
    gradient: Callable[[TrainState, Batch, Any], tuple[Any, metrics.Sums, Any]]
    train_step: Callable[[TrainState, Batch, Any], tuple[TrainState, metrics.Sums]]
    eval_step: Callable[[Any, Any, Batch, Any], tuple[metrics.Sums, jax.Array]]
    shapes: TrainState
    init: Callable[[], TrainState]

    @property
    def batch_size(self) -> int:
        """Examples of one update, over all devices."""
        return self.clock.batch_size

    @property
    def parameter_count(self) -> int:
        """Number of parameters, frozen ones included."""
        return count(self.shapes.params)

    def init_state(self) -> TrainState:
        """A new state at step 0, drawn from the config's seed, on the mesh."""
        return self.init()

    @property
    def watch(self) -> str:
        """The metric by which the best checkpoint is chosen: the one that early stopping watches, else the task's, of
        the averaged parameters where there are any."""
        if self.config.early_stopping.metric:
            return self.config.early_stopping.metric.removeprefix("val/")
        return f"ema/{self.task.watch}" if self.options.ema_decay else self.task.watch

    def evaluate(self, state: TrainState, split: str, *, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Loss and every metric over a whole split, `ema/…` beside them where parameters are averaged.

        `stop` is asked before each batch (raises Aborted).
        """
        found: dict[str, float] = {}
        for prefix, params in (("", state.params), ("ema/", state.ema)):
            if params:
                batches = self.feeds[split].eval_batches(self.batch_size)
                block = meshes.must_block(self.mesh)
                part = evaluate(self.eval_step, params, state.model_state, batches, block=block, stop=stop)
                found |= {f"{prefix}{name}": value for name, value in part.items()}
        return found

    def predict(self, state: TrainState, split: str) -> np.ndarray:
        """The task's predictions [examples, …] over a whole split, in its order."""
        feed = self.feeds[split]
        return predict(
            self.eval_step, self.task, eval_params(state), state.model_state, feed.eval_batches(self.batch_size),
            len(feed.examples),
        )  # fmt: skip

    def predict_inputs(self, state: TrainState, inputs: np.ndarray) -> np.ndarray:
        """The same for `inputs` [n, …] of the training data's shape and dtype."""
        no_targets = np.zeros(len(inputs), np.int32)
        examples = ArrayExamples(inputs, no_targets)
        feed = Feed(examples, self.mesh, resident=False, check=lambda *fetched: None)
        batches = feed.eval_batches(self.batch_size)
        return predict(self.eval_step, self.task, eval_params(state), state.model_state, batches, len(inputs))

    def close(self) -> None:
        """Ends the threads that make batches ahead."""
        for feed in self.feeds.values():
            feed.close()
