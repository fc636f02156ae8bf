import jax
import numpy as np
import pytest

from jtrain.data.views import VIEWS, build_views, check_view_inputs, parse_views
from jtrain.errors import ConfigError


def images(dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).astype(dtype)


def test_no_op_gives_the_images_alone():
    (only,) = build_views("")(images())
    assert np.array_equal(only, images())


def test_mirrors_are_the_images_and_their_mirror_images():
    for name, flip in (("flip_lr", np.fliplr), ("flip_ud", np.flipud)):
        first, second = build_views(name)(images())
        assert np.array_equal(first, images())
        assert np.array_equal(second, np.stack([flip(image) for image in images()]))


def test_crops_shift_by_whole_pixels_and_repeat_the_border():
    found = build_views("crops(2)")(images())
    height, width = images().shape[1:3]
    for view, (down, right) in zip(found, [(0, 0), (-2, -2), (-2, 2), (2, -2), (2, 2)], strict=True):
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        assert np.array_equal(view, images()[:, rows][:, :, columns])


def test_two_corners_lie_opposite():
    first, top_left, _, _, bottom_right = build_views("crops(2)")(images())
    found = build_views("crops(2, corners=2)")(images())
    assert all(np.array_equal(a, b) for a, b in zip(found, [first, top_left, bottom_right], strict=True))


def test_ops_multiply_and_the_images_themselves_come_first():
    found = build_views("flip_lr|crops(1)")(images())
    expected = [*build_views("crops(1)")(images()), *build_views("crops(1)")(images()[:, :, ::-1])]
    assert len(found) == 10
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len({np.asarray(view).tobytes() for view in found}) == 10


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_view_op_keeps_shape_and_dtype_and_begins_with_the_images(name, dtype):
    found = jax.jit(build_views(name))(images(dtype))
    assert len(found) > 1
    assert np.array_equal(found[0], images(dtype))
    assert {(view.shape, view.dtype) for view in found} == {(images().shape, np.dtype(dtype))}


def test_text_is_read_with_all_options():
    assert parse_views(" flip_lr | crops ") == (("flip_lr", {}), ("crops", {"pixels": 2, "corners": 4}))
    assert parse_views("") == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flip_rl", "no such op 'flip_rl'; did you mean 'flip_lr'"),
        ("crops(0)", "pixels: must be at least 1"),
        ("crops(", 'write it like "flip_lr|crops.2."'),
        ("flip_lr|crops|flip_lr", "flip_lr is named twice"),
    ],
)
def test_wrong_text_is_one_line_that_names_the_key(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_views(text)
    assert str(caught.value).startswith("views: ")
    with pytest.raises(ConfigError, match=r"^predict\.views: "):
        parse_views(text, "predict.views")


def test_inputs_that_views_do_not_suit_are_refused():
    check_view_inputs("", (64,))
    check_view_inputs("flip_lr|crops(4)", (5, 6, 1))
    with pytest.raises(ConfigError, match=r"^views: flip_lr needs images \[height, width, channels\].* \[64\]"):
        check_view_inputs("flip_lr", (64,))
    with pytest.raises(ConfigError, match=r"^k: crops cannot shift images \[5, 6, 1\] by 5 pixels; must be below 5"):
        check_view_inputs("crops(5)", (5, 6, 1), "k")
