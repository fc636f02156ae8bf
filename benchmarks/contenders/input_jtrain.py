"""jtrain's input: gather, pad_crop, flip_lr and normalising, compiled together. case: batch, cores."""

import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contenders.input_data import BLOCK, COUNT, MEAN, STD, images, shares

from jtrain.data import augment
from jtrain.data.examples import ArrayExamples
from jtrain.data.feed import Feed
from jtrain.data.order import Order
from jtrain.gradient import select
from jtrain.mesh import make_constrain, make_mesh
from jtrain.step import IN_FLIGHT


class InJtrain:
    """A resident feed and the first lines of a training step, up to what the first layer sees."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.size = case["batch"]
        mesh = make_mesh(1)
        examples = ArrayExamples(images(), np.zeros(COUNT, np.int32))
        self.feed = Feed(examples, mesh, resident=True, check=lambda *fetched: None)
        self.order, self.step = Order(COUNT, self.size, seed=0), 0
        self.key, constrain, change = jax.random.key(0), make_constrain(mesh), augment.build("pad_crop(4)|flip_lr")

        @jax.jit
        def look(data: Any, rows: Any, key: jax.Array, step: Any) -> jax.Array:
            batch = select(data, rows, constrain)
            inputs = change(batch["inputs"], jax.random.fold_in(key, step))
            return (inputs.astype(jnp.float32) - MEAN) * (1 / STD)

        self.look = look
        self.versions = {"jax": jax.__version__}

    def block(self) -> tuple[float, float]:
        """(seconds, images); as in training, two batches are on their way."""
        begun, done, ahead = time.perf_counter(), 0, []
        while time.perf_counter() - begun < BLOCK:
            ahead.append(self.batch())
            if len(ahead) >= IN_FLIGHT:
                done += len(ahead.pop(0).block_until_ready())
        done += sum(len(batch.block_until_ready()) for batch in ahead)
        return time.perf_counter() - begun, done

    def check(self) -> list[float]:
        """See `shares`."""
        rows = self.order.rows(self.step)[:32]
        return shares(images(), rows, np.asarray(self.batch())[:32])

    def batch(self) -> jax.Array:
        """Float32 [batch, 32, 32, 3]."""
        self.step += 1
        return self.look(*self.feed.train_batch(self.order, self.step - 1), self.key, np.int32(self.step))


def prepare(case: dict[str, Any]) -> InJtrain:
    """The contender."""
    if case.get("cores"):  # XLA starts as many threads as it may use cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: case["cores"]])
    return InJtrain(case)
