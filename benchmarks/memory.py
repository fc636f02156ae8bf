"""P6: the most memory that a process holds while jtrain trains the MLP of P1 and the ResNet-20 of P3; the bare loops.

    python benchmarks/memory.py [--rounds 3] [--out benchmarks/results/P6.json]

VmHWM of whole processes, from their start: imports, compiling and training. Each round is of new processes in turn,
that train the same updates of the same arithmetic as in P1 and P3.
"""

from collections.abc import Sequence

import mlp_step
import resnet20
from findings import Claim, Comparison, Contender, Ratio, arguments, report
from harness import compare


def claim(what: str, ours: str, against: str, found: Sequence[Comparison]) -> Claim:
    """What the rounds found of the peaks of one against another."""
    failed = [entry for each in found for entry in (each.entries[ours], each.entries[against]) if entry.status != "ok"]
    if failed:
        return Claim(what, ours, against, "lower", None, 1.1, 1.03, f"{failed[0].status}: {failed[0].why}")
    peaks = [[each.entries[name].peak_bytes for each in found] for name in (ours, against)]
    return Claim(what, ours, against, "lower", Ratio.of(*peaks), 1.1, 1.03)


def main() -> None:
    """Measures, prints and writes the row."""
    given = arguments(__doc__, rounds=3)
    rows: tuple[tuple[str, str, list[Contender]], ...] = (
        ("peak memory, tiny MLP", "bare jit", mlp_step.contenders(points=10)),
        ("peak memory, ResNet-20", "bare loop", resnet20.contenders()),
    )
    claims, comparisons = [], []
    for what, against, contenders in rows:
        chosen = [contender for contender in contenders if contender.name in ("jtrain", against)]
        found = [
            compare(f"{what}, {number + 1}", chosen, reference=against, rounds=1) for number in range(given.rounds)
        ]
        claims.append(claim(what, "jtrain", against, found))
        comparisons += found
    report("P6", "peak memory of the whole process, P1 and P3", comparisons, claims, given.out)


if __name__ == "__main__":
    main()
