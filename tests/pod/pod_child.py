"""One process of a pod: trains the variants that it is told of, and leaves what they came to as JSON lines.

    python pod_child.py COORDINATOR PROCESSES PROCESS OUT 'NAME key=value …' …

Of each variant: losses of all updates, metrics at the end, and the bytes of parameters on each device.
"""

import ast
import json
import sys
from pathlib import Path

import jax
import numpy as np
from helpers import put

import jtrain
from jtrain.config import base


def images(examples=96, seed=0):
    """Four kinds of small pictures, learnable within some updates; a test split of a ragged size."""
    rng = np.random.default_rng(seed)
    targets = np.arange(examples) % 4
    inputs = (rng.integers(0, 200, (examples, 8, 8, 3)) + targets[:, None, None, None] * 12).astype(np.uint8)
    targets = targets.astype(np.int32)
    return {"train": (inputs[:-27], targets[:-27]), "test": (inputs[-27:], targets[-27:])}


def config(**fields):
    """A CNN with all that could depend on who holds which example: batch statistics, dropout, augmentation, an average
    of the parameters."""
    c = base()
    c.model.name = "cnn"
    c.model.cnn.features = (4, 16)
    c.model.cnn.pools = 1
    c.model.cnn.dropout = 0.3
    c.augment = "pad_crop(1)|flip_lr"
    c.ema.decay = 0.9
    c.optimizer.lr = 0.01
    c.train.total = "50steps"
    c.train.batch_size = 16
    c.train.eval_every = "20steps"
    c.checkpoint.every = "20steps"
    c.log.every = "1steps"
    return put(c, **fields)


def main(coordinator, processes, process, out, *variants):
    alone = int(processes) == 1
    peers = jtrain.connect() if alone else jtrain.connect(coordinator=coordinator, processes=processes, process=process)
    for variant in variants:
        name, *pairs = variant.split()
        fields = {key: ast.literal_eval(value) for key, _, value in (pair.partition("=") for pair in pairs)}
        workdir = fields.pop("workdir", None)
        run = jtrain.assemble(config(**fields), data=images())
        result = jtrain.train(run, workdir, peers=peers)
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(result.state.params))
        rows = [row for row in result.history if row["split"] == "train"]
        found = {"name": name, "losses": [row["loss"] for row in rows], "metrics": result.metrics, "held": held}
        found["digest"] = [row["grad_norm"] for row in rows][-1]
        with Path(f"{out}.{process}").open("a") as file:
            file.write(json.dumps(found) + "\n")
    peers.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
