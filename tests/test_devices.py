"""1 = 8 devices = pmap; resident = streamed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import blobs, tiny

from jtrain import mesh as meshes
from jtrain.assembly import assemble
from jtrain.config import base
from jtrain.data.order import Order
from jtrain.errors import ConfigError
from jtrain.loop import train
from jtrain.mesh import make_mesh
from jtrain.state import to_flat
from jtrain.step import advance


def images(examples=64):
    rng = np.random.default_rng(0)
    targets = np.arange(examples) % 4
    inputs = rng.integers(0, 200, (examples, 8, 8, 3)) + targets[:, None, None, None] * 12
    return {"train": (inputs.astype(np.uint8), targets.astype(np.int32))}


def cnn(devices, **fields):
    """A small CNN with batch norm, dropout and augmentation: all that could depend on the device count."""
    c = base()
    c.mesh.devices = devices
    c.model.name = "cnn"
    c.model.cnn.features = (4, 8)
    c.model.cnn.pools = 1
    c.model.cnn.dropout = 0.3
    c.augment = "pad_crop(1)|flip_lr"
    c.optimizer.lr = 0.01
    c.train.total = "20steps"
    c.train.batch_size = 16
    for key, value in fields.items():
        section, _, name = key.partition("__")
        c[section][name] = value
    return c


def losses(config, data, steps=20):
    run = assemble(config, data=data)
    block = config.mesh.devices > 1
    (state,), sums, _ = advance(
        run.train_steps, [run.init_state()], [run.give], 0, steps, most=run.per_call, block=block
    )
    run.close()
    return np.array([float(pair[0] / pair[1]) for count, s in sums[0] for pair in s["loss"][:count]]), state


@pytest.mark.parametrize("batch_size", [16, 13])  # 13 does not divide by 8: padded, with weight 0
def test_one_and_eight_devices_agree(batch_size):
    one, _ = losses(cnn(1, train__batch_size=batch_size), images())
    eight, _ = losses(cnn(8, train__batch_size=batch_size), images())
    np.testing.assert_allclose(eight, one, rtol=0, atol=1e-5)
    assert one[-1] < one[0]


def test_eight_device_step_agrees_with_a_plain_pmap_and_pmean():
    c = tiny("20steps", 16, mesh__devices=8, optimizer__name="sgd", schedule__name="constant")
    c.optimizer.sgd.weight_decay = 0.0
    ours, state = losses(c, blobs())
    run = assemble(c, data=blobs())
    inputs, targets = (np.asarray(a) for a in run.data.train.arrays())
    mean, std = inputs.mean(0), inputs.std(0)

    def loss_fn(params, x, y):
        x = jax.nn.relu(x @ params["dense0"]["kernel"] + params["dense0"]["bias"][None])
        logits = x @ params["head"]["kernel"] + params["head"]["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    tx = optax.sgd(0.01, momentum=0.9)

    def step(params, opt_state, x, y):
        loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
        grads, loss = jax.lax.pmean(grads, "data"), jax.lax.pmean(loss, "data")
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    params = jax.device_get(run.init_state().params)
    copies = lambda tree: jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 8), tree)  # noqa: E731
    params, opt_state = copies(params), copies(tx.init(params))
    pmapped = jax.pmap(step, axis_name="data")
    theirs = []
    for k in range(20):
        rows = run.order.rows(k)
        x = ((inputs[rows] - mean) / std).reshape(8, 2, -1)
        params, opt_state, loss = pmapped(params, opt_state, x, targets[rows].reshape(8, 2))
        theirs.append(float(loss[0]))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    ours_params, theirs_params = jax.device_get(state.params), jax.device_get(params)
    for a, b in zip(jax.tree.leaves(ours_params), jax.tree.leaves(theirs_params), strict=True):
        np.testing.assert_allclose(a, b[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_resident_and_streamed_data_give_equal_parameters(devices):
    _, resident = losses(cnn(devices, data__placement="resident"), images())
    _, streamed = losses(cnn(devices, data__placement="streamed"), images())
    streamed = to_flat(streamed)
    for path, leaf in to_flat(resident).items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(streamed[path]), err_msg=path)


@pytest.mark.parametrize("placement", ["resident", "streamed"])
@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_is_exact_whatever_batch_size_and_devices(devices, placement):
    found = []
    for batch_size in (48, 7):
        run = assemble(
            cnn(devices, train__batch_size=batch_size, data__placement=placement),
            data=images() | {"test": images(61)["train"]},
        )
        found.append(run.evaluate(run.init_state(), "test"))
        logits = np.log(run.predict(run.init_state(), "test"))
    targets = images(61)["train"][1]
    by_hand = -np.mean(logits[np.arange(61), targets])
    np.testing.assert_allclose([f["loss"] for f in found], by_hand, rtol=1e-5)
    assert found[0]["accuracy"] == found[1]["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == targets))


def test_a_feed_gives_each_order_its_own_batches():
    run = assemble(tiny(data__placement="streamed"), data=blobs())
    feed, other = run.feeds["train"], Order(65, 10, seed=99)
    feed.train_batch(run.order, 0)
    given = feed.train_batch(other, 1)[0]["inputs"]
    np.testing.assert_array_equal(given, run.data.train.fetch(other.rows(1))[0])
    run.close()


def test_the_callers_arrays_may_change_after_training_began():
    inputs, targets = (a.copy() for a in blobs()["train"])
    run = assemble(tiny(data__validation=0.0), data=(inputs, targets))
    data, _ = run.feeds["train"].train_batch(run.order, 0)
    before = np.array(data["inputs"])
    inputs[:] = 0
    np.testing.assert_array_equal(data["inputs"], before)


def test_streamed_run_on_eight_devices_trains_and_resumes(tmp_path):
    c = tiny("9steps", mesh__devices=8, data__placement="streamed")
    first = train(assemble(c, data=blobs()), tmp_path / "run")
    c.train.total = "12steps"
    again = train(assemble(c, data=blobs()), tmp_path / "run")
    assert int(first.state.step) == 9
    assert int(again.state.step) == 12


def test_missing_devices_and_a_part_of_those_of_several_processes_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"mesh\.devices: 99 asked for, 8 there"):
        make_mesh(99)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"mesh\.devices: 4 asked for, 8 there \(cpu\) in 2 processes"):
        make_mesh(4)
    assert make_mesh(8).size == make_mesh().size == 8


def test_mesh_in_words():
    assert meshes.describe(make_mesh(1)) == "1 × cpu"
    assert meshes.describe(make_mesh(8)) == "8 × cpu, data-parallel"
    assert meshes.describe(make_mesh(8, 2)) == "8 × cpu, data 4 × fsdp 2"


def test_a_tree_is_placed_by_a_tree_of_shardings_that_may_end_above_its_leaves():
    mesh = make_mesh(8, 2)
    tree = {"a": {"b": np.ones((16, 2)), "c": np.ones(8)}, "d": np.float32(3)}
    placed = meshes.place(tree, {"a": meshes.by_data(mesh), "d": meshes.replicated(mesh)})
    assert [len(x.addressable_shards[0].data) for x in (placed["a"]["b"], placed["a"]["c"])] == [2, 1]
    assert placed["d"].sharding.is_fully_replicated
    np.testing.assert_array_equal(np.asarray(placed["a"]["b"]), tree["a"]["b"])


@pytest.mark.parametrize("size", [16, 13])
def test_one_process_holds_all_positions_of_a_batch(size):
    mesh = make_mesh(8, 2)
    np.testing.assert_array_equal(meshes.local_rows(mesh, size), np.arange(size))
    batch = {"inputs": np.random.default_rng(0).normal(size=(size, 3)), "targets": np.arange(size)}
    for name, values in meshes.place_local(batch, mesh, size).items():
        np.testing.assert_allclose(np.asarray(values), batch[name])
        assert values.sharding == meshes.for_batch(mesh, size), name
