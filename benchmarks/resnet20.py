"""P3: images/s of ResNet-20 with pad_crop and flip, batch norm and averaged parameters (batch 128), trained by jtrain.

    python benchmarks/resnet20.py [--rounds 7] [--out benchmarks/results/P3.json]

jtrain trains by `jtrain.train` into a workdir, with metrics, logs, guard and checkpoints that are not due. The bare
loop is one compiled step written by hand around the same module and the same augmentation, data on the device, without
metrics. Weights, batches, draws and losses of the first 4 updates are the same.
"""

from typing import Any

from findings import Contender, arguments, report
from harness import compare

from jtrain.data.order import Order

CASE: dict[str, Any] = {
    "shape": [32, 32, 3], "pixels": True, "classes": 10, "examples": 1024, "batch": 128, "lr": 0.02, "momentum": 0.9,
    "ema": 0.999, "augment": "pad_crop(4)|flip_lr", "log_every": 2, "points": 1, "per": "image", "model": "resnet",
    "options": {"depth": 20},
}  # fmt: skip


def make_case(**changes: Any) -> dict[str, Any]:
    """The work of a contender: the batches of jtrain's first updates for all, and what is its own."""
    order = Order(CASE["examples"], CASE["batch"], seed=0)
    return CASE | {"rows": [order.rows(step).tolist() for step in range(4)]} | changes


def contenders(**changes: Any) -> list[Contender]:
    """jtrain and the bare loop."""
    case = make_case(**changes)
    return [Contender("jtrain", "jtrain_train", case), Contender("bare loop", "resnet_bare", case)]


def main() -> None:
    """Measures, prints and writes the row."""
    given = arguments(__doc__)
    found = compare("ResNet-20", contenders(), reference="bare loop", unit="image", rounds=given.rounds)
    claim = found.claim("images/s", "jtrain", "bare loop", better="higher", passes=0.95, great=0.99)
    what = "images/s of ResNet-20 with augmentation, batch norm, EMA"
    report("P3", what, [found], [claim], given.out)


if __name__ == "__main__":
    main()
