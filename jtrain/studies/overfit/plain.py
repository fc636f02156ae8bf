"""A run with everything off that keeps it from learning a few examples by heart."""

import dataclasses
from typing import Any

import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain.data.broken import Tolerant
from jtrain.data.examples import ArrayExamples, Subset
from jtrain.initial import flat_model
from jtrain.mesh import place
from jtrain.models.prepare import NORMALIZE, WHITENING
from jtrain.pipeline import choose
from jtrain.run import Run
from jtrain.state import TrainState, from_flat, to_flat

CANDIDATES = 16_384  # examples among which is chosen, drawn at random: no more targets are read
DROPS = ("dropout", "stochastic_depth", "drop_path", "label_smoothing", "weight_decay", "corrupt")


def plain(config: ml_collections.ConfigDict, examples: int, updates: int, lr: float) -> tuple[Any, list[str]]:
    """(the config without what regularises, the keys that were switched off).

    Args:
      config: of the run; it is not changed.
      examples: to learn by heart.
      updates: to learn them in; the lr is warmed up in 5 % of them, and falls to 0 by a cosine.
      lr: the peak in force.
    """
    before, base = configs.flat(config), configs.base()
    config = configs.changed(config)
    with config.unlocked():
        for section in ("task", "model", "loss", "optimizer"):
            name = configs.chosen(section, config[section].name, config.task.name)
            part = config[section][name if name in config[section] else configs.FREE]
            for key, value in part.items():
                if any(word in key for word in DROPS) and isinstance(value, str | int | float):
                    part[key] = type(value)()
        for key in ("augment", "tta", "phases"):
            config[key] = base[key]
        for section in ("ema", "early_stopping", "plateau", "schedule"):
            config[section] = base[section]
    off = [key for key, value in configs.flat(config).items() if value != before[key] and _is_told(key)]
    config.optimizer.lr, config.optimizer.reference_batch = lr, 0
    config.optimizer.batch_scaling = base.optimizer.batch_scaling
    config.schedule.name, config.schedule.warmup = "cosine", "5%" if updates >= 40 else "0"
    config.train.total, config.train.batch_size = f"{updates}steps", min(examples, config.train.batch_size)
    config.train.accumulate, config.train.on_nan = 1, "raise"
    for key in ("on_nan_limit", "rollback_scale"):
        config.train[key] = base.train[key]
    config.mesh.shards, config.data.placement, config.data.workers = 0, "auto", 0
    return config, off


def _is_told(key: str) -> bool:
    section, _, rest = key.partition(".")
    return section not in ("ema", "early_stopping", "plateau", "schedule") or (section, rest) in (
        ("ema", "decay"), ("early_stopping", "metric"), ("plateau", "metric"),
    )  # fmt: skip


def chosen(run: Run, count: int) -> np.ndarray:
    """Numbers of at most `count` training examples, of class numbers as many of each class as there can be."""
    train = run.data.train
    among = candidates(run, CANDIDATES)
    seen = Tolerant(Subset(train, among), len(among), "train")
    rows = among[choose(seen, run.data.targets, min(count, len(among)), run.config.seed)]
    train.fetch(rows)  # shows which are broken
    return rows[train.weights(rows) > 0] if isinstance(train, Tolerant) else rows


def candidates(run: Run, most: int) -> np.ndarray:
    """Numbers of at most `most` training examples, drawn by the seed, in order."""
    generator = np.random.Generator(np.random.Philox(key=np.array([run.config.seed, 2**64 - 3], np.uint64)))
    examples = len(run.data.train)
    return np.sort(generator.permutation(examples)[:most]).astype(np.int64)


def small_run(run: Run, inputs: np.ndarray, targets: np.ndarray, updates: int) -> tuple[Run, list[str]]:
    """(the run on these examples alone, to train and to evaluate, the keys that were switched off)."""
    config, off = plain(run.config, len(inputs), updates, run.optimizer.lr)
    few = ArrayExamples(inputs, targets)
    return run.again(config, dataclasses.replace(run.data, train=few, val=few, test=None, ready=True)), off


def first_state(run: Run, small: Run) -> TrainState:
    """The state that the small run begins with: inputs are brought to scale as `run` does it, not as measured on a few
    examples."""
    state = small.init_state()
    if run.config.transfer.init_from:  # then they come from there
        return state
    flat, shardings = to_flat(state), to_flat(small.phases[0].shardings)
    prefixes = tuple(f"model_state/{name}/" for name in (NORMALIZE, WHITENING))
    wanted = {p for p in flat_model(run.shapes.params, run.shapes.model_state) if p.startswith(prefixes)} & flat.keys()
    for path, array in run.make({}) if wanted else ():  # constants come first: nothing is drawn for them
        if path in wanted and array.shape == flat[path].shape:
            flat[path] = place(array, shardings[path], copy=True)
        wanted.discard(path)
        if not wanted:
            break
    return from_flat(flat, small.shapes)
