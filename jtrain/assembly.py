"""config -> Run: everything that training needs, built once and frozen."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain import pipeline, tree
from jtrain.data import augment
from jtrain.data.examples import DataSet
from jtrain.data.order import Order
from jtrain.durations import Clock
from jtrain.errors import ConfigError, JtrainError
from jtrain.evaluation import make_eval_step
from jtrain.models.initializers import reinitialise
from jtrain.models.prepare import prepare
from jtrain.models.pure import Model, as_model
from jtrain.optim import chain
from jtrain.optim.groups import build_groups, decay_mask
from jtrain.optim.optimizers import Core
from jtrain.optim.schedules import Schedule, hold, with_warmup
from jtrain.precision import PRECISIONS
from jtrain.run import Optimizer, Run
from jtrain.state import TrainState, new_state
from jtrain.step import StepOptions, make_gradient, make_train_step
from jtrain.table import parameters
from jtrain.task import TASKS, Task


def assemble(
    config: ml_collections.ConfigDict,
    *,
    model: Any = None,
    data: DataSet | Mapping[str, Any] | tuple[Any, Any] | None = None,
) -> Run:
    """Builds a run from a config; nothing is compiled but small host work, nothing is written.

    Args:
      config: from `jtrain.config.base()` or `jtrain.load`; copied, not kept.
      model: your own: a Linen module, an NNX module or factory, or a `jtrain.Model`; its outputs are
        logits [batch, classes]. Without it, the config's.
      data: your own: `(inputs, targets)`, or a dict of such pairs by 'train', 'val', 'test'. Without it, the config's.

    Raises:
      ConfigError, DataError: see `validate`; and for what data, model and options do not fit.
    """
    configs.validate(config)
    config = _with_given(config, model, data)
    mesh = meshes.make_mesh(config.mesh.devices)
    dataset = pipeline.load(config, data, "class")
    sample, _ = dataset.train.fetch(np.arange(1))
    augment.check_inputs(config.augment, sample.shape[1:])
    clock = _clock(config, len(dataset.train))
    order = Order(len(dataset.train), clock.batch_size, config.seed)
    loss, loss_options = configs.choice(config, "loss")
    task = TASKS[config.task](functools.partial(loss, **loss_options))

    inner, model_name = _model(config, model, dataset.num_outputs)
    mean, std = pipeline.statistics(config, dataset.train)
    pure = prepare(inner, mean, std, PRECISIONS[config.precision])
    params = _shapes(pure, model_name, task, sample, dataset.num_outputs)
    optimizer = _optimizer(config, clock, sorted(tree.flatten(params)))
    options = _step_options(config, clock, mesh)
    init = _make_init(config, pure, sample, optimizer, options)

    on_all, constrain = meshes.replicated(mesh), meshes.make_constrain(mesh)
    frozen = optimizer.groups.frozen
    gradient = make_gradient(
        model=pure,
        task=task,
        frozen=frozen,
        augment=augment.build(config.augment) if config.augment else None,
        constrain=constrain,
        options=options,
    )
    train_step = make_train_step(
        gradient=gradient, tx=optimizer.tx, schedule=optimizer.schedules["lr"], frozen=frozen, options=options
    )
    eval_step = make_eval_step(model=pure, task=task, constrain=constrain)
    return Run(
        config=config,
        data=dataset,
        fingerprint=pipeline.fingerprint(dataset),
        task=task,
        model=pure,
        model_name=model_name,
        optimizer=optimizer,
        clock=clock,
        eval_every=configs.updates(clock, config.train.eval_every, "train.eval_every"),
        save_every=configs.updates(clock, config.checkpoint.every, "checkpoint.every"),
        log_every=configs.updates(clock, config.log.every, "log.every"),
        mesh=mesh,
        order=order,
        feeds=pipeline.feeds(config, dataset, mesh),
        options=options,
        gradient=gradient,
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=on_all),
        eval_step=jax.jit(eval_step, out_shardings=on_all),
        shapes=jax.eval_shape(init),
        init=jax.jit(init, out_shardings=on_all),
    )


def _with_given(config: ml_collections.ConfigDict, model: Any, data: Any) -> ml_collections.ConfigDict:
    """A copy of the config that says what a program gave, so that a workdir does not pretend to know it."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if data is not None:
            config.data.name = "arrays"
        if model is not None:
            config.model = configs.base().model
            config.model.name = "given"
    configs.validate(config)
    return config


def _clock(config: ml_collections.ConfigDict, train_examples: int) -> Clock:
    try:
        return Clock.start(config.train.total, batch_size=config.train.batch_size, epoch_examples=train_examples)
    except ValueError as error:
        raise ConfigError(f"train.total: {error}") from error


