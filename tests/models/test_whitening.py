"""Whitening against scikit-learn's, and as a part of the model that is never trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from jtrain.errors import ConfigError
from jtrain.models import MODELS
from jtrain.models.prepare import prepare
from jtrain.models.pure import Model, as_model
from jtrain.models.whitening import whitening_filters
from jtrain.tree import flatten

RNG = np.random.default_rng(0)
# Neighbouring pixels and channels alike, as in images.
ROUGH = RNG.normal(size=(30, 9, 8, 3)).cumsum(axis=1).cumsum(axis=2)
IMAGES = (ROUGH @ RNG.normal(size=(3, 3)) + 5.0).astype(np.float32)


def patches(images, size):
    """All patches, one by one, as rows [size, size, channels]."""
    height, width = images.shape[1:3]
    found = [
        image[y : y + size, x : x + size].ravel()
        for image in images
        for y in range(height - size + 1)
        for x in range(width - size + 1)
    ]
    return np.array(found, np.float64)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_filters_are_those_of_whitening_by_principal_components(size):
    filters = whitening_filters([IMAGES[:11], IMAGES[11:]], size, eps=1e-9)
    assert filters.shape == (size, size, 3, 2 * size * size * 3)
    flat = filters.reshape(-1, filters.shape[-1])
    half, negative = np.split(flat, 2, axis=1)
    np.testing.assert_array_equal(negative, -half)
    reference = PCA(whiten=True).fit(patches(IMAGES, size))
    expected = (reference.components_ / np.sqrt(reference.explained_variance_)[:, None]).T
    signs = np.sign((expected * half).sum(axis=0))
    np.testing.assert_allclose(half, expected * signs[None], rtol=1e-2, atol=2e-3 * np.abs(expected).max())
    white = patches(IMAGES, size) @ half
    np.testing.assert_allclose(np.cov(white.T), np.eye(half.shape[1]), atol=1e-2)


def test_eps_bounds_what_hardly_varies():
    flat = np.repeat(IMAGES[..., :1], 3, axis=-1)  # three equal channels: eight of twelve directions are nothing
    filters = whitening_filters([flat], 2, eps=0.01).reshape(12, 24)
    lengths = np.linalg.norm(filters, axis=0)
    np.testing.assert_allclose(lengths[4:12], 10.0, rtol=1e-3)  # 1 / √0.01
    assert (np.diff(lengths[:12]) > -1e-6).all()  # by falling variance


def test_the_model_sees_white_features_of_normalised_images_which_no_update_changes():
    mean, std = IMAGES.mean(axis=(0, 1, 2)), IMAGES.std(axis=(0, 1, 2))
    filters = whitening_filters([(IMAGES - mean) / std], 2, eps=1e-6)
    seen = Model(lambda key, inputs: ({}, {}), lambda params, state, inputs, *, key, train: (inputs, state))
    model = prepare(seen, (mean, std), None, jnp.float32, filters)
    _, state = model.init(jax.random.key(0), IMAGES[:1])
    found, after = model.apply({}, state, IMAGES, key=None, train=True)
    assert found.shape == (30, 8, 7, 24)
    np.testing.assert_allclose(np.cov(np.asarray(found[..., :12]).reshape(-1, 12).T), np.eye(12), atol=0.02)
    np.testing.assert_array_equal(found[..., 12:], -found[..., :12])
    assert set(flatten(state)) == {"normalize/mean", "normalize/scale", "whitening/whiten/kernel"}
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_it_is_computed_in_float32_whatever_the_model_computes_in():
    filters = whitening_filters([IMAGES], 2, eps=1e-6)
    dtypes = []
    seen = Model(
        lambda key, inputs: ({}, {}),
        lambda params, state, inputs, *, key, train: (dtypes.append(inputs.dtype) or inputs, state),
    )
    models = [prepare(seen, None, None, dtype, filters) for dtype in (jnp.float32, jnp.bfloat16)]
    _, state = models[0].init(jax.random.key(0), IMAGES[:1])
    exact, short = (model.apply({}, state, IMAGES, key=None, train=False)[0] for model in models)
    assert dtypes == [jnp.float32, jnp.bfloat16]
    np.testing.assert_array_equal(np.asarray(exact.astype(jnp.bfloat16), np.float32), short)


def test_any_model_of_images_may_stand_behind_it():
    filters = whitening_filters([IMAGES], 2, eps=1e-3)
    for name, options in (("cnn", {"features": (4,), "pools": 1}), ("fast_cnn", {"features": (4,), "stem": 0})):
        model = prepare(as_model(MODELS[name](5, **options)), None, None, jnp.float32, filters)
        params, _ = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(IMAGES[:1]))
        first = "conv0/kernel" if name == "cnn" else "group0_conv0/kernel"
        assert flatten(params)[first].shape == (3, 3, 24, 4)


@pytest.mark.parametrize("value", [0.0, 0.1, 255.0])
def test_images_without_anything_to_whiten_are_refused(value):
    flat = np.full((30, 5, 5, 3), value) * np.array([1.0, 0.5, 0.3])
    with pytest.raises(ConfigError, match=r"^data\.whiten: all images are of one plain colour, .* set it to 0"):
        whitening_filters([flat], 2, eps=1e-3)
    flat[3, 2, 2, 1] += 1.0  # the least that is something
    assert np.isfinite(whitening_filters([flat], 2, eps=1e-3)).all()


@pytest.mark.parametrize(
    ("name", "options"), [("cnn", {"features": (4, 4), "pools": 2}), ("fast_cnn", {"features": (4, 4), "stem": 0})]
)
def test_a_model_that_refuses_what_the_filters_leave_is_told_with_the_option_that_made_it(name, options):
    filters = whitening_filters([IMAGES], 2, eps=1e-3)
    words = r"use at most 1.*; the model gets \[3, 4, 24\], which data\.whiten = 2 makes of images \[4, 5, 3\]"
    module = as_model(MODELS[name](5, **options))
    with pytest.raises(ConfigError, match=rf"^model\.{name}\..* {words}"):
        jax.eval_shape(prepare(module, None, None, jnp.float32, filters).init, jax.random.key(0), IMAGES[:1, :4, :5])
    jax.eval_shape(prepare(module, None, None, jnp.float32).init, jax.random.key(0), IMAGES[:1, :4, :5])
