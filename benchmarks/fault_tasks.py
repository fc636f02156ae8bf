"""The tasks of the corpus of faulty runs: small data, and a recipe by which each is trained well in seconds."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from jtrain.config import base
from jtrain.data.examples import Wanted
from jtrain.data.sources import SOURCES

Splits = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class TaskOf:
    """One task of the corpus.

    Attributes:
      data: () -> splits; None: the config's own source.
      recipe: options by key, by which it trains well.
      score: of the test split, and whether more of it is better.
      perfect: the score of a perfect model; what is missing to it is the error.
    """

    data: Callable[[], Splits] | None
    recipe: dict[str, Any]
    score: str
    perfect: float


def config_of(recipe: dict[str, Any]) -> ml_collections.ConfigDict:
    """The config of a recipe; options of choices that a change of it no longer takes are left out."""
    config = base()
    for key, value in recipe.items():
        if key.count(".") == 2 and recipe.get(f"{key.split('.')[0]}.name", key.split(".")[1]) != key.split(".")[1]:
            continue
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config


def _cut(inputs: np.ndarray, targets: np.ndarray, val: int, test: int) -> Splits:
    rows = np.random.default_rng(7).permutation(len(inputs))
    parts = {"test": rows[:test], "val": rows[test : test + val], "train": rows[test + val :]}
    return {name: (inputs[part], targets[part]) for name, part in parts.items()}


@functools.cache
def digits() -> Splits:
    """scikit-learn's digits, 8×8, uint8."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return _cut(images, found.target.astype(np.int32), 250, 300)


@functools.cache
def diabetes() -> Splits:
    """scikit-learn's diabetes: 442 patients, 10 numbers."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes()
    return _cut((found.data / found.data.std(axis=0)).astype(np.float32), found.target.astype(np.float32), 70, 90)


@functools.cache
def shapes() -> Splits:
    """jtrain's shapes at 16×16."""
    made = SOURCES["shapes"](Wanted(), examples=3000, test_examples=500, size=16)
    inputs, targets = made.train.arrays()
    rows = np.random.default_rng(7).permutation(len(inputs))
    val, train = rows[:300], rows[300:]
    assert made.test is not None
    return {"train": (inputs[train], targets[train]), "val": (inputs[val], targets[val]), "test": made.test.arrays()}


@functools.cache
def clusters() -> Splits:
    """Six Gaussian clusters in 16 dimensions that overlap: the best error is about 8 %."""
    random = np.random.default_rng(11)
    centres = random.normal(size=(6, 16))
    targets = random.integers(0, 6, 2600).astype(np.int32)
    return _cut((centres[targets] + 1.15 * random.normal(size=(2600, 16))).astype(np.float32), targets, 400, 800)


@functools.cache
def spirals() -> Splits:
    """Three arms of a spiral in the plane."""
    random = np.random.default_rng(13)
    targets = random.integers(0, 3, 2000).astype(np.int32)
    along = np.sqrt(random.uniform(0.02, 1, 2000))
    turn = 4.5 * along + targets * (2 * np.pi / 3) + 0.12 * random.normal(size=2000)
    points = np.stack([along * np.cos(turn), along * np.sin(turn)], axis=1).astype(np.float32)
    return _cut(points, targets, 300, 500)


@functools.cache
def teacher() -> Splits:
    """A regression: what a fixed random network makes of 8 numbers, with noise of a fifth of its spread."""
    random = np.random.default_rng(17)
    inputs = random.normal(size=(2400, 8)).astype(np.float32)
    hidden = np.tanh(inputs @ random.normal(size=(8, 12)) * 0.5)
    values = hidden @ random.normal(size=12)
    values = values / values.std() + 0.2 * random.normal(size=2400)
    return _cut(inputs, (30.0 + 12.0 * values).astype(np.float32), 300, 600)


@functools.cache
def waves() -> Splits:
    """A regression of one number: two waves and noise."""
    random = np.random.default_rng(19)
    x = random.uniform(-2, 2, 1500)
    y = np.sin(2 * x) + 0.5 * np.cos(4 * x) + 0.1 * random.normal(size=1500)
    return _cut(x[:, None].astype(np.float32), y.astype(np.float32), 250, 400)


_MLP = {"model.name": "mlp", "optimizer.name": "adamw", "schedule.name": "cosine", "train.eval_every": "25steps"}
_NUMBERS = {"task.name": "regression"}

