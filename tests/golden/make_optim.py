"""Writes optim.json: learning rates and parameters from PyTorch, to compare ours with.

Run it with PyTorch 2.13 and NumPy installed: python tests/golden/make_optim.py
"""

import json
import pathlib

import numpy as np
import torch
from torch.optim import lr_scheduler

STEPS = 300
UPDATES = 50
KEPT = (1, 2, 10, 50)  # updates after which the parameters are written
SHAPES = {"dense/bias": (4,), "dense/kernel": (3, 4)}

# (name, lr, total, our options)
SCHEDULES = [
    ("step", 0.1, 300, {"every": 30, "gamma": 0.5}),
    ("step", 2.0, 300, {"every": 71, "gamma": 0.1}),
    ("cosine", 0.1, 300, {"floor": 0.0}),
    ("cosine", 3e-3, 400, {"floor": 0.05}),
    ("linear", 0.1, 200, {"start": 1.0, "end": 0.01}),
    ("linear", 5e-4, 300, {"start": 0.3, "end": 1.0}),
    ("cyclic", 0.1, 300, {"base": 0.1, "up": 20, "down": 0, "mode": "triangular", "gamma": 1.0}),
    ("cyclic", 1.0, 300, {"base": 0.25, "up": 13, "down": 40, "mode": "triangular", "gamma": 1.0}),
    ("cyclic", 0.1, 300, {"base": 0.1, "up": 20, "down": 0, "mode": "triangular2", "gamma": 1.0}),
    ("cyclic", 1.0, 300, {"base": 0.25, "up": 13, "down": 40, "mode": "triangular2", "gamma": 1.0}),
    ("cyclic", 0.1, 300, {"base": 0.1, "up": 20, "down": 0, "mode": "exp_range", "gamma": 0.99}),
    ("cyclic", 1.0, 300, {"base": 0.0, "up": 13, "down": 40, "mode": "exp_range", "gamma": 0.995}),
]

# (name, lr, our options, max_norm of the clipping or 0)
OPTIMIZERS = [
    ("sgd", 0.1, {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}, 0),
    ("sgd", 0.1, {"momentum": 0.0, "nesterov": False, "weight_decay": 0.1}, 0),
    ("sgd", 0.1, {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0}, 0),
    ("sgd", 0.1, {"momentum": 0.9, "nesterov": False, "weight_decay": 0.01}, 0),
    ("sgd", 0.03, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0}, 0),
    ("sgd", 0.03, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, 0),
    ("sgd", 0.1, {"momentum": 0.9, "nesterov": False, "weight_decay": 0.01}, 3.0),
    ("adam", 1e-2, {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}, 0),
    ("adam", 1e-2, {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.1}, 0),
    ("adam", 3e-2, {"b1": 0.8, "b2": 0.98, "eps": 1e-3, "weight_decay": 0.01}, 3.0),
    ("adamw", 1e-2, {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0001}, 0),
    ("adamw", 1e-2, {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.5}, 0),
]


def make_scheduler(optimizer, name, lr, total, o):
    if name == "step":
        return lr_scheduler.StepLR(optimizer, o["every"], o["gamma"])
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=lr * o["floor"])
    if name == "linear":
        return lr_scheduler.LinearLR(optimizer, o["start"], o["end"], total_iters=total)
    return lr_scheduler.CyclicLR(
        optimizer, base_lr=lr * o["base"], max_lr=lr, step_size_up=o["up"], step_size_down=o["down"] or None,
        mode=o["mode"], gamma=o["gamma"], cycle_momentum=False,
    )  # fmt: skip


def learning_rates(name, lr, total, options):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler = make_scheduler(optimizer, name, lr, total, options)
    rates = []
    for _ in range(STEPS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def make_optimizer(leaves, name, lr, options):
    if name == "sgd":
        return torch.optim.SGD(leaves, lr=lr, **options)
    betas = (options["b1"], options["b2"])
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return classes[name](leaves, lr=lr, betas=betas, eps=options["eps"], weight_decay=options["weight_decay"])


def trained(start, gradients, name, lr, options, max_norm):
    params = {path: torch.nn.Parameter(torch.tensor(values)) for path, values in start.items()}
    optimizer = make_optimizer(list(params.values()), name, lr, options)
    kept = {}
    for update in range(1, UPDATES + 1):
        for path, leaf in params.items():
            leaf.grad = torch.tensor(gradients[path][update - 1])
        if max_norm:
            torch.nn.utils.clip_grad_norm_(params.values(), max_norm)
        optimizer.step()
        if update in KEPT:
            kept[str(update)] = {path: leaf.detach().numpy().astype(float).tolist() for path, leaf in params.items()}
    return kept


def clipped(gradients, max_norm):
    leaves = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES.values()]
    for leaf, path in zip(leaves, SHAPES, strict=True):
        leaf.grad = torch.tensor(gradients[path][0])
    torch.nn.utils.clip_grad_norm_(leaves, max_norm)
    return {path: leaf.grad.numpy().astype(float).tolist() for leaf, path in zip(leaves, SHAPES, strict=True)}


def main():
    random = np.random.default_rng(0)
    start = {path: random.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}
    gradients = {path: random.normal(size=(UPDATES, *shape)).astype(np.float32) for path, shape in SHAPES.items()}
    golden = {
        "torch": torch.__version__,
        "start": {path: values.astype(float).tolist() for path, values in start.items()},
        "gradients": {path: values.astype(float).tolist() for path, values in gradients.items()},
        "schedules": [
            {"name": n, "lr": lr, "total": total, "options": o, "rates": learning_rates(n, lr, total, o)}
            for n, lr, total, o in SCHEDULES
        ],
        "optimizers": [
            {"name": n, "lr": lr, "options": o, "max_norm": c, "params": trained(start, gradients, n, lr, o, c)}
            for n, lr, o, c in OPTIMIZERS
        ],
        "clip": [{"max_norm": c, "gradients": clipped(gradients, c)} for c in (0.1, 1.0, 100.0)],
    }
    path = pathlib.Path(__file__).with_name("optim.json")
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
