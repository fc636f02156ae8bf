"""One split of a prepared tensorflow-datasets set, read record by record and decoded with Pillow."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.errors import ConfigError, DataError
from jtrain.table import did_you_mean

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels
_KEYS = ("image", "label")  # where a data set does not name its input and target itself


class Records:
    """Examples decoded when they are fetched.

    Args:
      source: gives a list of {feature: value} for a list of record numbers.
      files: (name, examples) of each file of the split, in order.
      split: its name, for messages.
      keys: (input, target) features.
      shape: of one input.
      dtype: of the inputs.
      encoded: inputs come as the bytes of an image file.
      resize: images are resized to `shape`.
      class_names: one per class; may be numbers.
    """

    def __init__(
        self,
        source: Any,
        *,
        files: list[tuple[str, int]],
        split: str,
        keys: tuple[str, str],
        shape: tuple[int, ...],
        dtype: np.dtype,
        encoded: bool,
        resize: bool,
        class_names: tuple[str, ...],
    ) -> None:
        self._source, self._files, self._split = source, files, split
        self._keys, self._shape, self._dtype = keys, shape, dtype
        self._encoded, self._resize = encoded, resize
        self.class_names, self.num_classes = class_names, len(class_names)
        self._decoded: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._source)

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs once they are decoded."""
        return len(self) * int(np.prod(self._shape, dtype=np.int64)) * self._dtype.itemsize

    def fetch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples numbered `rows`; raises DataError naming file and record when one cannot be read."""
        if self._decoded is not None:
            return self._decoded[0][rows], self._decoded[1][rows]
        numbers = [int(row) for row in rows]
        inputs = np.empty((len(numbers), *self._shape), self._dtype)
        targets = np.empty(len(numbers), np.int32)
        for i, (number, record) in enumerate(zip(numbers, self._read(numbers), strict=True)):
            try:
                inputs[i] = self._input(record[self._keys[0]])
                targets[i] = record[self._keys[1]]
            except (OSError, ValueError, TypeError, SyntaxError, OverflowError) as error:  # all that Pillow raises
                raise self._damaged(number, error) from error
        return inputs, targets

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All examples, decoded once and then kept."""
        if self._decoded is None:
            self._decoded = self.fetch(np.arange(len(self)))
        return self._decoded

    def _read(self, numbers: list[int]) -> list[dict[str, Any]]:
        try:
            return self._source.__getitems__(numbers)
        except Exception as error:  # the readers raise many kinds, all of them a damaged file; find the record
            for number in numbers:
                try:
                    self._source.__getitems__([number])
                except Exception as first:
                    raise self._damaged(number, first) from first
            raise self._damaged(numbers[0], error) from error

    def _input(self, value: Any) -> np.ndarray:
        if not self._encoded:
            return self._fitting(np.asarray(value))
        from PIL import Image

        image: Any = Image.open(io.BytesIO(value))
        mode = _MODES[self._shape[-1]]
        if image.mode != mode:
            image = image.convert(mode)
        if self._resize:
            image = _short_side_and_centre(image, self._shape[0])
        return self._fitting(np.asarray(image).reshape(image.height, image.width, self._shape[-1]))

    def _fitting(self, array: np.ndarray) -> np.ndarray:
        if array.shape != self._shape:
            raise ValueError(f"it is {list(array.shape)}, the data set promises {list(self._shape)}")
        return array

    def _damaged(self, number: int, error: Exception) -> DataError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        ends = np.cumsum([examples for _, examples in self._files])
        name = self._files[int(np.searchsorted(ends, number, side="right"))][0]
        return DataError(
            f"data.tfds: split {self._split!r}: record {number} cannot be read, {name} is damaged; "
            f"copy or prepare it anew ({reason})"
        )


