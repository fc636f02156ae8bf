"""CIFAR-10 from weights that were trained on something else: first the head alone, then all, deeper layers slower.

    python -m jtrain.main --config=configs/cifar_transfer.py:resnet18.safetensors
    python -m jtrain.main --config=configs/cifar_transfer.py:runs/shapes

The first is torchvision's ResNet-18, saved from torch with safetensors; the second, and the default, a run of
configs/cifar.py:shapes.
"""

from jtrain.config import base
from jtrain.optim.groups import layerwise


def get_config(arg=None):
    arg = arg or "runs/shapes"
    c = base()
    c.data.name = "tfds"
    c.data.tfds.name = "cifar10"
    c.data.validation = 0.02
    c.augment = "pad_crop(4)|flip_lr"
    c.transfer.init_from = arg
    c.transfer.reinit = ("head/.*",)
    c.phases = (("0", "head/.*"), ("1epochs", ".*"))
    c.optimizer.name = "adamw"
    c.schedule.warmup = "0.5epochs"
    c.train.total = "5epochs"
    c.train.batch_size = 128
    if arg.endswith(".safetensors"):
        c.data.tfds.image_size = 96
        c.data.mean = (123.675, 116.28, 103.53)  # as in its training, where pixels were from 0 to 1
        c.data.std = (58.395, 57.12, 57.375)
        c.model.name = "resnet"
        c.model.resnet.form = "imagenet"
        c.groups = layerwise(("stem.*", "stage1_.*", "stage2_.*", "stage3_.*", "stage4_.*", "head/.*"), 0.7)
    else:
        c.model.name = "cnn"
        c.groups = layerwise(("(conv|norm)0/.*", "(conv|norm)[123]/.*", "head/.*"), 0.7)
    return c
