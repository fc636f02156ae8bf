"""Virtual shards: the same bits on any number of devices."""

import jax
import numpy as np
import pytest
from helpers import blobs, put, tiny
from test_devices import cnn, images

from jtrain import mesh as meshes
from jtrain.assembly import assemble
from jtrain.config import base
from jtrain.errors import ConfigError
from jtrain.shards import make_over_shards
from jtrain.state import to_flat
from jtrain.step import advance


def mlp(devices, **fields):
    c = tiny("20steps", 32, mesh__devices=devices, mesh__shards=8)
    c.model.mlp.features = (32, 16)
    c.model.mlp.dropout = 0.4
    return put(c, **fields)


def small_cnn(devices, **fields):
    return cnn(devices, mesh__shards=8, **fields)


def residual(devices, **fields):
    c = base()
    c.model.name = "wide_resnet"
    c.model.wide_resnet.depth = 10
    c.model.wide_resnet.widen = 1
    c.model.wide_resnet.dropout = 0.3
    c.augment = "pad_crop(1)|flip_lr|mixup(0.2)"
    c.optimizer.lr = 0.01
    c.train.total = "20steps"
    c.train.batch_size = 16
    c.mesh.devices = devices
    c.mesh.shards = 8
    return put(c, **fields)


def trained(c, data):
    run = assemble(c, data=data)
    block = meshes.must_block(run.mesh)
    (state,), sums, _ = advance(run.train_steps, [run.init_state()], [run.give], 0, 20, most=run.per_call, block=block)
    count, last = sums[0][-1]
    found = {f"sums/{name}": np.asarray(value)[count - 1] for name, value in last.items()}
    found |= {path: np.asarray(leaf) for path, leaf in to_flat(state).items()}
    if "val" in run.feeds:
        found |= {f"val/{name}": np.asarray(value) for name, value in run.evaluate(state, "val").items()}
    run.close()
    return found


def assert_same_bits(one, other):
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], err_msg=path)


MORE = {"train__accumulate": 2, "ema__decay": 0.9, "train__batch_size": 32}


@pytest.fixture(scope="module")
def by_one_device():
    return trained(mlp(1, **MORE), blobs())


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_any_number_of_devices_gives_the_same_bits(devices, by_one_device):
    assert_same_bits(trained(mlp(devices, **MORE), blobs()), by_one_device)


def test_streamed_batches_give_the_same_bits(by_one_device):
    assert_same_bits(trained(mlp(4, data__placement="streamed", **MORE), blobs()), by_one_device)


def test_one_and_eight_devices_give_the_same_bits_of_a_convolutional_net():
    assert_same_bits(trained(small_cnn(8), images()), trained(small_cnn(1), images()))


def test_one_shard_a_device_gives_the_same_bits_of_an_autoencoder_that_pools():
    def pooling(devices):
        c = base()
        c.task.name, c.model.name = "autoencoding", "autoencoder"
        c.model.autoencoder.features, c.model.autoencoder.pools, c.model.autoencoder.norm = (8,), 1, "none"
        c.train.total, c.train.batch_size = "20steps", 16
        c.data.validation = 0.0
        c.mesh.devices, c.mesh.shards = devices, 4
        return c

    assert_same_bits(trained(pooling(4), images(16)), trained(pooling(2), images(16)))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("fields", [{}, MORE], ids=["plain", "more"])
@pytest.mark.parametrize("make", [small_cnn, residual])
def test_nets_with_batch_norm_give_the_same_bits_on_any_number_of_devices(make, fields, devices):
    one = trained(make(1, data__placement="streamed", **fields), images())
    assert_same_bits(trained(make(devices, **fields), images()), one)


def test_shards_give_the_gradients_of_the_whole_batch_also_where_their_weights_differ():
    """Records of weight 0 all lie in one shard: it must not count as much as the others."""
    weight = np.ones(16, np.float32)
    weight[:3] = 0.0
    inputs, targets = (part[:16] for part in blobs()["train"])
    found = []
    for shards in (0, 8):
        c = tiny("20steps", 16, mesh__shards=shards)
        c.data.validation = 0.0
        run = assemble(c, data=(inputs, targets))
        batch = {"inputs": inputs, "targets": targets, "weight": weight}
        grads, sums, _ = jax.jit(run.gradient)(run.init_state(), batch, None)
        found.append(jax.tree.leaves((grads, sums)))
    for whole, cut in zip(*found, strict=True):
        np.testing.assert_allclose(np.asarray(cut), np.asarray(whole), rtol=0, atol=1e-5)


def test_shards_are_added_two_by_two_in_a_fixed_tree():
    """Powers far apart: any other order loses other digits."""
    values = np.array([1e8, 1.0, -1e8, 1.0, 3e7, 1.0, 1.0, -3e7], np.float32)
    by_hand = values.copy()
    while len(by_hand) > 1:
        by_hand = (by_hand[0::2] + by_hand[1::2]).astype(np.float32)
    assert by_hand[0] != np.float32(values.astype(np.float64).sum())
    for devices in (1, 2, 8):
        over_shards = make_over_shards(meshes.make_mesh(devices), 8)

        def each(number, batch):
            return batch["weight"][0], {"mean": batch["weight"][0], "count": number}

        added, averaged = jax.jit(lambda weight, over=over_shards, each=each: over(each, {"weight": weight}))(values)
        assert np.asarray(added) == by_hand[0]
        assert np.asarray(averaged["mean"]) == by_hand[0] / 8
        assert int(averaged["count"]) == 7


def test_batch_statistics_are_those_of_each_shard_and_running_ones_their_mean():
    data = images(16)
    c = small_cnn(2)
    c.augment = ""
    c.data.validation = 0.0
    c.mesh.shards = 4
    run = assemble(c, data=data)
    state = run.init_state()
    _, _, found = jax.jit(run.gradient)(state, dict(zip(("inputs", "targets"), data["train"], strict=True)) | {
        "weight": np.ones(16, np.float32)
    }, None)  # fmt: skip
    parts = data["train"][0].reshape(4, 4, 8, 8, 3)
    apart = [run.model.apply(state.params, state.model_state, x, key=jax.random.key(0), train=True)[1] for x in parts]
    mean = jax.tree.map(lambda *leaves: np.mean([np.asarray(leaf) for leaf in leaves], axis=0), *apart)
    # Of the first layer alone: behind it dropout may differ.
    for name in ("mean", "var"):
        ours, theirs = (tree["batch_stats"]["norm0"][name] for tree in (found, mean))
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mesh__shards": 3}, r"mesh\.shards: must be 0 or a power of two, got 3"),
        ({"mesh__shards": 64}, r"mesh\.shards: 64 does not divide train\.batch_size 32"),
        ({"mesh__shards": 4}, r"mesh\.shards: 4 do not divide among 8 devices"),
        ({"mesh__fsdp": 2}, r"mesh\.shards: is set to 8, but mesh\.fsdp is 2"),
        ({"train__accumulate": 8}, r"train\.accumulate: 8 micro-batches do not divide the 4 examples of each"),
    ],
)
def test_shards_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        assemble(mlp(8, **fields), data=blobs())
