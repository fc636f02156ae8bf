"""A config, or a run, as the facts that lint judges."""

import dataclasses
import math
import re
from typing import Any

import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain import phases, tree
from jtrain.coach.facts import Facts
from jtrain.data import augment, views
from jtrain.durations import Clock, Duration, Time, Timed, Times
from jtrain.facts_data import dense_weights, has_batch_norm, of_data, of_program
from jtrain.fields import CHOICES
from jtrain.models import cnn
from jtrain.optim.groups import NO_DECAY
from jtrain.optim.optimizers import OPTIMIZERS
from jtrain.optim.schedules import Schedule
from jtrain.run import Optimizer, Run
from jtrain.table import options

POINTS = 2000  # updates at which a schedule is looked at
_PERIODS = (("train", "eval_every"), ("log", "every"), ("checkpoint", "every"))
SURROGATE = 1000  # updates of an epoch, where only shares of the run are asked for


def facts_of(config: ml_collections.ConfigDict, examples: int | None = None) -> Facts:
    """What a config alone tells.

    Args:
      config: of a run.
      examples: for training, the validation split's among them; None: not known, and with them what depends on the
        length of an epoch.

    Raises:
      ConfigError: the config is not valid.
    """
    configs.validate(config)
    if examples is None:
        train = val = None
    else:
        val = max(1, round(config.data.validation * examples)) if config.data.validation else 0
        train = min(examples - val, config.data.examples or examples)
    clock, exact = _clock(config, train)
    facts = Facts(**_of_parts(config), train=train, val=val)
    multipliers = [m for _, m in config.groups if m is not None]
    main = multipliers[0] if len(multipliers) == 1 else None
    if config.groups[-1][0] == ".*" and config.groups[-1][1]:
        main = config.groups[-1][1]
    if clock is None:
        return facts
    optimizer = _optimizer(config, clock)
    facts = dataclasses.replace(facts, **_of_time(config, clock, exact=exact))
    facts = dataclasses.replace(facts, **_of_lr(config, optimizer.schedules["lr"], clock, main, exact=exact))
    return dataclasses.replace(facts, loaded_lr=_loaded_lr(config, optimizer.lr * config.lr_scale))


def facts_of_run(run: Run) -> Facts:
    """All that is known of an assembled run: its config, data and parameters, and the program of a model of your own.

    Nothing is computed on a device; a model of one's own is traced once more.
    """
    config, optimizer = run.config, run.optimizer
    sizes = {path: math.prod(leaf.shape) for path, leaf in tree.flatten(run.shapes.params).items()}
    groups = optimizer.groups
    weights = dict.fromkeys(range(len(groups.multipliers)), 0)
    for path, label in groups.labels.items():
        weights[label] += sizes[path]
    main = groups.multipliers[max(weights, key=lambda label: weights[label])]
    trained = {path for phase in run.phases for path in phase.optimizer.groups.labels}
    facts = Facts(**(_of_parts(config) | of_data(run)))
    facts = dataclasses.replace(facts, **_of_time(config, run.clock, exact=True))
    facts = dataclasses.replace(facts, **_of_lr(config, optimizer.schedules["lr"], run.clock, main, exact=True))
    return dataclasses.replace(
        facts,
        frozen=1 - sum(sizes[path] for path in trained) / sum(sizes.values()),
        loaded_lr=_loaded_lr(config, optimizer.lr * config.lr_scale, run),
        directions=_directions(run),
        batch_norm=has_batch_norm(run),
        dense_weights=dense_weights(run),
        **(of_program(run) if facts.own_model else {}),
    )


