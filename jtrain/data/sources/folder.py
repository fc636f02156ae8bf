"""Images in folders, one folder a class: decoded when they are fetched."""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jtrain.data.examples import BrokenRecord, DataSet, Wanted
from jtrain.data.sources.images import ImageSize, decode, measure
from jtrain.data.sources.stratify import in_test
from jtrain.errors import ConfigError, DataError
from jtrain.table import Fraction, did_you_mean

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_SPLITS = ("train", "val", "test")
_SPLIT_SEED = 20242  # of the fixed train and test split, never the run's


def folder(
    wanted: Wanted,
    *,
    path: str = "",
    image_size: ImageSize = 0,
    channels: Literal[3, 1] = 3,
    test: Fraction = 0.2,
) -> DataSet:
    """Images uint8 [height, width, channels] in folders: path/<class>/ or path/train/<class>/, path/val/…, path/test/….

    Files that end with jpg, jpeg, png, bmp, gif or webp are images, those that begin with a dot are passed over; the
    note counts the others. EXIF orientation is applied.

    Args:
      wanted: "class" or "any".
      path: of the folder; `~` is the home folder.
      image_size: height and width in pixels that images are resized to (short side, then the centre);
        0 leaves them as they are, which needs images of one size.
      channels: 3 are colours, 1 is grey.
      test: share of each class in the test split where the folder has no splits of its own: at least one image, and
        one is left to train on; 0 is no test split.

    Raises:
      ConfigError: no path, another task, or images of many sizes. DataError: the folder is not laid out like this.
      BrokenRecord, when an image is fetched: it cannot be read.
    """
    if wanted.targets not in ("class", "any"):
        raise ConfigError('data.name: "folder" gives one class an image; set task.name="classification"')
    if not path:
        raise ConfigError("data.folder.path: is empty; set it to a folder that has one folder of images for each class")
    root = Path(path).expanduser()
    ignored: list[str] = []
    splits = {name: _classes(where, ignored) for name, where in _layout(root).items()}
    names = _class_names(splits, root)
    if wanted.targets == "class" and len(names) == 1:
        raise DataError(f"data.folder.path: {root} has one class alone, {names[0]!r}; there is nothing to tell apart")
    given = {split: _listed(found, names) for split, found in splits.items()}
    shape = _shape([file for files, _ in given.values() for file in files], image_size, channels)
    if "" in given:
        given = _cut(*given[""], test)
    made = {split: ImageFiles(*pair, shape=shape, resize=image_size > 0) for split, pair in given.items()}
    return DataSet(
        name=root.resolve().name,
        train=made["train"],
        val=made.get("val"),
        test=made.get("test"),
        num_outputs=len(names),
        class_names=names,
        note=_note(ignored, root),
    )


