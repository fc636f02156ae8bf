import pickle

import numpy as np
import pytest
from loader_examples import Made

from jtrain.data.examples import (
    ArrayExamples,
    Subset,
    check_finite,
    check_targets,
    check_tokens,
    cut_validation,
    targets_of,
)
from jtrain.data.joined import Joined
from jtrain.errors import ConfigError, DataError


def made(count: int) -> ArrayExamples:
    return ArrayExamples(np.arange(count * 3, dtype=np.uint8).reshape(count, 3), np.arange(count, dtype=np.int32))


def test_fetch_gives_the_rows_asked_for_in_their_order():
    inputs, targets = made(10).fetch(np.array([7, 0, 7], np.int32))
    assert targets.tolist() == [7, 0, 7]
    assert inputs.tolist() == [[21, 22, 23], [0, 1, 2], [21, 22, 23]]


def test_subset_of_a_subset_numbers_rows_anew_before_and_after_it_is_gathered():
    subset = Subset(Subset(made(10), np.array([9, 2, 4, 6])), np.array([3, 0]))
    before = subset.fetch(np.array([1, 0]))
    inputs, targets = subset.arrays()
    after = subset.fetch(np.array([1, 0]))
    assert targets.tolist() == [6, 9]
    assert before[1].tolist() == after[1].tolist() == [9, 6]
    assert np.array_equal(before[0], after[0])
    assert subset.nbytes == inputs.nbytes + targets.nbytes == 6 + 8
    assert subset.arrays()[0] is inputs


class Asked(Made):
    """Remembers how many rows were asked for at a time; nobody may ask for all."""

    def __init__(self, count=40):
        super().__init__(count)
        self.asked = []

    def fetch(self, rows):
        self.asked.append(len(rows))
        return super().fetch(rows)

    def arrays(self):
        raise AssertionError("the whole split was read")


def test_arrays_of_a_subset_read_none_but_its_own_examples_and_few_at_a_time(monkeypatch):
    monkeypatch.setattr("jtrain.data.examples.CHUNK", 4)
    base, rows = Asked(), np.array([39, 0, 5, 17, 3, 8, 21, 30, 2])
    inputs, targets = Subset(Subset(base, np.arange(40)), rows).arrays()
    for ours, theirs in zip((inputs, targets), Made().fetch(rows), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    assert base.asked == [4, 4, 1]


def test_pickle_of_a_subset_leaves_out_what_it_gathered():
    subset = Subset(Made(4000), np.arange(3000))
    before = len(pickle.dumps(subset))
    _, targets = subset.arrays()
    pickled = pickle.dumps(subset)
    assert len(pickled) == before
    assert np.array_equal(pickle.loads(pickled).fetch(np.arange(9))[1], targets[:9])


def test_targets_are_told_without_the_inputs_where_there_is_a_way():
    class Blind(ArrayExamples):
        def fetch(self, rows):
            raise AssertionError("inputs were read")

    blind = Blind(*made(10).arrays())
    subset = Subset(Subset(blind, np.array([9, 2, 4, 6])), np.array([3, 0]))
    assert targets_of(blind, np.array([7, 0, 7])).tolist() == [7, 0, 7]
    assert targets_of(subset, np.array([1, 0, 1])).tolist() == [9, 6, 9]


def test_targets_of_others_are_fetched_few_at_a_time(monkeypatch):
    monkeypatch.setattr("jtrain.data.examples.CHUNK", 4)
    rows = np.array([39, 0, 5, 17, 3, 8])
    for wrap in (lambda base: base, lambda base: Subset(base, np.arange(40))):
        base = Asked()
        base.targets = np.zeros(40)  # a user's own array, no method
        found = targets_of(wrap(base), rows)
        assert found.dtype == np.int32
        assert np.array_equal(found, rows % 5)
        assert base.asked == [4, 2]


def test_gathered_subset_tells_its_targets_from_memory():
    base = Asked()
    subset = Subset(base, np.arange(10, 20))
    subset.arrays()
    base.asked.clear()
    assert targets_of(subset, np.array([0, 3])).tolist() == [10 % 5, 13 % 5]
    assert base.asked == []


@pytest.mark.parametrize(("inputs", "targets", "words"), [(3, 2, "3 inputs but 2 targets"), (0, 0, "no examples")])
def test_unequal_or_empty_arrays_are_refused(inputs, targets, words):
    with pytest.raises(DataError, match=words):
        ArrayExamples(np.zeros((inputs, 2)), np.zeros(targets, np.int32))


@pytest.mark.parametrize(("share", "held_out"), [(0.1, 10), (0.001, 1), (0.5, 50), (0.994, 99)])
def test_validation_cut_parts_train_in_two_sorted_pieces(share, held_out):
    train, val = cut_validation(made(100), share, seed=3)
    kept, cut = train.arrays()[1], val.arrays()[1]
    assert len(val) == held_out
    assert sorted([*kept, *cut]) == list(range(100))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(cut) > 0).all()


