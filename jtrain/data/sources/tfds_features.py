"""Which features of a tensorflow-datasets set are input and target, and what of them a device takes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jtrain.data.examples import TargetKind, Wanted
from jtrain.data.sources.images import MODES, decode
from jtrain.errors import ConfigError
from jtrain.table import did_you_mean

_KEYS = ("image", "label")  # where a data set does not name its input and target itself


@dataclasses.dataclass(frozen=True)
class Input:
    """The input of an example.

    Attributes:
      key: its feature.
      shape: of one.
      dtype: of all; floats have 32 bits at most, and so have whole numbers.
      encoded: it is stored as the bytes of an image file.
      resize: images are resized to `shape`, which is square.
    """

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    encoded: bool = False
    resize: bool = False

    def read(self, record: Mapping[str, Any]) -> np.ndarray:
        """The input of a record; raises ValueError when it is not what the data set promises."""
        value = _stored(record, self.key)
        if self.encoded:
            # Not turned upright: tensorflow-datasets does not do so either.
            size = self.shape[0] if self.resize else 0
            return _fitting(decode(value, channels=self.shape[-1], size=size, upright=False), self.shape)
        return _narrow(_fitting(np.asarray(value), self.shape), self.dtype)


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of an example.

    Attributes:
      key: its feature; "" is none: the target is 0.
      kind: of it.
      num_outputs: classes there are, or numbers an example has.
      shape: of one.
      listed: it is stored as a list of class numbers, of any length.
      class_names: one per class, or empty; may be numbers.
    """

    key: str
    kind: TargetKind
    num_outputs: int
    shape: tuple[int, ...] = ()
    listed: bool = False
    class_names: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """int32 for class numbers, else float32."""
        return np.dtype(np.int32 if self.kind == "class" else np.float32)

    def read(self, record: Mapping[str, Any]) -> np.ndarray:
        """The target of a record; raises ValueError when it is not what the data set promises."""
        if not self.key:
            return np.zeros((), self.dtype)
        value = np.asarray(_stored(record, self.key))
        if not self.listed:
            one = value.reshape(self.shape) if value.size == 1 else value  # stored as [1] or as []
            return _narrow(_fitting(one, self.shape), self.dtype)
        numbers = value.reshape(-1).astype(np.int64)
        wrong = numbers[(numbers < 0) | (numbers >= self.num_outputs)]
        if wrong.size:
            raise ValueError(f"it has a class {wrong[0]}; valid are 0 to {self.num_outputs - 1}")
        target = np.zeros(self.shape, self.dtype)
        target[numbers] = 1
        return target


def choose(
    library: Any, features: Mapping[str, Any], supervised: Any, wanted: Wanted, keys: tuple[str, str], image_size: int
) -> tuple[Input, Target]:
    """The features of a data set that are input and target.

    Args:
      library: tensorflow_datasets.
      features: of the data set, by name.
      supervised: its own (input, target), or None.
      wanted: what the target must be; for "any" it is a class label where the data set has one, else none.
      keys: (input, target) asked for; "" is the data set's own, else image and label.
      image_size: to resize images to, or 0.

    Raises:
      ConfigError: there is no such feature, or it does not suit; the message names those that would.
    """
    own = supervised if supervised and all(isinstance(key, str) for key in supervised[:2]) else _KEYS
    input_key, target_key = (asked or default for asked, default in zip(keys, own, strict=False))
    for option, key in (("input_key", input_key), ("target_key", target_key)):
        needed = option == "input_key" or wanted.targets != "any" or keys[1]
        if key not in features and needed:
            raise ConfigError(f"data.tfds.{option}: no feature {key!r}{did_you_mean(key, features)}")
    shape, encoded = _input_shape(library, input_key, features[input_key], image_size)
    stored = np.dtype(np.uint8) if encoded else np.dtype(features[input_key].np_dtype)
    chosen = Input(input_key, shape, _held(stored), encoded, image_size > 0)
    return chosen, _target(library, features, target_key, wanted.targets)


def _target(library: Any, features: Mapping[str, Any], key: str, wanted: str) -> Target:
    if wanted == "tokens":
        raise ConfigError('data.name: "tfds" gives no tokens; for text choose data.name="text"')
    if wanted == "any":
        found = _as_class(library, key, features[key]) if key in features else None
        return found or Target("", "class", 1)
    found = _SUITING[wanted](library, key, features[key])
    if found is not None:
        return found
    others = sorted(name for name, feature in features.items() if _SUITING[wanted](library, name, feature))
    tasks = [task for kind, task in _TASKS.items() if _SUITING[kind](library, key, features[key])]
    hint = f"; {key!r} suits task.name={' or '.join(tasks)}" if tasks else ""
    raise ConfigError(
        f"data.tfds.target_key: {key!r} is {_described(library, features[key])}; the task needs {_NEEDED[wanted]}, "
        f"here: {', '.join(others) or 'none'}{hint}"
    )