def _of_parts(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What the parts of a config are."""
    make, given = configs.choice(config, "optimizer")
    core, name = make(**given), config.optimizer.name
    loss, loss_options = configs.choice(config, "loss")
    del loss
    decay_default = options(make)["weight_decay"].default if name in OPTIMIZERS else core.weight_decay
    ops = dict(augment.parse(config.augment))
    return _of_model(config) | {
        "task": config.task.name,
        "loss": configs.chosen("loss", config.loss.name, config.task.name),
        "optimizer": name,
        "schedule": config.schedule.name,
        "source": config.data.tfds.name if config.data.name == "tfds" else config.data.name,
        "batch_size": config.train.batch_size,
        "accumulate": config.train.accumulate,
        "shards": config.mesh.shards,
        "reference_batch": config.optimizer.reference_batch,
        "family": core.family,
        "default_lr": core.default_lr,
        "lr_given": config.optimizer.lr,
        "momentum": given.get("momentum") if name == "sgd" else None,
        "betas": (given["b1"], given["b2"]) if name in OPTIMIZERS and {"b1", "b2"} <= given.keys() else None,
        "muon_adjust": given.get("adjust") if name == "muon" else None,
        "weight_decay": core.weight_decay,
        "decay": core.decay,
        "decay_set": core.weight_decay != decay_default,
        "averaging": config.ema.kind if config.ema.decay else "",
        "ema_decay": config.ema.decay,
        "multipliers": tuple(multiplier for _, multiplier in config.groups),
        "starts": bool(config.transfer.init_from),
        "plateau": config.plateau.metric,
        "plateau_patience": config.plateau.patience,
        "stopping": config.early_stopping.metric,
        "stopping_patience": config.early_stopping.patience,
        "min_delta": config.early_stopping.min_delta,
        "bounded_output": config.task.regression.output if config.task.name == "regression" else None,
        "slices": (config.data.tfds.train, config.data.tfds.test) if config.data.name == "tfds" else None,
        "augment": ops,
        "views": tuple(name for name, _ in views.parse_views(config.tta, "tta")),
        "smoothing": loss_options.get("label_smoothing", 0.0),
        "mixed": augment.mixes(config.augment),
    }


def _of_model(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What is known of a model of ours: `depth` counts layers in a row with neither shortcut nor gate."""
    name = config.model.name
    if name not in CHOICES["model"][1] or name == "given":
        return {"model": name, "own_model": True}
    own = config.model[name].to_dict()
    found = {
        "model": name,
        "own_model": False,
        "activation": own.get("activation"),
        "dense_dropout": own.get("dropout"),
    }
    if name == "mlp":
        found |= {"depth": len(own["features"]), "batch_norm": False}
    elif name == "cnn":
        found |= {"depth": len(own["features"]), "batch_norm": own["norm"] == "batch"}
        found["conv_dropout"] = own["conv_dropout"]
    elif name == "fast_cnn":
        found |= {"depth": 2 * len(own["features"]) + 1, "batch_norm": True}
    elif name == "wide_resnet":
        found |= {"conv_dropout": own["dropout"], "dense_dropout": None, "batch_norm": True}
    elif name == "autoencoder":
        found["depth"] = 2 * len(own["features"] or cnn.FEATURES) - 1
        found["batch_norm"] = own["norm"] == "batch" if own["encoder"] == "cnn" else None
    else:
        found["batch_norm"] = name == "resnet"
    return found


def _clock(config: ml_collections.ConfigDict, train: int | None) -> tuple[Clock | None, bool]:
    """(a clock, whether its updates are those of the run: else they only are in proportion)."""
    size, total = config.train.batch_size, Duration.parse(config.train.total)
    units = {duration.unit for _, text in _durations(config) if (duration := Duration.parse(text)).amount}
    if train is not None:
        return Clock.start(config.train.total, batch_size=size, epoch_examples=train), True
    if total.unit != "epochs":
        surrogate = Clock.start(config.train.total, batch_size=size, epoch_examples=SURROGATE * size)
        return (None if "epochs" in units else surrogate), True
    if units <= {"epochs", "%"}:
        return Clock.start(config.train.total, batch_size=size, epoch_examples=SURROGATE * size), False
    return None, False


def _optimizer(config: ml_collections.ConfigDict, clock: Clock) -> Optimizer:
    """The optimizer, with lr and schedule as in the run, over one parameter in place of those that are not known."""
    name = config.optimizer.name
    own = options(OPTIMIZERS[name]) if name in OPTIMIZERS else {}
    patterns = {f"optimizer__{name}__{k}": opt.default for k, opt in own.items() if isinstance(opt.default, tuple)}
    plain = configs.changed(config, groups=((".*", 1.0),), phases=(), optimizer__no_decay=NO_DECAY, **patterns)
    return phases.build_optimizers(plain, clock, ["kernel"])[0][1]


def _durations(config: ml_collections.ConfigDict) -> list[tuple[str, str]]:
    """(option, text) of every duration of the schedule that is in force."""
    part, given = configs.choice(config, "schedule")
    found = [(f"schedule.{key}", config.schedule[key]) for key in ("warmup", "every")]
    known = options(part) if config.schedule.name in CHOICES["schedule"][1] else {}
    for key, option in known.items():
        name = f"schedule.{config.schedule.name}.{key}"
        if any(isinstance(mark, Time) for mark in option.conditions):
            found.append((name, given[key]))
        elif any(isinstance(mark, Times) for mark in option.conditions):
            found += [(f"{name}[{index}]", text) for index, text in enumerate(given[key])]
        elif any(isinstance(mark, Timed) for mark in option.conditions):
            found += [(f"{name}[{index}]", part[1]) for index, part in enumerate(given[key])]
    return found


def _of_time(config: ml_collections.ConfigDict, clock: Clock, *, exact: bool) -> dict[str, Any]:
    """What durations come to; with `exact` in updates of the run, else in proportion alone."""

    def updates(text: str) -> float:
        duration = Duration.parse(text)
        return float(
            duration.updates(batch_size=clock.batch_size, epoch_examples=clock.epoch_examples, total=clock.total)
        )

    lengths = {key: (text, updates(text)) for key, text in _durations(config)}
    warmup = int(lengths["schedule.warmup"][1])
    after = max(1, clock.total - warmup)
    spans = {key: value / after for key, (_, value) in lengths.items() if key != "schedule.warmup" and value}
    if config.schedule.name == "pieces":
        name = "schedule.pieces.parts"
        spans = {key: v for key, v in spans.items() if not key.startswith(name)} | {
            name: sum(v for key, v in spans.items() if key.startswith(name))
        }
    found: dict[str, Any] = {"warmup": warmup / clock.total, "spans": spans}
    if not exact:
        return found
    every = {f"{section}.{key}": config[section][key] for section, key in _PERIODS}
    rounded = lengths | {key: (text, updates(text)) for key, text in every.items()}
    return found | {
        "total": clock.total,
        "evaluations": math.ceil(clock.total / clock.period(config.train.eval_every)),
        "eval_every": clock.period(config.train.eval_every),
        "log_every": clock.period(config.log.every),
        "rounded": tuple((key, text, value) for key, (text, value) in rounded.items() if 0 < value < 1),
    }


def _of_lr(
    config: ml_collections.ConfigDict, schedule: Schedule, clock: Clock, multiplier: float | None, *, exact: bool
) -> dict[str, Any]:
    """The lr over the run; with a multiplier of None it is not known which of several counts."""
    steps = np.unique(np.linspace(0, clock.total - 1, POINTS).astype(np.int64))
    lrs = (np.asarray(schedule(steps), np.float64) + np.zeros(len(steps))) * config.lr_scale
    end = min(float(lrs[-1]), float(schedule(np.int64(clock.total))) * config.lr_scale)
    found: dict[str, Any] = {"peak": float(lrs.max()), "end": end}
    if multiplier:
        found["lr"] = found["peak"] * multiplier
        found["summed_lr"] = float(lrs.mean()) * clock.total * multiplier if exact else None
    return found


def _loaded_lr(config: ml_collections.ConfigDict, lr: float, run: Run | None = None) -> float | None:
    """The greatest lr of what comes from elsewhere; of a config alone, where its patterns say which that is."""
    if not config.transfer.init_from:
        return None
    if run is None:
        old = [m or 0.0 for pattern, m in config.groups if pattern not in config.transfer.reinit]
        never = config.phases and all(pattern in config.transfer.reinit for _, pattern in config.phases)
        return 0.0 if never else lr * max(old, default=0.0)
    fresh = [re.compile(pattern) for pattern in config.transfer.reinit]
    multipliers = [
        phase.optimizer.groups.multipliers[label] or 0.0
        for phase in run.phases
        for path, label in phase.optimizer.groups.labels.items()
        if not any(pattern.fullmatch(path) for pattern in fresh)
    ]
    return lr * max(multipliers, default=0.0)


def _directions(run: Run) -> dict[str, bool]:
    """The metrics that something is chosen by, and whether higher is better."""
    watched = {run.watch, run.config.plateau.metric, run.config.early_stopping.metric}
    names = {metric.rpartition("/")[2] for metric in watched}
    return {name: run.task.metrics[name].higher_is_better for name in sorted(names & run.task.metrics.keys())}
