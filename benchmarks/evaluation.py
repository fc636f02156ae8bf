"""P9: images a second of an evaluation on 10,007 examples, whose last batch of 128 holds 23.

    python benchmarks/evaluation.py [--rounds 7] [--out benchmarks/results/P9.json]

A small CNN with the weights and images of all contenders. jtrain: `run.evaluate(state, "test")`, loss and accuracy. The
bare loop: a compiled forward pass that adds up the loss and counts what is right, the last batch padded with weight 0,
waited for at the end; of jtrain's own network, which is what the claim is against, and of the same in plain Flax. Equal
are the loss, the count of what is right, and the number of programs compiled: one.
"""

from findings import Contender, arguments, report
from harness import compare

CASE = {
    "shape": [32, 32, 3], "classes": 10, "examples": 10_007, "batch": 128, "features": [16, 32], "model": "cnn",
    "options": {"features": [16, 32], "pools": 2, "norm": "none"}, "lr": 0.02, "momentum": 0.9, "log_every": 1,
}  # fmt: skip


def contenders() -> list[Contender]:
    """jtrain and the bare loops."""
    return [
        Contender("jtrain", "evaluation_jtrain", CASE),
        Contender("bare loop", "evaluation_bare", CASE | {"own": True}),
        Contender("bare loop, plain Flax", "evaluation_bare", CASE),
    ]


def main() -> None:
    """Measures, prints and writes the row."""
    given = arguments(__doc__)
    found = compare(
        "evaluation", contenders(), reference="bare loop", unit="image", rounds=given.rounds, tolerance=1e-5
    )
    claim = found.claim("images/s", "jtrain", "bare loop", better="higher", passes=0.95, great=0.99)
    report("P9", "evaluation of 10,007 examples, exact count, one compile", [found], [claim], given.out)


if __name__ == "__main__":
    main()
