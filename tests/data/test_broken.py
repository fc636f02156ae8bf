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
    """What comes out, written plainly."""
    inputs, targets = Made().fetch(np.asarray(rows))
    good = np.array([row not in broken for row in rows])
    return inputs * good[:, None].astype(np.uint8), targets * good


@pytest.mark.parametrize("broken", [(), (4,), (4, 7), (0, 1, 2)])
def test_broken_records_are_zeros_of_weight_0_and_the_others_as_they_are(broken):
    tolerant = Tolerant(Made(broken=broken), 3, "train")
    for rows in ([4, 9, 7, 4], [0, 1, 2], [3], [7], [39, 4]):
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
    monkeypatch.setattr("jtrain.data.broken.CHUNK", 7)
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
    assert examples.asked == [[0, 1, 2, 3], [0], [1], [2], [3]]
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


def test_first_records_being_broken_does_not_hide_shape_and_type():
    tolerant = Tolerant(Made(broken=(0, 1, 30)), 3, "train")
    inputs, targets = tolerant.fetch(np.array([30, 30]))
    assert (inputs.shape, inputs.dtype) == ((2, 3), np.uint8)
    assert (targets.tolist(), targets.dtype) == ([0, 0], np.int32)
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
