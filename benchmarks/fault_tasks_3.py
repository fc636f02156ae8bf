"""The tasks of part 3 of the corpus of faulty runs: data, and models on them, that parts 1 and 2 do not hold."""

import functools
import importlib.util
import os

import numpy as np
from fault_tasks import Splits, TaskOf
from fault_tasks_2 import TASKS as TASKS_2
from fault_tasks_2 import missing as missing_2
from fault_tasks_2 import mlp_of, steps_of

from jtrain.data.examples import Wanted
from jtrain.data.sources import SOURCES


def _cut(inputs: np.ndarray, targets: np.ndarray, val: int, test: int) -> Splits:
    rows = np.random.default_rng(43).permutation(len(inputs))
    parts = {"test": rows[:test], "val": rows[test : test + val], "train": rows[test + val :]}
    return {name: (inputs[part], targets[part]) for name, part in parts.items()}


def _standard(inputs: np.ndarray) -> np.ndarray:
    return ((inputs - inputs.mean(axis=0)) / inputs.std(axis=0)).astype(np.float32)


@functools.cache
def moons() -> Splits:
    """Two half moons in the plane that overlap: the best error is about 8 %."""
    from sklearn.datasets import make_moons

    inputs, targets = make_moons(2000, noise=0.3, random_state=47)
    return _cut(_standard(inputs), targets.astype(np.int32), 300, 600)


@functools.cache
def quantiles() -> Splits:
    """Four shells of a Gaussian in 6 dimensions, one around the other."""
    from sklearn.datasets import make_gaussian_quantiles

    inputs, targets = make_gaussian_quantiles(n_samples=3200, n_features=6, n_classes=4, random_state=53)
    return _cut(inputs.astype(np.float32), targets.astype(np.int32), 400, 700)


@functools.cache
def many() -> Splits:
    """Twelve classes in 18 dimensions of which 9 say something."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        3600, n_features=18, n_informative=9, n_redundant=3, n_classes=12, n_clusters_per_class=1, class_sep=1.7,
        flip_y=0.02, random_state=59,
    )  # fmt: skip
    return _cut(inputs.astype(np.float32), targets.astype(np.int32), 450, 750)


@functools.cache
def impedance() -> Splits:
    """A regression: Friedman's second function, of 4 numbers of very different size, with noise."""
    from sklearn.datasets import make_friedman2

    inputs, targets = make_friedman2(2000, noise=80.0, random_state=61)
    return _cut(_standard(inputs), targets.astype(np.float32), 260, 500)


@functools.cache
def outliers() -> Splits:
    """A regression: bent sums of 12 numbers, with noise, and one target of 15 far off, in all splits alike."""
    from sklearn.datasets import make_regression

    inputs, values = make_regression(2200, n_features=12, n_informative=8, noise=0.0, random_state=67)
    random = np.random.default_rng(71)
    values = np.tanh(values / values.std()) + 0.15 * random.normal(size=2200)
    far = random.random(2200) < 1 / 15
    values = np.where(far, values + random.choice([-4.0, 4.0], 2200), values)
    return _cut(inputs.astype(np.float32), values.astype(np.float32), 300, 600)


@functools.cache
def tones() -> Splits:
    """Waves of 20 steps in noise, of one of 6 pitches and any phase."""
    random = np.random.default_rng(73)
    targets = random.integers(0, 6, 2300).astype(np.int32)
    pitch = 0.35 + 0.3 * targets + 0.06 * random.normal(size=2300)
    phase = random.uniform(0, 2 * np.pi, 2300)
    waves = np.sin(pitch[:, None] * np.arange(20) + phase[:, None]) + 0.3 * random.normal(size=(2300, 20))
    return _cut(waves[..., None].astype(np.float32), targets, 300, 500)


@functools.cache
def adding() -> Splits:
    """A regression: the sum of those two of 10 numbers that are marked."""
    random = np.random.default_rng(79)
    numbers = random.uniform(-1, 1, (2800, 10))
    marks = np.zeros((2800, 10))
    places = np.argsort(random.random((2800, 10)), axis=1)[:, :2]
    np.put_along_axis(marks, places, 1.0, axis=1)
    values = (numbers * marks).sum(axis=1) + 0.05 * random.normal(size=2800)
    return _cut(np.stack([numbers, marks], axis=-1).astype(np.float32), values.astype(np.float32), 300, 500)


