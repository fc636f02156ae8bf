"""The optimizer of a run, one for each phase of progressive unfreezing: which parameters are trained from when on."""

import dataclasses
import math
import re
from collections.abc import Callable

import ml_collections

from jtrain import config as configs
from jtrain import tree
from jtrain.durations import Clock
from jtrain.errors import ConfigError
from jtrain.optim import chain
from jtrain.optim.core import Core
from jtrain.optim.groups import Groups, build_groups, decay_mask
from jtrain.optim.schedules import Schedule, hold, with_warmup
from jtrain.run import Optimizer
from jtrain.state import TrainState, from_flat, to_flat
from jtrain.step import StepOptions

FINE_TUNING_LR = 1e-4  # the notes' most for weights that were trained before


def build_optimizers(config: ml_collections.ConfigDict, clock: Clock, paths: list[str]) -> list[tuple[int, Optimizer]]:
    """(first update, optimizer) of every phase; one from update 0 on where `phases` is ().

    Args:
      config: of the run.
      clock: turns durations into updates.
      paths: of all parameters.

    Raises:
      ConfigError: for a pattern that matches nothing, a phase that never begins, or one with nothing to train.
    """
    groups = build_groups(config.groups, paths)
    decayed = decay_mask(paths, config.optimizer.no_decay)
    make_core, core_options = configs.choice(config, "optimizer")
    lr = starting_lr(config, make_core(**core_options)) * _batch_factor(config, make_core(**core_options))
    schedule = _schedule(config, clock, lr)
    make_clip, clip_options = configs.choice(config, "clip")
    found = []
    for start, of_phase in _groups_of_phases(config.phases, clock, groups):
        core = make_core(**core_options)
        trained = decayed - of_phase.frozen
        tx, by_group = chain.build(core, schedule, of_phase, trained, make_clip(**clip_options))
        schedules = {"lr": schedule}
        if len(config.groups) > 1:
            schedules |= {f"lr/{name}": group_schedule for name, group_schedule in by_group.items()}
        found.append((start, Optimizer(tx, core, of_phase, frozenset(trained), schedules, lr)))
    return found


def make_begin(optimizer: Optimizer, options: StepOptions) -> Callable[[TrainState], TrainState]:
    """`begin(state) -> state`, pure: a state of the phase before as this phase has it.

    Parameters that are trained from now on get fresh optimizer state, the others keep theirs.
    """

    def begin(state: TrainState) -> TrainState:
        trained = tree.split(state.params, optimizer.groups.frozen)[1]
        fresh = dataclasses.replace(state, opt_state=optimizer.tx.init(trained), extra=options.extra(trained))
        before = to_flat(state)
        return from_flat({path: before.get(path, leaf) for path, leaf in to_flat(fresh).items()}, fresh)

    return begin


def starting_lr(config: ml_collections.ConfigDict, core: Core) -> float:
    """The lr asked for, else the optimizer's default: at most 1e-4 when it goes on from trained weights."""
    if config.optimizer.lr:
        return config.optimizer.lr
    return min(core.default_lr, FINE_TUNING_LR) if config.transfer.init_from else core.default_lr


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


def _schedule(config: ml_collections.ConfigDict, clock: Clock, lr: float) -> Schedule:
    warmup = configs.updates(clock, config.schedule.warmup, "schedule.warmup", zero=True)
    if warmup >= clock.total:
        raise ConfigError(
            f"schedule.warmup: {config.schedule.warmup!r} is {warmup} of {clock.total} updates; nothing is left"
        )
    factory, schedule_options = configs.timed_choice(config, "schedule", clock)
    every = configs.updates(clock, config.schedule.every, "schedule.every", zero=True)
    return with_warmup(hold(factory(lr, clock.total - warmup, **schedule_options), every), warmup)


def _groups_of_phases(phases: tuple[tuple[str, str], ...], clock: Clock, groups: Groups) -> list[tuple[int, Groups]]:
    """The groups with what each phase leaves out frozen; `entered` says since which phase a parameter is trained."""
    if not phases:
        return [(0, groups)]
    starts = [configs.updates(clock, text, f"phases[{i}]", zero=True) for i, (text, _) in enumerate(phases)]
    found: list[tuple[int, Groups]] = []
    before: dict[str, int] = {}
    for i, (start, (text, pattern)) in enumerate(zip(starts, phases, strict=True)):
        if i == 0 and start != 0:
            raise ConfigError(f"phases[0]: begins at update {start}; the first phase must begin at '0'")
        if i > 0 and start <= starts[i - 1]:
            raise ConfigError(
                f"phases[{i}]: {text!r} is update {start}, not after phase {i - 1} (update {starts[i - 1]})"
            )
        if start >= clock.total:
            raise ConfigError(
                f"phases[{i}]: {text!r} is update {start}, but the run has {clock.total}: it never begins"
            )
        compiled = re.compile(pattern)
        labels = {path: label for path, label in groups.labels.items() if compiled.fullmatch(path)}
        if not labels:
            some = ", ".join(sorted(groups.labels)[:6])
            raise ConfigError(
                f"phases[{i}]: pattern {pattern!r} matches no parameter that `groups` trains; "
                f"it must match whole paths such as {some}"
            )
        before = {path: before.get(path, i) for path in labels}
        frozen = groups.frozen | (groups.labels.keys() - labels.keys())
        found.append((start, dataclasses.replace(groups, labels=labels, frozen=frozen, entered=before)))
    return found
