"""A training of 7 million parameters with Adam, which may save: what the contenders that save have in common."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jtrain
from jtrain.run import Run
from jtrain.state import TrainState

WINDOW = 10.0  # seconds of training with one save in them
Save = Callable[[int, TrainState], None]


class Saving:
    """An MLP of 7.35 million parameters, trained by jtrain's compiled step; a checkpoint of it is 88 MB."""

    def __init__(self, case: dict[str, Any], make_save: Callable[[Run, Path], tuple[Save, Callable[[], None]]]):
        """Args:
        case: "what" a block measures: how long a save "blocking"s the training, or training with a save in it
            ("saving"), or without ("idle").
        make_save: (run, folder) -> (save, wait): `save(step, state)` begins a save, `wait()` is its end.
        """
        rng = np.random.default_rng(0)
        inputs, targets = rng.normal(size=(512, 1024)).astype(np.float32), rng.integers(0, 10, 512).astype(np.int32)
        c = jtrain.config.base()
        c.data.validation, c.train.batch_size, c.train.total = 0.0, 16, "1e8steps"
        c.model.name, c.model.mlp.features = "mlp", (2048, 2048, 512)
        self.what, self.step = case["what"], 0
        self.run = jtrain.assemble(c, data={"train": (inputs, targets)})
        self.folder = Path(tempfile.mkdtemp(prefix="jtrain-bench-"))
        self.save, self.wait = make_save(self.run, self.folder)
        self.state = self.run.init_state()
        self.train(10)
        begun = time.perf_counter()
        self.train(20)
        self.count = round(WINDOW / (time.perf_counter() - begun) * 20)
        self.versions = {"jax": jax.__version__}

    def train(self, steps: int) -> None:
        """Trains so many steps; as in jtrain's loop, two are on their way."""
        before: Any = None
        for _ in range(steps):
            given = self.run.feeds["train"].train_batch(self.run.order, self.step)
            self.state, sums = self.run.train_step(self.state, *given)
            jax.block_until_ready(before)
            before = sums
            self.step += 1
        jax.block_until_ready(self.state)

    def check(self) -> list[float]:
        """[bytes of what is saved]; after a first save, which imports and makes folders."""
        if self.what != "idle":
            self.save(self.step, self.state)
            self.train(1)
            self.end()
        return [float(sum(leaf.nbytes for leaf in jax.tree.leaves((self.state.params, self.state.opt_state))))]

    def block(self) -> tuple[float, float]:
        """(seconds, saves) or (seconds, steps)."""
        if self.what == "blocking":
            self.train(10)
            begun = time.perf_counter()
            self.save(self.step, self.state)
            seconds = time.perf_counter() - begun
            self.train(10)
            self.end()
            return seconds, 1.0
        begun = time.perf_counter()
        if self.what == "saving":
            self.save(self.step, self.state)
        self.train(self.count)
        seconds = time.perf_counter() - begun
        if self.what == "saving":
            self.end()
        return seconds, float(self.count)

    def end(self) -> None:
        """Waits for the save, and removes it, so that the next finds as much room."""
        self.wait()
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
