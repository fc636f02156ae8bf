import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from jtrain.data.sources.images import decode, measure

ORIENTATION = 0x0112


def pixels(height=5, width=7, channels=3, seed=0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "WEBP", "GIF"])
def test_a_file_and_its_bytes_give_the_pixels_that_pillow_reads(tmp_path, kind):
    data = encoded(Image.fromarray(pixels()), kind)
    (tmp_path / "a").write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for source in (data, tmp_path / "a", str(tmp_path / "a")):
        found = decode(source, channels=3)
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected)
        assert measure(source) == (5, 7)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_pixel_becomes_grey_or_colour(mode, channels):
    image = Image.fromarray(pixels()).convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    stored = Image.open(io.BytesIO(data))
    expected = np.asarray(stored.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])).reshape(5, 7, channels)
    assert np.array_equal(decode(data, channels=channels), expected)


def test_transparent_palette_is_read_without_a_warning():
    data = encoded(Image.fromarray(pixels()).convert("P"), transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, channels=3).shape == (5, 7, 3)
        assert decode(data, channels=1).shape == (5, 7, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_of_16_bits_the_upper_8_are_kept(channels):
    values = np.array([[0, 255, 256], [511, 40_000, 65_535]], np.uint16)
    found = decode(encoded(Image.fromarray(values)), channels=channels)
    assert np.array_equal(found, np.repeat((values // 256).astype(np.uint8)[:, :, None], channels, axis=2))


def test_a_moving_image_gives_its_first_picture():
    first, second = Image.fromarray(pixels(channels=1)), Image.fromarray(pixels(channels=1, seed=1))
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert np.array_equal(decode(data, channels=1)[..., 0], np.asarray(first))


@pytest.mark.parametrize("orientation", range(10))  # 1 to 8 are known
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_that_of_pillow(orientation, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(pixels()), kind, exif=exif)
    stored = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert np.array_equal(decode(data, channels=3), expected)
    assert measure(data) == expected.shape[:2]
    assert np.array_equal(decode(data, channels=3, upright=False), np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize(("height", "width"), [(5, 7), (9, 4), (6, 6), (40, 3)])
@pytest.mark.parametrize("size", [3, 6, 12])
def test_resized_is_the_centre_of_the_short_side_scaled(height, width, size):
    image = Image.fromarray(pixels(height, width))
    found = decode(encoded(image), channels=3, size=size)
    short = min(height, width)
    whole = image.resize(
        (max(size, round(width * size / short)), max(size, round(height * size / short))), Image.Resampling.BILINEAR
    )
    top, left = (whole.height - size) // 2, (whole.width - size) // 2
    assert np.array_equal(found, np.asarray(whole)[top : top + size, left : left + size])


@pytest.mark.parametrize(("height", "width"), [(1, 3000), (3000, 1), (2, 90)])
def test_long_thin_images_are_not_blown_up_whole(height, width, monkeypatch):
    image = Image.fromarray(pixels(height, width))
    size, data = 8, encoded(image)
    whole = np.asarray(image.resize((width * size // min(height, width), height * size // min(height, width)), 2))
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    resize, made = Image.Image.resize, []
    monkeypatch.setattr(Image.Image, "resize", lambda self, to, *rest: made.append(to) or resize(self, to, *rest))
    assert np.array_equal(decode(data, channels=3, size=size), whole[top : top + size, left : left + size])
    assert max(made[0]) == 16 * size


def test_image_is_turned_before_its_centre_is_cut_out():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.fromarray(pixels(8, 3))
    found = decode(encoded(image, exif=exif), channels=3, size=3)
    assert np.array_equal(found, decode(encoded(image.transpose(Image.Transpose.ROTATE_270)), channels=3, size=3))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "WEBP", "GIF"])
def test_damaged_files_raise_one_kind_of_error_and_nothing_else(kind):
    """600 files of each kind with bytes changed or cut off: decoded, or refused with a reason of one line."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options = {} if kind in ("BMP", "GIF") else {"exif": exif}
    good = encoded(Image.fromarray(pixels(12, 9)), kind, **options)
    generator = np.random.default_rng(0)
    reasons = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of parts that it skips
        for trial in range(600):
            damaged = bytearray(good)
            for _ in range(1 + trial % 4):
                damaged[generator.integers(len(damaged))] = generator.integers(256)
            if trial % 3 == 0:
                del damaged[generator.integers(len(damaged)) :]
            for read in (lambda data: decode(data, channels=3, size=4), measure):
                try:
                    read(bytes(damaged))
                except ValueError as error:
                    reasons.append(str(error))
    assert len(reasons) > 100
    assert all(reason and "\n" not in reason for reason in reasons)


def test_reasons_are_plain(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"^it is no image of a known kind$"):
        decode(tmp_path / "a.png", channels=3)
    with pytest.raises(ValueError, match=r"^No such file or directory$"):
        measure(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # an image of a few bytes may ask for gigabytes
    for read in (lambda data: decode(data, channels=3), measure):
        with pytest.raises(ValueError, match=r"decompression bomb"):
            read(encoded(Image.fromarray(pixels())))


def test_no_file_stays_open(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(pixels())))
    (tmp_path / "b.png").write_bytes(encoded(Image.fromarray(pixels()))[:60])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        decode(tmp_path / "a.png", channels=3)
        measure(tmp_path / "a.png")
        with pytest.raises(ValueError, match=r"truncated|broken"):
            decode(tmp_path / "b.png", channels=3)