@functools.cache
def stripes() -> Splits:
    """Images of 12×12, one channel: stripes in one of 8 directions, of any width, in noise."""
    random = np.random.default_rng(83)
    count = 2100
    targets = random.integers(0, 8, count).astype(np.int32)
    angle = targets * np.pi / 8 + 0.09 * random.normal(size=count)
    width, phase = random.uniform(0.8, 1.5, count), random.uniform(0, 2 * np.pi, count)
    y, x = np.mgrid[:12, :12]
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    images = np.sin(width[:, None, None] * along + phase[:, None, None]) + 0.9 * random.normal(size=(count, 12, 12))
    return _cut(np.clip(128 + 50 * images, 0, 255).astype(np.uint8)[..., None], targets, 300, 500)


@functools.cache
def blobs() -> Splits:
    """Images of 12×12 in colour: 1 to 5 blobs, to be counted."""
    random = np.random.default_rng(89)
    count = 2200
    targets = random.integers(0, 5, count).astype(np.int32)
    y, x = np.mgrid[:12, :12]
    images = 20 * random.random((count, 12, 12, 3))
    for number in range(5):
        at, size = random.uniform(1.5, 10, (count, 2, 1, 1)), random.uniform(0.8, 1.1, (count, 1, 1))
        blob = np.exp(-((y - at[:, 0]) ** 2 + (x - at[:, 1]) ** 2) / (2 * size**2)) * (number <= targets)[:, None, None]
        images += blob[..., None] * random.uniform(100, 220, (count, 1, 1, 3))
    return _cut(np.clip(images, 0, 255).astype(np.uint8), targets, 300, 500)


@functools.cache
def small_cifar() -> Splits:
    """3,000 images of CIFAR-10 at 16×16, others than part 2's; set TFDS_DATA_DIR."""
    made = SOURCES["tfds"](Wanted(), name="cifar10")
    inputs, targets = made.train.arrays()
    images, targets = np.asarray(inputs[4000:8200]), np.asarray(targets[4000:8200]).astype(np.int32)
    images = images.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4)).astype(np.uint8)
    return _cut(images, targets, 400, 800)


@functools.cache
def curves() -> Splits:
    """Curves of 32 points: a bump, a step and a slope, with noise; the targets are not used."""
    random = np.random.default_rng(97)
    x = np.linspace(-1, 1, 32)
    at, edge, height, slope = random.uniform(-0.9, 0.9, (4, 2100))
    bump = (1.5 + height)[:, None] * np.exp(-(((x - at[:, None]) / 0.25) ** 2))
    made = bump + 1.2 / (1 + np.exp(-12 * (x - edge[:, None]))) + slope[:, None] * x
    return _cut((made + 0.08 * random.normal(size=made.shape)).astype(np.float32), (at > 0).astype(np.int32), 300, 500)


def _topics() -> str:
    """The English text of Python's help on its own language, about 700 kB."""
    found = importlib.util.find_spec("pydoc_data.topics")
    assert found is not None
    assert found.origin is not None
    return found.origin


def missing(task: str) -> str:
    """Why a task cannot be run here; "" where it can."""
    if task == "cifar_fast" and not os.environ.get("TFDS_DATA_DIR"):
        return "no CIFAR-10: set TFDS_DATA_DIR"
    return missing_2(task)


_REGRESSION = {"task.name": "regression"}