def _described(library: Any, feature: Any) -> str:
    if isinstance(feature, library.features.ClassLabel):
        return "a class label"
    if isinstance(getattr(feature, "feature", None), library.features.ClassLabel):
        return "a list of class labels"
    if isinstance(feature, library.features.Image):
        return "an image"
    shape = _numeric_shape(feature)
    return "not numbers of a fixed shape" if shape is None else f"numbers of shape {list(shape)}"


def _as_class(library: Any, key: str, feature: Any) -> Target | None:
    if not isinstance(feature, library.features.ClassLabel) or not feature.num_classes:
        return None
    return Target(key, "class", feature.num_classes, class_names=tuple(feature.names))


def _as_classes(library: Any, key: str, feature: Any) -> Target | None:
    inner = getattr(feature, "feature", None)
    if isinstance(inner, library.features.ClassLabel) and inner.num_classes:
        return Target(key, "classes", inner.num_classes, (inner.num_classes,), True, tuple(inner.names))
    shape = _numeric_shape(feature)
    if shape is None or len(shape) != 1:
        return None
    return Target(key, "classes", shape[0], shape)


def _as_values(library: Any, key: str, feature: Any) -> Target | None:
    shape = _numeric_shape(feature)
    labels = (feature, getattr(feature, "feature", None))
    if shape is None or len(shape) > 1 or any(isinstance(one, library.features.ClassLabel) for one in labels):
        return None
    return Target(key, "values", int(np.prod(shape)), shape if shape != (1,) else ())


_SUITING: dict[str, Callable[[Any, str, Any], Target | None]] = {
    "class": _as_class, "classes": _as_classes, "values": _as_values,
}  # fmt: skip
_TASKS = {"class": '"classification"', "classes": '"multilabel"', "values": '"regression"'}
_NEEDED = {
    "class": "a class label",
    "classes": "a list of class labels, or 0 or 1 for every class",
    "values": "a number, or a row of them",
}


def _input_shape(library: Any, key: str, feature: Any, image_size: int) -> tuple[tuple[int, ...], bool]:
    """(shape of one input, whether it is to be decoded from an image file)."""
    is_image = isinstance(feature, library.features.Image)
    shape = feature.shape
    encoded = is_image and feature.np_dtype == np.uint8 and (shape[-1] or 3) in MODES
    if encoded and image_size:
        return (image_size, image_size, shape[-1] or 3), True
    if image_size:
        raise ConfigError(f"data.tfds.image_size: {key!r} is no 8-bit image; leave it at 0")
    if is_image and None in shape[:2]:
        raise ConfigError("data.tfds.image_size: images of many sizes need one; set it, 224 for instance (it is 0)")
    if encoded:
        return (*shape[:2], shape[-1] or 3), True
    numeric = _numeric_shape(feature)
    if numeric is None:
        raise ConfigError(f"data.tfds.input_key: {key!r} is not an array of numbers of a fixed shape: {feature}")
    return numeric, False


def _numeric_shape(feature: Any) -> tuple[int, ...] | None:
    """The shape of a feature that is numbers of a fixed shape; None of any other."""
    shape, dtype = getattr(feature, "shape", None), getattr(feature, "np_dtype", None)
    if not isinstance(shape, tuple) or None in shape or isinstance(dtype, dict):
        return None
    return shape if np.dtype(dtype or object).kind in "iufb" else None


def _held(dtype: np.dtype) -> np.dtype:
    """The type in which a device holds numbers of `dtype`."""
    if dtype.kind == "f":
        return np.dtype(np.float32) if dtype.itemsize > 4 else dtype
    return np.dtype(np.int32) if dtype.kind in "iu" and dtype.itemsize > (4 if dtype.kind == "i" else 2) else dtype


def _stored(record: Mapping[str, Any], key: str) -> Any:
    if record.get(key) is None:  # a file that was cut off gives empty records
        raise ValueError(f"it has no {key!r}")
    return record[key]


def _narrow(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, which the checks of values tell
        narrow = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(narrow, array):
        raise ValueError(f"it holds {array[narrow != array].flat[0]}, which does not fit {dtype}")
    return narrow


def _fitting(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape != shape:
        raise ValueError(f"it is {list(array.shape)}, the data set promises {list(shape)}")
    return array
