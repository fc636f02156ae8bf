"""Writes schedules.json: learning rates of PyTorch's schedulers, to compare ours with.

Run it with PyTorch 2.13 installed: python tests/golden/make_schedules.py
"""

import json
import pathlib

import torch
from torch.optim import lr_scheduler

STEPS = 300

TRIANGLES = {"base": 0.1, "up": 20, "down": 0, "mode": "triangular", "gamma": 1.0}
STEEP = {"base": 0.25, "up": 13, "down": 40, "mode": "triangular", "gamma": 1.0}
ONE_CYCLE = {"pct_start": 0.3, "anneal": "cos", "div_factor": 25.0, "final_div_factor": 1e4, "three_phase": False}
OTHER_CYCLE = {"pct_start": 0.237, "anneal": "cos", "div_factor": 10.0, "final_div_factor": 50.0, "three_phase": False}

# (name, lr, total, our options, updates between two calls of scheduler.step())
CASES = [
    ("constant", 0.1, 300, {}, 1),
    ("step", 0.1, 300, {"every": 30, "gamma": 0.5}, 1),
    ("step", 2.0, 300, {"every": 71, "gamma": 0.1}, 1),
    ("multistep", 0.1, 300, {"milestones": [150, 225], "gamma": 0.1}, 1),
    ("multistep", 2.0, 300, {"milestones": [1, 17, 18, 290], "gamma": 0.3}, 1),
    ("exponential", 0.1, 300, {"every": 1, "gamma": 0.99, "staircase": True}, 1),
    ("exponential", 2.0, 300, {"every": 1, "gamma": 0.95, "staircase": False}, 1),
    ("exponential", 0.1, 300, {"every": 30, "gamma": 0.7, "staircase": True}, 30),
    ("linear", 0.1, 200, {"start": 1.0, "end": 0.01}, 1),
    ("linear", 5e-4, 300, {"start": 0.3, "end": 1.0}, 1),
    ("polynomial", 0.1, 300, {"power": 1.0}, 1),
    ("polynomial", 3e-3, 170, {"power": 2.5}, 1),
    ("cosine", 0.1, 300, {"floor": 0.0}, 1),
    ("cosine", 3e-3, 400, {"floor": 0.05}, 1),
    ("cosine", 0.1, 300, {"floor": 0.0}, 25),
    ("cosine_annealing", 0.1, 300, {"period": 50, "floor": 0.0}, 1),  # 3 times down and up
    ("cosine_annealing", 2.0, 300, {"period": 47, "floor": 0.01}, 1),
    ("cosine_annealing", 0.1, 300, {"period": 50, "floor": 0.1}, 10),
    ("cosine_restarts", 0.1, 300, {"period": 60, "mult": 1, "floor": 0.0}, 1),
    ("cosine_restarts", 2.0, 300, {"period": 37, "mult": 1, "floor": 0.02}, 1),
    ("cosine_restarts", 0.1, 300, {"period": 10, "mult": 2, "floor": 0.0}, 1),
    ("cosine_restarts", 2.0, 300, {"period": 7, "mult": 3, "floor": 0.05}, 1),
    ("cyclic", 0.1, 300, TRIANGLES, 1),
    ("cyclic", 1.0, 300, STEEP, 1),
    ("cyclic", 0.1, 300, TRIANGLES | {"mode": "triangular2"}, 1),
    ("cyclic", 1.0, 300, STEEP | {"mode": "triangular2"}, 1),
    ("cyclic", 0.1, 300, TRIANGLES | {"mode": "exp_range", "gamma": 0.99}, 1),
    ("cyclic", 1.0, 300, STEEP | {"base": 0.0, "mode": "exp_range", "gamma": 0.995}, 1),
    ("one_cycle", 0.1, 300, ONE_CYCLE, 1),
    ("one_cycle", 2.0, 311, OTHER_CYCLE, 1),
    ("one_cycle", 0.1, 300, ONE_CYCLE | {"anneal": "linear"}, 1),
    ("one_cycle", 2.0, 311, OTHER_CYCLE | {"anneal": "linear"}, 1),
    ("one_cycle", 0.1, 300, ONE_CYCLE | {"three_phase": True}, 1),
    ("one_cycle", 2.0, 311, OTHER_CYCLE | {"three_phase": True}, 1),
    ("one_cycle", 0.1, 300, ONE_CYCLE | {"anneal": "linear", "three_phase": True}, 1),
    ("one_cycle", 2.0, 311, OTHER_CYCLE | {"anneal": "linear", "three_phase": True}, 1),
]


def make_scheduler(optimizer, name, lr, total, o, every):
    """PyTorch's scheduler; lengths are in its own steps, of `every` updates each."""
    floor = lr * o.get("floor", 0.0)
    if name == "constant":
        return lr_scheduler.ConstantLR(optimizer, factor=1.0)
    if name == "step":
        return lr_scheduler.StepLR(optimizer, o["every"] // every, o["gamma"])
    if name == "multistep":
        return lr_scheduler.MultiStepLR(optimizer, o["milestones"], o["gamma"])
    if name == "exponential":
        return lr_scheduler.ExponentialLR(optimizer, o["gamma"])
    if name == "linear":
        return lr_scheduler.LinearLR(optimizer, o["start"], o["end"], total_iters=total)
    if name == "polynomial":
        return lr_scheduler.PolynomialLR(optimizer, total_iters=total, power=o["power"])
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, total // every, eta_min=floor)
    if name == "cosine_annealing":
        return lr_scheduler.CosineAnnealingLR(optimizer, o["period"] // every, eta_min=floor)
    if name == "cosine_restarts":
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, o["period"], o["mult"], eta_min=floor)
    if name == "one_cycle":
        return lr_scheduler.OneCycleLR(
            optimizer, max_lr=lr, total_steps=total, pct_start=o["pct_start"], anneal_strategy=o["anneal"],
            cycle_momentum=False, div_factor=o["div_factor"], final_div_factor=o["final_div_factor"],
            three_phase=o["three_phase"],
        )  # fmt: skip
    return lr_scheduler.CyclicLR(
        optimizer, base_lr=lr * o["base"], max_lr=lr, step_size_up=o["up"], step_size_down=o["down"] or None,
        mode=o["mode"], gamma=o["gamma"], cycle_momentum=False,
    )  # fmt: skip


def learning_rates(name, lr, total, options, every):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler = make_scheduler(optimizer, name, lr, total, options, every)
    rates = []
    for update in range(1, STEPS + 1):
        rates.append(float(f"{optimizer.param_groups[0]['lr']:.10g}"))
        optimizer.step()
        if update % every == 0 and update < STEPS:
            scheduler.step()
    return rates


def main():
    cases = [
        {"name": n, "lr": lr, "total": total, "options": o, "every": every,
         "rates": learning_rates(n, lr, total, o, every)}
        for n, lr, total, o, every in CASES
    ]  # fmt: skip
    lines = ",\n".join(json.dumps(case) for case in cases)
    path = pathlib.Path(__file__).with_name("schedules.json")
    path.write_text(f'{{"torch": "{torch.__version__}", "schedules": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
