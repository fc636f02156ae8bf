"""A classifier of digits from few labels: 50 images, from scratch or from a pre-trained encoder.

python -m jtrain.main --config=configs/digits_finetune.py                      from scratch
python -m jtrain.main --config=configs/digits_finetune.py:runs/pretrained      from a run of digits_pretrain.py
"""

from jtrain.config import base


def get_config(arg=None):
    c = base()
    c.data.name = "digits"
    c.data.examples = 50
    c.model.name = "cnn"
    c.model.cnn.features = (32, 64, 64)
    c.model.cnn.pools = 2
    c.optimizer.name = "adamw"
    c.optimizer.lr = 1e-3
    c.schedule.warmup = "5%"
    c.train.total = "300steps"
    c.train.batch_size = 25
    c.train.eval_every = "50steps"
    if arg is not None:
        c.transfer.init_from = arg
        c.transfer.rename = ((r"(?:encoder/)?(.*)", r"\1"),)  # an autoencoder keeps its encoder apart
        c.transfer.reinit = ("head/.*",)
    return c
