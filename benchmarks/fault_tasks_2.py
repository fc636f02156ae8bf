"""The tasks of part 2 of the corpus of faulty runs: data, and models on them, that part 1 does not hold."""

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from fault_tasks import TASKS as TASKS_1
from fault_tasks import Splits, TaskOf, digits

from jtrain.data.examples import Wanted
from jtrain.data.sources import SOURCES


def _cut(inputs: np.ndarray, targets: np.ndarray, val: int, test: int) -> Splits:
    rows = np.random.default_rng(31).permutation(len(inputs))
    parts = {"test": rows[:test], "val": rows[test : test + val], "train": rows[test + val :]}
    return {name: (inputs[part], targets[part]) for name, part in parts.items()}


def _table(name: str, val: int, test: int) -> Splits:
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    inputs = (found.data - found.data.mean(axis=0)) / found.data.std(axis=0)
    return _cut(inputs.astype(np.float32), found.target.astype(np.int32), val, test)


@functools.cache
def wine() -> Splits:
    """scikit-learn's wine: 178 wines of 3 growers, 13 numbers each."""
    return _table("wine", 38, 50)


@functools.cache
def breast_cancer() -> Splits:
    """scikit-learn's breast_cancer: 569 tumours, 30 numbers each, 2 classes."""
    return _table("breast_cancer", 100, 169)


@functools.cache
def iris() -> Splits:
    """scikit-learn's iris: 150 flowers of 3 kinds, 4 numbers each."""
    return _table("iris", 30, 50)


@functools.cache
def friedman() -> Splits:
    """A regression: Friedman's first function of 5 of 10 numbers, with noise of a fifth of its spread."""
    from sklearn.datasets import make_friedman1

    inputs, targets = make_friedman1(2000, noise=1.0, random_state=5)
    return _cut((inputs * 2 - 1).astype(np.float32), targets.astype(np.float32), 250, 500)


@functools.cache
def arm() -> Splits:
    """A regression: how far the end of an arm of four joints is from its foot."""
    random = np.random.default_rng(37)
    angles = random.uniform(-np.pi, np.pi, (2400, 4))
    turned = np.cumsum(angles, axis=1)
    lengths = np.array([1.0, 0.8, 0.6, 0.4])
    reach = np.hypot((lengths * np.cos(turned)).sum(axis=1), (lengths * np.sin(turned)).sum(axis=1))
    values = reach + 0.05 * random.normal(size=2400)
    return _cut((angles / 1.8).astype(np.float32), values.astype(np.float32), 300, 500)


@functools.cache
def informative() -> Splits:
    """Four classes in 20 dimensions of which 6 say something, two clusters each; 3 % of the labels are wrong."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        2800, n_features=20, n_informative=6, n_redundant=4, n_classes=4, n_clusters_per_class=2, class_sep=1.6,
        flip_y=0.03, random_state=41,
    )  # fmt: skip
    return _cut(inputs.astype(np.float32), targets.astype(np.int32), 400, 800)


@functools.cache
def sequences() -> Splits:
    """The digits as sequences of 8 rows of 8 numbers."""
    return {
        name: (inputs.reshape(-1, 8, 8).astype(np.float32) / 255, targets)
        for name, (inputs, targets) in digits().items()
    }


@functools.cache
def other_shapes() -> Splits:
    """jtrain's shapes at 16×16, others than part 1's."""
    made = SOURCES["shapes"](Wanted(), examples=2400, test_examples=500, size=16, data_seed=5, noise=0.1)
    inputs, targets = made.train.arrays()
    assert made.test is not None
    return {
        "train": (inputs[400:], targets[400:]), "val": (inputs[:400], targets[:400]), "test": made.test.arrays()
    }  # fmt: skip


@functools.cache
def cifar() -> Splits:
    """2,000 images of CIFAR-10; set TFDS_DATA_DIR."""
    made = SOURCES["tfds"](Wanted(), name="cifar10")
    inputs, targets = made.train.arrays()
    assert made.test is not None
    test = made.test.arrays()
    parts = {"train": (inputs, targets, 0, 2000), "val": (inputs, targets, 2000, 2400), "test": (*test, 0, 800)}
    return {
        name: (np.asarray(x[first:last]), np.asarray(y[first:last]).astype(np.int32))
        for name, (x, y, first, last) in parts.items()
    }


def _descriptions() -> str:
    """The English text that comes with scikit-learn's tables, 43 kB."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / "datasets" / "descr" / "*.rst")


def missing(task: str) -> str:
    """Why a task cannot be run here; "" where it can."""
    if task == "cifar_cnn" and not os.environ.get("TFDS_DATA_DIR"):
        return "no CIFAR-10: set TFDS_DATA_DIR"
    return ""


def steps_of(total: int, batch_size: int, evaluate: int, log: int) -> dict[str, Any]:
    """The part of a recipe that tells its length, its batches, and how often it is evaluated and logged, in updates."""
    return {
        "train.total": f"{total}steps", "train.batch_size": batch_size, "train.eval_every": f"{evaluate}steps",
        "log.every": f"{log}steps",
    }  # fmt: skip


