import threading
import time

import numpy as np
import pytest
from loader_examples import Made, Telling

from jtrain.data.broken import Tolerant
from jtrain.data.examples import ArrayExamples, Subset
from jtrain.data.feed import AHEAD, Feed
from jtrain.data.order import Order
from jtrain.data.workers import Workers
from jtrain.errors import DataError
from jtrain.mesh import make_mesh

BROKEN = (3, 17, 31)
ORDER = Order(40, 16, seed=5)
STEPS = range(6)  # two epochs and more


@pytest.fixture
def feeds():
    """Makes feeds, and closes them."""
    made = []

    def make(examples, *, resident=False, devices=1, check=lambda *fetched: None, workers=None):
        made.append(Feed(examples, make_mesh(devices), resident=resident, check=check, workers=workers))
        return made[-1]

    yield make
    for feed in made:
        feed.close()


def plain(given):
    """(inputs, targets, weight) of a batch: gathered from resident data by hand, or the placed batch itself."""
    data, rows = given
    data = {name: np.asarray(values) for name, values in data.items()}
    if rows is None:
        return data["inputs"], data["targets"], data["weight"]
    rows = np.asarray(rows)
    weight = data["weight"][rows] if "weight" in data else np.ones(len(rows), np.float32)
    return data["inputs"][rows], data["targets"][rows], weight * (rows >= 0).astype(np.float32)


def same(one, other):
    """Asserts that two batches are equal but for what stands where the weight is 0 in both."""
    real = plain(one)[2] > 0
    assert np.array_equal(plain(one)[2], plain(other)[2])
    for mine, theirs in zip(plain(one), plain(other), strict=True):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine[real], theirs[real])


