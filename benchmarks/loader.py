"""Images a second of CIFAR-10 read from its records (not from the cache), by how many loader processes decode.

    TFDS_DATA_DIR=… python benchmarks/loader.py [--rounds 7] [--batches 40] [--workers 0 1 2]

Batches are taken from a streamed feed as training takes them, and thrown away. All counts take turns; printed are
medians, and medians of the paired ratios to the first count, with their range; and how much processor time of the
process that trains an image costs, which other load on the machine changes little. Starting is not counted.
"""

import argparse
import os
import statistics
import time

from jtrain.data.examples import Wanted
from jtrain.data.feed import Feed
from jtrain.data.order import Order
from jtrain.data.sources.tfds import tfds
from jtrain.data.workers import Workers, usable_cores
from jtrain.mesh import make_mesh

BATCH = 128


def measure(feed: Feed, order: Order, first: int, batches: int) -> tuple[float, float]:
    """(images a second, processor seconds of this process an image) of `batches` batches after the first ones."""
    ahead = 8  # more than are made before the first is taken
    for step in range(first, first + ahead):
        feed.train_batch(order, step)
    begun, used = time.perf_counter(), time.process_time()
    for step in range(first + ahead, first + ahead + batches):
        feed.train_batch(order, step)
    images = batches * BATCH
    return images / (time.perf_counter() - begun), (time.process_time() - used) / images


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    train = tfds(Wanted(), test="", cache=False).train
    order = Order(len(train), BATCH, seed=0)
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in given.workers}
    for round_ in range(given.rounds):
        turns = given.workers if round_ % 2 == 0 else given.workers[::-1]
        for count in turns:
            feed = Feed(
                train, make_mesh(1), resident=False, check=lambda *fetched: None,
                workers=Workers(count) if count else None,
            )  # fmt: skip
            found[count].append(measure(feed, order, 1000 * round_, given.batches))
            feed.close()
    print(f"{usable_cores()} cores, load {os.getloadavg()[0]:.1f}, batch {BATCH}, {given.rounds} rounds in turn")
    base = found[given.workers[0]]
    for count, rounds in found.items():
        ratios = [mine[0] / first[0] for mine, first in zip(rounds, base, strict=True)]
        rate, used = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"{count} workers: {rate:8,.0f} images/s, {statistics.median(ratios):.2f} times ({min(ratios):.2f} to "
            f"{max(ratios):.2f}) that of {given.workers[0]}; {used * 1e6:.0f} µs of this process an image"
        )


if __name__ == "__main__":
    main()
