"""The tasks of part 4 of the corpus of faulty runs: data, and models on them, that parts 1 to 3 do not hold."""

import functools
import importlib.util
import os

import numpy as np
from fault_tasks import Splits, TaskOf, digits
from fault_tasks_2 import mlp_of, steps_of
from fault_tasks_3 import TASKS as TASKS_3
from fault_tasks_3 import missing as missing_3

from jtrain.data.examples import Wanted
from jtrain.data.sources import SOURCES


def _cut(inputs: np.ndarray, targets: np.ndarray, val: int, test: int) -> Splits:
    rows = np.random.default_rng(101).permutation(len(inputs))
    parts = {"test": rows[:test], "val": rows[test : test + val], "train": rows[test + val :]}
    return {name: (inputs[part], targets[part]) for name, part in parts.items()}


@functools.cache
def swiss() -> Splits:
    """A regression: how far along a rolled-up sheet a point in space is, with noise."""
    from sklearn.datasets import make_swiss_roll

    points, along = make_swiss_roll(2100, noise=0.4, random_state=103)
    inputs = (points - points.mean(axis=0)) / points.std(axis=0)
    values = along + 0.6 * np.random.default_rng(107).normal(size=2100)
    return _cut(inputs.astype(np.float32), values.astype(np.float32), 280, 500)


@functools.cache
def checkers() -> Splits:
    """A board of 4×4 fields in the plane, black and white in turn, with blurred edges."""
    random = np.random.default_rng(109)
    places = random.uniform(-2, 2, (2900, 2))
    targets = np.floor(places).sum(axis=1).astype(np.int32) % 2
    return _cut((places + 0.05 * random.normal(size=places.shape)).astype(np.float32), targets, 350, 600)


@functools.cache
def logic() -> Splits:
    """Four classes by two sentences about 14 bits, xor among them, in noise; 4 % of the labels are drawn anew."""
    random = np.random.default_rng(113)
    bits = random.integers(0, 2, (2600, 14))
    first, second = bits[:, 0] ^ bits[:, 1], (bits[:, 2] & bits[:, 3]) | bits[:, 4]
    targets = np.where(random.random(2600) < 0.04, random.integers(0, 4, 2600), 2 * first + second)
    inputs = 2 * bits - 1 + 0.4 * random.normal(size=bits.shape)
    return _cut(inputs.astype(np.float32), targets.astype(np.int32), 320, 600)


@functools.cache
def products() -> Splits:
    """A regression: products and squares of 6 of 12 numbers that go together, with noise."""
    random = np.random.default_rng(127)
    x = random.normal(size=(2300, 12)) + 0.6 * random.normal(size=(2300, 1))
    values = x[:, 0] * x[:, 1] + 0.6 * x[:, 2] ** 2 - 1.5 * x[:, 3] + 0.8 * np.abs(x[:, 4] - x[:, 5])
    values = values / values.std() + 0.25 * random.normal(size=2300)
    return _cut(x.astype(np.float32), (4.0 * values - 7.0).astype(np.float32), 300, 500)


@functools.cache
def majority() -> Splits:
    """Sequences of 13 tokens of 4 kinds, one number each: which is there most often, the first of them where equal."""
    random = np.random.default_rng(131)
    tokens = random.integers(0, 4, (2600, 13))
    targets = np.eye(4)[tokens].sum(axis=1).argmax(axis=1).astype(np.int32)
    inputs = np.eye(4)[tokens] + 0.15 * random.normal(size=(2600, 13, 4))
    return _cut(inputs.astype(np.float32), targets, 320, 500)


@functools.cache
def brackets() -> Splits:
    """Sequences of 14 brackets in noise, of which none closes what is not open: how deep they go, 1 to 5 or more."""
    random = np.random.default_rng(137)
    opens = random.integers(0, 2, (2500, 14)) * 2 - 1
    depth, deepest = np.zeros(2500, int), np.zeros(2500, int)
    for place in range(14):
        opens[:, place] = np.where(depth == 0, 1, opens[:, place])
        depth += opens[:, place]
        deepest = np.maximum(deepest, depth)
    inputs = opens[..., None] + 0.5 * random.normal(size=(2500, 14, 1))
    return _cut(inputs.astype(np.float32), (np.minimum(deepest, 5) - 1).astype(np.int32), 300, 500)


