"""Writes losses.npz: what PyTorch makes of given outputs and targets, loss and slope, to compare our losses with.

Run it with PyTorch 2.13 and NumPy installed: python tests/golden/make_losses.py
PyTorch computes in double precision. It has no focal loss: that is the paper's formula, with its automatic slope.
"""

import itertools
import json
import pathlib

import numpy as np
import torch
from torch.nn import functional

WEIGHTS = (0.5, 1.0, 2.0, 0.25, 3.0)


def weights_of(class_weights):
    return torch.tensor(class_weights, dtype=torch.float64) if class_weights else None


def cross_entropy(x, y, label_smoothing=0.0, class_weights=()):
    y = y.movedim(-1, 1) if y.is_floating_point() else y
    return functional.cross_entropy(
        x.movedim(-1, 1), y, weights_of(class_weights), reduction="none", label_smoothing=label_smoothing
    )


def binary_cross_entropy(x, y, label_smoothing=0.0, positive_weight=1.0):
    y = y.double() * (1.0 - label_smoothing) + label_smoothing / 2.0
    weight = torch.tensor(positive_weight, dtype=torch.float64)
    return functional.binary_cross_entropy_with_logits(x, y, reduction="none", pos_weight=weight)


def multi_margin(x, y, margin=1.0, power=1):
    return functional.multi_margin_loss(x, y, p=power, margin=margin, reduction="none")


def focal(x, y, gamma=2.0, class_weights=()):
    """Lin et al. 2017, equations 4 and 5: -α_t (1 - p_t)^γ log p_t, and its mean under the targets' probabilities."""
    p, log_p = torch.softmax(x, -1), torch.log_softmax(x, -1)
    alpha = weights_of(class_weights or (1.0,) * x.shape[-1])
    if y.is_floating_point():
        return -(y * alpha * (1 - p) ** gamma * log_p).sum(-1)
    p_t, log_p_t = (v.gather(-1, y[:, None])[:, 0] for v in (p, log_p))
    return -alpha[y] * (1 - p_t) ** gamma * log_p_t


def sigmoid_focal(x, y, gamma=2.0, alpha=0.25):
    """Lin et al. 2017, equation 5, for labels of 0 and 1; without α where it is 0."""
    p_t = torch.where(y == 1, torch.sigmoid(x), 1 - torch.sigmoid(x))
    log_p_t = functional.logsigmoid(torch.where(y == 1, x, -x))
    alpha_t = torch.where(y == 1, alpha, 1 - alpha) if alpha else 1.0
    return -alpha_t * (1 - p_t) ** gamma * log_p_t


def mse(x, y):
    return functional.mse_loss(x, y, reduction="none")


def mae(x, y):
    return functional.l1_loss(x, y, reduction="none")


def smooth_l1(x, y, beta=1.0):
    return functional.smooth_l1_loss(x, y, beta=beta, reduction="none")


def huber(x, y, delta=1.0):
    return functional.huber_loss(x, y, delta=delta, reduction="none")


FUNCTIONS = {
    f.__name__: f
    for f in (cross_entropy, binary_cross_entropy, multi_margin, focal, sigmoid_focal, mse, mae, smooth_l1, huber)
}

# loss -> (data to try all options on, data to try the defaults on, options)
LOSSES = {
    "cross_entropy": (
        ["class", "mixed"], ["tokens"],
        [{}, {"label_smoothing": 0.1}, {"class_weights": WEIGHTS}, {"label_smoothing": 0.3, "class_weights": WEIGHTS}],
    ),
    "binary_cross_entropy": (
        ["labels", "labels-soft"], ["labels-int", "labels-one"],
        [{}, {"label_smoothing": 0.2}, {"positive_weight": 3.0}, {"label_smoothing": 0.1, "positive_weight": 0.5}],
    ),
    "multi_margin": (["class"], [], [{}, {"power": 2}, {"margin": 0.5}, {"margin": 2.0, "power": 2}]),
    "focal": (["class", "mixed"], [], [{}, {"gamma": 0.0}, {"gamma": 1.0}, {"gamma": 5.0, "class_weights": WEIGHTS}]),
    "sigmoid_focal": (
        ["labels"], ["labels-int", "labels-one"],
        [{}, {"gamma": 0.0, "alpha": 0.0}, {"gamma": 1.0, "alpha": 0.75}, {"gamma": 5.0, "alpha": 0.0}],
    ),
    "mse": (["values"], ["values-one", "values-images"], [{}]),
    "mae": (["values"], ["values-one", "values-images"], [{}]),
    "smooth_l1": (["values"], ["values-one", "values-images"], [{}, {"beta": 0.25}, {"beta": 3.0}]),
    "huber": (["values"], ["values-one", "values-images"], [{}, {"delta": 0.25}, {"delta": 3.0}]),
}  # fmt: skip


