"""Regression on scikit-learn's diabetes table: 442 patients, 10 numbers each; no download.

    python -m jtrain.main --config=configs/diabetes.py

Expected: test R² 0.47 to 0.53, mean 0.50 (seeds 0 to 4), 88 test patients; ridge regression reaches 0.50 there.
Time: 2 s on 2 CPU cores.
"""

from jtrain.config import base


def get_config(arg=None):
    if arg is not None:
        raise ValueError(f"takes no argument, got {arg!r}")
    c = base()
    c.task.name = "regression"
    c.data.name = "table"
    c.model.name = "mlp"
    c.model.mlp.features = (32,)
    c.model.mlp.dropout = 0.2
    c.optimizer.name = "adamw"
    c.optimizer.lr = 3e-3
    c.optimizer.adamw.weight_decay = 1e-1
    c.train.total = "60epochs"
    c.train.batch_size = 32
    c.train.eval_every = "5epochs"
    return c
