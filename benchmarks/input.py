"""P4: images a second that are gathered, cropped (4 pixels of padding), mirrored and normalised to float32.

    python benchmarks/input.py [--rounds 7] [--out FILE]

50,000 images of CIFAR's shape. jtrain: the data on the device as bytes, all in one compiled function, the public ops
pad_crop and flip_lr, waited for as in training. NumPy: vectorised over the batch, four ways. torch: DataLoader, an
image at a time and a batch at a time, with 0, 1 and 2 workers. Each reports its own best; that every output is a crop
of its source, mirrored or not, is checked first.
"""

from findings import Contender, arguments, report
from harness import compare


def contenders() -> list[Contender]:
    """Families of ways, each of which reports its best."""
    found = [
        Contender(f"jtrain, batch {batch}", "input_jtrain", {"batch": batch}, family="jtrain") for batch in (128, 256)
    ]
    found += [
        Contender(f"NumPy {way}, batch {batch}", "input_numpy", {"way": way, "batch": batch}, family="NumPy")
        for way, batch in (("windows", 128), ("windows", 256), ("pixels", 128), ("loop", 128), ("threads", 256))
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
