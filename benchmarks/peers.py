"""P10: the tiny MLP of P1 against the programs that people train it with.

    python benchmarks/peers.py [--rounds 7] [--out benchmarks/results/P10.json]

Keras with JAX under `fit` (as it is, and with 32 steps an execution), Lightning's Trainer and torch in a plain loop (1
and 2 threads, torch eager and compiled; each is taken at its fastest), Flax's NNX in the form of its examples, and a
bare `jax.jit` loop. Where batches must be in host memory they lie there ready, so that no peer is held up by a loader.
Weights, batches and their order are the same, and so are the losses of the first 300 updates.
"""

from typing import Any

from findings import Contender, arguments, report
from harness import compare
from mlp_step import make_case

AGAINST = (  # contender or family, and how many times as fast is great
    ("Keras-JAX fit", 5.0),
    ("Keras-JAX fit, 32 steps an execution", 5.0),
    ("Lightning", 5.0),
    ("torch", 5.0),
    ("Flax NNX example loop", 5.0),
    ("bare jit", 1.0),
)


def contenders() -> list[Contender]:
    """jtrain and its peers; blocks are of about equal time."""

    def peer(name: str, module: str, points: int, family: str = "", **case: Any) -> Contender:
        return Contender(name, module, make_case(points=points, **case), peer=True, family=family)

    found = [
        Contender("jtrain", "jtrain_train", make_case(points=100)),
        peer("bare jit", "mlp_bare", 60),
        peer("Keras-JAX fit", "keras_fit", 20),
        peer("Keras-JAX fit, 32 steps an execution", "keras_fit", 40, steps_per_execution=32),
        peer("Flax NNX example loop", "mlp_nnx", 5),
    ]
    for threads in (1, 2):
        found += [
            peer(f"torch eager, {threads} threads", "mlp_torch", 8, "torch", threads=threads),
            peer(f"torch compiled, {threads} threads", "mlp_torch", 8, "torch", threads=threads, compiled=True),
            peer(f"Lightning, {threads} threads", "mlp_lightning", 4, "Lightning", threads=threads),
        ]
    return found


def main() -> None:
    """Measures, prints and writes the row."""
    given = arguments(__doc__)
    found = compare("tiny MLP and peers", contenders(), reference="bare jit", rounds=given.rounds)
    claims = [
        found.claim(f"speed against {name}", "jtrain", name, better="higher", passes=1.0, great=great)
        for name, great in AGAINST
    ]
    report("P10", "the same tiny MLP in jtrain and its peers", [found], claims, given.out)


if __name__ == "__main__":
    main()