class ImageFiles:
    """Examples decoded when they are fetched.

    Args:
      files: path of each image [n].
      targets: class number of each [n].
      shape: of one input, (height, width, channels).
      resize: images are resized to `shape`, which is square; else they must have it.
    """

    def __init__(self, files: list[str], targets: np.ndarray, *, shape: tuple[int, int, int], resize: bool) -> None:
        self._files, self._targets = files, targets
        self._shape, self._resize = shape, resize
        self._decoded: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._files)

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs, once they are decoded, and targets."""
        return len(self) * int(np.prod(self._shape, dtype=np.int64)) + self._targets.nbytes

    def fetch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples numbered `rows` [b]; raises BrokenRecord naming the file of one that cannot be read."""
        if self._decoded is not None:
            return self._decoded[rows], self._targets[rows]
        inputs = np.empty((len(rows), *self._shape), np.uint8)
        for i, row in enumerate(rows):
            inputs[i] = self._decode(self._files[int(row)])
        return inputs, self._targets[rows]

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Targets alone: nothing is decoded, and nothing can be broken."""
        return self._targets[rows]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All examples, decoded once and then kept."""
        if self._decoded is None:
            self._decoded = self.fetch(np.arange(len(self)))[0]
        return self._decoded, self._targets

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which decodes what it needs."""
        return self.__dict__ | {"_decoded": None}

    def _decode(self, file: str) -> np.ndarray:
        try:
            image = decode(file, channels=self._shape[2], size=self._shape[0] if self._resize else 0)
            if image.shape != self._shape:
                raise ValueError(f"it is {_size(*image.shape[:2])}, the others are {_size(*self._shape[:2])}")
        except ValueError as error:
            raise BrokenRecord(
                f"data.folder: {file} cannot be read as an image ({error}); copy it anew or remove it"
            ) from error
        return image


def _layout(root: Path) -> dict[str, str]:
    """split -> its folder of class folders; "" is the split where there is one for all."""
    inside = {entry.name: entry for entry in _visible(str(root))}
    train = inside.get("train")
    # A class may be called "train" too (cars, trains and planes), but it holds images.
    if train is None or not train.is_dir() or not any(entry.is_dir() for entry in _visible(train.path)):
        return {"": str(root)}
    folders = {name: entry for name, entry in inside.items() if entry.is_dir()}
    for name in folders:
        if name not in _SPLITS:
            raise DataError(
                f"data.folder.path: {root} has a folder 'train' of classes, and beside it {name!r}, which is no split"
                f"{did_you_mean(name, _SPLITS)}; move it elsewhere if it is none"
            )
    return {split: folders[split].path for split in _SPLITS if split in folders}


def _classes(where: str, ignored: list[str]) -> dict[str, list[str]]:
    """class -> its image files, both sorted by name; what is neither is added to `ignored`."""
    found: dict[str, list[str]] = {}
    loose = 0  # images outside of class folders
    for entry in _visible(where):
        if not entry.is_dir():
            ignored.append(entry.path)
            loose += _is_image(entry)
            continue
        files: list[str] = []
        for inner in _visible(entry.path):
            (files if _is_image(inner) else ignored).append(inner.path)
        if not files:
            raise DataError(
                f"data.folder.path: {entry.path} holds no images itself ({', '.join(e[1:] for e in ENDINGS)}); each "
                "class has one folder, or one in each of train, val and test; fill it or remove it"
            )
        found[entry.name] = files
    if not found:
        hint = f"; put its {loose} images into one folder for each class" if loose else ""
        raise DataError(f"data.folder.path: {where} has no folders of classes{hint}")
    return found


def _class_names(splits: dict[str, dict[str, list[str]]], root: Path) -> tuple[str, ...]:
    first, *others = splits
    for split in others:
        for one, other in ((first, split), (split, first)):
            odd = sorted(set(splits[one]) - set(splits[other]))
            if odd:
                raise DataError(
                    f"data.folder.path: {root / one} has a class {odd[0]!r} that {root / other} lacks; "
                    "all splits must have the same classes"
                )
    if not others and first == "":
        for name, files in splits[first].items():
            if len(files) < 2:
                raise DataError(
                    f"data.folder.path: {root / name} holds one image alone; a class needs two, one to train on and "
                    "one for the test; add images or remove the class"
                )
    return tuple(sorted(splits[first]))


def _listed(found: dict[str, list[str]], names: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """(files [n], class numbers [n]) of one split, class by class."""
    files = [file for name in names for file in found[name]]
    return files, np.repeat(np.arange(len(names), dtype=np.int32), [len(found[name]) for name in names])


def _cut(files: list[str], labels: np.ndarray, share: float) -> dict[str, tuple[list[str], np.ndarray]]:
    held_out = in_test(labels, share, _SPLIT_SEED)
    rows = {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)}
    return {split: ([files[i] for i in some], labels[some]) for split, some in rows.items() if len(some)}


def _shape(files: list[str], image_size: int, channels: int) -> tuple[int, int, int]:
    """Of one input; where images are left as they are, that of the first, which all others must have too."""
    if image_size:
        return image_size, image_size, channels
    first: tuple[str, tuple[int, int]] | None = None
    for file in files:
        try:
            size = measure(file)
        except ValueError:
            continue  # it is named when it is fetched; whether the run goes on without it is not decided here
        if first is None:
            first = file, size
        elif size != first[1]:
            raise ConfigError(
                f"data.folder.image_size: images differ in size, {first[0]} is {_size(*first[1])} and {file} is "
                f"{_size(*size)}; set data.folder.image_size, 224 for instance (it is 0)"
            )
    if first is None:
        raise DataError(f"data.folder.path: not one of {len(files)} images can be read, such as {files[0]}")
    return *first[1], channels


def _visible(where: str) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name, without hidden files and folders."""
    try:
        with os.scandir(where) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except FileNotFoundError as error:
        raise DataError(f"data.folder.path: no folder {where}") from error
    except OSError as error:
        raise DataError(f"data.folder.path: {where} cannot be read as a folder ({error.strerror or error})") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and os.path.splitext(entry.name)[1].lower() in ENDINGS


def _size(height: int, width: int) -> str:
    return f"{width} × {height} pixels"


def _note(ignored: list[str], root: Path) -> str:
    if not ignored:
        return ""
    example = os.path.relpath(ignored[0], root)
    if len(ignored) == 1:
        return f"{example} is passed over: it is no image of a class"
    return f"{len(ignored)} files or folders, such as {example}, are passed over: they are no images of a class"
