"""A classifier of digits from 20 labels, two of each class: from scratch, or on top of a pre-trained encoder.

    python -m jtrain.main --config=configs/digits_finetune.py
    python -m jtrain.main --config=configs/digits_finetune.py:runs/pretrained

The first is from scratch, the second from a run of configs/digits_pretrain.py, whose encoder stays as it is. Expected:
see docs/transfer.md. Time: 2 s on 2 CPU cores.
"""

from jtrain.config import base


def get_config(arg=None):
    c = base()
    c.data.name = "digits"
    c.data.examples = 20
    c.model.name = "cnn"
    c.model.cnn.features = (32, 64, 64)
    c.model.cnn.pools = 2
    c.model.cnn.head = "flatten"
    c.optimizer.name = "adamw"
    c.optimizer.lr = 1e-3
    c.schedule.warmup = "5%"
    c.train.total = "300steps"
    c.train.batch_size = 20
    c.train.eval_every = "50steps"
    if arg is not None:
        c.transfer.init_from = arg
        c.transfer.rename = ((r"(?:encoder/)?(.*)", r"\1"),)  # an autoencoder keeps its encoder apart
        c.transfer.reinit = ("head/.*",)
        c.groups = (("head/.*", 1.0), (".*", None))  # so few labels teach an encoder nothing that it does not know
        c.optimizer.lr = 1e-2  # of the head alone, which is new
    return c