def open_records(folder: Path, option: str, split: str, input_key: str, target_key: str, image_size: int) -> Records:
    """Opens one split of the prepared data set in `folder`.

    Args:
      folder: of one version.
      option: of data.tfds that names the split, for messages.
      split: a split, perhaps sliced: "train[:90%]".
      input_key: feature of the inputs, or "".
      target_key: feature of the class labels, or "".
      image_size: to resize images to, or 0.
    """
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder_from_directory(str(folder))
    except Exception as error:  # whatever it raises, the description in the folder is not usable
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"data.tfds: {folder} is damaged; copy or prepare it anew ({reason})") from error
    info, features = builder.info, builder.info.features
    input_key, target_key = _keys(info.supervised_keys, list(features), input_key, target_key)
    shape, encoded = _input_shape(tensorflow_datasets, input_key, features[input_key], image_size)
    label = features[target_key]
    if not isinstance(label, tensorflow_datasets.features.ClassLabel) or not label.num_classes:
        labels = [k for k, f in features.items() if isinstance(f, tensorflow_datasets.features.ClassLabel)]
        raise ConfigError(
            f"data.tfds.target_key: {target_key!r} is no class label; the data set's class labels: {_or_none(labels)}"
        )
    decoders = {input_key: tensorflow_datasets.decode.SkipDecoding()} if encoded else None
    try:
        source = builder.as_data_source(split=split, decoders=decoders)
        files = [(Path(i.filename).name, i.examples_in_shard) for i in info.splits[split].file_instructions]
    except NotImplementedError as error:
        raise DataError(f"data.tfds: {folder} is not stored as array_record; prepare it anew as such") from error
    except (ValueError, KeyError) as error:
        raise _split_error(option, split, list(info.splits), error) from error
    except (OSError, RuntimeError) as error:
        raise DataError(f"data.tfds: a file of {folder} is missing or damaged; prepare it anew ({error})") from error
    return Records(
        source,
        files=files,
        split=split,
        keys=(input_key, target_key),
        shape=shape,
        dtype=np.dtype(np.uint8) if encoded else np.dtype(features[input_key].np_dtype),
        encoded=encoded,
        resize=image_size > 0,
        class_names=tuple(label.names),
    )


def _keys(supervised: Any, known: list[str], input_key: str, target_key: str) -> tuple[str, str]:
    """The features asked for, else the data set's own (input, target), else image and label."""
    own = supervised if supervised and all(isinstance(key, str) for key in supervised[:2]) else _KEYS
    found = (input_key or own[0], target_key or own[1])
    for option, key in zip(("input_key", "target_key"), found, strict=True):
        if key not in known:
            raise ConfigError(f"data.tfds.{option}: no feature {key!r}{did_you_mean(key, known)}")
    return found


def _input_shape(library: Any, key: str, feature: Any, image_size: int) -> tuple[tuple[int, ...], bool]:
    """(shape of one input, whether it is to be decoded from an image file)."""
    is_image = isinstance(feature, library.features.Image)
    shape = tuple(feature.shape)
    encoded = is_image and feature.np_dtype == np.uint8 and (shape[-1] or 3) in _MODES
    if encoded and image_size:
        return (image_size, image_size, shape[-1] or 3), True
    if image_size:
        raise ConfigError(f"data.tfds.image_size: {key!r} is no 8-bit image; leave it at 0")
    if None in shape[:2] and is_image:
        raise ConfigError("data.tfds.image_size: images of many sizes need one; set it, 224 for instance (it is 0)")
    if encoded:
        return (*shape[:2], shape[-1] or 3), True
    if None in shape or getattr(feature, "np_dtype", np.dtype(object)).kind not in "iufb":
        raise ConfigError(f"data.tfds.input_key: {key!r} is not an array of numbers of a fixed shape: {feature}")
    return shape, False


def _split_error(option: str, split: str, known: list[str], error: Exception) -> ConfigError:
    bare = split.split("[")[0].split("+")[0].strip()
    if bare not in known:
        exist = f"the data set has {', '.join(known)}"
        return ConfigError(f"data.tfds.{option}: no such split {bare!r}{did_you_mean(bare, known)} ({exist})")
    return ConfigError(
        f"data.tfds.{option}: cannot read {split!r} ({str(error).splitlines()[0]}); write it like train[:90%]"
    )


def _short_side_and_centre(image: Any, size: int) -> Any:
    """A square of `size` pixels: resized so that the short side fits, and cut from the centre."""
    from PIL import Image

    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _or_none(names: list[str]) -> str:
    return ", ".join(names) or "none"
