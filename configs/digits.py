"""scikit-learn's handwritten digits: 1,797 images of 8×8, a small CNN; no download.

    python -m jtrain.main --config=configs/digits.py

Expected: TO MEASURE.
"""

from jtrain.config import base


def get_config(arg=None):
    c = base()
    c.data.name = "digits"
    c.model.name = "cnn"
    c.model.cnn.features = (32, 64, 64)
    c.model.cnn.pools = 2
    c.optimizer.name = "adamw"
    c.optimizer.lr = 3e-3
    c.schedule.name = "cosine"
    c.schedule.warmup = "5%"
    c.train.total = "30epochs"
    c.train.batch_size = 64
    return c
