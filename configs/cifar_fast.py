"""CIFAR-10 in seconds on a GPU: a wide, short network behind whitening filters (Jordan 2024, arXiv 2404.00498).

    python -m jtrain.main --config=configs/cifar_fast.py            8 epochs, for a GPU; trains on all 50,000 images
    python -m jtrain.main --config=configs/cifar_fast.py:sgd        the same with Nesterov SGD and lookahead, 10 epochs
    python -m jtrain.main --config=configs/cifar_fast.py:small      a narrow form that 2 CPU cores can train

Set TFDS_DATA_DIR. Expected: `:small` 81.0 % test accuracy (seed 0; one run of 3 epochs, float32) in a quarter of an
hour on 2 CPU cores that others used as well. The two forms for a GPU took some steps on CPU, no more: their accuracy
and time were not measured, and their learning rates are not tuned; benchmarks/gpu.py measures them (G1).
"""

from jtrain.config import base


def get_config(arg=None):
    if arg not in (None, "sgd", "small"):
        raise ValueError(f"no such argument {arg!r}: use cifar_fast.py, cifar_fast.py:sgd or cifar_fast.py:small")
    c = base()
    c.data.name = "tfds"
    c.data.tfds.name = "cifar10"
    c.data.validation = 0.0
    c.data.whiten = 2
    c.augment = "pad_crop(2, mode='reflect')|flip_alternating"
    c.tta = "flip_lr|crops(1, corners=2)"
    c.model.name = "fast_cnn"
    c.model.fast_cnn.stem = 0  # the filters that whiten take its place
    c.loss.cross_entropy.label_smoothing = 0.2
    c.schedule.name = "linear"
    c.precision = "bfloat16"
    c.train.total = "8epochs"
    c.train.batch_size = 2000
    c.checkpoint.every = "100%"
    if arg == "sgd":
        c.optimizer.name = "sgd"
        c.optimizer.lr = 1.5
        c.optimizer.sgd.momentum = 0.85
        c.optimizer.sgd.nesterov = True
        c.optimizer.sgd.weight_decay = 1.3e-3
        c.groups = ((".*bias", 64.0), (".*", 1.0))  # biases of norms want a far larger lr
        c.schedule.warmup = "20%"
        c.ema.kind = "lookahead"
        c.ema.decay = 0.5
        c.train.total = "10epochs"
        c.train.batch_size = 1024
        return c
    c.optimizer.name = "muon"
    c.optimizer.muon.rest = "sgd"
    c.optimizer.muon.rest_momentum = 0.85
    c.optimizer.muon.momentum = 0.6
    c.optimizer.muon.steps = 3
    c.optimizer.lr = 0.02
    c.groups = ((".*bias", 5.0), ("head/.*", 30.0), (".*", 1.0))  # × lr: what SGD wants
    if arg == "small":
        c.model.fast_cnn.features = (32, 64, 64)
        c.precision = "float32"
        c.train.total = "3epochs"
        c.train.batch_size = 500
    return c