@functools.cache
def marks() -> Splits:
    """Images of 14×14, one channel: a plus, an x, a ring, a box or a triangle anywhere, in noise."""
    random = np.random.default_rng(139)
    count = 2300
    targets = random.integers(0, 5, count).astype(np.int32)
    y, x = (grid - random.uniform(4.5, 8.5, (count, 1, 1)) for grid in np.mgrid[:14, :14])
    size = random.uniform(2.8, 4.2, (count, 1, 1))
    box = np.maximum(abs(y), abs(x))
    lines = np.stack([
        np.minimum(abs(y), abs(x)), np.minimum(abs(y - x), abs(y + x)) / 1.4, abs(np.hypot(y, x) - size),
        abs(box - size), abs(np.maximum(y, 0.9 * abs(x) - 0.45 * y) - 0.6 * size),
    ])  # fmt: skip
    drawn = np.clip(1.3 - lines[targets, np.arange(count)], 0, 1) * (box <= size + 0.5)
    images = 60 + 95 * drawn + 42 * random.normal(size=(count, 14, 14))
    return _cut(np.clip(images, 0, 255).astype(np.uint8)[..., None], targets, 300, 500)


@functools.cache
def bars() -> Splits:
    """A regression: by how many degrees a bar in an image of 12×12 is turned, with noise in both."""
    random = np.random.default_rng(149)
    degrees = random.uniform(-70, 70, 2200)
    turn = np.deg2rad(degrees)[:, None, None]
    y, x = (grid - random.uniform(4, 7, (2200, 1, 1)) for grid in np.mgrid[:12, :12])
    across, along = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    drawn = np.clip(1.5 - abs(across), 0, 1) * (abs(along) < random.uniform(3, 5, (2200, 1, 1)))
    images = np.clip(70 + 120 * drawn + 25 * random.normal(size=(2200, 12, 12)), 0, 255)
    values = degrees + 8 * random.normal(size=2200)
    return _cut(images.astype(np.uint8)[..., None], values.astype(np.float32), 300, 500)


@functools.cache
def turned() -> Splits:
    """scikit-learn's digits, by how many quarters each is turned: some look alike."""
    random = np.random.default_rng(151)
    found: Splits = {}
    for name, (images, _) in digits().items():
        quarters = random.integers(0, 4, len(images)).astype(np.int32)
        found[name] = np.stack([np.rot90(one, k) for one, k in zip(images, quarters, strict=True)]), quarters
    return found


@functools.cache
def animals() -> Splits:
    """3,000 images of CIFAR-10 at 16×16, others than those of part 2 and 3: animal or vehicle; set TFDS_DATA_DIR."""
    made = SOURCES["tfds"](Wanted(), name="cifar10")
    inputs, targets = made.train.arrays()
    images, targets = np.asarray(inputs[9000:13000]), np.asarray(targets[9000:13000])
    images = images.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4)).astype(np.uint8)
    return _cut(images, np.isin(targets, (2, 3, 4, 5, 6, 7)).astype(np.int32), 400, 600)


def _turtle() -> str:
    """The source of Python's turtle module, about 140 kB."""
    found = importlib.util.find_spec("turtle")
    assert found is not None
    assert found.origin is not None
    return found.origin


def missing(task: str) -> str:
    """Why a task cannot be run here; "" where it can."""
    if task == "animals_resnet" and not os.environ.get("TFDS_DATA_DIR"):
        return "no CIFAR-10: set TFDS_DATA_DIR"
    return missing_3(task)


_REGRESSION = {"task.name": "regression"}

