"""Images of your own, a folder for each class: FOLDER/cat/*.jpg, FOLDER/dog/*.jpg, … (or FOLDER/train/cat/*.jpg, …).

    python -m jtrain.main --config=configs/folder.py:FOLDER

They are cut to 64 by 64 pixels (`data.folder.image_size`). A start: look at the curves, then at models and lr.
"""

from jtrain.config import base


def get_config(arg=None):
    c = base()
    c.data.name = "folder"
    c.data.folder.path = arg or ""
    c.data.folder.image_size = 64
    c.augment = "pad_crop(8)|flip_lr"
    c.model.name = "cnn"
    c.optimizer.name = "adamw"
    c.optimizer.lr = 1e-3
    c.schedule.warmup = "5%"
    c.train.total = "20epochs"
    c.train.batch_size = 32
    return c
