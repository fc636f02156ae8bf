import concurrent.futures

import numpy as np
import pytest

from jtrain.data.order import Order, eval_batches
from jtrain.errors import ConfigError

SIZES = [(10, 3), (10, 10), (7, 5), (64, 8), (11, 1), (1, 1), (1000, 999)]


def stream(order: Order, steps: int) -> np.ndarray:
    return np.concatenate([order.rows(step) for step in range(steps)])


@pytest.mark.parametrize(("examples", "batch_size"), SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_each_example_appears_once_in_every_epoch(examples, batch_size, seed):
    epochs = 5
    rows = stream(Order(examples, batch_size, seed), -(-epochs * examples // batch_size))
    for epoch in range(epochs):
        seen = rows[epoch * examples : (epoch + 1) * examples]
        assert sorted(seen) == list(range(examples))


@pytest.mark.parametrize(("examples", "batch_size"), SIZES)
def test_rows_do_not_depend_on_what_was_asked_before(examples, batch_size):
    steps = 4 * examples // batch_size + 1
    expected = [Order(examples, batch_size, 7).rows(step).tolist() for step in range(steps)]
    order = Order(examples, batch_size, 7)
    for step in np.random.default_rng(0).permutation(np.repeat(np.arange(steps), 2)):
        assert order.rows(int(step)).tolist() == expected[step]


def test_rows_are_int32_of_the_batch_size_even_far_ahead():
    rows = Order(100, 32, 0).rows(2**31 - 1)
    assert rows.dtype == np.int32
    assert rows.shape == (32,)


def test_epochs_are_the_permutations_of_philox_by_seed_and_epoch():
    # The same numbers from NumPy directly: a change of them would change every saved run.
    expected = [
        np.random.Generator(np.random.Philox(key=[42, epoch])).permutation(np.arange(6, dtype=np.int32))
        for epoch in range(3)
    ]
    assert stream(Order(6, 4, 42), 4).tolist() == np.concatenate(expected).tolist()[:16]


def test_epochs_and_seeds_differ():
    rows = stream(Order(100, 100, 0), 2)
    assert rows[:100].tolist() != rows[100:].tolist()
    assert rows[:100].tolist() != stream(Order(100, 100, 1), 1).tolist()


def test_without_shuffle_examples_keep_their_order():
    assert stream(Order(5, 2, 0, shuffle=False), 5).tolist() == [0, 1, 2, 3, 4] * 2


def test_writing_to_a_batch_does_not_change_it():
    order = Order(8, 4, 0)
    expected = order.rows(0).tolist()
    order.rows(0)[:] = -5
    assert order.rows(0).tolist() == expected


def test_threads_get_the_same_rows():
    order, plain = Order(50, 7, 3), Order(50, 7, 3)
    steps = np.random.default_rng(1).integers(0, 200, 400).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(order.rows, steps))
    for step, rows in zip(steps, found, strict=True):
        assert rows.tolist() == plain.rows(step).tolist()


def test_batch_larger_than_an_epoch_is_refused():
    with pytest.raises(ConfigError, match=r"^train\.batch_size: 512 is larger than the 400 training examples"):
        Order(400, 512, 0)


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 1)])
def test_evaluation_sees_every_example_once_and_pads_the_end(examples, batch_size):
    batches = list(eval_batches(examples, batch_size))
    assert all(rows.shape == (batch_size,) and rows.dtype == np.int32 for rows in batches)
    padding = -examples % batch_size
    assert np.concatenate(batches).tolist() == list(range(examples)) + [-1] * padding
    assert len(batches) == -(-examples // batch_size)
