"""Writes optimizers.json: what PyTorch's optimizers and clippings make of given gradients, to compare ours with.

Run it with PyTorch 2.13 and NumPy installed: python tests/golden/make_optimizers.py
"""

import json
import pathlib

import numpy as np
import torch

UPDATES = 50
KEPT = (1, 2, 10, 50)  # updates after which the parameters are written
SHAPES = {"dense/bias": (4,), "dense/kernel": (3, 4)}

ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
RMS = {"alpha": 0.99, "eps": 1e-8, "centered": False, "momentum": 0.0, "weight_decay": 0.0}

# (name, lr, our options, max_norm of the clipping or 0)
OPTIMIZERS = [
    ("sgd", 0.1, {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}, 0),
    ("sgd", 0.1, {"momentum": 0.0, "nesterov": False, "weight_decay": 0.1}, 0),
    ("sgd", 0.1, {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0}, 0),
    ("sgd", 0.1, {"momentum": 0.9, "nesterov": False, "weight_decay": 0.01}, 0),
    ("sgd", 0.03, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0}, 0),
    ("sgd", 0.03, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, 0),
    ("sgd", 0.1, {"momentum": 0.9, "nesterov": False, "weight_decay": 0.01}, 3.0),
    ("adam", 1e-2, {**ADAM, "weight_decay": 0.0}, 0),
    ("adam", 1e-2, {**ADAM, "weight_decay": 0.1}, 0),
    ("adam", 3e-2, {"b1": 0.8, "b2": 0.98, "eps": 1e-3, "weight_decay": 0.01}, 3.0),
    ("adamw", 1e-2, {**ADAM, "weight_decay": 0.0001}, 0),
    ("adamw", 1e-2, {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.5}, 0),
    ("adamax", 2e-3, {**ADAM, "weight_decay": 0.0}, 0),
    ("adamax", 1e-2, {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.1}, 0),
    ("adagrad", 1e-2, {"initial_accumulator": 0.0, "eps": 1e-10, "weight_decay": 0.0}, 0),
    ("adagrad", 0.1, {"initial_accumulator": 0.5, "eps": 1e-2, "weight_decay": 0.1}, 0),
    ("adadelta", 1.0, {"rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}, 0),
    ("adadelta", 1.0, {"rho": 0.7, "eps": 1e-3, "weight_decay": 0.1}, 0),
    ("rmsprop", 1e-2, RMS, 0),
    ("rmsprop", 1e-2, {**RMS, "alpha": 0.9, "eps": 1e-2, "weight_decay": 0.1}, 0),
    ("rmsprop", 3e-3, {**RMS, "momentum": 0.9, "weight_decay": 0.01}, 0),
    ("rmsprop", 1e-2, {**RMS, "centered": True}, 0),
    ("rmsprop", 3e-3, {**RMS, "centered": True, "momentum": 0.9, "eps": 1e-3}, 3.0),
]

# (lr, our options) of a table of 3 rows, of which a batch reads some.
SPARSE = [(1e-2, ADAM), (0.1, {"b1": 0.8, "b2": 0.99, "eps": 0.1})]


def make_optimizer(leaves, name, lr, options):
    o = dict(options)
    if "b1" in o:
        o["betas"] = (o.pop("b1"), o.pop("b2"))
    if "initial_accumulator" in o:
        o["initial_accumulator_value"] = o.pop("initial_accumulator")
    classes = {
        "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax,
        "adagrad": torch.optim.Adagrad, "adadelta": torch.optim.Adadelta, "rmsprop": torch.optim.RMSprop,
    }  # fmt: skip
    return classes[name](leaves, lr=lr, **o)


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


def trained_sparse(start, gradients, touched, lr, o):
    """As `trained`, with gradients that hold the touched rows alone (none at all in some updates)."""
    table = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.SparseAdam([table], lr=lr, betas=(o["b1"], o["b2"]), eps=o["eps"])
    kept = {}
    for update in range(1, UPDATES + 1):
        rows = torch.tensor(np.flatnonzero(touched[update - 1]))
        values = torch.tensor(gradients[update - 1])[rows]
        table.grad = torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=False)
        optimizer.step()
        if update in KEPT:
            kept[str(update)] = table.detach().numpy().astype(float).tolist()
    return kept


def clipped(gradients, clip, limit):
    leaves = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES.values()]
    for leaf, path in zip(leaves, SHAPES, strict=True):
        leaf.grad = torch.tensor(gradients[path][0])
    {"norm": torch.nn.utils.clip_grad_norm_, "value": torch.nn.utils.clip_grad_value_}[clip](leaves, limit)
    return {path: leaf.grad.numpy().astype(float).tolist() for leaf, path in zip(leaves, SHAPES, strict=True)}


def main():
    random = np.random.default_rng(0)
    start = {path: random.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}
    gradients = {path: random.normal(size=(UPDATES, *shape)).astype(np.float32) for path, shape in SHAPES.items()}
    table = random.normal(size=(3, 4)).astype(np.float32)
    touched = random.random((UPDATES, 3)) < np.array([0.9, 0.5, 0.1])
    touched[1] = [True, False, False]
    touched[4] = False
    rows = (random.normal(size=(UPDATES, 3, 4)) * touched[:, :, None]).astype(np.float32)
    golden = {
        "torch": torch.__version__,
        "start": {path: values.astype(float).tolist() for path, values in start.items()},
        "gradients": {path: values.astype(float).tolist() for path, values in gradients.items()},
        "optimizers": [
            {"name": n, "lr": lr, "options": o, "max_norm": c, "params": trained(start, gradients, n, lr, o, c)}
            for n, lr, o, c in OPTIMIZERS
        ],
        "sparse": {
            "start": table.astype(float).tolist(),
            "gradients": rows.astype(float).tolist(),
            "cases": [
                {"lr": lr, "options": o, "table": trained_sparse(table, rows, touched, lr, o)} for lr, o in SPARSE
            ],
        },
        "clip": [
            {"name": name, "limit": c, "gradients": clipped(gradients, name, c)}
            for name, c in (("norm", 0.1), ("norm", 1.0), ("norm", 100.0), ("value", 0.3), ("value", 1.0))
        ],
    }
    path = pathlib.Path(__file__).with_name("optimizers.json")
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
