import concurrent.futures

import numpy as np
import pytest
from loader_examples import Made, Raising

from jtrain.data.broken import Tolerant
from jtrain.data.examples import BrokenRecord, Subset
from jtrain.errors import DataError


class Counting(Made):
    """Remembers what was asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    def fetch(self, rows):
        self.asked.append(rows.tolist())
        return super().fetch(rows)


def expected(rows, broken):
    """What comes out, written plainly: the first sound record of the split in place of each broken one."""
    sound = min(row for row in range(40) if row not in broken)
    return Made().fetch(np.array([sound if row in broken else row for row in rows]))


@pytest.mark.parametrize("broken", [(), (4,), (4, 7), (0, 1, 2)])
def test_first_sound_record_stands_in_for_broken_ones_with_weight_0_whatever_was_read_before(broken):
    tolerant = Tolerant(Made(broken=broken), 3, "train")
    for rows in ([9, 4, 7, 4], [0, 1, 2], [3], [7], [39, 4]):
        inputs, targets = tolerant.fetch(np.array(rows, np.int32))
        wanted = expected(rows, broken)
        assert inputs.dtype == np.uint8
        assert targets.dtype == np.int32
        assert np.array_equal(inputs, wanted[0])
        assert np.array_equal(targets, wanted[1])
        weights = tolerant.weights(np.array(rows, np.int32))
        assert weights.dtype == np.float32
        assert weights.tolist() == [float(row not in broken) for row in rows]
    assert set(tolerant.broken) == set(broken)


@pytest.mark.parametrize("broken", [(), (0, 17, 39)])
def test_arrays_equal_what_is_fetched(broken):
    tolerant, other = (Tolerant(Made(broken=broken), 3, "train") for _ in range(2))
    for mine, theirs in zip(tolerant.arrays(), other.fetch(np.arange(40)), strict=True):
        assert np.array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    assert tolerant.weights(np.arange(40)).tolist() == other.weights(np.arange(40)).tolist()
    assert tolerant.arrays()[0] is tolerant.arrays()[0] or not broken
    assert np.array_equal(tolerant.fetch(np.array([17, 3]))[0], other.fetch(np.array([17, 3]))[0])
    assert sorted(tolerant.broken) == sorted(broken)


def test_arrays_longer_than_a_chunk_keep_their_order(monkeypatch):
    monkeypatch.setattr("jtrain.data.examples.CHUNK", 7)
    inputs, targets = Tolerant(Made(broken=(8,)), 1, "train").arrays()
    assert np.array_equal(inputs, expected(range(40), (8,))[0])
    assert np.array_equal(targets, expected(range(40), (8,))[1])


def test_each_broken_record_is_told_once_with_its_reason_and_the_limit():
    tolerant = Tolerant(Made(broken=(5, 6)), 10, "val")
    for _ in range(2):
        tolerant.fetch(np.arange(4, 8))
        tolerant.fetch(np.arange(8))
    assert tolerant.news() == [
        "record 5 of val cannot be read (made.bin: record 5 is bad): weight 0 (1 of at most 10)",
        "record 6 of val cannot be read (made.bin: record 6 is bad): weight 0 (2 of at most 10)",
    ]
    assert tolerant.news() == []
    assert tolerant.broken == {5: "made.bin: record 5 is bad", 6: "made.bin: record 6 is bad"}


def test_known_broken_records_are_not_asked_for_again():
    examples = Counting(40, (2,))
    tolerant = Tolerant(examples, 1, "train")
    tolerant.fetch(np.arange(4))
    assert examples.asked == [[0, 1, 2, 3], [0], [1], [2], [3], [0]]  # the last one stands in
    examples.asked.clear()
    tolerant.fetch(np.arange(4))
    assert examples.asked == [[0, 1, 3]]


def test_sound_batches_are_passed_on_without_a_copy():
    examples = Counting(40)
    found = examples.fetch(np.arange(3))
    examples.fetch = lambda rows: found
    assert Tolerant(examples, 1, "train").fetch(np.arange(3)) is found


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (0, r"^data\.broken: record 5 of train cannot be read \(made\.bin: record 5 is bad\); none may be passed over"),
        (1, r"^data\.broken: record 6 of train .*; 1 broken ones may be passed over: mend .*, or raise data\.broken"),
    ],
)
@pytest.mark.parametrize("way", ["fetch", "arrays"])
def test_more_than_the_limit_is_an_error_that_names_record_and_option(limit, words, way):
    tolerant = Tolerant(Made(broken=(5, 6)), limit, "train")
    with pytest.raises(DataError, match=words) as caught:
        tolerant.fetch(np.arange(10)) if way == "fetch" else tolerant.arrays()
    assert not isinstance(caught.value, BrokenRecord)
    assert isinstance(caught.value.__cause__, BrokenRecord)


def test_first_records_being_broken_does_not_hide_a_sound_one():
    tolerant = Tolerant(Made(broken=(0, 1, 30)), 3, "train")
    inputs, targets = tolerant.fetch(np.array([30, 30]))
    assert (inputs.shape, inputs.dtype) == ((2, 3), np.uint8)
    assert (targets.tolist(), targets.dtype) == ([2, 2], np.int32)
    assert set(tolerant.broken) == {0, 1, 30}  # found on the way to one that can be read


def test_split_of_nothing_but_broken_records_is_an_error():
    with pytest.raises(DataError, match=r"no record of test can be read; the first: made\.bin: record 0"):
        Tolerant(Made(3, broken=(0, 1, 2)), 9, "test").fetch(np.arange(3))


def test_other_errors_pass_through():
    with pytest.raises(DataError, match="no such file"):
        Tolerant(Raising(DataError("no such file")), 9, "train").fetch(np.arange(3))


def test_broken_record_outside_a_cut_does_not_count_in_it():
    base = Made(broken=(30,))
    tolerant = Tolerant(Subset(base, np.arange(10)), 0, "val")
    assert np.array_equal(tolerant.arrays()[0], expected(range(10), ())[0])
    assert len(tolerant) == 10
    assert tolerant.nbytes == Subset(base, np.arange(10)).nbytes


def test_several_threads_count_a_record_once():
    tolerant = Tolerant(Made(broken=(1, 2), seconds=0.002), 2, "train")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: tolerant.fetch(np.arange(4)), range(16)))
    assert all(np.array_equal(inputs, expected(range(4), (1, 2))[0]) for inputs, _ in found)
    assert len(tolerant.news()) == 2


class Labelled(Made):
    """Tells its targets without its inputs; those of `lost` cannot be read either."""

    def __init__(self, broken=(), lost=()):
        super().__init__(broken=broken)
        self.lost = frozenset(lost)

    def targets(self, rows):
        for row in rows:
            if int(row) in self.lost:
                raise BrokenRecord(f"made.bin: record {row} is bad")
        return (rows % 5).astype(np.int32)


@pytest.mark.parametrize("before", [False, True])
def test_targets_are_the_same_whatever_was_found_broken_before(before):
    labelled = Tolerant(Labelled(broken=(2, 8), lost=(8,)), 2, "train")
    fetched = Tolerant(Made(broken=(2, 8)), 2, "train")
    rows = np.array([9, 8, 2, 3])
    if before:
        labelled.arrays(), fetched.arrays()
    assert labelled.targets(rows).tolist() == [4, 0, 2, 3]  # that of record 0 for 8; 2 keeps its own
    assert fetched.targets(rows).tolist() == [4, 0, 0, 3]
    assert set(labelled.broken) == ({2, 8} if before else {8})
    assert set(fetched.broken) == {2, 8}


def test_targets_of_more_broken_records_than_allowed_are_an_error():
    with pytest.raises(DataError, match=r"^data\.broken: record 5 of train .*; none may be passed over"):
        Tolerant(Made(broken=(5,)), 0, "train").targets(np.arange(10))
