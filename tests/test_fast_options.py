"""Options of the fast recipe in whole runs: whitening, the alternating flip, lookahead."""

import collections
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import blobs, put, tiny, tiny_run

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.errors import ConfigError
from jtrain.loop import train
from jtrain.models.pure import Model
from jtrain.state import to_flat
from jtrain.verbs.evaluate import evaluate

RNG = np.random.default_rng(0)
TARGETS = (np.arange(64) % 4).astype(np.int32)
IMAGES = (RNG.integers(0, 200, (64, 8, 8, 3)) + TARGETS[:, None, None, None] * 12).astype(np.uint8)
KERNEL = "model_state/whitening/whiten/kernel"


def small(**fields):
    c = configs.base()
    c.model.name = "cnn"
    c.model.cnn.features, c.model.cnn.pools = (4,), 1
    c.mesh.devices, c.optimizer.lr = 1, 0.01
    c.train.total, c.train.batch_size, c.checkpoint.every = "6steps", 12, "3steps"
    c.data.validation = 0.25
    return put(c, **fields)


def run_of(**fields):
    return assemble(small(**fields), data=(IMAGES, TARGETS))


def test_whitening_is_measured_on_training_images_kept_in_checkpoints_and_never_trained(tmp_path):
    run = run_of(data__whiten=2)
    before = {path: np.asarray(leaf) for path, leaf in to_flat(run.init_state()).items()}
    images = run.data.train.fetch(np.arange(len(run.data.train)))[0].astype(np.float64)
    mean, std = images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))
    patches = np.lib.stride_tricks.sliding_window_view((images - mean) / std, (2, 2), axis=(1, 2))
    patches = np.moveaxis(patches, 3, -1).reshape(-1, 12)
    white = patches @ before[KERNEL].reshape(12, 24)[:, :12].astype(np.float64)
    np.testing.assert_allclose(np.cov(white.T), np.eye(12), atol=0.02)
    assert before["params/conv0/kernel"].shape == (3, 3, 24, 4)
    result = train(run, tmp_path / "run")
    np.testing.assert_array_equal(result.state.model_state["whitening"]["whiten"]["kernel"], before[KERNEL])
    # Weights go with the filters that they were trained behind, whatever the new data are.
    other = assemble(
        small(data__whiten=2, transfer__init_from=str(tmp_path / "run")), data=(255 - IMAGES[:, ::-1], TARGETS)
    )
    np.testing.assert_array_equal(to_flat(other.init_state())[KERNEL], before[KERNEL])
    again = evaluate(tmp_path / "run", data=(IMAGES, TARGETS), split="val")
    assert again["loss"] == pytest.approx(result.metrics["val"]["loss"], rel=1e-6)


def test_whitening_of_what_is_no_image_is_refused():
    with pytest.raises(ConfigError, match=r"^data\.whiten: patches of 2×2 pixels need images .* inputs are \[6\]"):
        tiny_run(data__whiten=2)
    with pytest.raises(ConfigError, match=r"^data\.whiten: patches of 9×9"):
        run_of(data__whiten=9)
    with pytest.raises(
        ConfigError, match=r"^model\.cnn\.pools: 3 poolings .*\[7, 7, 24\], which data\.whiten = 2 makes of"
    ):
        run_of(data__whiten=2, model__cnn__features=(4, 4, 4), model__cnn__pools=3)
    with pytest.raises(ConfigError, match=r"^data\.whiten: all images are of one plain colour"):
        assemble(small(data__whiten=2), data=(np.full_like(IMAGES, 7), TARGETS))
    with pytest.raises(ConfigError, match=r"^data\.whiten_eps: is set to 0\.1, but data\.whiten is 0"):
        run_of(data__whiten_eps=0.1)


def test_alternating_flip_gives_the_same_bits_resident_streamed_and_resumed_and_the_same_on_eight_devices(tmp_path):
    fields = {"augment": "pad_crop(1)|flip_alternating", "train__batch_size": 16, "train__total": "8steps"}
    whole = train(run_of(**fields), tmp_path).state
    streamed = train(run_of(**fields, data__placement="streamed")).state
    jax.tree.map(np.testing.assert_array_equal, whole, streamed)
    shutil.rmtree(tmp_path / "checkpoints" / "8")  # as if it was killed there
    jax.tree.map(np.testing.assert_array_equal, whole, train(run_of(**fields), tmp_path).state)
    assert "update 6 of 8" in (tmp_path / "events.jsonl").read_text()
    eight = train(run_of(**fields, mesh__devices=8)).state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), whole.params, eight.params)


@pytest.mark.parametrize("placement", ["resident", "streamed"])
def test_a_run_shows_each_image_once_each_way_in_two_epochs(placement):
    shown = []

    def watched(params, state, inputs, *, key, train):
        jax.debug.callback(lambda images: shown.extend(np.array(images)), inputs)
        return params["scale"] * inputs.reshape(len(inputs), -1)[:, :4], state

    c = small(augment="flip_alternating", data__placement=placement, data__normalize=False, train__batch_size=20)
    c.model = configs.base().model
    model = Model(lambda key, inputs: ({"scale": jnp.ones(())}, {}), watched)
    run = assemble(c, model=model, data=(IMAGES, TARGETS))
    state = run.init_state()
    for step in range(5):  # two epochs of 48 images, and four images more
        state, _ = run.train_step(state, *run.feeds["train"].train_batch(run.order, step))
        jax.effects_barrier()
    run.close()
    seen = collections.Counter(image.astype(np.uint8).tobytes() for image in shown[:96])
    images = run.data.train.fetch(np.arange(48))[0]
    assert seen == collections.Counter(image.tobytes() for way in (images, images[:, :, ::-1]) for image in way)


def test_lookahead_is_optaxs_and_evaluates_its_slow_parameters():
    c = tiny("14steps", optimizer__name="sgd", schedule__name="constant", ema__kind="lookahead", ema__decay=0.4)
    c.ema.every, c.optimizer.sgd.weight_decay, c.optimizer.lr = 4, 0.0, 0.1
    run = assemble(c, data=blobs())
    state = run.init_state()
    tx = optax.lookahead(optax.sgd(0.1, momentum=0.9), sync_period=4, slow_step_size=0.6)
    params = optax.LookaheadParams.init_synced(jax.tree.map(jnp.copy, state.params))
    opt_state = tx.init(params)
    gradient = jax.jit(run.gradient)
    for step in range(14):
        given = run.feeds["train"].train_batch(run.order, step)
        grads = gradient(state, *given)[0]
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        state, _ = run.train_step(state, *given)
        for found, expected in ((state.params, params.fast), (state.ema, params.slow)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    assert "ema/accuracy" in run.evaluate(state, "test")
    with pytest.raises(ConfigError, match=r"ema\.decay is 0\.0"):
        tiny_run(ema__kind="lookahead")
    with pytest.raises(ConfigError, match=r"^ema\.every: is set to 3, but ema\.kind is 'moving'"):
        tiny_run(ema__decay=0.9, ema__every=3)