def mlp_of(*features: int, activation: str = "relu", dropout: float = 0.0) -> dict[str, Any]:
    """The part of a recipe that is an MLP."""
    return {
        "model.name": "mlp", "model.mlp.features": features, "model.mlp.activation": activation,
        "model.mlp.dropout": dropout,
    }  # fmt: skip


_REGRESSION = {"task.name": "regression"}
_PIXELS = {"data.mean": (0.3,) * 8, "data.std": (0.35,) * 8}  # columns at the edge are nearly always 0

TASKS: dict[str, TaskOf] = TASKS_1 | {
    "wine_mlp": TaskOf(
        wine,
        mlp_of(32, activation="tanh") | steps_of(200, 16, 10, 5) | {
            "optimizer.name": "adamw", "optimizer.lr": 1e-2, "schedule.name": "cosine",
        },
        "accuracy", 1.0,
    ),
    "breast_mlp": TaskOf(
        breast_cancer,
        mlp_of(32, 16, dropout=0.3) | steps_of(300, 32, 20, 10) | {
            "optimizer.name": "sgd", "optimizer.lr": 0.02, "schedule.name": "cosine",
        },
        "accuracy", 1.0,
    ),
    "iris_mlp": TaskOf(
        iris,
        mlp_of(16, activation="gelu") | steps_of(240, 10, 14, 4) | {
            "optimizer.name": "adam", "optimizer.lr": 2e-2, "schedule.name": "linear",
        },
        "accuracy", 1.0,
    ),
    "friedman_mlp": TaskOf(
        friedman,
        _REGRESSION | mlp_of(64, 32) | steps_of(450, 50, 25, 9) | {
            "optimizer.name": "adam", "optimizer.lr": 2e-2, "schedule.name": "cosine",
        },
        "r2", 1.0,
    ),
    "arm_mlp": TaskOf(
        arm,
        _REGRESSION | mlp_of(64, 64, activation="gelu") | steps_of(600, 80, 30, 10) | {
            "optimizer.name": "adamw", "optimizer.lr": 5e-2, "schedule.name": "one_cycle",
        },
        "r2", 1.0,
    ),
    "informative_mlp": TaskOf(
        informative,
        mlp_of(48, 48, dropout=0.1) | steps_of(400, 64, 25, 10) | {
            "optimizer.name": "sgd", "optimizer.lr": 0.1, "schedule.name": "step", "schedule.step.every": "80steps",
            "optimizer.sgd.nesterov": True,
        },
        "accuracy", 1.0,
    ),
    "rows_gru": TaskOf(
        sequences,
        _PIXELS | steps_of(300, 64, 20, 6) | {
            "model.name": "gru", "model.gru.hidden": 48, "model.gru.output": "last", "model.gru.dropout": 0.1,
            "optimizer.name": "adamw", "optimizer.lr": 2e-2, "schedule.name": "cosine", "schedule.warmup": "5%",
            "clip.name": "norm",
        },
        "accuracy", 1.0,
    ),
    "highway": TaskOf(
        sequences,
        _PIXELS | steps_of(350, 50, 25, 8) | {
            "model.name": "highway", "model.highway.layers": 6, "model.highway.width": 40,
            "model.highway.dropout": 0.2, "optimizer.name": "sgd", "optimizer.lr": 0.03, "schedule.name": "linear",
        },
        "accuracy", 1.0,
    ),
    "shapes_wide": TaskOf(
        other_shapes,
        steps_of(320, 50, 32, 10) | {
            "model.name": "wide_resnet", "model.wide_resnet.depth": 10, "model.wide_resnet.widen": 1,
            "optimizer.name": "sgd", "optimizer.lr": 0.15, "optimizer.sgd.nesterov": True, "schedule.name": "cosine",
            "schedule.warmup": "5%",
        },
        "accuracy", 1.0,
    ),
    "cifar_cnn": TaskOf(
        cifar,
        steps_of(320, 64, 32, 8) | {
            "model.name": "cnn", "model.cnn.features": (16, 32, 32), "model.cnn.pools": 3, "augment": "flip_lr",
            "optimizer.name": "adamw", "optimizer.lr": 1e-2, "schedule.name": "cosine", "schedule.warmup": "5%",
        },
        "accuracy", 1.0,
    ),
    "denoise": TaskOf(
        other_shapes,
        steps_of(300, 50, 25, 10) | {
            "task.name": "autoencoding", "task.autoencoding.corrupt": "noise(0.25)", "model.name": "autoencoder",
            "model.autoencoder.encoder": "cnn", "model.autoencoder.features": (8, 16), "model.autoencoder.pools": 2,
            "optimizer.name": "adam", "optimizer.lr": 1e-2, "schedule.name": "cosine",
        },
        "loss", 0.0,
    ),
    "bytes_gru": TaskOf(
        None,
        steps_of(450, 32, 30, 10) | {
            "task.name": "language_modelling", "data.name": "text", "data.text.path": _descriptions(),
            "data.text.unit": "bytes", "data.text.length": 24, "data.text.test": 0.15, "model.name": "gru",
            "model.gru.embedding": 24, "model.gru.hidden": 64, "model.gru.dropout": 0.0, "optimizer.name": "adam",
            "optimizer.lr": 2e-2, "schedule.name": "cosine", "clip.name": "norm",
        },
        "loss", 0.0,
    ),
}  # fmt: skip
