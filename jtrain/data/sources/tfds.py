"""Data sets prepared by tensorflow-datasets, read without TensorFlow and decoded once."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.data.examples import CHUNK, ArrayExamples, BrokenRecord, DataSet, Examples, Wanted
from jtrain.data.sources import array_cache
from jtrain.data.sources.images import ImageSize
from jtrain.data.sources.tfds_records import Records, open_records
from jtrain.errors import ConfigError, DataError
from jtrain.table import did_you_mean

CACHE_LIMIT = 2 << 30  # bytes of a decoded split, above which it is read from its records
_CLASSES = ("pythonClassName", "python_class_name", "type")  # keys under which features.json names a class, old and new

Reading = tuple[Wanted, tuple[str, str], int]  # what is wanted, keys of (input, target), image size


def tfds(
    wanted: Wanted,
    *,
    name: str = "cifar10",
    data_dir: str = "",
    train: str = "train",
    test: str = "test",
    input_key: str = "",
    target_key: str = "",
    image_size: ImageSize = 0,
    cache: bool = True,
) -> DataSet:
    """A data set that tensorflow-datasets has prepared in its array_record format.

    Args:
      wanted: "class", "classes", "values" or "any"; for the last a class label is kept, and may be missing.
      name: of the data set: "cifar10", "cifar10:3.0.2", "set/config".
      data_dir: folder of prepared data sets; "" is $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      train: split for training, slices too: "train[:90%]".
      test: split for the test; "" is none.
      input_key: feature that is the input; "" is the data set's own choice, else "image".
      target_key: feature that is the target: a class label, a list of them, or numbers; "" likewise, else "label".
      image_size: height and width in pixels that images are resized to (short side, then the centre);
        0 leaves them as they are, which needs images of one size.
      cache: keep decoded splits below 2 GiB in the per-user cache.

    Raises:
      ConfigError: no such data set, split, feature, a target that does not suit, or images of many sizes.
      DataError: not prepared, or damaged. A split with a broken record is not kept, but read from its records.
    """
    folder = find(name, data_dir)
    splits: dict[str, Examples] = {}
    notes: dict[str, Any] = {}
    for option, split in (("train", train), ("test", test)):
        if split or option == "train":
            reading = wanted, (input_key, target_key), image_size
            splits[option], notes = _split(folder, name, option, split, reading, cache)
    return DataSet(
        name, splits["train"], None, splits.get("test"), notes["num_outputs"], notes["targets"],
        class_names=tuple(notes["class_names"]),
    )  # fmt: skip


def _split(
    folder: Path, name: str, option: str, split: str, reading: Reading, cache: bool
) -> tuple[Examples, dict[str, Any]]:
    """(examples, {targets, num_outputs, class_names}): from the cache if it is valid, without an import of tfds."""
    place = array_cache.place(f"{name}-{split}", _request(folder, split, reading)) if cache else None
    fingerprint = _fingerprint(folder)
    if place is not None and (kept := array_cache.read(place, fingerprint)):
        return ArrayExamples(kept[0], kept[1]), kept[2]
    records = open_records(folder, option, split, *reading)
    target = records.target
    note = {"targets": target.kind, "num_outputs": target.num_outputs, "class_names": list(target.class_names)}
    if not cache or records.nbytes > CACHE_LIMIT:
        return records, note
    where = f", kept in {place}" if place else ""
    print(f"decoding {name} {split}: {len(records):,} examples once{where}", file=sys.stderr)
    try:
        return _decoded(records, place, fingerprint, note), note
    except BrokenRecord as error:  # what becomes of it is decided where the split is used
        print(f"warning: decoded data of {name} {split} are not kept: {error}", file=sys.stderr)
        return records, note


def _decoded(records: Records, place: Path | None, fingerprint: str, note: dict[str, Any]) -> ArrayExamples:
    if place is not None:
        try:
            array_cache.write(place, fingerprint, _chunks(records), examples=len(records), note=note)
            if kept := array_cache.read(place, fingerprint):
                return ArrayExamples(kept[0], kept[1])
        except OSError as error:
            print(f"warning: cannot keep decoded data in {place}: {error.strerror or error}", file=sys.stderr)
    return ArrayExamples(*records.arrays())


def _request(folder: Path, split: str, reading: Reading) -> dict[str, Any]:
    """What a decoded split depends on, besides its files."""
    from PIL import __version__ as pillow

    wanted, keys, image_size = reading
    return {
        "folder": str(folder.resolve()), "split": split, "targets": wanted.targets, "keys": list(keys),
        "image_size": image_size, "pillow": pillow,
    }  # fmt: skip


def _chunks(records: Records) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(records), CHUNK):
        yield records.fetch(np.arange(start, min(start + CHUNK, len(records))))


def find(name: str, data_dir: str) -> Path:
    """The folder of one version of a prepared data set.

    Args:
      name: "set", "set/config", either with ":1.2.3"; else the newest version.
      data_dir: "" is $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      ConfigError: there is no data set of this name, or it has several configs. DataError: it is not prepared.
    """
    match = re.fullmatch(r"(\w+)(/[\w.-]*\w[\w.-]*)?(?::(\d+\.\d+\.\d+))?", name)
    if not match:
        raise ConfigError(f"data.tfds.name: {name!r} is not a name like cifar10, cifar10:3.0.2 or set/config")
    bare, config, version = match.groups()
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = root / f"{bare}{config or ''}"
    versions = _versions(folder)
    if not versions and not config and folder.is_dir():
        configs = sorted(path.name for path in folder.iterdir() if _versions(path))
        if len(configs) > 1:
            choices = ", ".join(f"{bare}/{c}" for c in configs)
            raise ConfigError(f"data.tfds.name: {bare!r} is prepared in several configs; choose one of {choices}")
        if configs:
            folder = folder / configs[0]
            versions = _versions(folder)
    if version and versions and version not in versions:
        raise ConfigError(
            f"data.tfds.name: no version {version} of {bare!r}; prepared in {root}: {', '.join(versions)}"
        )
    if not versions:
        raise _not_found(name, bare, root)
    found = folder / (version or versions[-1])
    _check_format(found, name)
    _check_features(found)
    return found


def _versions(folder: Path) -> list[str]:
    """Versions prepared in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = [path.parent.name for path in folder.glob("*/dataset_info.json")]
    return sorted((v for v in found if re.fullmatch(r"\d+\.\d+\.\d+", v)), key=lambda v: [int(n) for n in v.split(".")])


