"""jtrain's evaluation of a split, as at every `train.eval_every`."""

import dataclasses
import time
from typing import Any

import jax
from contenders import common
from contenders.compiles import Compiles
from contenders.jtrain_train import make_run

from jtrain.data.examples import ArrayExamples
from jtrain.data.feed import Feed


class Evaluation:
    """A run and its first state."""

    def __init__(self, case: dict[str, Any]) -> None:
        run = make_run(case)
        feed = Feed(ArrayExamples(*common.data(case)), run.mesh, resident=True, check=lambda *fetched: None)
        self.run, self.examples = dataclasses.replace(run, feeds=run.feeds | {"test": feed}), case["examples"]
        self.state = jax.block_until_ready(self.run.init_state())
        self.versions = {"jax": jax.__version__}

    def check(self) -> list[float]:
        """Loss, number of what is right, programs compiled for it."""
        compiles = Compiles()
        found = self.run.evaluate(self.state, "test")
        return [found["loss"], found["accuracy"] * self.examples, compiles.count]

    def block(self) -> tuple[float, float]:
        """(seconds, images) of one evaluation."""
        begun = time.perf_counter()
        self.run.evaluate(self.state, "test")
        return time.perf_counter() - begun, self.examples


def prepare(case: dict[str, Any]) -> Evaluation:
    """The contender."""
    return Evaluation(case)