TASKS: dict[str, TaskOf] = TASKS_3 | {
    "swiss_mlp": TaskOf(
        swiss,
        _REGRESSION | mlp_of(64, 32, activation="leaky_relu") | steps_of(440, 44, 22, 8) | {
            "optimizer.name": "adamax", "optimizer.lr": 3e-2, "schedule.name": "exponential",
            "schedule.exponential.every": "22steps", "schedule.exponential.gamma": 0.88,
        },
        "r2", 1.0,
    ),
    "checker_mlp": TaskOf(
        checkers,
        mlp_of(64, 64) | steps_of(560, 56, 28, 14) | {
            "optimizer.name": "adam", "optimizer.lr": 4e-2, "schedule.name": "one_cycle",
        },
        "accuracy", 1.0,
    ),
    "logic_mlp": TaskOf(
        logic,
        mlp_of(80, 40, dropout=0.2) | steps_of(340, 52, 20, 5) | {
            "optimizer.name": "muon", "optimizer.lr": 2e-2, "schedule.name": "linear",
        },
        "accuracy", 1.0,
    ),
    "products_highway": TaskOf(
        products,
        _REGRESSION | steps_of(480, 36, 24, 12) | {
            "model.name": "highway", "model.highway.layers": 3, "model.highway.width": 32,
            "model.highway.activation": "gelu", "model.highway.dropout": 0.0, "optimizer.name": "adamw",
            "optimizer.lr": 4e-2, "schedule.name": "polynomial", "schedule.polynomial.power": 2.0,
        },
        "r2", 1.0,
    ),
    "majority_gru": TaskOf(
        majority,
        steps_of(400, 48, 25, 9) | {
            "model.name": "gru", "model.gru.hidden": 24, "model.gru.output": "last", "model.gru.dropout": 0.0,
            "optimizer.name": "adam", "optimizer.lr": 3e-2, "schedule.name": "wsd", "schedule.wsd.decay": "30%",
            "clip.name": "norm",
        },
        "accuracy", 1.0,
    ),
    "brackets_lstm": TaskOf(
        brackets,
        steps_of(450, 60, 30, 7) | {
            "model.name": "lstm", "model.lstm.hidden": 28, "model.lstm.output": "last", "model.lstm.dropout": 0.0,
            "optimizer.name": "rmsprop", "optimizer.lr": 2e-2, "schedule.name": "cosine", "clip.name": "norm",
        },
        "accuracy", 1.0,
    ),
    "marks_cnn": TaskOf(
        marks,
        steps_of(420, 50, 30, 6) | {
            "model.name": "cnn", "model.cnn.features": (12, 24, 24), "model.cnn.pools": 2, "model.cnn.norm": "none",
            "model.cnn.head": "flatten", "optimizer.name": "sgd", "optimizer.lr": 0.05, "schedule.name": "linear",
            "schedule.warmup": "5%",
        },
        "accuracy", 1.0,
    ),
    "bars_cnn": TaskOf(
        bars,
        _REGRESSION | steps_of(320, 40, 20, 8) | {
            "model.name": "cnn", "model.cnn.features": (12, 20), "model.cnn.pools": 1, "model.cnn.head": "flatten",
            "optimizer.name": "adam", "optimizer.lr": 1e-2, "schedule.name": "cosine",
        },
        "r2", 1.0,
    ),
    "turned_wide": TaskOf(
        turned,
        steps_of(260, 40, 26, 5) | {
            "model.name": "wide_resnet", "model.wide_resnet.depth": 10, "model.wide_resnet.widen": 1,
            "optimizer.name": "sgd", "optimizer.lr": 0.1, "optimizer.sgd.nesterov": True,
            "schedule.name": "one_cycle",
        },
        "accuracy", 1.0,
    ),
    "animals_resnet": TaskOf(
        animals,
        steps_of(240, 32, 24, 6) | {
            "model.name": "resnet", "model.resnet.depth": 18, "model.resnet.width": 4, "augment": "flip_lr",
            "optimizer.name": "adamw", "optimizer.lr": 1e-2, "schedule.name": "step",
            "schedule.step.every": "48steps", "schedule.step.gamma": 0.4,
        },
        "accuracy", 1.0,
    ),
    "digits_denoise": TaskOf(
        digits,
        steps_of(520, 50, 40, 9) | {
            "task.name": "autoencoding", "task.autoencoding.corrupt": "noise(0.3)", "model.name": "autoencoder",
            "model.autoencoder.encoder": "mlp", "model.autoencoder.features": (96, 32),
            "model.autoencoder.activation": "gelu", "optimizer.name": "lion", "optimizer.lr": 4e-3,
            "schedule.name": "linear",
        },
        "loss", 0.0,
    ),
    "turtle_gru": TaskOf(
        None,
        steps_of(400, 28, 40, 11) | {
            "task.name": "language_modelling", "data.name": "text", "data.text.path": _turtle(),
            "data.text.length": 30, "data.text.vocabulary": 80, "data.text.test": 0.1, "model.name": "gru",
            "model.gru.embedding": 20, "model.gru.hidden": 56, "model.gru.dropout": 0.0,
            "optimizer.name": "adamw", "optimizer.lr": 3e-2, "schedule.name": "inverse_time",
            "schedule.inverse_time.every": "80steps", "clip.name": "norm",
        },
        "loss", 0.0,
    ),
}  # fmt: skip
