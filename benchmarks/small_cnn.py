"""P2: images/s of a small CNN (32, 64, 128 channels, max pooling; images 32×32×3, batch 128), trained by jtrain.

    python benchmarks/small_cnn.py [--rounds 7] [--out benchmarks/results/P2.json]

jtrain trains by `jtrain.train` into a workdir, with metrics, logs, guard and checkpoints that are not due. Against it
stand the same network in plain Flax (nn.Conv, nn.max_pool, one compiled step, data on the device), Keras with JAX under
`fit`, and for the record torch at its best. Weights, batches and their order are the same, and so are the losses of the
first 8 updates.
"""

from typing import Any

from findings import Contender, arguments, report
from harness import compare

from jtrain.data.order import Order

CASE: dict[str, Any] = {
    "shape": [32, 32, 3], "classes": 10, "examples": 1024, "features": [32, 64, 128], "batch": 128, "lr": 0.02,
    "momentum": 0.9, "log_every": 4, "points": 2, "per": "image", "model": "cnn",
    "options": {"features": [32, 64, 128], "pools": 3, "norm": "none"},
}  # fmt: skip


def make_case(**changes: Any) -> dict[str, Any]:
    """The work of a contender: the batches of jtrain's first updates for all, and what is its own."""
    order = Order(CASE["examples"], CASE["batch"], seed=0)
    return CASE | {"rows": [order.rows(step).tolist() for step in range(8)]} | changes


def contenders() -> list[Contender]:
    """jtrain, plain Flax, Keras, and torch in its forms."""
    found = [
        Contender("jtrain", "jtrain_train", make_case()),
        Contender("plain Flax", "cnn_flax", make_case(), peer=True),
        Contender("Keras-JAX fit", "keras_fit", make_case(), peer=True),
    ]
    for threads in (1, 2):
        for words, options in (
            ("eager", {}),
            ("channels-last", {"channels_last": True}),
            ("compiled", {"channels_last": True, "compiled": True}),
        ):
            case = make_case(points=1, threads=threads, **options)
            found.append(Contender(f"torch {words}, {threads} threads", "cnn_torch", case, peer=True, family="torch"))
    return found


def main() -> None:
    """Measures, prints and writes the row."""
    given = arguments(__doc__)
    found = compare("small CNN", contenders(), reference="plain Flax", unit="image", rounds=given.rounds)
    claims = [
        found.claim(f"images/s against {name}", "jtrain", name, better="higher", passes=1.3, great=1.45)
        for name in ("plain Flax", "Keras-JAX fit")
    ]
    report("P2", "images/s of a small CNN, batch 128", [found], claims, given.out)


if __name__ == "__main__":
    main()
