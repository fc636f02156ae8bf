"""ImageNet, through tensorflow-datasets: ResNet-50 in 90 epochs, for pods (Goyal et al. 2017, with label smoothing).

    python -m jtrain.main --config=configs/imagenet.py               half a cosine
    python -m jtrain.main --config=configs/imagenet.py:step          lr / 10 at epochs 30, 60 and 80

Published: 76 to 77 % top-1 with this recipe; not run here, for want of the data and of an accelerator. Images are
cut to 224×224 once (short side, then the centre), and training crops are taken from those.
"""

from jtrain.config import base


def get_config(arg=None):
    if arg not in (None, "step"):
        raise ValueError(f"no such argument {arg!r}: use imagenet.py or imagenet.py:step")
    c = base()
    c.precision = "bfloat16"
    c.data.name = "tfds"
    c.data.tfds.name = "imagenet2012"
    c.data.tfds.test = "validation"
    c.data.tfds.image_size = 224
    c.data.validation = 0.01
    c.data.broken = 20
    c.data.mean = (123.675, 116.28, 103.53)
    c.data.std = (58.395, 57.12, 57.375)
    c.augment = "resized_crop((0.25, 1.0))|flip_lr"
    c.model.name = "resnet"
    c.model.resnet.depth = 50
    c.model.resnet.form = "imagenet"
    c.model.resnet.zero_init = True
    c.loss.cross_entropy.label_smoothing = 0.1
    c.optimizer.name = "sgd"
    c.optimizer.sgd.nesterov = True
    c.optimizer.sgd.weight_decay = 1e-4
    c.optimizer.sgd.decay = "coupled"
    c.optimizer.lr = 0.1
    c.optimizer.reference_batch = 256
    c.schedule.warmup = "5epochs"
    if arg == "step":
        c.schedule.name = "multistep"
        c.schedule.multistep.milestones = ("25epochs", "55epochs", "75epochs")  # after the warm-up of 5
        c.schedule.multistep.gamma = 0.1
    c.train.total = "90epochs"
    c.train.batch_size = 1024
    c.checkpoint.every = "1epochs"
    return c
