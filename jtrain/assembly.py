"""config -> Run: everything that training needs, built once and frozen."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain import metrics, pipeline, tree
from jtrain.data import augment
from jtrain.data.examples import ArrayExamples, DataSet
from jtrain.data.feed import Feed
from jtrain.data.order import Order
from jtrain.durations import Clock
from jtrain.errors import ConfigError, JtrainError
from jtrain.evaluation import evaluate, make_eval_step, predict
from jtrain.models.initializers import reinitialise
from jtrain.models.pure import Model, as_model
from jtrain.optim import chain
from jtrain.optim.groups import Groups, build_groups, decay_mask
from jtrain.optim.optimizers import Core
from jtrain.optim.schedules import Schedule, hold, with_warmup
from jtrain.precision import PRECISIONS
from jtrain.state import TrainState, count, eval_params, new_state
from jtrain.step import Batch, make_train_step
from jtrain.table import parameters
from jtrain.task import TASKS, Task


@dataclasses.dataclass(frozen=True)
class Run:
    """What `assemble` builds. Nothing in it changes; the state is apart.

    Attributes:
      config: resolved and validated.
      lr: the peak learning rate in force (the config's, or the default of its optimizer).
      eval_every, save_every, log_every: updates.
      feeds: 'train', and 'val' and 'test' where there are such splits.
      train_step: compiled `(state, data, rows) -> (state, sums)`; the state is donated.
      eval_step: compiled `(params, model_state, data, rows) -> (sums, outputs)`.
      schedules: 'lr', and 'lr/<pattern>' of each group where there are several; without `lr_scale`.
      lrs: compiled `step -> {name: lr}` of them.
      shapes: abstract state, for restoring and counting.
    """

    config: ml_collections.ConfigDict
    data: DataSet
    task: Task
    model: Model
    model_name: str
    core: Core
    groups: Groups
    decayed: frozenset[str]
    schedules: dict[str, Schedule]
    lr: float
    clock: Clock
    eval_every: int
    save_every: int
    log_every: int
    mesh: jax.sharding.Mesh
    order: Order
    feeds: dict[str, Feed]
    train_step: Callable[[TrainState, Batch, Any], tuple[TrainState, metrics.Sums]]
    eval_step: Callable[[Any, Any, Batch, Any], tuple[metrics.Sums, jax.Array]]
    lrs: Callable[[Any], dict[str, jax.Array]]
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

    def evaluate(self, state: TrainState, split: str, *, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Loss and every metric over a whole split; `stop` is asked before each batch (raises Aborted)."""
        return evaluate(
            self.eval_step, eval_params(state), state.model_state, self.feeds[split].eval_batches(self.batch_size),
            block=meshes.must_block(self.mesh), stop=stop,
        )  # fmt: skip

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


def assemble(
    config: ml_collections.ConfigDict,
    *,
    model: Any = None,
    data: DataSet | Mapping[str, Any] | tuple[Any, Any] | None = None,
) -> Run:
    """Builds a run from a config; nothing is compiled but small host work, nothing is written.

    Args:
      config: from `jtrain.config.base()` or `jtrain.config_files.load`; copied, not kept.
      model: your own: a Linen module, an NNX module or factory, or a `jtrain.Model`; its outputs are
        logits [batch, classes]. Without it, the config's.
      data: your own: `(inputs, targets)`, or a dict of such pairs by 'train', 'val', 'test'. Without it, the config's.

    Raises:
      ConfigError, DataError: see `validate`; and for what data, model and options do not fit.
    """
    config = config.copy_and_resolve_references() if isinstance(config, ml_collections.ConfigDict) else config
    if data is not None:
        config.data.name = "arrays"
    configs.validate(config)
    mesh = meshes.make_mesh(config.mesh.devices)
    dataset = pipeline.load(config, data)
    clock = _clock(config, len(dataset.train))
    order = Order(len(dataset.train), clock.batch_size, config.seed)
    loss, loss_options = configs.choice(config, "loss")
    task = TASKS[config.task](functools.partial(loss, **loss_options))

    sample, _ = dataset.train.fetch(np.arange(1))
    augment.check_inputs(config.augment, sample.shape[1:])
    prepare = pipeline.make_prepare(config, dataset.train, sample)
    dtype = PRECISIONS[config.precision]
    pure, model_name = _model(config, model, dataset.num_classes)
    shapes = _shapes(pure, model_name, prepare, sample, dataset.num_classes)
    paths = sorted(tree.flatten(shapes[0]))

    groups = build_groups(config.groups, paths)
    decayed = decay_mask(paths, config.optimizer.no_decay) - groups.frozen
    make_core, core_options = configs.choice(config, "optimizer")
    core = make_core(**core_options)
    lr = config.optimizer.lr or core.default_lr
    make_clip, clip_options = configs.choice(config, "clip")
    schedule = _schedule(config, clock, lr)
    tx, by_group = chain.build(core, schedule, groups, decayed, make_clip(**clip_options))
    schedules = {"lr": schedule}
    if len(by_group) > 1:
        schedules |= {f"lr/{name}": group_schedule for name, group_schedule in by_group.items()}
    init = _make_init(config, pure, prepare, sample, tx, groups, mesh)
    state_shapes = jax.eval_shape(init)

    on_all, constrain = meshes.replicated(mesh), meshes.make_constrain(mesh)
    train_step = make_train_step(
        model=pure, task=task, tx=tx, frozen=groups.frozen, prepare=prepare,
        augment=augment.build(config.augment) if config.augment else None, dtype=dtype, constrain=constrain,
    )  # fmt: skip
    eval_step = make_eval_step(model=pure, task=task, prepare=prepare, dtype=dtype, constrain=constrain)
    return Run(
        config=config,
        data=dataset,
        task=task,
        model=pure,
        model_name=model_name,
        core=core,
        groups=groups,
        decayed=frozenset(decayed),
        schedules=schedules,
        lr=lr,
        clock=clock,
        eval_every=configs.updates(clock, config.train.eval_every, "train.eval_every"),
        save_every=configs.updates(clock, config.checkpoint.every, "checkpoint.every"),
        log_every=configs.updates(clock, config.log.every, "log.every"),
        mesh=mesh,
        order=order,
        feeds=pipeline.feeds(config, dataset, mesh),
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=on_all),
        eval_step=jax.jit(eval_step, out_shardings=on_all),
        lrs=jax.jit(lambda step: {name: schedule(step) for name, schedule in schedules.items()}),
        shapes=state_shapes,
        init=jax.jit(init, out_shardings=on_all),
    )


