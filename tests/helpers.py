"""Tiny runs shared by the tests: a model of a few hundred parameters on data that needs no loading."""

import dataclasses
import functools

import numpy as np

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.errors import Interrupted


@functools.cache
def blobs(examples=96, features=6, classes=3, seed=0):
    """Three clouds of points: {'train': (inputs, targets), 'test': …}, learnable within a few updates."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, features)) * 2
    targets = np.arange(examples) % classes
    inputs = (centres[targets] + rng.normal(size=(examples, features))).astype(np.float32)
    cut = examples * 3 // 4
    return {
        "train": (inputs[:cut], targets[:cut].astype(np.int32)),
        "test": (inputs[cut:], targets[cut:].astype(np.int32)),
    }


def tiny(total="20steps", batch_size=10, **fields):
    """A config of a 6-8-3 MLP: 65 training examples after the validation cut."""
    c = configs.base()
    c.model.mlp.features = (8,)
    c.model.mlp.dropout = 0.0
    c.mesh.devices = 1
    c.train.total = total
    c.train.batch_size = batch_size
    c.train.eval_every = "7steps"
    c.checkpoint.every = "5steps"
    c.log.every = "3steps"
    c.optimizer.lr = 0.01
    return put(c, **fields)


def put(c, **fields):
    """The config with dotted keys set, written with two underscores."""
    for key, value in fields.items():
        node = c
        *parents, last = key.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = value
    return c


def tiny_run(total="20steps", batch_size=10, **fields):
    """The assembled run of `tiny` on `blobs`."""
    return assemble(tiny(total, batch_size, **fields), data=blobs())


def hooked(run, give):
    """The run with `give(original, step)` in place of what gives its loop the batch of each update, one a call."""
    run = dataclasses.replace(run, per_call=1)
    feed = run.feeds["train"]
    original = feed.train_batches

    def train_batches(order, step, count, most):
        assert (count, most) == (1, 1)
        return give(lambda: original(order, step, 1, 1), step)

    feed.train_batches = train_batches
    return run


def interrupting(at):
    """A `judge` of train that ends it after the evaluation of an update, as a signal does."""

    def judge(step, found):
        if step == at:
            raise Interrupted("as by a signal", 15)
        return ""

    return judge


def timeless(rows):
    """Rows of metrics without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in ("examples_per_second", "data_wait", "mfu")} for row in rows]
