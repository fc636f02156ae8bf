import numpy as np
import pytest

from jtrain.data.sources.stratify import in_test


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_each_class_gives_its_share_but_not_its_last_example(share):
    labels = np.repeat([3, 0, 7, 5], [1, 2, 10, 101])
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    chosen = in_test(labels, share, seed=1)
    for label, size in ((3, 1), (0, 2), (7, 10), (5, 101)):
        assert chosen[labels == label].sum() == min(max(1, round(share * size)), size - 1)


def test_it_is_the_same_each_time_and_another_for_another_seed():
    labels = np.zeros(100, np.int32)
    one, again, other = (in_test(labels, 0.3, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_no_share_is_no_test():
    assert not in_test(np.zeros(5, np.int32), 0.0, seed=1).any()


def test_the_choice_is_random_within_a_class():
    """Every place is drawn about as often: 400 seeds of 3 in 10, each 120 times, standard deviation 9."""
    drawn = sum(in_test(np.zeros(10, np.int32), 0.3, seed).astype(int) for seed in range(400))
    assert drawn.sum() == 1200
    assert np.abs(drawn - 120).max() < 45
