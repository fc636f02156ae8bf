"""P7: what saving a checkpoint of 88 MB costs the training: how long it stands still, and how much slower it goes.

    python benchmarks/checkpoint.py [--rounds 7] [--out benchmarks/results/P7.json]

An MLP of 7.35 million parameters with Adam's moments, trained by jtrain's compiled step; saved by what jtrain's loop
calls, or by orbax alone, by each of its two interfaces. The first comparison is of the time until a save hands the
state back; the second is of 10 seconds of training at whose beginning a checkpoint is saved, and of as many steps
without. All saves are at an end before a block is. The first save of a process, which imports orbax, is not counted.
"""

from findings import Contender, arguments, report
from harness import compare

WAYS = (("jtrain", "saving_jtrain", {}), ("orbax AsyncCheckpointer", "saving_orbax", {"way": "checkpointer"}),
        ("orbax v1.save_async", "saving_orbax", {"way": "v1"}))  # fmt: skip


def contenders(what: str) -> list[Contender]:
    """jtrain and orbax; `what` their blocks measure: see `Saving`."""
    return [Contender(name, module, own | {"what": what}, family=name.split()[0]) for name, module, own in WAYS]


def main() -> None:
    """Measures, prints and writes the row."""
    given = arguments(__doc__)
    found = [
        compare(
            "blocked by a save", contenders("blocking"), reference="orbax AsyncCheckpointer", unit="save",
            rounds=2 * given.rounds,
        ),
        compare(
            "10 s of training, one save",
            [Contender("no save", "saving_jtrain", {"what": "idle"}), contenders("saving")[0]], reference="no save",
            rounds=given.rounds, warmup=0,
        ),
    ]  # fmt: skip
    claims = [
        found[0].claim("time a save blocks", "jtrain", "orbax", better="lower", passes=1.5, great=1.0),
        found[1].claim(
            "time of a step, a save every 10 s", "jtrain", "no save", better="lower", passes=1.05, great=1.02
        ),
    ]
    report("P7", "a checkpoint of 88 MB while training: blocking; slowdown", found, claims, given.out)


if __name__ == "__main__":
    main()
