"""Image files as arrays: decoded with Pillow, turned upright, converted and resized."""

import io
import struct
import zlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from jtrain.table import Range

ImageSize = Annotated[int, Range(0, 4096)]  # height and width in pixels; 0 leaves images as they are
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # of Pillow's: some others start programs (EPS does)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels
_LONGEST = 16  # times the short side, beyond which an image is cut before it is resized
_ORIENTATION = 0x0112  # tag of EXIF 2.3, section 4.6.4: how the stored image is to be turned for viewing
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_TELLING = frozenset({"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"})  # parts of a PNG that may hold one


def decode(source: bytes | str | Path, *, channels: int, size: int = 0, upright: bool = True) -> np.ndarray:
    """One image, uint8 [height, width, channels]; perhaps read-only. Of a moving one the first picture.

    Colours become grey, and grey becomes colours, where `channels` says so; transparency is dropped, unless there are
    4; of 16 bits a pixel the upper 8 are kept.

    Args:
      source: the bytes of an image file, or its path.
      channels: 1 (grey), 3 (red, green, blue) or 4 (with opacity).
      size: height and width in pixels: the short side is resized to it, and the centre cut out; 0 leaves it as it is.
      upright: turn the image as its EXIF orientation says; photographs are often stored sideways.

    Raises:
      ValueError: it cannot be read; the reason in one line.
    """
    try:
        with _opened(source) as stored:
            turn = _turn(stored) if upright else None
            image = _converted(stored, MODES[channels])
            if turn is not None:
                image = image.transpose(turn)
            if size:
                image = _short_side_and_centre(image, size)
            return np.asarray(image).reshape(image.height, image.width, channels)
    except _unreadable() as error:
        raise ValueError(_reason(error)) from error


def measure(source: bytes | str | Path) -> tuple[int, int]:
    """(height, width) that `decode` gives at size 0, from the file's header alone.

    Raises:
      ValueError: it cannot be read; the reason in one line.
    """
    try:
        with _opened(source) as stored:
            width, height = stored.size
            # Pillow would decode a whole PNG to look for EXIF after its pixels; nobody writes it there.
            told = stored.format != "PNG" or not _TELLING.isdisjoint(stored.info)
            turned = told and _orientation(stored) in _SIDEWAYS
            return (width, height) if turned else (height, width)
    except _unreadable() as error:
        raise ValueError(_reason(error)) from error


def _opened(source: bytes | str | Path) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)


def _unreadable() -> tuple[type[Exception], ...]:
    """What Pillow raises on damaged files. Not MemoryError: that is no fault of the file."""
    from PIL import Image

    return (
        OSError, ValueError, TypeError, SyntaxError, ArithmeticError, LookupError, EOFError, struct.error, zlib.error,
        Image.DecompressionBombError,
    )  # fmt: skip


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):  # its own message is the address of a buffer
        return "it is no image of a known kind"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _orientation(image: Any) -> int:
    return image.getexif().get(_ORIENTATION, 1)


def _turn(image: Any) -> Any:
    """Pillow's transposition that turns the image upright, or None."""
    from PIL import Image

    way = Image.Transpose
    turns = {
        2: way.FLIP_LEFT_RIGHT, 3: way.ROTATE_180, 4: way.FLIP_TOP_BOTTOM, 5: way.TRANSPOSE,
        6: way.ROTATE_270, 7: way.TRANSVERSE, 8: way.ROTATE_90,
    }  # fmt: skip
    return turns.get(_orientation(image))


def _converted(image: Any, mode: str) -> Any:
    if image.mode.startswith("I"):
        # 16 bits of grey, which convert() would cut off at 255.
        from PIL import Image

        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return image if image.mode == mode else image.convert(mode)


def _short_side_and_centre(image: Any, size: int) -> Any:
    """A square of `size` pixels: resized so that the short side fits, and cut from the centre."""
    from PIL import Image

    most = _LONGEST * min(image.size)
    if max(image.size) > most:
        # Only the centre is wanted: a hair's breadth of a long line would be blown up to gigabytes.
        box = [(side - min(side, most)) // 2 for side in image.size]
        image = image.crop((*box, *(start + min(side, most) for start, side in zip(box, image.size, strict=True))))
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
