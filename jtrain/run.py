"""What `assemble` builds: everything that training needs, frozen."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from jtrain import mesh as meshes
from jtrain.data.examples import ArrayExamples, DataSet
from jtrain.data.feed import Feed, Given
from jtrain.data.order import Order
from jtrain.durations import Clock
from jtrain.evaluation import EvalStep, PredictStep, evaluate, predict
from jtrain.gradient import Gradient
from jtrain.models.pure import Model
from jtrain.optim.groups import Groups
from jtrain.optim.optimizers import Core
from jtrain.optim.schedules import Schedule
from jtrain.state import TrainState, count, eval_params, from_flat, to_flat
from jtrain.step import StepOptions, TrainStep
from jtrain.tasks import Task
from jtrain.transfer import Start


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
class Phase:
    """A part of a run with its own set of trained parameters; most runs have one.

    Attributes:
      start: its first update.
      gradient: `(state, data, rows) -> (gradients, sums, model_state)`, not compiled.
      train_step: compiled `(state, data, rows) -> (state, sums)`, one update; the state is donated.
      train_steps: the same for rows of several updates, by which the loop trains, see `make_train_steps`. Where it is
        compiled as a loop it rounds otherwise than `train_step`, in the last bits.
      pure_steps: `train_steps` not compiled, to be part of another program.
      begin: compiled; a state of the phase before -> one of this phase.
      shapes: abstract state, for restoring and counting.
      shardings: how it lies on the mesh: a sharding for every leaf.
    """

    start: int
    optimizer: Optimizer
    gradient: Gradient
    train_step: TrainStep
    train_steps: TrainStep
    pure_steps: TrainStep
    begin: Callable[[TrainState], TrainState]
    shapes: TrainState
    shardings: TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """What `assemble` builds. Nothing in it changes; the state is apart.

    Attributes:
      config: resolved and validated.
      fingerprint: by which a resumed run knows its data again.
      model: pure, on raw inputs; gives float32 outputs.
      eval_every, save_every, log_every: updates.
      noise_every: updates between two probes of the noise scale; 0: there are none.
      profiled: first and last update of the profile, as boundaries between updates; () where there is none.
      feeds: 'train', and 'val' and 'test' where there are such splits.
      options: what is added to the plain step.
      per_call: updates that `train_steps` does in one call, at most.
      convolves: the model holds a convolution.
      phases: in order; `gradient`, `train_step`, `train_steps` and `shapes` are those of the first, `optimizer` that of
        the last.
      eval_step: compiled `(params, model_state, data, rows) -> sums`.
      line_step: the same for any weights: a model that carries running statistics is normalised by the batch.
      predict_step: compiled `(params, model_state, data, rows) -> predictions`.
      init: compiled; {path: array} of parameters and model state, 'params/…' -> a new state, what is not given drawn.
      make: {path: array} of given weights -> (path, array) of what of a new state is made on the host, one by one.
      starting: reads the weights to start from, once; raises ConfigError or DataError when they do not fit.
      again: (config, data such as `run.data`) -> a run of another config or other data, with the model that this one
        was given, if it was.
      seeded: see `reseed`.
    """

    config: ml_collections.ConfigDict
    data: DataSet
    fingerprint: dict[str, int]
    task: Task
    model: Model
    model_name: str
    clock: Clock
    eval_every: int
    save_every: int
    log_every: int
    noise_every: int
    profiled: tuple[int, ...]
    mesh: jax.sharding.Mesh
    order: Order
    feeds: dict[str, Feed]
    options: StepOptions
    per_call: int
    convolves: bool
    phases: tuple[Phase, ...]
    eval_step: EvalStep
    line_step: EvalStep
    predict_step: PredictStep
    init: Callable[[Any], TrainState]
    make: Callable[[Mapping[str, Any]], Iterable[tuple[str, np.ndarray]]]
    starting: Callable[[], Start | None]
    again: Callable[[ml_collections.ConfigDict, DataSet], "Run"]
    seeded: Callable[[int], dict[str, Any]]

    def reseed(self, seed: int) -> "Run":
        """The same run with another seed for what is drawn: first weights, order, dropout, augmentation. The data and
        their splits stay, and so do the compiled steps."""
        return dataclasses.replace(self, **self.seeded(seed))

    def phase(self, step: int) -> Phase:
        """The phase of update `step` (from 0), which a state after `step` updates has the form of."""
        return next(phase for phase in reversed(self.phases) if phase.start <= step)

    def enter(self, state: TrainState, step: int) -> TrainState:
        """The state after `step` updates in the form of its phase, when one begins there: with fresh optimizer state
        for what is trained from now on."""
        phase = self.phase(step)
        return phase.begin(state) if step == phase.start and step > 0 else state

    def lrs(self, step: int, factors: Mapping[str, float]) -> dict[str, float]:
        """The true lr of update `step` (from 0), and of every group in its phase: schedule × multiplier × factors."""
        scale = math.prod(factors.values())
        return {name: lr * scale for name, lr in self.phase(step).optimizer.lrs(step).items()}

    def next_stop(self, step: int, most: int) -> int:
        """The next update after `step` at which anything is due: a log, an evaluation, a save, a probe, a phase, an end
        of the profile or of the run; and every multiple of `most`."""
        every = (self.log_every, self.eval_every, self.save_every, self.noise_every, most)
        begins = [mark for mark in (*(phase.start for phase in self.phases), *self.profiled) if mark > step]
        return min([self.clock.total, *begins, *((step // n + 1) * n for n in every if n)])

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, labels, values or tokens that are predicted; () where they have none."""
        return self.data.class_names if self.task.names is None else self.task.names

    def phase_words(self, step: int) -> str:
        """What the phase of update `step` trains, in words."""
        number = self.phases.index(self.phase(step))
        return f"phase {number} trains {self.config.phases[number][1]}"

    @property
    def optimizer(self) -> Optimizer:
        """That of the last phase, in which most is trained."""
        return self.phases[-1].optimizer

    @property
    def gradient(self) -> Gradient:
        """That of the first phase."""
        return self.phases[0].gradient

    @property
    def train_step(self) -> TrainStep:
        """That of the first phase."""
        return self.phases[0].train_step

    @property
    def train_steps(self) -> TrainStep:
        """That of the first phase."""
        return self.phases[0].train_steps

    def give(self, step: int, count: int = 1) -> Given:
        """(data, rows) of `count` updates from `step` on, as `train_steps` takes them."""
        return self.feeds["train"].train_batches(self.order, step, count, self.per_call)

    @property
    def shapes(self) -> TrainState:
        """The abstract state of the first phase."""
        return self.phases[0].shapes

    def abstract(self, step: int) -> dict[str, Any]:
        """What a checkpoint of `step` must hold: abstract arrays by path."""
        return to_flat(self.phase(step).shapes)

    @property
    def batch_size(self) -> int:
        """Examples of one update, over all devices."""
        return self.clock.batch_size

    @property
    def parameter_count(self) -> int:
        """Number of parameters, frozen ones included."""
        return count(self.shapes.params)

    def init_state(self) -> TrainState:
        """A new state at step 0, on the mesh: drawn from the config's seed, but for weights to start from."""
        start = self.starting()
        shardings = to_flat(self.phases[0].shardings)
        # One by one: no more than one of them is whole in memory where they are cut.
        made = self.make(start.arrays if start else {})
        found = {path: meshes.place(array, shardings[path]) for path, array in made}
        if found.keys() == shardings.keys():
            return from_flat(found, self.shapes)
        # What is drawn elsewhere may depend on what was drawn here: then all of it is drawn there.
        given = start.arrays if start else {}
        return self.init({path: meshes.place(given[path].copy(), shardings[path]) for path in given})

    @property
    def watch(self) -> str:
        """The metric by which the best checkpoint is chosen: the one that early stopping watches, else the task's, of
        the averaged parameters where there are any."""
        if self.config.early_stopping.metric:
            return self.config.early_stopping.metric.removeprefix("val/")
        return f"ema/{self.task.watch}" if self.options.ema_decay else self.task.watch

    def evaluate(self, state: TrainState, split: str, *, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Loss and every metric over a whole split, `ema/…` beside them where parameters are averaged.

        `stop` is asked before each batch (raises Aborted).
        """
        found: dict[str, Any] = {}
        for prefix, params in (("", state.params), ("ema/", state.ema)):
            if params:
                batches = self.feeds[split].eval_batches(self.batch_size)
                block = meshes.must_block(self.mesh)
                part = evaluate(self.eval_step, self.task, params, state.model_state, batches, block=block, stop=stop)
                found |= {f"{prefix}{name}": value for name, value in part.items()}
        return found

    def predict(self, state: TrainState, split: str) -> np.ndarray:
        """The task's predictions [examples, …] over a whole split, in its order."""
        feed = self.feeds[split]
        return predict(
            self.predict_step, eval_params(state), state.model_state, feed.eval_batches(self.batch_size),
            len(feed.examples),
        )  # fmt: skip

    def predict_inputs(self, state: TrainState, inputs: np.ndarray) -> np.ndarray:
        """The same for `inputs` [n, …] of the training data's shape and dtype."""
        no_targets = np.zeros(len(inputs), np.int32)
        examples = ArrayExamples(inputs, no_targets)
        feed = Feed(examples, self.mesh, resident=False, check=lambda *fetched: None)
        with contextlib.closing(feed):
            batches = feed.eval_batches(self.batch_size)
            return predict(self.predict_step, eval_params(state), state.model_state, batches, len(inputs))

    def close(self) -> None:
        """Ends the threads that make batches ahead."""
        for feed in self.feeds.values():
            feed.close()