def make_data(random):
    """name -> (outputs, targets); among them great outputs, and differences of exactly 0, β, δ or the margin."""

    def logits(*shape):
        return random.normal(scale=3.0, size=shape).astype(np.float32)

    def quarters(*shape):
        return (random.integers(-12, 13, size=shape) / 4).astype(np.float32)

    def numbers(*shape):
        return random.integers(0, 5, size=shape).astype(np.int32)

    def labels(*shape):
        return random.integers(0, 2, size=shape).astype(np.float32)

    great = np.float32(
        [[100, -100, 0, 0, 0], [-100, 100, 100, -100, 0], [1e4, -1e4, 0, 5, 1e4], [88, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    )
    great_labels = np.float32([[100, -100, 1e4, 0], [100, -100, -1e4, 0]])
    far, near = np.float32([[1e4, -1e4, 7], [1e-4, 0, 0]]), np.float32([[-1e4, 1, 7], [0, 0, 1e-3]])
    probabilities = random.dirichlet(np.ones(5), size=(8,)).astype(np.float32)
    return {
        "class": (
            np.concatenate([logits(6, 5), quarters(8, 5), great]), np.concatenate([numbers(14), [0, 3, 1, 1, 4]])
        ),
        "mixed": (np.concatenate([logits(3, 5), great]), probabilities),
        "tokens": (logits(3, 4, 5), numbers(3, 4)),
        "labels": (np.concatenate([logits(6, 4), great_labels]), np.concatenate([labels(6, 4), np.eye(4)[:2]])),
        "labels-soft": (np.concatenate([logits(6, 4), great_labels]), random.random(size=(8, 4))),
        "labels-int": (logits(6, 4), labels(6, 4).astype(np.int32)),
        "labels-one": (logits(6), labels(6)),
        "values": (np.concatenate([quarters(8, 3), far]), np.concatenate([quarters(8, 3), near])),
        "values-one": (quarters(8), quarters(8)),
        "values-images": (logits(2, 3, 2, 1), logits(2, 3, 2, 1)),
    }  # fmt: skip


def main():
    data = make_data(np.random.default_rng(0))
    data = {of: (x, y.astype(np.float32 if y.dtype.kind == "f" else np.int32)) for of, (x, y) in data.items()}
    golden, cases = {}, []
    for name, (full, plain, options) in LOSSES.items():
        for of, o in [*itertools.product(full, options), *((of, {}) for of in plain)]:
            x = torch.tensor(data[of][0], dtype=torch.float64, requires_grad=True)
            y = torch.tensor(data[of][1])
            y = y.double() if y.is_floating_point() else y.long()
            loss = FUNCTIONS[name](x, y, **o)
            loss = loss.reshape(len(x), -1).mean(1)
            loss.sum().backward()
            assert torch.isfinite(x.grad).all(), (name, of, o)
            golden[f"{len(cases)}/loss"] = loss.detach().numpy()
            golden[f"{len(cases)}/slope"] = x.grad.numpy()
            cases.append({"name": name, "data": of, "options": o})
    for of, (outputs, targets) in data.items():
        golden |= {f"{of}/outputs": outputs, f"{of}/targets": targets}
    path = pathlib.Path(__file__).with_name("losses.npz")
    np.savez_compressed(path, torch=torch.__version__, cases=json.dumps(cases), **golden)


if __name__ == "__main__":
    main()
