"""The alternating flip against its definition, example by example, in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrain.data.augment import build, mixes, parse, visits
from jtrain.data.ops.alternate import Visit, epochs_of, flip_alternating
from jtrain.data.order import Order
from jtrain.errors import ConfigError

KEY = jax.random.key(7)
IMAGES = np.random.default_rng(0).integers(0, 256, (300, 3, 4, 2)).astype(np.uint8)


def mirrored(rows, epoch, key=KEY, augment=flip_alternating):
    """Which of these examples come out mirrored; each comes out either so or as it is."""
    rows = np.asarray(rows, np.int32)
    visit = Visit(key, jnp.asarray(rows), jnp.broadcast_to(jnp.asarray(epoch, jnp.int32), rows.shape))
    out, before = np.asarray(augment(jnp.asarray(IMAGES[rows]), visit)), IMAGES[rows]
    flipped = (out == before[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (flipped ^ (out == before).all(axis=(1, 2, 3))).all()
    return flipped


def test_every_other_epoch_is_the_mirror_image_of_the_one_before():
    rows = np.arange(300)
    first = mirrored(rows, 0)
    assert 110 < first.sum() < 190  # a fair coin: 150 ± 4.6 standard deviations
    for epoch in (1, 2, 3, 100, 101):
        assert np.array_equal(mirrored(rows, epoch), first ^ (epoch % 2 == 1))


def test_an_example_is_mirrored_alike_wherever_it_stands_and_each_by_its_own_epoch():
    first, rows = mirrored(np.arange(300), 0), np.random.default_rng(1).permutation(300)[:40]
    assert np.array_equal(mirrored(rows, 0), first[rows])
    epochs = np.arange(40) % 3
    assert np.array_equal(mirrored(rows, epochs), first[rows] ^ (epochs == 1))


def test_another_key_and_another_place_among_the_ops_throw_other_coins():
    def among(text):
        augment = build(text)
        return lambda images, visit: augment(images, jax.random.key(0), visit)

    rows = np.arange(300)
    found = [
        mirrored(rows, 0), mirrored(rows, 0, jax.random.key(8)), mirrored(rows, 0, augment=among("flip_alternating")),
        mirrored(rows, 0, augment=among("cutout(1, p=0.0)|flip_alternating")),
    ]  # fmt: skip
    for i, one in enumerate(found):
        for other in found[:i]:
            assert 100 < (one == other).sum() < 200


def test_the_step_key_has_no_part_in_it():
    augment = jax.jit(build("flip_alternating"))
    visit = Visit(KEY, jnp.arange(300), jnp.zeros(300, jnp.int32))
    first, second = (np.asarray(augment(IMAGES, jax.random.key(i), visit)) for i in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("examples", "batch"), [(10, 4), (10, 10), (7, 3), (50000, 1024), (1_281_167, 4096)])
def test_epochs_are_those_of_the_order(examples, batch):
    found = jax.jit(epochs_of, static_argnums=(1, 2))
    # The last one is far beyond 2³¹ examples.
    for step in [*range(12), examples - 1, examples, 123_457, 10**6, 2**30]:
        expected = [(step * batch + i) // examples for i in (0, 1, batch // 2, batch - 1)]
        epochs = np.asarray(found(jnp.int32(step), batch, examples))
        assert epochs.shape == (batch,)
        assert epochs[[0, 1, batch // 2, batch - 1]].tolist() == expected


def test_each_example_is_seen_both_ways_in_two_epochs_of_batches():
    order, seen = Order(50, 16, seed=3), np.zeros((50, 2), int)
    for step in range(7):  # 112 examples: two epochs, and 12 of the third
        rows, epochs = order.rows(step), np.asarray(epochs_of(jnp.int32(step), 16, 50))
        for row, epoch, flipped in zip(rows, epochs, mirrored(rows, epochs), strict=True):
            if epoch < 2:
                seen[row, int(flipped)] += 1
    assert (seen == 1).all()


def test_it_is_read_among_the_ops_and_refused_where_examples_are_not_known():
    assert parse("pad_crop(2)|flip_alternating|mixup")[1] == ("flip_alternating", {})
    assert visits("pad_crop(2)|flip_alternating")
    assert not visits("pad_crop(2)|flip_lr|mixup")
    assert not mixes("flip_alternating")
    with pytest.raises(ConfigError, match=r"^augment: flip_alternating goes by example and epoch"):
        build("flip_alternating")(IMAGES, KEY)


@pytest.mark.parametrize("text", ["flip_alternating|flip_lr", "flip_lr|pad_crop(2)|flip_alternating|mixup"])
def test_a_flip_by_chance_beside_it_is_refused_since_it_would_undo_the_turns(text):
    with pytest.raises(
        ConfigError, match=r"^augment: flip_lr mirrors by chance .* and so undoes it; name one of them$"
    ):
        parse(text)
    parse("flip_alternating|flip_ud")  # of another axis
