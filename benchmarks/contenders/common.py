"""What contenders share that are to do the same work: data, order of the batches, first weights, and turns.

NumPy alone: every environment has it.
"""

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


def data(case: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [examples, *shape] and targets [examples] int32: random, but the classes are told apart by their means.

    Args:
      case: "examples", "shape" and "classes" of the data; "pixels": uint8 instead of float32.
    """
    rng = np.random.default_rng(0)
    shape, examples = tuple(case["shape"]), case["examples"]
    targets = rng.integers(0, case["classes"], examples).astype(np.int32)
    means = rng.normal(size=(case["classes"], *shape)).astype(np.float32)
    inputs = rng.normal(size=(examples, *shape)).astype(np.float32) + 0.3 * means[targets]
    if case.get("pixels"):
        return np.clip(128 + 50 * inputs, 0, 255).astype(np.uint8), targets
    return inputs, targets


def rows(case: Mapping[str, Any]) -> np.ndarray:
    """Example numbers [updates, batch] of the first updates, which are those that the check is of."""
    return np.asarray(case["rows"], np.int32)


def endless(case: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Example numbers [batch] of one update after another: those of `rows`, again and again."""
    given = list(rows(case))
    while True:
        yield from given


def batches(case: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets in the order of `rows`, so that they need no shuffling: [updates · batch, …]."""
    inputs, targets = data(case)
    order = rows(case).reshape(-1)
    return inputs[order], targets[order]


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """First weights by path: kernels of variance 2 / fan-in, biases 0, scales 1; each is drawn by its path alone.

    Args:
      shapes: by path, such as "dense0/kernel"; the last axis is the outputs.
    """

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if not path.endswith("kernel"):
            return np.full(shape, 1.0 if path.endswith("scale") else 0.0, np.float32)
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        return (rng.normal(size=shape) * np.sqrt(2.0 / np.prod(shape[:-1]))).astype(np.float32)

    return {path: draw(path, tuple(shape)) for path, shape in shapes.items()}


def mlp_weights(case: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Those of dense0, head: an MLP of one hidden layer."""
    width, hidden = case["shape"][0], case["hidden"]
    return weights(
        {
            "dense0/kernel": (width, hidden),
            "dense0/bias": (hidden,),
            "head/kernel": (hidden, case["classes"]),
            "head/bias": (case["classes"],),
        }
    )


def cnn_weights(case: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Those of conv0, conv1, … (3×3) and head."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = case["shape"][-1]
    for i, features in enumerate(case["features"]):
        shapes |= {f"conv{i}/kernel": (3, 3, channels, features), f"conv{i}/bias": (features,)}
        channels = features
    return weights(shapes | {"head/kernel": (channels, case["classes"]), "head/bias": (case["classes"],)})


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of dicts from paths such as "dense0/kernel"."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return tree


class Turns:
    """A training that goes on by itself, in a thread, and pauses at its log points while others have their turn."""

    def __init__(self, train: Callable[["Turns"], None], settle: Callable[[], object] = lambda: None) -> None:
        """Args:
        train: the whole training; calls `point` at every log point.
        settle: waits for all work that is under way.
        """
        self.losses: list[float] = []  # of the last turn, as the log points told them
        self._settle = settle
        self._left = 0
        self._ended = 0.0
        self._error: BaseException | None = None
        self._may, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, args=(train,), daemon=True).start()

    def go(self, points: int) -> float:
        """Lets it go on for so many log points; the seconds until all of their work was done."""
        self._left, self.losses = points, []
        begun = time.perf_counter()
        self._may.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error
        return self._ended - begun

    def point(self, loss: float) -> None:
        """To be called by the training at a log point, with the mean loss since the one before."""
        self.losses.append(float(loss))
        self._left -= 1
        if self._left == 0:
            self._settle()
            self._ended = time.perf_counter()
            self._paused.release()
            self._may.acquire()

    def _run(self, train: Callable[["Turns"], None]) -> None:
        self._may.acquire()
        try:
            train(self)
            raise RuntimeError("the training came to its end")
        except BaseException as error:
            self._error = error
            self._paused.release()


class Paused:
    """A contender made of a training that takes turns."""

    def __init__(self, case: Mapping[str, Any], versions: dict[str, str], turns: Turns) -> None:
        """Args:
        case: "log_every" updates lie between log points; "points" of them are a block; "per" unit: "step" or "image".
        versions: of what it runs on.
        turns: the training.
        """
        self.versions = versions
        self._case, self._turns = case, turns

    def check(self) -> list[float]:
        """Mean losses between the first log points."""
        self._turns.go(len(rows(self._case)) // self._case["log_every"])
        return self._turns.losses

    def block(self) -> tuple[float, float]:
        """Seconds, and steps or images, of the next log points."""
        points = self._case["points"]
        return self._turns.go(points), points * self._case["log_every"] * units_a_step(self._case)


class Looped:
    """A contender made of a plain loop: `step()` does an update and gives its loss, perhaps still under way."""

    def __init__(
        self,
        case: Mapping[str, Any],
        versions: dict[str, str],
        step: Callable[[], Any],
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        """Args:
        case: as that of `Paused`.
        versions: of what it runs on.
        step: the next update.
        settle: waits for all work that is under way.
        """
        self.versions = versions
        self._case, self._step, self._settle = case, step, settle

    def check(self) -> list[float]:
        """Mean losses between what would be log points."""
        losses = np.array([float(self._step()) for _ in rows(self._case)])
        return [float(mean) for mean in losses.reshape(-1, self._case["log_every"]).mean(axis=1)]

    def block(self) -> tuple[float, float]:
        """Seconds, and steps or images, of as many updates as others do in a block."""
        steps, step = self._case["points"] * self._case["log_every"], self._step
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        self._settle()
        return time.perf_counter() - begun, steps * units_a_step(self._case)


def units_a_step(case: Mapping[str, Any]) -> int:
    """1, or the images of a step."""
    return case["batch"] if case.get("per") == "image" else 1