def _model(config: ml_collections.ConfigDict, given: Any, num_outputs: int) -> tuple[Model, str]:
    if given is not None:
        named = isinstance(given, type) or inspect.isfunction(given)
        return as_model(given), given.__name__ if named else type(given).__name__
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


def _shapes(model: Model, name: str, task: Task, sample: np.ndarray, num_outputs: int) -> Any:
    """Abstract params; raises ConfigError when model, data and loss do not fit."""

    def run(inputs: jax.Array) -> tuple[Any, Any]:
        params, model_state = model.init(jax.random.key(0), inputs)
        model.apply(params, model_state, inputs, key=jax.random.key(1), train=True)
        return params, model.apply(params, model_state, inputs, key=None, train=False)[0]

    shape = tuple(sample.shape[1:])
    try:
        params, outputs = jax.eval_shape(run, jax.ShapeDtypeStruct((2, *shape), sample.dtype))
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
    losses = jax.eval_shape(task.per_example, outputs, jax.ShapeDtypeStruct((2,), np.int32))
    for key, value in losses.items():
        if value.shape != (2,):  # a mean, or [batch, 1], would be weighted wrongly without a word
            what = "loss.name: the loss" if key == "loss" else f"metric {key}"
            raise ConfigError(f"{what} must be one number an example, [batch]; for 2 it gives {list(value.shape)}")
    return params


def _optimizer(config: ml_collections.ConfigDict, clock: Clock, paths: list[str]) -> Optimizer:
    groups = build_groups(config.groups, paths)
    decayed = decay_mask(paths, config.optimizer.no_decay) - groups.frozen
    make_core, core_options = configs.choice(config, "optimizer")
    core = make_core(**core_options)
    lr = (config.optimizer.lr or core.default_lr) * _batch_factor(config, core)
    schedule = _schedule(config, clock, lr)
    make_clip, clip_options = configs.choice(config, "clip")
    tx, by_group = chain.build(core, schedule, groups, decayed, make_clip(**clip_options))
    schedules = {"lr": schedule}
    if len(by_group) > 1:
        schedules |= {f"lr/{name}": group_schedule for name, group_schedule in by_group.items()}
    return Optimizer(tx, core, groups, frozenset(decayed), schedules, lr)


def _batch_factor(config: ml_collections.ConfigDict, core: Core) -> float:
    """By what the lr is scaled when the batch is not the reference batch: linear for SGD (Goyal et al. 2017), the
    square root for the Adam family (Krizhevsky 2014; Malladi et al. 2022)."""
    reference = config.optimizer.reference_batch
    if not reference:
        return 1.0
    kind = config.optimizer.batch_scaling
    linear = kind == "linear" or (kind == "auto" and core.family == "sgd")
    ratio = config.train.batch_size / reference
    return ratio if linear else math.sqrt(ratio)


def _step_options(config: ml_collections.ConfigDict, clock: Clock, mesh: jax.sharding.Mesh) -> StepOptions:
    if clock.batch_size % config.train.accumulate:
        raise ConfigError(
            f"train.accumulate: {config.train.accumulate} micro-batches do not divide "
            f"train.batch_size {clock.batch_size}"
        )
    if config.ema.kind == "schedule_free":
        _, given = configs.choice(config, "optimizer")
        for name in ("momentum", "b1"):
            if given.get(name):
                key = f"optimizer.{config.optimizer.name}.{name}"
                raise ConfigError(f"ema.kind: schedule-free training takes the place of momentum; set {key} to 0")
    return StepOptions(
        accumulate=config.train.accumulate,
        unroll=meshes.is_cpu(mesh),  # a convolution in a loop is 4 to 47 times slower there
        loss_scaling=config.precision == "float16",
        ema_decay=config.ema.decay,
        schedule_free=config.ema.kind == "schedule_free",
        on_nan=config.train.on_nan,
    )


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
    config: ml_collections.ConfigDict, model: Model, sample: np.ndarray, optimizer: Optimizer, options: StepOptions
) -> Callable[[], TrainState]:
    make_initializer, init_options = configs.choice(config, "init")
    initializer = make_initializer(**init_options)
    example = np.zeros((1, *sample.shape[1:]), sample.dtype)

    def init() -> TrainState:
        key = jax.random.key(config.seed)
        params, model_state = model.init(jax.random.fold_in(key, 0), jnp.asarray(example))
        if initializer is not None:
            params = reinitialise(params, jax.random.fold_in(key, 0), initializer, config.init.params)
        trained = tree.split(params, optimizer.groups.frozen)[1]
        opt_state = optimizer.tx.init(trained)
        return new_state(
            params,
            model_state,
            opt_state,
            key=jax.random.fold_in(key, 1),
            lr_scale=config.lr_scale,
            ema=options.ema_decay > 0,
            extra=options.extra(trained),
        )

    return init