TASKS: dict[str, TaskOf] = TASKS_2 | {
    "moons_mlp": TaskOf(
        moons,
        mlp_of(24, 24, activation="tanh") | steps_of(330, 30, 15, 6) | {
            "optimizer.name": "sgd", "optimizer.lr": 0.1, "schedule.name": "cosine", "schedule.warmup": "5%",
        },
        "accuracy", 1.0,
    ),
    "quantiles_mlp": TaskOf(
        quantiles,
        mlp_of(64, 32, activation="leaky_relu") | steps_of(520, 40, 26, 13) | {
            "optimizer.name": "rmsprop", "optimizer.lr": 1.5e-2, "schedule.name": "linear",
        },
        "accuracy", 1.0,
    ),
    "many_mlp": TaskOf(
        many,
        mlp_of(96, activation="gelu", dropout=0.1) | steps_of(360, 80, 24, 6) | {
            "optimizer.name": "sgd", "optimizer.lr": 0.15, "optimizer.sgd.nesterov": True,
            "schedule.name": "polynomial", "schedule.polynomial.power": 1.5,
        },
        "accuracy", 1.0,
    ),
    "impedance_mlp": TaskOf(
        impedance,
        _REGRESSION | mlp_of(48, 24, activation="tanh") | steps_of(420, 60, 21, 7) | {
            "optimizer.name": "adagrad", "optimizer.lr": 0.1, "schedule.name": "cosine",
        },
        "r2", 1.0,
    ),
    "outliers_mlp": TaskOf(
        outliers,
        _REGRESSION | mlp_of(40, activation="gelu") | steps_of(380, 48, 19, 8) | {
            "loss.name": "huber", "loss.huber.delta": 0.5, "optimizer.name": "lion", "optimizer.lr": 5e-3,
            "schedule.name": "linear", "schedule.warmup": "5%",
        },
        "loss", 0.0,
    ),
    "tones_lstm": TaskOf(
        tones,
        steps_of(360, 40, 24, 9) | {
            "model.name": "lstm", "model.lstm.hidden": 32, "model.lstm.output": "last", "model.lstm.dropout": 0.0,
            "optimizer.name": "adam", "optimizer.lr": 3e-2, "schedule.name": "one_cycle", "clip.name": "norm",
        },
        "accuracy", 1.0,
    ),
    "adding_gru": TaskOf(
        adding,
        _REGRESSION | steps_of(600, 50, 30, 10) | {
            "model.name": "gru", "model.gru.hidden": 32, "model.gru.output": "last", "model.gru.dropout": 0.0,
            "optimizer.name": "adamw", "optimizer.lr": 3e-2, "schedule.name": "wsd", "clip.name": "norm",
        },
        "r2", 1.0,
    ),
    "stripes_cnn": TaskOf(
        stripes,
        steps_of(240, 40, 16, 5) | {
            "model.name": "cnn", "model.cnn.features": (12, 24), "model.cnn.pools": 2,
            "model.cnn.activation": "gelu", "model.cnn.head": "flatten", "optimizer.name": "rmsprop",
            "optimizer.lr": 6e-3, "schedule.name": "cosine",
        },
        "accuracy", 1.0,
    ),
    "blobs_resnet": TaskOf(
        blobs,
        steps_of(280, 32, 28, 7) | {
            "model.name": "resnet", "model.resnet.depth": 18, "model.resnet.width": 4, "augment": "flip_lr",
            "optimizer.name": "sgd", "optimizer.lr": 0.1, "optimizer.sgd.nesterov": True,
            "schedule.name": "multistep", "schedule.multistep.milestones": ("60%", "85%"),
        },
        "accuracy", 1.0,
    ),
    "cifar_fast": TaskOf(
        small_cifar,
        steps_of(300, 50, 30, 10) | {
            "model.name": "fast_cnn", "model.fast_cnn.features": (12, 24), "augment": "flip_lr",
            "optimizer.name": "adam", "optimizer.lr": 4e-2, "schedule.name": "linear", "schedule.warmup": "5%",
        },
        "accuracy", 1.0,
    ),
    "curves_coder": TaskOf(
        curves,
        steps_of(500, 50, 25, 10) | {
            "task.name": "autoencoding", "model.name": "autoencoder", "model.autoencoder.encoder": "mlp",
            "model.autoencoder.features": (48,), "model.autoencoder.code": 6, "model.autoencoder.activation": "tanh",
            "optimizer.name": "adamw", "optimizer.lr": 4e-2, "schedule.name": "cosine",
        },
        "loss", 0.0,
    ),
    "topics_lstm": TaskOf(
        None,
        steps_of(420, 24, 35, 12) | {
            "task.name": "language_modelling", "data.name": "text", "data.text.path": _topics(),
            "data.text.length": 28, "data.text.vocabulary": 72, "data.text.most": 150_000, "data.text.test": 0.1,
            "model.name": "lstm", "model.lstm.embedding": 24, "model.lstm.hidden": 48, "model.lstm.layers": 2,
            "model.lstm.dropout": 0.0, "optimizer.name": "rmsprop", "optimizer.lr": 1e-2,
            "schedule.name": "linear", "clip.name": "norm",
        },
        "loss", 0.0,
    ),
}  # fmt: skip
