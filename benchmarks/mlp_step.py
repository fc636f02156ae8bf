"""P1: the time of a step of a tiny MLP (64-64-10, batch 32, SGD with momentum), all of jtrain on.

    python benchmarks/mlp_step.py [--rounds 7] [--out benchmarks/results/P1.json]

jtrain trains as its users train, by `jtrain.train` into a workdir: metrics, a log every 100 updates, the guard against
NaN, checkpoints that are not due within a block; once with one update a call, once with as many as it takes by itself.
The bare loop is one `jax.jit` step with donated state, data on the device, and no metrics; it waits for the device once
a block. Weights, batches and their order are the same, and so are the losses of the first 300 updates.
"""

from typing import Any

from findings import Contender, arguments, report
from harness import compare

from jtrain.data.order import Order

CASE: dict[str, Any] = {
    "shape": [64], "classes": 10, "examples": 4096, "hidden": 64, "batch": 32, "lr": 0.02, "momentum": 0.9,
    "log_every": 100, "model": "mlp", "options": {"features": [64], "dropout": 0.0},
}  # fmt: skip


def make_case(**changes: Any) -> dict[str, Any]:
    """The work of a contender: the batches of jtrain's first updates for all, and what is its own."""
    order = Order(CASE["examples"], CASE["batch"], seed=0)
    return CASE | {"rows": [order.rows(step).tolist() for step in range(300)]} | changes


def contenders(points: int = 40) -> list[Contender]:
    """jtrain with one update a call, jtrain as it is, and the bare loop.

    Args:
      points: hundreds of updates in a block.
    """
    case = make_case(points=points)
    return [
        Contender("jtrain, 1 a call", "jtrain_train", case | {"steps_per_call": 1}),
        Contender("jtrain", "jtrain_train", case),
        Contender("bare jit", "mlp_bare", case),
    ]


def main() -> None:
    """Measures, prints and writes the row."""
    given = arguments(__doc__)
    found = compare("tiny MLP", contenders(), reference="bare jit", rounds=given.rounds)
    claims = [
        found.claim(what, ours, "bare jit", better="lower", passes=passes, great=great)
        for what, ours, passes, great in (
            ("time per step, one update a call", "jtrain, 1 a call", 1.25, 1.1),
            ("time per step as it comes, fused", "jtrain", 1.25, 0.55),
        )
    ]
    report("P1", "time per step of a tiny MLP, every feature on", [found], claims, given.out)


if __name__ == "__main__":
    main()
