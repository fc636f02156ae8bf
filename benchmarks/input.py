"""P4: images a second that are gathered, cropped (4 pixels of padding), mirrored and normalised to float32.

    python benchmarks/input.py [--rounds 7] [--out FILE]

50,000 images of CIFAR's shape. jtrain: the data on the device as bytes, all in one compiled function, the public ops
pad_crop and flip_lr, waited for as in training, on one core and on two (of which waking the second costs more than it
saves). NumPy: vectorised over the batch, four ways. torch: DataLoader of a data set that gives an image at a time, and
of one that gives whole batches (NumPy's way inside it, the faster), with 0, 1 and 2 workers. Each reports its own best;
that every output is a crop of its source, mirrored or not, is checked first.
"""

from findings import Contender, arguments, report
from harness import compare

SIZES = (128, 256, 512)


def contenders() -> list[Contender]:
    """Families of ways, each of which reports its best."""
    found = [
        Contender(
            f"jtrain, batch {batch}, {cores} core{'s' * (cores > 1)}", "input_jtrain",
            {"batch": batch, "cores": cores}, family="jtrain",
        )
        for batch in SIZES for cores in (1, 2)
    ]  # fmt: skip
    found += [
        Contender(f"NumPy {way}, batch {batch}", "input_numpy", {"way": way, "batch": batch}, family="NumPy")
        for way, batch in [("windows", batch) for batch in SIZES] + [("threads", 512), ("pixels", 128), ("loop", 128)]
    ]
    for way, family in (("item", "DataLoader of images"), ("windows", "DataLoader of batches")):
        for workers in (0, 1, 2):
            case = {"way": way, "batch": 128, "workers": workers}
            found.append(Contender(f"{family}, {workers} workers", "input_torch", case, peer=True, family=family))
    return found


def main() -> None:
    """Measures and prints."""
    given = arguments(__doc__)
    found = compare(
        "crop, flip, normalise", contenders(), reference="NumPy windows, batch 128", unit="image", rounds=given.rounds
    )
    claims = [
        found.claim(f"images/s against {family}", "jtrain", family, better="higher", passes=least, great=aim)
        for family, least, aim in (
            ("DataLoader of images", 10.0, 25.0), ("DataLoader of batches", 10.0, 25.0), ("NumPy", 3.0, 6.0),
        )
    ]  # fmt: skip
    report("P4", "crop + flip + normalise on CIFAR shapes", [found], claims, given.out)


if __name__ == "__main__":
    main()
