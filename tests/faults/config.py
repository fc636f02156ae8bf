"""A run that has all that a fault could spoil: running statistics, dropout, an average, a plateau; saved all the time.

`--config=tests/faults/config.py:DATA.npz`, with uint8 images of four classes (`write_images`); `:DATA.npz,mlp` is the
plainest run, for many steps.
"""

import numpy as np

from jtrain.config import base


def write_images(path, examples=64):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", examples), ("test", examples // 4)):
        targets = np.arange(count) % 4
        inputs = rng.integers(0, 200, (count, 8, 8, 1)) + targets[:, None, None, None] * 16
        arrays |= {f"{split}_inputs": inputs.astype(np.uint8), f"{split}_targets": targets.astype(np.int32)}
    np.savez(path, **arrays)


def get_config(arg=None):
    path, _, model = arg.partition(",")
    c = base()
    c.data.name = "npz"
    c.data.npz.path = path
    c.data.validation = 0.2
    c.optimizer.lr = 0.003
    c.ema.decay = 0.9
    c.plateau.metric = "val/loss"
    c.plateau.patience = 5
    c.train.total = "200steps"
    c.train.batch_size = 16
    c.train.eval_every = "7steps"
    c.checkpoint.every = "4steps"
    c.log.every = "3steps"
    if model == "mlp":
        c.model.name = "mlp"
        c.model.mlp.features = (8,)
        c.model.mlp.dropout = 0.0
        return c
    c.model.name = "cnn"
    c.model.cnn.features = (4,)
    c.model.cnn.pools = 1
    c.model.cnn.dropout = 0.3
    c.augment = "pad_crop(1)|flip_lr"
    return c
