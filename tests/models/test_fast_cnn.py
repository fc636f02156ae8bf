"""The fast network against PyTorch, and its sizes."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_helpers import KEY, golden_value, shapes, size

from jtrain.errors import ConfigError
from jtrain.models import MODELS
from jtrain.models.pure import as_model
from jtrain.tree import flatten, map_with_path

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "golden" / "fast_cnn.npz"))


def test_outputs_gradients_and_statistics_are_torchs():
    model = as_model(MODELS["fast_cnn"](5, features=(6, 8)))
    inputs = jnp.asarray(GOLDEN["inputs"])
    abstract, state = jax.eval_shape(model.init, KEY, inputs)
    params = map_with_path(golden_value, abstract)
    state = map_with_path(lambda path, leaf: jnp.full(leaf.shape, float(path.endswith("var"))), state)
    targets = optax.smooth_labels(jax.nn.one_hot(jnp.arange(6) % 5, 5), 0.2)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss_fn(params):
        outputs, new_state = model.apply(params, state, inputs, key=None, train=True)
        return optax.softmax_cross_entropy(outputs, targets).mean(), (outputs, new_state)

    (loss, (outputs, new_state)), gradient = loss_fn(params)
    np.testing.assert_allclose(loss, GOLDEN["loss"], rtol=1e-5)
    np.testing.assert_allclose(outputs, GOLDEN["outputs"], rtol=1e-4, atol=1e-5)
    found = flatten(gradient)
    assert {f"gradient/{path}" for path in found} == {name for name in GOLDEN if name.startswith("gradient/")}
    for path, leaf in found.items():
        expected = GOLDEN[f"gradient/{path}"]
        np.testing.assert_allclose(leaf, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max(), err_msg=path)
    statistics = new_state["batch_stats"]
    for name, norm in statistics.items():
        np.testing.assert_allclose(norm["mean"], GOLDEN[f"mean/{name}"], rtol=1e-4, atol=1e-5)


def test_it_has_the_parameters_of_its_layers():
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    trained = 24 + convolutions + 2 * (64 + 256 + 256) + 256 * 10
    behind_filters, _ = shapes(MODELS["fast_cnn"](10, stem=0), (31, 31, 24))
    assert size(behind_filters) == trained == 1_971_352
    with_stem, _ = shapes(MODELS["fast_cnn"](10), (32, 32, 3))
    assert size(with_stem) == trained + 4 * 3 * 24
    assert not any(path.endswith("scale") for path in flatten(with_stem))


def test_fresh_groups_pass_on_what_they_get():
    params, _ = jax.jit(as_model(MODELS["fast_cnn"](3, features=(8,), stem=1)).init)(KEY, jnp.zeros((1, 4, 4, 3)))
    kernel = np.asarray(params["group0_conv0"]["kernel"])  # [3, 3, 6, 8]
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 6)).astype(np.float32)
    out = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(out[..., :6], x, rtol=1e-6)
    assert np.abs(kernel[..., 6:]).min() > 0
    assert np.abs(kernel[..., 6:]).max() <= 1 / np.sqrt(9 * 6)
    drawn, _ = jax.jit(as_model(MODELS["fast_cnn"](3, features=(8,), dirac=False)).init)(KEY, jnp.zeros((1, 4, 4, 3)))
    assert np.abs(drawn["group0_conv0"]["kernel"]).min() > 0


@pytest.mark.parametrize(
    ("groups", "stem", "size", "words"),
    [(3, 2, (8, 9), r"= 2, .* leaves of images 8×9; use at most 2 of them, or a stem of at most 1, or inputs .* 9×9"),
     (1, 2, (2, 2), r"stem = 2, .* leaves of images 2×2; use a stem of at most 1, or inputs of at least 3×3"),
     (1, 9, (4, 4), r"stem = 9, .* leaves of images 4×4; use a stem of at most 3, or inputs of at least 10×10"),
     (2, 2, (1, 4), r"stem = 2, .* leaves of images 1×4; use inputs of at least 5×5"),
     (2, 0, (3, 8), r"leave nothing of images 3×8; use at most 1 of them, or inputs of at least 4×4")],
)  # fmt: skip
def test_images_too_small_for_stem_and_groups_are_refused_with_what_would_do(groups, stem, size, words):
    with pytest.raises(ConfigError, match=rf"^model\.fast_cnn\.features: {groups} groups, .*{words}"):
        shapes(MODELS["fast_cnn"](10, features=(4,) * groups, stem=stem), (*size, 3))


def test_images_just_large_enough_for_stem_and_groups_are_taken():
    for groups, stem, side in ((3, 2, 9), (3, 1, 8), (1, 2, 3), (1, 3, 4), (1, 9, 10), (2, 0, 4)):
        params, _ = shapes(MODELS["fast_cnn"](10, features=(4,) * groups, stem=stem), (side, side, 3))
        assert params["head"]["kernel"].shape[-1] == 10


def test_no_groups_at_all_are_refused():
    with pytest.raises(ConfigError, match=r"^model\.fast_cnn\.features: needs at least one"):
        MODELS["fast_cnn"](10, features=())
