"""Random numbers of image ops, against published vectors, `jax.random` and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jtrain.data.ops import draws

KEY = jax.random.key(3)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),  # Random123's known answers, threefry2x32 with 20 rounds
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_words(key, counter, expected):
    given = [jnp.uint32(word) for word in (*key, *counter)]
    assert tuple(int(word) for word in draws.threefry(*given)) == expected


def test_words_of_the_first_example_are_those_of_jax():
    assert np.array_equal(draws.words(KEY, 3, 50)[0], jax.random.bits(KEY, (50,)))


def test_words_depend_on_key_example_and_place_alone():
    many = np.asarray(draws.words(KEY, 40, 30))
    assert np.array_equal(draws.words(KEY, 7, 4), many[:7, :4])
    assert len(np.unique(many)) == many.size
    assert not np.isin(np.asarray(draws.words(jax.random.key(4), 40, 30)), many).any()


@pytest.mark.parametrize("number", [0, 1, 7, 2**31 - 1])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_fold_in_is_that_of_jax(number, impl):
    key = jax.random.key(5, impl=impl)
    ours, theirs = draws.fold_in(key, number), jax.random.fold_in(key, number)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))


def test_keys_of_other_kinds_give_words_that_differ_by_example():
    drawn = np.asarray(draws.words(jax.random.key(5, impl="rbg"), 20, 3))
    assert len(np.unique(drawn)) == drawn.size


def test_uniforms_are_uniform_in_each_column_and_below_one():
    drawn = np.asarray(draws.uniforms(KEY, 4000, 3))
    for column in drawn.T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.05
    assert np.float32(2**24 - 1) * np.float32(2**-24) < 1


def test_normals_are_the_normal_quantiles_of_16_bits():
    numbers = np.arange(2**16)
    found = np.asarray(jax.jit(draws.normals)(jnp.asarray(numbers, jnp.uint32)), np.float64)
    np.testing.assert_allclose(found, stats.norm.ppf((numbers + 0.5) / 2**16), rtol=1.5e-4)


def test_drawn_normals_pass_a_test_of_normality():
    words = draws.words(KEY, 8, 25_000)
    found = np.asarray(draws.normals(draws.halves(words)), np.float64)
    assert found.shape == (8, 50_000)
    assert stats.kstest(found.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(found[0, :25_000], found[0, 25_000:])[0, 1]) < 0.02  # halves of the same words
    halves = np.asarray(draws.halves(words[:1, :3]))[0]
    assert halves.tolist() == [int(w) & 0xFFFF for w in words[0, :3]] + [int(w) >> 16 for w in words[0, :3]]
