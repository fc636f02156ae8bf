"""Writes plateau.json: the lr of torch.optim.lr_scheduler.ReduceLROnPlateau over random metric series.

python tests/golden/make_plateau.py        # in an environment with torch 2.13; jtrain is not needed
"""

import json
import random
from pathlib import Path

import torch

RNG = random.Random(7)


def series(length: int) -> list[float]:
    """A curve that falls, stalls and jumps."""
    level, found = RNG.uniform(0.5, 3.0), []
    for _ in range(length):
        level *= RNG.choice([0.7, 0.95, 0.9999, 1.0, 1.0, 1.02])
        found.append(round(level + RNG.gauss(0, 0.01), 6))
    return found


def main() -> None:
    """20 series with random options; the lr after each evaluation."""
    cases = []
    for _ in range(20):
        options = {
            "mode": RNG.choice(["min", "max"]),
            "factor": RNG.choice([0.1, 0.5, 0.3]),
            "patience": RNG.choice([0, 1, 2, 5]),
            "threshold": RNG.choice([0.0, 1e-4, 0.05]),
            "threshold_mode": RNG.choice(["rel", "abs"]),
            "cooldown": RNG.choice([0, 1, 3]),
            "min_lr": RNG.choice([0.0, 1e-3]),
            "eps": 1e-8,
        }
        lr = RNG.choice([0.1, 0.01])
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
        values, lrs = series(60), []
        for value in values:
            scheduler.step(value)
            lrs.append(optimizer.param_groups[0]["lr"])
        cases.append({"options": options, "lr": lr, "values": values, "lrs": lrs})
    Path(__file__).with_name("plateau.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