def test_validation_cut_depends_on_the_seed_alone():
    first, again, other = (cut_validation(made(100), 0.2, seed)[1].arrays()[1].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_larger_share_holds_out_the_smaller_ones_examples_too():
    small, large = (set(cut_validation(made(100), share, 5)[1].arrays()[1].tolist()) for share in (0.1, 0.3))
    assert small < large


@pytest.mark.parametrize(("count", "share"), [(100, 0.999), (1, 0.1)])
def test_validation_cut_that_leaves_nothing_names_its_key(count, share):
    with pytest.raises(ConfigError, match=r"^data\.validation: "):
        cut_validation(made(count), share, 0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_labels_in_range_pass(dtype):
    check_targets(np.array([0, 9, 3], dtype), "class", 10, "train")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (np.array([0, 1, 10, 11]), "val target of row 2 is 10; valid are 0 to 9 .2 of 4"),
        (np.array([0, -1]), "val target of row 1 is -1; valid are 0 to 9"),
        (np.array([0.0, 1.0]), "val targets must be whole numbers.*float64"),
        (np.array([[0], [1]]), r"val targets must be whole numbers.*\[2, 1\]"),
        (np.array([True]), "val targets must be whole numbers.*bool"),
    ],
)
def test_wrong_label_is_named_with_split_row_and_range(targets, words):
    with pytest.raises(DataError, match=words):
        check_targets(targets, "class", 10, "val")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_first_row_that_is_not_finite_is_named(value, dtype):
    inputs = np.zeros((5, 2, 3), dtype)
    inputs[3, 1, 2] = inputs[4, 0, 0] = value
    with pytest.raises(DataError, match=f"test input of row 3 holds {value}"):
        check_finite(inputs, "test")


def test_finite_and_whole_inputs_pass():
    check_finite(np.full((4, 2), np.finfo(np.float32).max, np.float32), "train")
    check_finite(np.full((4, 2), 255, np.uint8), "train")
    check_finite(np.ones(4, np.float32), "train")


@pytest.mark.parametrize("value", [9, -1, 300])
def test_first_input_token_that_is_none_is_named_with_split_row_and_range(value):
    inputs = np.zeros((5, 2, 3), np.int32)
    check_tokens(inputs + 8, 9, "val")
    inputs[2, 1, 2] = inputs[4, 0, 0] = value
    rows = np.array([9, 8, 7, 6, 5])
    with pytest.raises(DataError, match=rf"val input token of row 7 is {value}; valid are 0 to 8 .2 of 5 rows"):
        check_tokens(inputs, 9, "val", rows)


def test_inputs_that_are_no_whole_numbers_hold_no_tokens():
    check_tokens(np.full((2, 3), -7.5, np.float32), 2, "val")


def test_joined_splits_are_numbered_through():
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(10, 3)).astype(np.float32), np.arange(10)
    whole = ArrayExamples(inputs, targets)
    joined = Joined(
        [Subset(whole, np.array([4, 1])), ArrayExamples(inputs[5:8], targets[5:8]), Subset(whole, np.array([9]))]
    )
    numbers = np.array([4, 1, 5, 6, 7, 9])
    rows = np.array([5, 0, 3, 0, 2, 1])
    assert len(joined) == 6
    for found in (joined.fetch(rows), (joined.fetch(rows)[0], joined.targets(rows))):
        np.testing.assert_array_equal(found[0], inputs[numbers[rows]])
        np.testing.assert_array_equal(found[1], numbers[rows])
    np.testing.assert_array_equal(joined.arrays()[1], numbers)
    assert joined.nbytes == inputs[:6].nbytes + targets[:6].nbytes
