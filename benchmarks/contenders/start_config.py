"""jtrain's part of benchmarks/start.py: ResNet-18 in its CIFAR form, batch 32, one update; the argument is the data."""

from jtrain.config import base


def get_config(arg=""):  # noqa: D103
    c = base()
    c.data.name, c.data.npz.path, c.data.validation = "npz", arg, 0.0
    c.model.name = "resnet"
    c.optimizer.name, c.optimizer.lr = "sgd", 0.1
    c.train.batch_size, c.train.total = 32, "1steps"
    return c