def _clock(config: ml_collections.ConfigDict, train_examples: int) -> Clock:
    try:
        return Clock.start(config.train.total, batch_size=config.train.batch_size, epoch_examples=train_examples)
    except ValueError as error:
        raise ConfigError(f"train.total: {error}") from error


def _model(config: ml_collections.ConfigDict, given: Any, num_outputs: int) -> tuple[Model, str]:
    if given is not None:
        return as_model(given), type(given).__name__
    factory, model_options = configs.choice(config, "model")
    name = config.model.name
    if name in configs.CHOICES["model"][1]:
        return as_model(factory(num_outputs, **model_options)), name
    try:
        if "rngs" in parameters(factory):  # NNX: made anew from each key
            return as_model(functools.partial(factory, **model_options)), name
        return as_model(factory(**model_options)), name
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.name: {name} cannot be made from model.options {model_options}: {error}") from error


def _shapes(
    model: Model, name: str, prepare: Callable[[jax.Array], jax.Array], sample: np.ndarray, num_outputs: int
) -> tuple[Any, Any]:
    """Abstract (params, model_state); raises ConfigError when model and data do not fit."""

    def run(inputs: jax.Array) -> tuple[Any, Any, Any]:
        inputs = prepare(inputs)
        params, model_state = model.init(jax.random.key(0), inputs)
        outputs, _ = model.apply(params, model_state, inputs, key=None, train=False)
        return params, model_state, outputs

    shape = tuple(sample.shape[1:])
    try:
        params, model_state, outputs = jax.eval_shape(run, jax.ShapeDtypeStruct((2, *shape), sample.dtype))
    except JtrainError:
        raise
    except Exception as error:  # whatever a model of a user raises on inputs that do not fit it
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"model: {name} does not take inputs of shape {list(shape)} an example: {reason}") from error
    if not jax.tree.leaves(params):
        raise ConfigError(f"model: {name} has no parameters")
    if getattr(outputs, "shape", None) != (2, num_outputs):
        found = getattr(outputs, "shape", type(outputs).__name__)
        raise ConfigError(
            f"model: {name} gives outputs of shape {found} for 2 examples; "
            f"the data has {num_outputs} classes, so (2, {num_outputs}) is needed"
        )
    return params, model_state


def _schedule(config: ml_collections.ConfigDict, clock: Clock, lr: float) -> Schedule:
    warmup = configs.updates(clock, config.schedule.warmup, "schedule.warmup", zero=True)
    if warmup >= clock.total:
        raise ConfigError(
            f"schedule.warmup: {config.schedule.warmup!r} is {warmup} of {clock.total} updates; nothing is left"
        )
    factory, schedule_options = configs.timed_choice(config, "schedule", clock)
    every = configs.updates(clock, config.schedule.every, "schedule.every", zero=True)
    return with_warmup(hold(factory(lr, clock.total - warmup, **schedule_options), every), warmup)


def _make_init(
    config: ml_collections.ConfigDict,
    model: Model,
    prepare: Callable[[jax.Array], jax.Array],
    sample: np.ndarray,
    tx: optax.GradientTransformation,
    groups: Groups,
    mesh: jax.sharding.Mesh,
) -> Callable[[], TrainState]:
    initializer, init_options = configs.choice(config, "init")
    example = np.zeros((1, *sample.shape[1:]), sample.dtype)

    def init() -> TrainState:
        key = jax.random.key(config.seed)
        params, model_state = model.init(jax.random.fold_in(key, 0), prepare(jnp.asarray(example)))
        if config.init.name != "model":
            params = reinitialise(params, jax.random.fold_in(key, 0), initializer(**init_options), config.init.params)
        trained = tree.split(params, groups.frozen)[1]
        return new_state(
            params, model_state, tx.init(trained), key=jax.random.fold_in(key, 1), lr_scale=config.lr_scale
        )

    return init