TASKS: dict[str, TaskOf] = {
    "digits_cnn": TaskOf(
        digits,
        {
            "model.name": "cnn", "model.cnn.features": (16, 32), "model.cnn.pools": 2, "optimizer.name": "adamw",
            "optimizer.lr": 2e-2, "schedule.name": "cosine", "schedule.warmup": "5%", "train.total": "200steps",
            "train.batch_size": 64, "train.eval_every": "20steps", "log.every": "10steps",
        },
        "accuracy", 1.0,
    ),
    "digits_mlp": TaskOf(
        digits,
        {
            "model.name": "mlp", "model.mlp.features": (64, 64), "model.mlp.dropout": 0.2, "optimizer.name": "sgd",
            "optimizer.lr": 0.1, "schedule.name": "multistep", "schedule.multistep.milestones": ("50%", "80%"),
            "train.total": "300steps", "train.batch_size": 64, "train.eval_every": "30steps", "log.every": "15steps",
        },
        "accuracy", 1.0,
    ),
    "diabetes": TaskOf(
        diabetes,
        _NUMBERS | _MLP | {
            "model.mlp.features": (32,), "model.mlp.dropout": 0.2, "optimizer.lr": 3e-3,
            "optimizer.adamw.weight_decay": 0.1, "train.total": "400steps", "train.batch_size": 32,
            "log.every": "10steps",
        },
        "r2", 1.0,
    ),
    "shapes": TaskOf(
        shapes,
        {
            "model.name": "cnn", "model.cnn.features": (16, 32, 32), "model.cnn.pools": 2, "optimizer.name": "adamw",
            "optimizer.lr": 5e-2, "schedule.name": "one_cycle", "augment": "flip_lr", "train.total": "420steps",
            "train.batch_size": 64, "train.eval_every": "42steps", "log.every": "21steps",
        },
        "accuracy", 1.0,
    ),
    "clusters": TaskOf(
        clusters,
        _MLP | {
            "model.mlp.features": (32,), "model.mlp.dropout": 0.0, "optimizer.name": "sgd", "optimizer.lr": 0.05,
            "schedule.name": "linear", "train.total": "300steps", "train.batch_size": 32, "log.every": "5steps",
        },
        "accuracy", 1.0,
    ),
    "spirals": TaskOf(
        spirals,
        _MLP | {
            "model.mlp.features": (32, 32), "model.mlp.dropout": 0.0, "optimizer.lr": 3e-2,
            "train.total": "500steps", "train.batch_size": 64, "log.every": "10steps",
        },
        "accuracy", 1.0,
    ),
    "teacher": TaskOf(
        teacher,
        _NUMBERS | _MLP | {
            "model.mlp.features": (48,), "model.mlp.dropout": 0.0, "optimizer.lr": 3e-2, "schedule.name": "linear",
            "train.total": "400steps", "train.batch_size": 64, "log.every": "20steps",
        },
        "r2", 1.0,
    ),
    "waves": TaskOf(
        waves,
        _NUMBERS | _MLP | {
            "model.mlp.features": (48, 48), "model.mlp.dropout": 0.0, "optimizer.lr": 3e-2, "schedule.warmup": "5%",
            "train.total": "500steps", "train.batch_size": 64, "log.every": "5steps",
        },
        "r2", 1.0,
    ),
    "charlm": TaskOf(
        None,
        {
            "task.name": "language_modelling", "data.name": "text", "data.text.length": 32, "data.text.most": 120_000,
            "data.text.vocabulary": 64, "model.name": "lstm", "model.lstm.embedding": 32, "model.lstm.hidden": 64,
            "model.lstm.dropout": 0.0, "optimizer.name": "adamw", "optimizer.lr": 2e-2, "schedule.name": "cosine",
            "schedule.warmup": "5%", "clip.name": "norm", "train.total": "500steps", "train.batch_size": 32,
            "train.eval_every": "50steps", "log.every": "20steps",
        },
        "loss", 0.0,
    ),
    "autoencoder": TaskOf(
        digits,
        {
            "task.name": "autoencoding", "model.name": "autoencoder", "model.autoencoder.encoder": "mlp",
            "model.autoencoder.features": (64,), "model.autoencoder.code": 12, "optimizer.name": "adamw",
            "optimizer.lr": 2e-2, "schedule.name": "cosine", "train.total": "400steps", "train.batch_size": 64,
            "train.eval_every": "40steps", "log.every": "10steps",
        },
        "loss", 0.0,
    ),
}  # fmt: skip
