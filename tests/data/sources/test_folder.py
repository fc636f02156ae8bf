import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jtrain.data.examples import BrokenRecord, Wanted, check_targets, cut_validation, targets_of
from jtrain.data.sources.folder import folder
from jtrain.errors import ConfigError, DataError
from jtrain.table import options


def image(path, seed=0, height=6, width=4) -> np.ndarray:
    """Writes an image of random pixels; a .png keeps them as they are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(path)
    return pixels


def classes(root, count=5, names=("cat", "dog"), ending="png", **size) -> dict[bytes, str]:
    """Writes images of each class; {pixels: class}."""
    return {
        image(root / name / f"{i}.{ending}", seed=100 * k + i, **size).tobytes(): name
        for k, name in enumerate(names)
        for i in range(count)
    }


def load(root, wanted=Wanted(), **given):  # noqa: B008
    return folder(wanted, path=str(root), **given)


def labelled(dataset, *splits) -> dict[bytes, str]:
    arrays = [getattr(dataset, split).arrays() for split in splits]
    return {
        one.tobytes(): dataset.class_names[label]
        for inputs, targets in arrays
        for one, label in zip(inputs, targets, strict=True)
    }


def test_options_have_defaults_that_hold():
    for key, option in options(folder).items():
        assert option.check(option.default) == option.default, key


def test_every_image_has_the_class_of_its_folder(tmp_path):
    given = classes(tmp_path, names=("dog", "cat", "Ant"))
    dataset = load(tmp_path)
    assert dataset.class_names == ("Ant", "cat", "dog")
    assert labelled(dataset, "train", "test") == given
    inputs, targets = dataset.train.arrays()
    assert (inputs.dtype, inputs.shape[1:], targets.dtype) == (np.uint8, (6, 4, 3), np.int32)
    assert (dataset.val, dataset.num_outputs, dataset.targets) == (None, 3, "class")
    assert dataset.name == tmp_path.name
    assert dataset.note == ""
    check_targets(targets, "class", 3, "train")


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_test_split_is_stratified_and_the_same_for_every_seed(tmp_path, share):
    classes(tmp_path, 10)
    one, other = (load(tmp_path, Wanted(seed), test=share) for seed in (0, 1))
    assert np.array_equal(one.test.arrays()[0], other.test.arrays()[0])
    assert np.bincount(one.test.arrays()[1]).tolist() == [10 * share, 10 * share]
    assert np.bincount(one.train.arrays()[1]).tolist() == [10 - 10 * share, 10 - 10 * share]
    assert not set(labelled(one, "train")) & set(labelled(one, "test"))


def test_two_images_of_a_class_are_one_in_train_and_one_in_test(tmp_path):
    classes(tmp_path, 2)
    dataset = load(tmp_path, test=0.01)
    assert dataset.train.arrays()[1].tolist() == dataset.test.arrays()[1].tolist() == [0, 1]
    assert load(tmp_path, test=0.0).test is None


def test_folder_of_splits_is_taken_as_it_is(tmp_path):
    given = {split: classes(tmp_path / split, n) for split, n in (("train", 4), ("val", 1), ("test", 3))}
    dataset = load(tmp_path)
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [8, 2, 6]
    for split, expected in given.items():
        assert labelled(dataset, split) == expected
    only_train = tmp_path / "other"
    classes(only_train / "train", 1)
    dataset = load(only_train)
    assert dataset.val is dataset.test is None
    assert len(dataset.train) == 2


def test_a_class_may_be_called_train(tmp_path):
    classes(tmp_path, 3, names=("train", "plane", "test"))
    assert load(tmp_path).class_names == ("plane", "test", "train")


def test_fetched_images_are_those_of_the_arrays(tmp_path):
    classes(tmp_path, 4)
    dataset = load(tmp_path, test=0.0)
    rows = np.array([5, 0, 5, 2])
    fetched = dataset.train.fetch(rows)
    size = dataset.train.nbytes
    inputs, targets = dataset.train.arrays()
    assert np.array_equal(fetched[0], inputs[rows])
    assert np.array_equal(fetched[1], targets[rows])
    assert size == inputs.nbytes + targets.nbytes
    assert dataset.train.arrays()[0] is inputs  # decoded once
    assert np.array_equal(dataset.train.fetch(rows)[0], fetched[0])
    train, val = cut_validation(dataset.train, 0.25, seed=0)
    assert (len(train), len(val)) == (6, 2)


def test_examples_go_to_another_process_that_needs_no_jax(tmp_path):
    classes(tmp_path / "images")
    examples = load(tmp_path / "images").train
    (tmp_path / "pickle").write_bytes(pickle.dumps(examples))
    code = (
        "import pickle, sys, numpy; examples = pickle.load(open(sys.argv[1], 'rb'));"
        "print(int(examples.fetch(numpy.arange(len(examples)))[0].sum()), 'jax' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pickle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(examples.arrays()[0].sum(dtype=int)), "False"]


def test_a_small_cut_decodes_none_of_the_other_images_and_nothing_decoded_is_pickled(tmp_path):
    classes(tmp_path, 10)
    examples = load(tmp_path, test=0.0).train
    _, val = cut_validation(examples, 0.1, seed=0)
    before = pickle.dumps(examples)
    for file in {str(f) for f in tmp_path.rglob("*.png")} - {examples._files[row] for row in val.rows}:
        open(file, "wb").close()
    assert len(val.arrays()[0]) == 2
    assert pickle.dumps(examples) == before
    classes(tmp_path, 10)
    examples.arrays()
    assert pickle.dumps(examples) == before


def test_targets_need_no_image(tmp_path):
    classes(tmp_path, 3)
    examples = load(tmp_path, test=0.0).train
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    assert targets_of(examples, np.array([5, 0, 5])).tolist() == [1, 0, 1]


def test_endings_are_known_in_capitals_and_the_rest_is_counted(tmp_path):
    classes(tmp_path, 2)
    for name in ("cat/a.PNG", "cat/b.Jpg", "dog/c.jpeg", "dog/d.webp", "dog/e.GIF", "dog/f.bmp"):
        image(tmp_path / name)
    for name in (".hidden.png", "cat/.hidden.png", ".git/x.png"):
        image(tmp_path / name)
    dataset = load(tmp_path, test=0.0)
    assert np.bincount(dataset.train.arrays()[1]).tolist() == [4, 6]
    assert dataset.note == ""
    (tmp_path / "cat" / "notes.txt").touch()
    assert load(tmp_path).note == "cat/notes.txt is passed over: it is no image of a class"
    image(tmp_path / "dog" / "more" / "g.png")
    image(tmp_path / "readme.png")
    note = load(tmp_path).note
    assert note == "3 files or folders, such as cat/notes.txt, are passed over: they are no images of a class"


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_many_sizes_are_resized(tmp_path, channels):
    classes(tmp_path, 2, names=("a",), height=9, width=5)
    pixels = image(tmp_path / "b" / "0.png", height=5, width=8)
    image(tmp_path / "b" / "1.png", seed=1, height=30, width=7)
    dataset = load(tmp_path, image_size=5, channels=channels, test=0.0)
    inputs, _ = dataset.train.arrays()
    assert inputs.shape == (4, 5, 5, channels)
    centre = Image.fromarray(pixels[:, 1:6]).convert("L" if channels == 1 else "RGB")
    assert np.array_equal(inputs[2], np.asarray(centre).reshape(5, 5, channels))


def test_images_of_many_sizes_need_one(tmp_path):
    classes(tmp_path, 2)
    image(tmp_path / "dog" / "z.png", height=3, width=7)
    with pytest.raises(
        ConfigError,
        match=r"^data\.folder\.image_size: .*cat/0\.png is 4 × 6 pixels and .*dog/z\.png is 7 × 3 pixels; set data",
    ):
        load(tmp_path)


def test_photographs_stored_sideways_have_the_size_they_are_seen_in(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    classes(tmp_path, 2)
    for name in ("x.jpg", "y.png"):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "cat" / name, exif=exif)
    assert load(tmp_path, test=0.0).train.arrays()[0].shape == (6, 6, 4, 3)


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "half"])
@pytest.mark.parametrize("image_size", [0, 8])
def test_broken_image_is_named_when_it_is_fetched(tmp_path, content, image_size):
    classes(tmp_path, 3)
    broken = tmp_path / "cat" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60] if content is None else content)
    dataset = load(tmp_path, image_size=image_size, test=0.0)
    dataset.train.fetch(np.array([0, 2, 5]))
    for read in (lambda: dataset.train.fetch(np.array([0, 1])), dataset.train.arrays):
        with pytest.raises(BrokenRecord, match=r"^data\.folder: .*cat/1\.png cannot be read as an image \(.+\); copy"):
            read()


def test_vanished_and_changed_and_huge_images_are_broken(tmp_path, monkeypatch):
    classes(tmp_path, 3)
    dataset = load(tmp_path, test=0.0)
    (tmp_path / "cat" / "0.png").unlink()
    image(tmp_path / "cat" / "1.png", height=8, width=8)
    with pytest.raises(BrokenRecord, match=r"cat/0\.png .*No such file"):
        dataset.train.fetch(np.array([0]))
    with pytest.raises(BrokenRecord, match=r"it is 8 × 8 pixels, the others are 4 × 6 pixels"):
        dataset.train.fetch(np.array([1]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BrokenRecord, match=r"cat/2\.png .*decompression bomb"):
        dataset.train.fetch(np.array([2]))


def test_size_is_that_of_the_first_image_that_can_be_read(tmp_path):
    classes(tmp_path, 2)
    (tmp_path / "cat" / "0.png").write_bytes(b"")
    assert load(tmp_path).train.nbytes == 2 * (6 * 4 * 3 + 4)  # and an int32 each
    for name in ("cat/1", "dog/0", "dog/1"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"not one of 4 images can be read, such as .*cat/0\.png"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], r"has no folders of classes$"),
        (["a.png", "b.png"], r"has no folders of classes; put its 2 images into one folder for each class"),
        (["cat/0.png", "cat/1.png"], r"has one class alone, 'cat'"),
        (["cat/0.png", "cat/1.png", "dog/0.png"], r"dog holds one image alone; a class needs two"),
        (["cat/0.png", "cat/1.png", "dog/notes.txt"], r"dog holds no images itself \(bmp, gif, jpeg, jpg, png, webp\)"),
        (["cat/0.png", "cat/1.png", "dog/more/0.png"], r"dog holds no images itself"),
        (["train/a/0.png", "train/b/0.png", "test/a/0.png"], r"train has a class 'b' that .*test lacks"),
        (["train/a/0.png", "val/a/0.png", "val/b/0.png"], r"val has a class 'b' that .*train lacks"),
        (["train/a/0.png", "valid/a/0.png"], r"beside it 'valid', which is no split; did you mean 'val'\?"),
        (["train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/x.txt"], r"val/b holds no images itself"),
    ],
)
def test_folders_laid_out_otherwise_are_named(tmp_path, files, words):
    for file in files:
        if file.endswith(".png"):
            image(tmp_path / file)
        else:
            (tmp_path / file).parent.mkdir(parents=True)
            (tmp_path / file).touch()
    with pytest.raises(DataError, match=rf"^data\.folder\.path: .*{words}") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_path_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^data\.folder\.path: is empty"):
        folder(Wanted())
    with pytest.raises(DataError, match=r"^data\.folder\.path: no folder .*nothing"):
        load(tmp_path / "nothing")
    image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png cannot be read as a folder \(Not a directory\)"):
        load(tmp_path / "a.png")


@pytest.mark.parametrize("targets", ["classes", "values", "tokens"])
def test_other_tasks_are_told_which_one_takes_folders(targets):
    with pytest.raises(ConfigError, match=r'^data\.name: "folder" .*; set task\.name="classification"'):
        folder(Wanted(targets=targets), path="x")


def test_any_target_takes_one_folder_of_images(tmp_path):
    classes(tmp_path, 3, names=("all",))
    dataset = load(tmp_path, Wanted(targets="any"))
    assert dataset.train.arrays()[1].tolist() == [0, 0]
    assert dataset.class_names == ("all",)
