import numpy as np
import pytest

from jtrain.errors import DataError
from jtrain.io.sheet import sheet


def shown(figure):
    """The arrays of all pictures, a list per row."""
    pictures = [axis.images[0].get_array().data for axis in figure.axes]
    columns = figure.axes[0].get_gridspec().ncols
    return [pictures[start : start + columns] for start in range(0, len(pictures), columns)]


def images(channels, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 256, (2, 6, 5, channels)).astype(dtype)


def test_a_row_holds_the_original_and_its_draws(tmp_path, drawn):
    draws = [images(3, seed) for seed in (1, 2, 3)]
    sheet(images(3), draws, tmp_path / "sheet.png", title="flip_lr")
    assert (tmp_path / "sheet.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    rows = shown(drawn[0])
    assert [len(row) for row in rows] == [4, 4]
    for number, row in enumerate(rows):
        for picture, values in zip(row, [images(3), *draws], strict=True):
            np.testing.assert_allclose(picture, values[number] / 255)
    assert [axis.get_title() for axis in drawn[0].axes[:4]] == ["original", "draw 1", "draw 2", "draw 3"]
    assert drawn[0].get_suptitle() == "flip_lr"


def test_one_channel_is_gray_from_black_to_white(tmp_path, drawn):
    sheet(images(1), [images(1, 1)], tmp_path / "sheet.png", title="")
    assert shown(drawn[0])[0][0].shape == (6, 5)
    assert {axis.images[0].get_clim() for axis in drawn[0].axes} == {(0, 1)}
    assert {axis.images[0].get_cmap().name for axis in drawn[0].axes} == {"gray"}


def test_floats_of_all_draws_are_scaled_by_the_range_of_the_originals(tmp_path, drawn):
    before = images(3, dtype=np.float32) / 100 - 1
    after = np.where(before > 1, 9, before).astype(np.float32)
    after[0, 0, 0] = np.nan
    sheet(before, [after], tmp_path / "sheet.png", title="")
    low, high = before.min(), before.max()
    expected = np.where(np.isnan(after), 0, np.clip((after - low) / (high - low), 0, 1))
    np.testing.assert_allclose(shown(drawn[0])[0][1], expected[0], atol=1e-6)
    sheet(np.ones((1, 4, 4, 1)), [np.ones((1, 4, 4, 1))], tmp_path / "sheet.png", title="")  # one value alone


@pytest.mark.parametrize(
    ("originals", "draw", "words"),
    [
        (np.zeros((2, 64)), np.zeros((2, 64)), r"needs images .* \[2, 64\]"),
        (np.zeros((0, 4, 4, 3)), np.zeros((0, 4, 4, 3)), "needs images"),
        (np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 5, 3)), r"draw 1 has the shape \[2, 4, 5, 3\]"),
        (np.full((2, 4, 4, 3), np.nan), np.zeros((2, 4, 4, 3)), "no finite value"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_no_file(tmp_path, originals, draw, words):
    with pytest.raises(DataError, match=words):
        sheet(originals, [draw], tmp_path / "sheet.png", title="")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match="missing"):
        sheet(images(3), [images(3)], tmp_path / "missing" / "sheet.png", title="")