def wait_for(what, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("broken", [(), BROKEN])
@pytest.mark.parametrize("count", [0, 2])
def test_resident_streamed_and_worker_batches_are_the_same(feeds, devices, broken, count):
    examples = [Tolerant(Made(broken=broken), 3, "train") for _ in range(2)]
    resident = feeds(examples[0], resident=True, devices=devices)
    streamed = feeds(examples[1], devices=devices, workers=Workers(count) if count else None)
    for step in (*STEPS, 2):  # and back again
        one, other = resident.train_batch(ORDER, step), streamed.train_batch(ORDER, step)
        assert plain(other)[2].tolist() == [float(row not in broken) for row in ORDER.rows(step)]
        assert all(np.array_equal(*pair) for pair in zip(plain(one), plain(other), strict=True))
    ours, theirs = list(resident.eval_batches(16)), list(streamed.eval_batches(16))
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        same(one, other)
    assert sum(plain(batch)[2].sum() for batch in theirs) == 40 - len(broken)
    assert ("weight" in ours[0][0]) == bool(broken)  # resident data without broken records stay as they were
    assert len(resident.news()) == len(streamed.news()) == len(broken)


def test_a_broken_record_has_no_weight_from_its_first_batch_on(feeds):
    feed = feeds(Tolerant(Made(broken=(0,)), 1, "train"))
    order = Order(40, 4, seed=0, shuffle=False)
    assert plain(feed.train_batch(order, 0))[2].tolist() == [0, 1, 1, 1]
    assert plain(feed.train_batch(order, 10))[2].tolist() == [0, 1, 1, 1]


def test_padding_and_broken_records_both_have_weight_0(feeds):
    feed = feeds(Tolerant(Made(6, broken=(0, 5)), 2, "test"))  # padding stands for record 0
    found = [plain(batch)[2].tolist() for batch in feed.eval_batches(4)]
    assert found == [[0, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("count", [0, 2])
def test_more_broken_records_than_allowed_end_the_feed(feeds, count):
    workers = Workers(count) if count else None
    for limit, examples in ((2, Made(broken=BROKEN)), (0, Subset(Made(broken=(38,)), np.arange(40)))):
        feed = feeds(Tolerant(examples, limit, "train"), workers=workers)
        with pytest.raises(DataError, match=r"^data\.broken: record \d+ of train cannot be read \(made\.bin: record"):
            [feed.train_batch(ORDER, step) for step in STEPS]


def test_resident_data_with_too_many_broken_records_are_refused(feeds):
    with pytest.raises(DataError, match=r"^data\.broken: record 31 of train"):
        feeds(Tolerant(Made(broken=BROKEN), 2, "train"), resident=True).train_batch(ORDER, 0)


def test_values_of_broken_records_are_not_checked(feeds):
    seen = []

    def check(inputs, targets, rows):
        assert len(inputs) == len(targets) == len(rows) > 0
        assert np.array_equal(inputs, Made().fetch(rows)[0])
        seen.append(rows)

    feed = feeds(Tolerant(Made(broken=(0, 1, 2, 3, 9)), 5, "train"), check=check)
    list(feed.eval_batches(4))
    assert np.concatenate(seen).tolist() == [row for row in range(40) if row not in (0, 1, 2, 3, 9)]


def test_bad_values_from_workers_are_found(feeds):
    def check(inputs, targets, rows):
        if 7 in rows:
            raise DataError("record 7")

    feed = feeds(Made(), check=check, workers=Workers(2))
    batches = feed.eval_batches(4)
    next(batches)
    with pytest.raises(DataError, match="record 7"):
        next(batches)


def test_examples_that_no_worker_can_have_are_read_here_and_it_is_told_once(feeds):
    inside = []

    class Careful(Made):  # local, so that it cannot be pickled
        def fetch(self, rows):
            inside.append(threading.current_thread())
            assert len(inside) == 1  # never two threads at once
            time.sleep(0.001)
            found = super().fetch(rows)
            inside.pop()
            return found

    workers = Workers(2)
    feed, other = feeds(Careful(), workers=workers), feeds(Made())
    for step in STEPS:
        same(feed.train_batch(ORDER, step), other.train_batch(ORDER, step))
    (line,) = feed.news()
    assert line.startswith("loader processes cannot have these examples, this one reads them (")
    assert feed.news() == []


def test_arrays_never_start_a_worker(feeds, monkeypatch):
    workers = Workers(2)
    monkeypatch.setattr(workers, "fetch", lambda *given: pytest.fail("a worker was asked"))
    arrays = ArrayExamples(*Made().arrays())
    feed = feeds(Tolerant(Subset(arrays, np.arange(40)), 0, "train"), workers=workers)
    same(feed.train_batch(ORDER, 0), feeds(Made()).train_batch(ORDER, 0))


def test_one_set_of_workers_serves_two_feeds_and_starts_anew_after_one_is_closed(feeds):
    workers = Workers(1)
    first, second = feeds(Telling(), workers=workers), feeds(Telling(30), workers=workers)
    pids = [int(next(iter(feed.eval_batches(40)))[0]["targets"][0, 0]) for feed in (first, second)]
    assert pids[0] == pids[1]
    first.close()
    assert int(next(iter(second.eval_batches(40)))[0]["targets"][0, 0]) != pids[0]


class Gated(Made):
    """Counts the batches begun; as many come out as `gate` has been released."""

    def __init__(self, through):
        super().__init__(400)
        self.begun, self.gate = 0, threading.Semaphore(through)

    def fetch(self, rows):
        self.begun += 1
        assert self.gate.acquire(timeout=10)
        return super().fetch(rows)


def test_batches_are_made_ahead_of_training_and_of_evaluation(feeds):
    for begin in ("train", "eval"):
        examples = Gated(100)
        feed = feeds(examples)
        if begin == "train":
            feed.train_batch(Order(400, 4, seed=0), 0)
        else:
            batches = feed.eval_batches(4)
            next(batches)
        wait_for(lambda examples=examples: examples.begun == 1 + AHEAD)
        time.sleep(0.05)
        assert examples.begun == 1 + AHEAD  # and no further


def test_evaluation_that_is_left_begins_no_further_batch(feeds):
    examples = Gated(1)
    batches = feeds(examples).eval_batches(4)
    next(batches)
    wait_for(lambda: examples.begun == 2)
    batches.close()
    examples.gate.release(10)
    time.sleep(0.05)
    assert examples.begun == 2


def test_all_workers_read_ahead(feeds):
    workers = Workers(3)
    feed, order = feeds(Telling(400, seconds=0.3), workers=workers), Order(400, 4, seed=0)
    pids = {int(feed.train_batch(order, step)[0]["targets"][0, 0]) for step in range(3)}
    assert len(pids) == 3
