"""Shipped recipes, each changed in several options at once as a sensible user would: what no rule of lint may scold.

The ranges were fixed before any rule was written, and are not fitted to the rules: each is what practice holds to be
harmless about a recipe that works. `benchmarks/lint_proof.py` counts what every rule says of 500 of them.
"""

from collections.abc import Iterator

import ml_collections
import numpy as np

import jtrain
from jtrain.durations import Duration

# As they are typed after --config=; those that start from other weights need a run first and are left out.
SHIPPED = (
    "digits", "cifar", "cifar:small", "cifar:shapes", "diabetes", "charlm", "cifar_fast", "cifar_fast:sgd",
    "cifar_fast:small", "imagenet", "imagenet:step", "folder", "digits_pretrain", "digits_pretrain:denoising",
    "digits_pretrain:rotation", "digits_finetune",
)  # fmt: skip
CHANGED = 0.5  # probability with which each option is changed
HALF_DECADE = 0.5  # of the lr and of weight decay, up or down, in powers of ten
BATCH = (0.5, 2.0)  # × the batch size, the lr moved with it: linear for SGD, by the square root otherwise
LENGTH = 1.0  # of the run, up or down, in powers of two
WARMUP = (1.0, 8.0)  # percent
SCHEDULES = ("cosine", "linear")  # where the recipe has one of them
MOMENTUM = (0.85, 0.95)  # of SGD
SMOOTHING = (0.0, 0.15)  # of labels
DROPOUT = (0.1, 0.5)  # of dense layers, where the recipe has some
WIDTH = (0.5, 1.5)  # × the features of an mlp or cnn
VALIDATION = (0.05, 0.2)  # of sets below 10,000 examples; of larger ones (0.02, 0.1)
VALIDATION_LARGE = (0.02, 0.1)
EMA = (0.99, 0.999)
SMALL_SETS = ("digits", "table", "arrays", "folder")


def recipes(number: int, seed: int = 0) -> Iterator[tuple[str, ml_collections.ConfigDict]]:
    """(name of the shipped recipe, the recipe changed), so many of them, the shipped ones in turn."""
    draw = np.random.default_rng(seed)
    for index in range(number):
        name = SHIPPED[index % len(SHIPPED)]
        yield name, perturbed(jtrain.load(name), draw)


def perturbed(config: ml_collections.ConfigDict, draw: np.random.Generator) -> ml_collections.ConfigDict:
    """A copy of a recipe with about half of the options above drawn anew."""
    c = config.copy_and_resolve_references()

    def due() -> bool:
        return bool(draw.random() < CHANGED)

    own, model = c.optimizer[c.optimizer.name], c.model.get(c.model.name, {})
    with c.unlocked():
        c.seed = int(draw.integers(1000))
        if c.optimizer.lr and due():
            c.optimizer.lr *= float(10 ** draw.uniform(-HALF_DECADE, HALF_DECADE))
        if own.get("weight_decay") and due():
            own.weight_decay *= float(10 ** draw.uniform(-HALF_DECADE, HALF_DECADE))
        if due():
            _batch(c, float(draw.choice(BATCH)))
        if due():
            c.train.total = _scaled(c.train.total, float(2 ** draw.uniform(-LENGTH, LENGTH)))
        if c.schedule.name in SCHEDULES and due():
            c.schedule.name = str(draw.choice(SCHEDULES))
        if c.schedule.name in SCHEDULES and due():
            c.schedule.warmup = f"{draw.uniform(*WARMUP):.1f}%"
        if c.optimizer.name == "sgd" and due():
            own.momentum = float(draw.uniform(*MOMENTUM))
        if c.task.name == "classification" and c.loss.name in ("auto", "cross_entropy") and due():
            if c.loss.name == "auto":
                c.loss.name = "cross_entropy"
            c.loss.cross_entropy.label_smoothing = float(draw.uniform(*SMOOTHING))
        if model.get("dropout") and due():
            model.dropout = float(draw.uniform(*DROPOUT))
        if "features" in model and due():
            model.features = tuple(max(8, int(n * draw.uniform(*WIDTH)) // 8 * 8) for n in model.features)
        if c.data.validation and due():
            c.data.validation = float(draw.uniform(*(VALIDATION if c.data.name in SMALL_SETS else VALIDATION_LARGE)))
        if c.clip.name == "none" and due():
            c.clip.name = "norm"
        if not c.ema.decay and due():
            c.ema.decay = float(draw.uniform(*EMA))
    return c


def _batch(c: ml_collections.ConfigDict, factor: float) -> None:
    size = max(1, round(c.train.batch_size * factor))
    factor = size / c.train.batch_size
    c.train.batch_size = size
    if c.optimizer.lr and not c.optimizer.reference_batch:  # else the lr is moved already
        c.optimizer.lr *= factor if c.optimizer.name == "sgd" else factor**0.5


def _scaled(text: str, factor: float) -> str:
    duration = Duration.parse(text)
    return f"{max(1, round(float(duration.amount) * factor))}{duration.unit}"
