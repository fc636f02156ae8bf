"""config -> Run: everything that training needs, built once and frozen."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain import pipeline, sharding, tasks, transfer, tree
from jtrain.data import augment, views
from jtrain.data.examples import DataSet
from jtrain.data.order import Order
from jtrain.durations import Clock
from jtrain.errors import ConfigError
from jtrain.evaluation import by_batch, make_eval_step, make_predict_step
from jtrain.fit import build_model, check_blocks, check_shapes
from jtrain.gradient import make_gradient
from jtrain.initial import flat_model, make_draw, make_init, make_on_host
from jtrain.io import profile
from jtrain.models.prepare import Scaling, carries, prepare
from jtrain.models.pure import Model
from jtrain.phases import build_optimizers, make_begin
from jtrain.precision import PRECISIONS, cast
from jtrain.remat import Remat, make_remat
from jtrain.run import Optimizer, Phase, Run
from jtrain.shards import OverShards, make_over_shards
from jtrain.state import TrainState, from_flat, to_flat
from jtrain.step import StepOptions, TrainStep, make_train_step, make_train_steps
from jtrain.tasks import Task

GIVEN = "given"  # model.name of a model that a program gave
PER_CALL = 64  # updates a call where the config leaves it open; fewer where they take long


def assemble(
    config: ml_collections.ConfigDict,
    *,
    model: Any = None,
    data: DataSet | Mapping[str, Any] | tuple[Any, Any] | None = None,
) -> Run:
    """Builds a run from a config; nothing is compiled but small host work, nothing is written.

    Args:
      config: from `jtrain.config.base()` or `jtrain.load`; copied, not kept.
      model: your own: a Linen module, an NNX module or factory, or a `jtrain.Model`; its outputs are what the task
        takes, such as logits [batch, classes]. Without it, the config's.
      data: your own: `(inputs, targets)`, or a dict of such pairs by 'train', 'val', 'test'. Without it, the config's.

    Raises:
      ConfigError, DataError: see `validate`; and for what data, model and options do not fit.
    """
    configs.validate(config)
    config = _with_given(config, model, data)
    mesh = meshes.make_mesh(config.mesh.devices, config.mesh.fsdp)
    dataset = pipeline.load(config, data)
    clock = _clock(config, len(dataset.train))
    order = Order(len(dataset.train), clock.batch_size, config.seed)
    sample, targets = dataset.train.fetch(np.arange(1))
    augment.check_inputs(config.augment, sample.shape[1:])
    views.check_view_inputs(config.tta, sample.shape[1:], "tta")

    scaling = pipeline.statistics(config, dataset)
    task = _task(config, dataset, scaling)
    inner, model_name, remat = build_model(config, model, task.num_outputs)
    filters = pipeline.whitening(config, dataset, scaling)
    pure = prepare(inner, scaling, task.rescale, PRECISIONS[config.precision], filters)
    draw = make_draw(config, pure)
    ours = config.model.name in configs.CHOICES["model"][1]
    traced = check_shapes(draw, pure, model_name, task, sample, targets, config.augment, ours=ours)
    paths = sorted(tree.flatten(traced.params))
    cut = sharding.cut_parameters(traced.params, mesh, config.mesh.rules)
    options = _step_options(config, clock, mesh)
    optimizers = build_optimizers(config, clock, paths)

    on_all, constrain = meshes.replicated(mesh), meshes.make_constrain(mesh)
    tta = views.build_views(config.tta) if config.tta else None
    whole = _gathering(pure, cut, PRECISIONS[config.precision])
    if remat == "blocks":
        check_blocks(pure, model_name, sample)
    over_shards = _over_shards(config, mesh)
    eval_step = make_eval_step(model=whole, task=task, views=tta, constrain=constrain, over_shards=over_shards)
    predict_step = make_predict_step(model=whole, task=task, views=tta, constrain=constrain)
    init = make_init(config, draw, traced, optimizers[0][1], options)
    feeds = pipeline.feeds(config, dataset, mesh)
    # On CPU a convolution inside a loop is 4 to 47 times slower.
    loop = config.train.steps_per_call != 1 and not (traced.convolves and meshes.is_cpu(mesh))
    per_call = (config.train.steps_per_call or PER_CALL) if loop and feeds["train"].resident else 1
    several = functools.partial(make_train_steps, loop=loop)
    shapes = jax.eval_shape(init, flat_model(traced.params, traced.model_state))
    phases = _phases(
        config, clock.epoch_examples, whole, task, optimizers, options, shapes, mesh, cut, over_shards, remat, several
    )
    evaluating = lining = jax.jit(eval_step, out_shardings=on_all)
    if (carried := carries(traced.model_state)) or tta:
        seen = by_batch(whole) if carried else whole
        plain = make_eval_step(model=seen, task=task, views=None, constrain=constrain, over_shards=over_shards)
        lining = jax.jit(plain, out_shardings=on_all)
    fingerprint = pipeline.fingerprint(dataset)
    names = fingerprint["names"] if task.names is None else None

    def again(config: ml_collections.ConfigDict, data: DataSet) -> Run:
        return assemble(config, model=model, data=data)

    def seeded(seed: int) -> dict[str, Any]:
        other = configs.changed(config, seed=seed)
        own = make_init(other, make_draw(other, pure), traced, optimizers[0][1], options)
        fresh = feeds if feeds["train"].resident else pipeline.feeds(other, dataset, mesh)
        return {
            "config": other, "order": Order(len(dataset.train), clock.batch_size, seed), "feeds": fresh,
            "init": jax.jit(own, out_shardings=phases[0].shardings),
            "make": functools.partial(make_on_host, other, traced, own),
        }  # fmt: skip

    like, options_of_start = to_flat(phases[0].shapes), transfer.Options(**config.transfer.to_dict())
    return Run(
        config=config,
        data=dataset,
        fingerprint=fingerprint,
        task=task,
        model=pure,
        model_name=model_name,
        clock=clock,
        eval_every=configs.updates(clock, config.train.eval_every, "train.eval_every"),
        save_every=configs.updates(clock, config.checkpoint.every, "checkpoint.every"),
        log_every=configs.updates(clock, config.log.every, "log.every"),
        noise_every=configs.updates(clock, config.diagnose.noise_every, "diagnose.noise_every", zero=True),
        profiled=profile.window(config.log.profile) or (),
        mesh=mesh,
        order=order,
        feeds=feeds,
        options=options,
        per_call=per_call,
        convolves=traced.convolves,
        phases=phases,
        eval_step=evaluating,
        line_step=lining,
        predict_step=jax.jit(predict_step, out_shardings=on_all),
        init=jax.jit(init, out_shardings=phases[0].shardings),
        make=functools.partial(make_on_host, config, traced, init),
        starting=functools.cache(lambda: transfer.start(options_of_start, config.model.name, like, names)),
        again=again,
        seeded=seeded,
    )


def _task(config: ml_collections.ConfigDict, dataset: DataSet, scaling: Scaling) -> Task:
    make, task_options = configs.choice(config, "task")
    loss, loss_options = configs.choice(config, "loss")
    name, needs = config.task.name, tasks.needs(config.task.name, make)
    facts = pipeline.facts(config, dataset, scaling, own_targets=needs == "any")
    try:
        task = make(functools.partial(loss, **loss_options), facts, **task_options)
    except TypeError as error:  # a task of yours
        raise ConfigError(f"task.name: {name} cannot be made from (loss, facts, {task_options}): {error}") from error
    task = tasks.with_metrics(task, config.metrics, tasks.KINDS.get(name, needs))
    if augment.mixes(config.augment) and task.as_floats is None:
        raise ConfigError(f"augment: {name} has no way to mix targets (`as_floats`); leave mixup and cutmix out")
    if config.tta and task.pretext is not None:
        raise ConfigError(f"tta: several views of an input have no common answer in {config.task.name}; leave it ''")
    return task


def _phases(
    config: ml_collections.ConfigDict,
    epoch_examples: int,
    model: Model,
    task: Task,
    optimizers: list[tuple[int, Optimizer]],
    options: StepOptions,
    shapes: TrainState,
    mesh: jax.sharding.Mesh,
    cut: Mapping[str, jax.sharding.NamedSharding],
    over_shards: OverShards | None,
    remat: Remat,
    several: Callable[[TrainStep], TrainStep],
) -> tuple[Phase, ...]:
    """The steps of every phase; they are compiled when they are first taken."""
    phases: list[Phase] = []
    for start, optimizer in optimizers:
        gradient = make_gradient(
            model=model,
            task=task,
            frozen=optimizer.groups.frozen,
            augment=augment.build(config.augment) if config.augment else None,
            mix=augment.build_mix(config.augment),
            epoch_examples=epoch_examples,
            constrain=meshes.make_constrain(mesh),
            accumulate=options.accumulate,
            unroll=options.unroll,
            loss_scaling=options.loss_scaling,
            over_shards=over_shards,
            remat=make_remat(remat, gathers=any(map(sharding.is_cut, cut.values()))),
        )
        train_step = make_train_step(
            gradient=gradient,
            tx=optimizer.tx,
            schedule=optimizer.schedules["lr"],
            frozen=optimizer.groups.frozen,
            options=options,
        )
        begin = make_begin(optimizer, options)
        if phases:
            shapes = jax.eval_shape(begin, shapes)
        shardings = from_flat(sharding.cut_alike(to_flat(shapes), shapes.params, cut), shapes)
        compiled = functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, meshes.replicated(mesh)))
        phases.append(
            Phase(
                start=start,
                optimizer=optimizer,
                gradient=gradient,
                train_step=compiled(train_step),
                pure_steps=several(train_step),
                train_steps=compiled(several(train_step)),
                begin=jax.jit(begin, donate_argnums=0, out_shardings=shardings),
                shapes=shapes,
                shardings=shardings,
            )
        )
    return tuple(phases)


def _gathering(model: Model, cut: Mapping[str, jax.sharding.NamedSharding], dtype: Any) -> Model:
    """The model with parameters that are cut over devices, made whole where it is applied."""
    gather = sharding.make_gather(cut)
    if not any(map(sharding.is_cut, cut.values())):
        return model

    def apply(params: Any, *given: Any, **options: Any) -> Any:
        return model.apply(gather(cast(params, dtype)), *given, **options)  # cast first: half as much is sent about

    return Model(model.init, apply)


def _over_shards(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> OverShards | None:
    """What computes virtual shards apart; None where there are none."""
    shards, batch_size, accumulate = config.mesh.shards, config.train.batch_size, config.train.accumulate
    if not shards:
        return None
    if shards % mesh.size:
        raise ConfigError(
            f"mesh.shards: {shards} do not divide among {mesh.size} devices; use a multiple of these that is a power "
            "of two (or 0), on 1, 2, 4, … devices"
        )
    if batch_size % shards:
        raise ConfigError(f"mesh.shards: {shards} does not divide train.batch_size {batch_size}")
    if batch_size // shards % accumulate:
        raise ConfigError(
            f"train.accumulate: {accumulate} micro-batches do not divide the {batch_size // shards} examples of each "
            f"of the {shards} shards"
        )
    return make_over_shards(mesh, shards)


def _with_given(config: ml_collections.ConfigDict, model: Any, data: Any) -> ml_collections.ConfigDict:
    """A copy of the config that says what a program gave, so that a workdir does not pretend to know it."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if data is not None and not (isinstance(data, DataSet) and data.ready):
            config.data.name = "arrays"
        if model is not None and config.model.name != GIVEN:
            config.model = configs.base().model
            config.model.name = GIVEN
    configs.validate(config)
    return config


def _clock(config: ml_collections.ConfigDict, train_examples: int) -> Clock:
    try:
        return Clock.start(config.train.total, batch_size=config.train.batch_size, epoch_examples=train_examples)
    except ValueError as error:
        raise ConfigError(f"train.total: {error}") from error


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
        lookahead=config.ema.every if config.ema.kind == "lookahead" else 0,
        on_nan=config.train.on_nan,
    )
