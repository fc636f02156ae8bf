"""Random numbers of image ops: functions of (key, example) alone, so of no batch size and no number of devices."""

import jax
import jax.numpy as jnp

from jtrain.data.ops.pixels import apart

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

# A normal number z = x · polynomial(−ln(1 − x²)) for x = 2u − 1 with u uniform (the form is that of Giles 2012,
# "Approximating the erfinv function"); fitted to z/x at the 65,536 numbers of 16 bits: off by 1.05e-4 of z at most.
_PROBIT = (-1.1849548e-05, 4.0221083e-04, -4.9451487e-03, 1.8148558e-02, 3.2769176e-01, 1.2532070e00)


def example_keys(key: jax.Array, batch: int) -> jax.Array:
    """A key per example [batch], of (key, index) alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def threefry(
    first_key: jax.Array, second_key: jax.Array, first: jax.Array, second: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Two random words of a key of two words and a counter of two: Threefry-2x32 with 20 rounds.

    From Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; `jax.random` makes the same words. Written
    out here since on CPU that runs its rounds as a loop of many small kernels.

    Args:
      first_key: uint32, as all of them.
      second_key: of the same shape.
      first: of any one shape.
      second: of the same shape.
    """
    keys = (first_key, second_key, first_key ^ second_key ^ jnp.uint32(_PARITY))
    first, second = first + keys[0], second + keys[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            first = first + second
            second = ((second << distance) | (second >> (32 - distance))) ^ first
        first = first + keys[(group + 1) % 3]
        second = second + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return first, second


def fold_in(key: jax.Array, number: int | jax.Array) -> jax.Array:
    """`jax.random.fold_in(key, number)`, for Threefry keys without its loop: among other work on CPU 9 µs less each."""
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return jax.random.fold_in(key, number)
    first_key, second_key = jax.random.key_data(key)
    number = jnp.asarray(number).astype(jnp.uint32)
    folded = threefry(first_key, second_key, jnp.zeros_like(number), number)
    return jax.random.wrap_key_data(jnp.stack(folded), impl="threefry2x32")


def words(key: jax.Array, batch: int, count: int) -> jax.Array:
    """Random words, uint32 [batch, count]; word j of example i depends on (key, i, j) alone."""

    def drawn(key: jax.Array) -> jax.Array:
        key_words = jax.random.key_data(key).ravel()
        example, number = (jax.lax.broadcasted_iota(jnp.uint32, (batch, count), axis) for axis in (0, 1))
        first, second = threefry(key_words[0], key_words[1], example, number)
        return first ^ second

    # Else every pixel would draw anew: a change of hue would take 40 times as long on CPU.
    return apart(drawn, key, key)


def uniforms(key: jax.Array, batch: int, count: int) -> jax.Array:
    """Numbers uniform in [0, 1), [batch, count], of 24 bits; number j of example i depends on (key, i, j) alone."""
    return (words(key, batch, count) >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def symmetric(draws: jax.Array, most: float) -> jax.Array:
    """Draws of [0, 1) stretched to [−most, most)."""
    return (2 * draws - 1) * most


def halves(words: jax.Array) -> jax.Array:
    """The two halves of words [batch, count], each a number below 2¹⁶: uint32 [batch, 2 · count]."""
    batch, count = words.shape
    shifts = jnp.array([0, 16], jnp.uint32)[None, :, None]
    return ((words[:, None] >> shifts) & jnp.uint32(0xFFFF)).reshape(batch, 2 * count)


def normals(numbers: jax.Array) -> jax.Array:
    """Normal numbers, float32, each made of one number below 2¹⁶: 65,536 different ones, up to 4.3 in size."""
    x = (numbers.astype(jnp.float32) - 32767.5) * jnp.float32(2**-15)
    w = -jnp.log(1 - x * x)
    ratio = jnp.full_like(w, _PROBIT[0])
    for coefficient in _PROBIT[1:]:
        ratio = ratio * w + jnp.float32(coefficient)
    return x * ratio