def _how_to_prepare(name: str) -> str:
    # data_source, not load: load prepares TFRecord files, which cannot be read without TensorFlow.
    command = f"import tensorflow_datasets as tfds; tfds.data_source('{name}')"
    return f'pip install "jtrain[prepare]", then python -c "{command}"'


def _not_found(name: str, bare: str, root: Path) -> ConfigError | DataError:
    import tensorflow_datasets

    here = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    known = {*tensorflow_datasets.list_builders(with_community_datasets=False), *here}
    if bare not in known:
        near = did_you_mean(bare, known)
        near = near if near.startswith("; did") else f"; prepared in {root}: {', '.join(sorted(here)) or 'none'}"
        return ConfigError(f"data.tfds.name: no such data set {bare!r}{near}")
    return DataError(
        f"data.tfds: {name!r} is not prepared in {root}; set TFDS_DATA_DIR or data.tfds.data_dir to the folder that "
        f"holds it, or, with network: {_how_to_prepare(name)}; or try images that need no download: "
        "--config=configs/cifar.py:shapes"
    )


def _check_format(folder: Path, name: str) -> None:
    try:
        stored = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "dataset_info.json cannot be read"
        raise DataError(f"data.tfds: {folder} is damaged ({reason}); copy or prepare it anew") from error
    if stored != "array_record":
        raise DataError(
            f"data.tfds: {folder} is stored as {stored}, which cannot be read without TensorFlow; "
            f"delete it and prepare it as array_record: {_how_to_prepare(name)}"
        )


def _check_features(folder: Path) -> None:
    """Raises DataError where tensorflow-datasets would import modules that the data's features.json names."""
    try:
        found = json.loads((folder / "features.json").read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"data.tfds: {folder} is damaged (features.json); copy or prepare it anew") from error
    nodes = [found]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes += node
        if not isinstance(node, dict):
            continue
        nodes += node.values()
        for name in (node.get(key) for key in _CLASSES):
            if isinstance(name, str) and "." in name and not name.startswith("tensorflow_datasets."):
                raise DataError(f"data.tfds: {folder}/features.json names code to import, {name!r}; it is not read")


def _fingerprint(folder: Path) -> str:
    """Of names, sizes and times of all files of a prepared data set."""
    facts = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir() if f.is_file())
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()
