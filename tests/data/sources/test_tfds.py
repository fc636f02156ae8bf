import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jtrain.data.examples import ArrayExamples, BrokenRecord, Wanted, check_targets, targets_of
from jtrain.data.sources import tfds as module
from jtrain.data.sources.tfds import find, tfds
from jtrain.data.sources.tfds_records import Records
from jtrain.errors import ConfigError, DataError

NAMES = ("cat", "dog", "owl")


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, head = len(content), bytearray([number << 3 | 2])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes(head) + bytes([size]) + content


def serialised(record: dict) -> bytes:
    """A serialised tf.train.Example of lists of bytes, ints or floats, by hand: the format needs no TensorFlow."""
    entries = []
    for key, values in record.items():
        if isinstance(values[0], bytes):
            feature = _field(1, b"".join(_field(1, value) for value in values))
        elif isinstance(values[0], float):
            feature = _field(2, _field(1, np.array(values, "<f4").tobytes()))
        else:
            feature = _field(3, _field(1, b"".join(_varint(value) for value in values)))
        entries.append(_field(1, _field(1, key.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _varint(value: int) -> bytes:
    value, out = int(value) & (2**64 - 1), bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def example(image: bytes, label: int) -> bytes:
    return serialised({"image": [image], "label": [label]})


def write_records(folder, name, records):
    """One file of serialised examples, and the description of a set that has it as its only split, train."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / f"{name}-train.array_record-00000-of-00001"), "group_size:1")
    for record in records:
        writer.write(serialised(record))
    writer.close()
    split = {"name": "train", "numBytes": "1", "shardLengths": [str(len(records))]}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A set of four examples whose features are of all kinds."""
    from tensorflow_datasets import features as kinds

    root = tmp_path_factory.mktemp("many")
    folder = root / "many" / "1.0.0"
    records = [
        {
            "image": [png(pixel)], "label": [i % 3], "tags": [i, 4 - i][: i + 1], "hot": [i % 2, 1, 0],
            "age": [i + 0.5], "pose": [i / 2, -1.0], "one": [float(i)], "ids": [i, -i, 2**31 - 1], "words": [b"x"],
            "wide": [2**40 if i == 2 else i],
        }
        for i, pixel in enumerate(pixels(4))
    ]  # fmt: skip
    write_records(folder, "many", records)
    described = kinds.FeaturesDict(
        {
            "image": kinds.Image(shape=(6, 5, 3)), "label": kinds.ClassLabel(names=list(NAMES)),
            "tags": kinds.Sequence(kinds.ClassLabel(num_classes=5)), "hot": kinds.Tensor(shape=(3,), dtype=np.bool_),
            "age": kinds.Scalar(dtype=np.float32), "pose": kinds.Tensor(shape=(2,), dtype=np.float64),
            "one": kinds.Tensor(shape=(1,), dtype=np.float32), "ids": kinds.Tensor(shape=(3,), dtype=np.int64),
            "words": kinds.Text(), "wide": kinds.Scalar(dtype=np.int64),
        }
    )  # fmt: skip
    described.save_config(str(folder))
    return root


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


def prepare(root, images, shape, name="pets", version="1.0.0", file_format="array_record", shards=1, test=2):
    """A small prepared data set; images are encoded bytes, labels are the numbers modulo 3."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / name / version
    folder.mkdir(parents=True)
    splits = []
    for split, part in (("train", images), ("test", images[:test])):
        pieces = np.array_split(np.arange(len(part)), shards)
        for number, rows in enumerate(pieces):
            file = folder / f"{name}-{split}.array_record-{number:05d}-of-{shards:05d}"
            writer = ArrayRecordWriter(str(file), "group_size:1")
            for row in rows:
                writer.write(example(part[row], row % 3))
            writer.close()
        splits.append(
            {
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(rows)) for rows in pieces],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": name, "version": version, "fileFormat": file_format, "splits": splits}
    info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    package = "tensorflow_datasets.core.features."
    dimensions = ["-1" if side is None else str(side) for side in shape]
    features = {
        "image": {
            "image": {"dtype": "uint8", "shape": {"dimensions": dimensions}},
            "pythonClassName": package + "image_feature.Image",
        },
        "label": {
            "classLabel": {"numClasses": "3"},
            "pythonClassName": package + "class_label_feature.ClassLabel",
        },
    }
    described = {"featuresDict": {"features": features}, "pythonClassName": package + "features_dict.FeaturesDict"}
    (folder / "features.json").write_text(json.dumps(described))
    (folder / "label.labels.txt").write_text("\n".join(NAMES) + "\n")
    return folder


def pixels(count=12, shape=(6, 5, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    prepare(tmp_path / "data", [png(p) for p in pixels()], (6, 5, 3))
    return tmp_path / "data"


def load(root, **given):
    return tfds(Wanted(), **{"name": "pets", "data_dir": str(root)} | given)


@pytest.mark.parametrize("cache", [True, False])
def test_images_and_labels_come_out_as_they_were_written(root, cache):
    for _ in range(2):  # the second time from the cache
        dataset = load(root, cache=cache)
        inputs, targets = dataset.train.arrays()
        assert np.array_equal(inputs, pixels())
        assert targets.tolist() == [i % 3 for i in range(12)]
        assert len(dataset.test) == 2
        assert dataset.class_names == NAMES
        assert dataset.num_outputs == 3
        assert dataset.train.nbytes == inputs.nbytes + targets.nbytes


def test_gray_images_keep_their_channel(tmp_path):
    gray = pixels(shape=(4, 4, 1))
    prepare(tmp_path / "data", [png(p) for p in gray], (4, 4, 1))
    assert np.array_equal(load(tmp_path / "data").train.arrays()[0], gray)


def test_records_are_fetched_by_number_over_several_files(tmp_path):
    prepare(tmp_path / "data", [png(p) for p in pixels(10)], (6, 5, 3), shards=3)
    train = load(tmp_path / "data", cache=False).train
    assert isinstance(train, Records)
    inputs, targets = train.fetch(np.array([9, 0, 4, 4], np.int32))
    assert np.array_equal(inputs, pixels(10)[[9, 0, 4, 4]])
    assert targets.tolist() == [0, 0, 1, 1]
    assert targets.dtype == np.int32


def test_sliced_split_and_no_test_split(root):
    dataset = load(root, train="train[4:7]", test="")
    assert np.array_equal(dataset.train.arrays()[0], pixels()[4:7])
    assert dataset.test is None


def test_second_time_decodes_nothing_and_imports_nothing_of_tfds(root, capsys):
    load(root)
    assert "decoding pets train: 12 examples once, kept in " in capsys.readouterr().err
    code = (
        "import sys; from jtrain.data.examples import Wanted; from jtrain.data.sources.tfds import tfds;"
        "tfds(Wanted(), name='pets', data_dir=sys.argv[1]);"
        "print('tensorflow_datasets' in sys.modules, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert done.stderr == ""


def test_reading_records_never_imports_tensorflow(root):
    code = (
        "import sys; from jtrain.data.examples import Wanted; from jtrain.data.sources.tfds import tfds;"
        "tfds(Wanted(), name='pets', data_dir=sys.argv[1], cache=False)"
        ".train.arrays(); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert done.stderr == ""


def test_changed_records_are_decoded_anew(root, tmp_path):
    load(root)
    other = tmp_path / "other"
    prepare(other, [png(255 - p) for p in pixels()], (6, 5, 3))
    for file in (other / "pets" / "1.0.0").iterdir():
        os.replace(file, root / "pets" / "1.0.0" / file.name)
    assert np.array_equal(load(root).train.arrays()[0], 255 - pixels())


def test_newest_version_is_taken_unless_one_is_named(root):
    prepare(root, [png(255 - p) for p in pixels()], (6, 5, 3), version="1.10.0")
    prepare(root, [png(p // 2) for p in pixels()], (6, 5, 3), version="1.9.0")
    assert np.array_equal(load(root).train.arrays()[0], 255 - pixels())
    assert np.array_equal(load(root, name="pets:1.9.0").train.arrays()[0], pixels() // 2)
    with pytest.raises(ConfigError, match=r"no version 2\.0\.0 of 'pets'.*1\.0\.0, 1\.9\.0, 1\.10\.0"):
        load(root, name="pets:2.0.0")


def test_config_of_a_set_must_be_named_when_there_are_several(tmp_path):
    prepare(tmp_path / "pets", [png(p) for p in pixels()], (6, 5, 3), name="small")
    assert find("pets", str(tmp_path)).parts[-2:] == ("small", "1.0.0")
    prepare(tmp_path / "pets", [png(p) for p in pixels()], (6, 5, 3), name="large")
    with pytest.raises(ConfigError, match="choose one of pets/large, pets/small"):
        find("pets", str(tmp_path))
    assert np.array_equal(load(tmp_path, name="pets/large").train.arrays()[0], pixels())


def test_unwritable_cache_is_a_warning(root, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.array_cache, "write", full)
    train = load(root).train
    assert np.array_equal(train.arrays()[0], pixels())
    assert isinstance(train, ArrayExamples)
    assert "warning: cannot keep decoded data" in capsys.readouterr().err


def test_cache_folder_that_cannot_be_made_is_a_warning(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert np.array_equal(load(root).train.arrays()[0], pixels())
    assert "warning: no cache" in capsys.readouterr().err


def test_large_split_is_read_from_its_records(root, monkeypatch):
    monkeypatch.setattr(module, "CACHE_LIMIT", 100)
    assert isinstance(load(root).train, Records)


def test_images_of_many_sizes_need_a_size_and_are_cut_to_it(tmp_path):
    wide, tall = np.zeros((10, 30, 3), np.uint8), np.zeros((40, 20, 3), np.uint8)
    wide[:, 10:20] = 200  # the centre square is all 200
    tall[10:30] = 100
    prepare(tmp_path, [png(wide), png(tall)], (None, None, 3))
    with pytest.raises(ConfigError, match=r"^data\.tfds\.image_size: "):
        load(tmp_path)
    inputs, _ = load(tmp_path, image_size=8).train.arrays()
    assert inputs.shape == (2, 8, 8, 3)
    # Bilinear resizing blends the one column or row that lies on the edge.
    assert (inputs[0, :, 1:-1] == 200).all()
    assert (inputs[1, 1:-1] == 100).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"train": "tarin"}, r"data\.tfds\.train: no such split 'tarin'; did you mean 'train'.*train, test"),
        ({"test": "validation"}, r"data\.tfds\.test: no such split 'validation'.*train, test"),
        ({"train": "train[:10"}, r"data\.tfds\.train: cannot read"),
        ({"input_key": "imgae"}, r"data\.tfds\.input_key: no feature 'imgae'; did you mean 'image'"),
        ({"target_key": "image"}, r"data\.tfds\.target_key: 'image' is an image; .* needs a class label, here: label"),
        ({"input_key": "label", "image_size": 4}, r"data\.tfds\.image_size: 'label' is no 8-bit image"),
        ({"name": "../pets"}, r"data\.tfds\.name: '../pets' is not a name"),
        ({"name": "pet"}, r"data\.tfds\.name: no such data set 'pet'; did you mean 'pets'"),
        ({"name": "cifar11"}, r"data\.tfds\.name: no such data set 'cifar11'; did you mean 'cifar10'"),
    ],
)
def test_wrong_option_names_its_key(root, given, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load(root, **given)
    assert "\n" not in str(caught.value)


def test_known_set_that_is_not_prepared_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError) as caught:
        tfds(Wanted())
    message = str(caught.value)
    for part in ("nowhere", "TFDS_DATA_DIR", "jtrain[prepare]", "tfds.data_source('cifar10')", "cifar.py:shapes"):
        assert part in message
    assert "\n" not in message


def test_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare(tmp_path / "tensorflow_datasets", [png(p) for p in pixels()], (6, 5, 3))
    assert len(load("").train) == 12


def test_tfrecord_files_are_refused_with_the_way_out(tmp_path):
    prepare(tmp_path, [png(p) for p in pixels()], (6, 5, 3), file_format="tfrecord")
    with pytest.raises(DataError, match=r"stored as tfrecord.*tfds\.data_source\('pets'\)"):
        load(tmp_path)


@pytest.mark.parametrize("cache", [True, False])
def test_image_that_does_not_decode_is_named_by_file_and_record(tmp_path, cache):
    encoded = [png(p) for p in pixels()]
    encoded[6] = encoded[6][:50]  # the first of the second file
    prepare(tmp_path / "data", encoded, (6, 5, 3), shards=2)
    with pytest.raises(DataError, match=r"'train': record 6 .*pets-train\.array_record-00001-of-00002"):
        load(tmp_path / "data", cache=cache).train.arrays()
    assert not list((tmp_path / "cache").rglob("pets-train*/*.npy"))


def test_targets_of_records_need_no_image_and_are_named_when_damaged(tmp_path):
    encoded = [png(p) for p in pixels()]
    encoded[6] = encoded[6][:50]
    folder = prepare(tmp_path, encoded, (6, 5, 3))
    train = load(tmp_path, cache=False).train
    rows = np.array([6, 2, 7])
    assert targets_of(train, rows).tolist() == [0, 2, 1]
    assert targets_of(train, rows).dtype == np.int32
    file = folder / "pets-train.array_record-00000-of-00001"
    file.write_bytes(file.read_bytes()[:0])
    with pytest.raises(BrokenRecord, match=r"'train': record 6 cannot be read"):
        targets_of(load(tmp_path, cache=False).train, rows)


def test_decoded_records_are_not_pickled(root):
    train = load(root, cache=False).train
    inputs, targets = train.arrays()
    pickled = pickle.dumps(train)
    assert inputs[3].tobytes() not in pickled
    assert np.array_equal(pickle.loads(pickled).fetch(np.arange(12))[0], inputs)
    assert targets_of(train, np.array([5])).tolist() == targets[[5]].tolist()


def test_image_of_another_size_than_promised_is_named(tmp_path):
    encoded = [png(p) for p in pixels()]
    encoded[3] = png(np.zeros((9, 9, 3), np.uint8))
    prepare(tmp_path, encoded, (6, 5, 3))
    with pytest.raises(BrokenRecord, match=r"record 3 .*\[9, 9, 3\].*\[6, 5, 3\]"):
        load(tmp_path).train.arrays()


@pytest.mark.parametrize("damage", ["half", "flip", "empty"])
def test_damaged_record_file_is_named_and_not_kept(root, damage, capsys):
    file = root / "pets" / "1.0.0" / "pets-train.array_record-00000-of-00001"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[65536 + 100] ^= 255  # the records begin after a header block of 64 KiB
        data[400] ^= 255
    file.write_bytes({"half": data[: len(data) // 2], "flip": data, "empty": b""}[damage])
    train = load(root).train
    assert isinstance(train, Records)
    assert (
        "warning: decoded data of pets train are not kept: data.tfds: split 'train': record" in capsys.readouterr().err
    )
    with pytest.raises(BrokenRecord, match=r"pets-train\.array_record-00000-of-00001 is damaged"):
        train.arrays()


def test_records_around_damaged_bytes_can_still_be_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3)).astype(np.uint8)
    folder = prepare(tmp_path, [png(p) for p in noise], (40, 40, 3))
    file = folder / "pets-train.array_record-00000-of-00001"
    data = bytearray(file.read_bytes())
    start = data.index(png(noise[2])[100:200])
    data[start : start + 50] = bytes(50)
    file.write_bytes(data)
    train = load(tmp_path, cache=False).train
    broken = []
    for row in range(6):
        try:
            assert np.array_equal(train.fetch(np.array([row]))[0][0], noise[row])
        except BrokenRecord:
            broken.append(row)
    assert broken == [2]
    with pytest.raises(BrokenRecord, match=r"'train': record 2 cannot be read, pets-train.*is damaged.*hash mismatch"):
        train.fetch(np.arange(6))


def test_missing_record_file_is_a_data_error(root):
    (root / "pets" / "1.0.0" / "pets-train.array_record-00000-of-00001").unlink()
    with pytest.raises(DataError, match=r"pets-train\.array_record-00000-of-00001 is missing") as caught:
        load(root)
    assert not isinstance(caught.value, BrokenRecord)  # a file that is not there is more than a bad record


@pytest.mark.parametrize(
    ("targets", "key", "outputs", "expected"),
    [
        ("class", "label", 3, [0, 1, 2, 0]),
        ("classes", "tags", 5, [[1, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 0, 1, 0]]),
        ("classes", "hot", 3, [[0, 1, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]),
        ("values", "age", 1, [0.5, 1.5, 2.5, 3.5]),
        ("values", "pose", 2, [[0, -1], [0.5, -1], [1, -1], [1.5, -1]]),
        ("values", "one", 1, [0, 1, 2, 3]),
        ("any", "", 3, [0, 1, 2, 0]),
        ("any", "age", 1, [0, 0, 0, 0]),
    ],
)
def test_target_is_what_the_task_wants(many, targets, key, outputs, expected):
    for cache in (True, True, False):
        dataset = tfds(Wanted(0, targets), name="many", data_dir=str(many), test="", target_key=key, cache=cache)
        inputs, found = dataset.train.arrays()
        np.testing.assert_array_equal(found, np.array(expected))
        assert np.array_equal(inputs, pixels(4))
        assert found.dtype == (np.int32 if targets in ("class", "any") else np.float32)
        assert (dataset.num_outputs, dataset.targets) == (outputs, "class" if targets == "any" else targets)
        check_targets(found, dataset.targets, dataset.num_outputs, "train")
    assert dataset.class_names == {"label": NAMES, "": NAMES, "tags": tuple("01234")}.get(key, ())


@pytest.mark.parametrize(
    ("targets", "key", "words"),
    [
        ("values", "label", r"'label' is a class label; the task needs a number, or a row of them, here: age, hot, "
                            r"ids, one, pose, wide; 'label' suits task\.name=\"classification\""),
        ("class", "age", r"'age' is numbers of shape \[\]; the task needs a class label, here: label; "
                         r"'age' suits task\.name=\"regression\""),
        ("class", "tags", r"'tags' is a list of class labels; .* suits task\.name=\"multilabel\""),
        ("classes", "label", r"'label' is a class label; the task needs a list of class labels, or 0 or 1 for every"),
        ("values", "words", r"'words' is not numbers of a fixed shape; the task needs a number, or a row of them"),
        ("values", "image", r"'image' is an image; the task needs a number"),
        ("any", "lable", r"no feature 'lable'; did you mean 'label'"),
    ],
)  # fmt: skip
def test_target_that_does_not_suit_the_task_is_told_with_those_that_do(many, targets, key, words):
    with pytest.raises(ConfigError, match=r"^data\.tfds\.target_key: " + words) as caught:
        tfds(Wanted(0, targets), name="many", data_dir=str(many), test="", target_key=key)
    assert "\n" not in str(caught.value)


def test_tokens_are_not_to_be_had(many):
    with pytest.raises(ConfigError, match=r'"tfds" gives no tokens; for text choose data\.name="text"'):
        tfds(Wanted(0, "tokens"), name="many", data_dir=str(many), test="")


def test_set_without_labels_serves_a_task_that_makes_its_own_targets(tmp_path):
    from tensorflow_datasets import features as kinds

    folder = tmp_path / "plain" / "1.0.0"
    write_records(folder, "plain", [{"image": [png(p)]} for p in pixels(3)])
    kinds.FeaturesDict({"image": kinds.Image(shape=(6, 5, 3))}).save_config(str(folder))
    dataset = tfds(Wanted(0, "any"), name="plain", data_dir=str(tmp_path), test="", cache=False)
    assert np.array_equal(dataset.train.arrays()[0], pixels(3))
    assert dataset.train.arrays()[1].tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match=r"target_key: no feature 'label'; choose from image"):
        tfds(Wanted(), name="plain", data_dir=str(tmp_path), test="")


def test_inputs_may_be_numbers_in_a_type_that_a_device_takes(many):
    given = {"name": "many", "data_dir": str(many), "test": "", "cache": False}
    whole, _ = tfds(Wanted(), input_key="ids", **given).train.arrays()
    assert whole.dtype == np.int32
    assert whole.tolist() == [[i, -i, 2**31 - 1] for i in range(4)]
    broken, _ = tfds(Wanted(), input_key="pose", **given).train.arrays()
    assert broken.dtype == np.float32
    wide = tfds(Wanted(), input_key="wide", **given).train
    assert wide.fetch(np.array([0, 1, 3]))[0].tolist() == [0, 1, 3]
    with pytest.raises(BrokenRecord, match=r"record 2 .*1099511627776, which does not fit int32"):
        wide.arrays()


def test_label_outside_its_classes_in_a_list_is_a_broken_record(tmp_path):
    from tensorflow_datasets import features as kinds

    folder = tmp_path / "odd" / "1.0.0"
    write_records(folder, "odd", [{"image": [png(p)], "label": [1, -1]} for p in pixels(1)])
    label = kinds.Sequence(kinds.ClassLabel(num_classes=3))
    kinds.FeaturesDict({"image": kinds.Image(shape=(6, 5, 3)), "label": label}).save_config(str(folder))
    train = tfds(Wanted(0, "classes"), name="odd", data_dir=str(tmp_path), test="", cache=False).train
    with pytest.raises(BrokenRecord, match=r"record 0 .*it has a class -1; valid are 0 to 2"):
        train.fetch(np.array([0]))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_description_is_a_data_error(root, name):
    (root / "pets" / "1.0.0" / name).write_text("{")
    with pytest.raises(DataError, match="damaged"):
        load(root)


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set: no CIFAR-10 to read")
def test_cifar_equals_what_tensorflow_datasets_decodes():
    import tensorflow_datasets

    rows = [0, 17, 9999]
    source = tensorflow_datasets.data_source(
        "cifar10", split="test", download=False, data_dir=os.environ["TFDS_DATA_DIR"]
    )
    dataset = tfds(Wanted(), test="test", cache=False)
    inputs, targets = dataset.test.fetch(np.array(rows))
    for i, row in enumerate(rows):
        assert np.array_equal(inputs[i], source[row]["image"])
        assert targets[i] == source[row]["label"]
    assert len(dataset.train) == 50_000
    assert dataset.class_names[3] == "cat"


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set: no CIFAR-10 to read")
def test_cifar_slice_goes_through_the_cache():
    plain = tfds(Wanted(), train="test[:300]", test="", cache=False).train.arrays()
    for _ in range(2):
        kept = tfds(Wanted(), train="test[:300]", test="").train
        assert isinstance(kept.arrays()[0], np.memmap)
        assert np.array_equal(kept.arrays()[0], plain[0])
        assert np.array_equal(kept.arrays()[1], plain[1])
