"""Pre-training without labels on scikit-learn's digits; digits_finetune.py goes on from it.

    python -m jtrain.main --config=configs/digits_pretrain.py --workdir=runs/pretrained
    python -m jtrain.main --config=configs/digits_pretrain.py:denoising --workdir=runs/pretrained
    python -m jtrain.main --config=configs/digits_pretrain.py:rotation --workdir=runs/pretrained

An autoencoder; one that is shown noisy digits; and a classifier of the quarter turn by which a digit was rotated.
"""

from jtrain.config import base


def get_config(arg=None):
    if arg not in (None, "denoising", "rotation"):
        raise ValueError(f"no such argument {arg!r}: use digits_pretrain, :denoising or :rotation")
    c = base()
    c.data.name = "digits"
    if arg == "rotation":
        c.task.name = "rotation"
        c.model.name = "cnn"
        c.model.cnn.features = (32, 64, 64)
        c.model.cnn.pools = 2
        c.model.cnn.head = "flatten"
    else:
        c.task.name = "autoencoding"
        c.task.autoencoding.corrupt = "noise(0.25)" if arg == "denoising" else ""
        c.model.name = "autoencoder"
        c.model.autoencoder.features = (32, 64, 64)
        c.model.autoencoder.pools = 2
        c.model.autoencoder.code = 64
    c.optimizer.name = "adamw"
    c.optimizer.lr = 3e-3
    c.schedule.warmup = "5%"
    c.train.total = "40epochs"
    c.train.batch_size = 64
    c.train.eval_every = "4epochs"
    return c
