import io
import subprocess
import sys
import zlib

import numpy as np
import pytest

from jtrain.data.examples import Wanted, check_targets, check_tokens
from jtrain.data.sources import SOURCES, from_arrays
from jtrain.errors import ConfigError, DataError
from jtrain.table import options


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_takes_a_seed_and_options_with_defaults(name):
    for key, option in options(SOURCES[name]).items():
        assert option.check(option.default) == option.default, key


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    loaded = load_digits()
    dataset = SOURCES["digits"](Wanted())
    together = [np.concatenate(pair) for pair in zip(dataset.train.arrays(), dataset.test.arrays(), strict=True)]
    assert together[0].dtype == np.uint8
    assert together[0].shape == (1797, 8, 8, 1)
    ours = sorted((i.tobytes(), int(t)) for i, t in zip(*together, strict=True))
    images = np.floor(loaded.images * 255 / 16 + 0.5).astype(np.uint8)  # from 0 to 16 there
    theirs = sorted((i.tobytes(), int(t)) for i, t in zip(images, loaded.target, strict=True))
    assert ours == theirs


@pytest.mark.parametrize("share", [0.2, 0.5, 0.01])
def test_digits_test_split_is_stratified_and_the_same_for_every_seed(share):
    one, other = (SOURCES["digits"](Wanted(seed), test=share) for seed in (0, 1))
    assert np.array_equal(one.test.arrays()[0], other.test.arrays()[0])
    in_train, in_test = (np.bincount(split.arrays()[1]) for split in (one.train, one.test))
    assert in_test.tolist() == [round(share * count) for count in in_train + in_test]


def test_digits_keep_their_split():
    """The checksum of the test digits' pixels, from the first version on: a change would make results incomparable."""
    assert zlib.crc32(SOURCES["digits"](Wanted()).test.arrays()[0].tobytes()) == 0xC9CE3748


@pytest.mark.parametrize(("share", "tested"), [(0.0001, 10), (0.9999, 1787)])
def test_each_digit_is_in_test_and_in_train_whatever_the_share(share, tested):
    dataset = SOURCES["digits"](Wanted(), test=share)
    assert len(dataset.test) == tested
    assert set(dataset.train.arrays()[1]) == set(dataset.test.arrays()[1]) == set(range(10))


def test_digits_without_a_test_share_have_no_test_split():
    dataset = SOURCES["digits"](Wanted(), test=0.0)
    assert dataset.test is None
    assert len(dataset.train) == 1797


def test_digits_load_without_importing_scikit_learn():
    code = (
        "import sys; from jtrain.data.sources import SOURCES; SOURCES['digits'](None); print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def pair(count=4, features=3, classes=2):
    return np.ones((count, features), np.float32), np.arange(count) % classes


def test_pair_becomes_the_train_split():
    dataset = from_arrays(pair(6, classes=3))
    assert len(dataset.train) == 6
    assert dataset.val is dataset.test is None
    assert dataset.num_outputs == 3


def test_classes_are_counted_over_all_splits():
    dataset = from_arrays({"train": pair(classes=2), "val": pair(classes=3), "test": pair(8, classes=5)})
    assert dataset.num_outputs == 5
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (4, 4, 8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float64, np.float32),
        (np.longdouble, np.float32),
        (np.int64, np.int32),
        (np.uint32, np.int32),
        (np.uint8, np.uint8),
        (np.float16, np.float16),
    ],
)
def test_wide_types_become_what_a_device_computes_in(given, expected):
    inputs, targets = from_arrays((np.array([[1], [200]], given), [0, 1])).train.arrays()
    assert inputs.dtype == expected
    assert inputs.tolist() == [[1], [200]]
    assert targets.dtype == np.int32


def test_infinities_of_the_user_are_left_for_the_check_of_values():
    inputs, _ = from_arrays((np.array([[np.inf], [np.nan]]), [0, 1])).train.arrays()
    np.testing.assert_array_equal(inputs, np.array([[np.inf], [np.nan]], np.float32))


def test_boolean_targets_are_classes_0_and_1():
    dataset = from_arrays((np.ones((3, 2)), np.array([True, False, True])))
    assert dataset.train.arrays()[1].tolist() == [1, 0, 1]
    assert dataset.train.arrays()[1].dtype == np.int32
    assert dataset.num_outputs == 2


x, y = pair()


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (x, ConfigError, "dict of such pairs, got ndarray"),
        ({"trian": (x, y)}, ConfigError, "no such split 'trian'; did you mean 'train'"),
        ({"test": (x, y)}, ConfigError, "no 'train' split, only test"),
        ({"train": x}, ConfigError, "train must be a pair"),
        (
            {"train": (x, y), "test": (x[:, :2], y)},
            DataError,
            r"test inputs are float32 \[2\].*train are float32 \[3\]",
        ),
        ({"train": (x, y), "val": (x.astype(np.uint8), y)}, DataError, "val inputs are uint8"),
        ({"train": (x, y), "val": (x, y[:3])}, DataError, r"val has 4 inputs, but targets of shape \[3\]"),
        ((x, y.astype(np.float32)), DataError, "train targets must be whole numbers.*float32"),
        ((x, y - 1), DataError, "train target of row 0 is -1"),
        ((x[:0], y[:0]), DataError, "train inputs must be .* with at least one"),
        ((np.array(["a", "b"]), [0, 1]), DataError, "train inputs must be numbers"),
        (([[1, 2], [3]], [0, 1]), DataError, "train is not an array"),
        ((np.array([[2**40]]), [0]), DataError, "train inputs hold 1099511627776, .* not fit 32 bits"),
        ((np.array([[1.0], [1e300]]), [0, 1]), DataError, r"train inputs hold 1e\+300 in row 1, .*float32"),
        ((np.array([[1.0], [-1e300]]), [0, 1]), DataError, r"train inputs hold -1e\+300 in row 1, .*float32"),
        ((np.zeros((4, 0)), y), DataError, r"train inputs must be .* with at least one number, got shape \[4, 0\]"),
        ((np.zeros(4, [("a", int)]), y), DataError, "train inputs must be numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_named_by_split(data, kind, words):
    with pytest.raises(kind, match=words):
        from_arrays(data)


TOKENS = Wanted(targets="tokens")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_tokens_are_counted_in_inputs_too(dtype):
    tokens = np.array([[0, 1, 2], [1, 0, 2]], dtype)
    dataset = from_arrays({"train": (tokens, tokens), "val": (np.array([[0, 9, 0]], dtype), tokens[:1])}, TOKENS)
    assert dataset.num_outputs == 10
    assert dataset.val.arrays()[0].dtype == np.int32  # uint8 would be taken for pixels
    check_tokens(dataset.val.arrays()[0], 10, "val")


def test_inputs_of_tokens_may_be_numbers():
    dataset = from_arrays((np.full((2, 3), -70.5), np.array([[0, 1, 2], [1, 0, 2]])), TOKENS)
    assert dataset.num_outputs == 3


def test_negative_input_token_is_named_with_split_and_row():
    tokens = np.array([[0, 1, 2], [1, 0, 2]])
    with pytest.raises(DataError, match=r"^data: val input token of row 1 is -3; valid are 0 to "):
        from_arrays({"train": (tokens, tokens), "val": (np.array([[0, 1, 2], [1, -3, 2]]), tokens)}, TOKENS)


def test_name_arrays_alone_says_where_they_come_from():
    with pytest.raises(ConfigError, match=r"jtrain\.assemble\(config, data=.*digits, shapes"):
        SOURCES["arrays"](Wanted())


def saved(path, **given) -> str:
    np.savez(path, **given)
    return str(path)


def test_npz_gives_the_arrays_of_its_splits(tmp_path):
    inputs, targets = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32), np.arange(9) % 3
    path = saved(tmp_path / "a.npz", train_x=inputs, train_y=targets, test_x=inputs[:2], test_y=targets[:2])
    dataset = SOURCES["npz"](Wanted(), path=path, inputs="x", targets="y")
    assert np.array_equal(dataset.train.arrays()[0], inputs)
    assert np.array_equal(dataset.test.arrays()[1], targets[:2])
    assert dataset.val is None
    assert dataset.num_outputs == 3
    check_targets(dataset.train.arrays()[1], "class", 3, "train")


def test_npz_without_a_path_names_the_key():
    with pytest.raises(ConfigError, match=r"^data\.npz\.path: "):
        SOURCES["npz"](Wanted())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"train_inputs": x}, "has no 'train_targets'; it has: train_inputs"),
        ({"inputs": x, "targets": y}, "has no 'train_inputs'; it has: inputs, targets"),
        ({"train_inputs": x, "train_targets": y, "val_inputs": x}, "has no 'val_targets'"),
        ({"train_inputs": x, "train_targets": y[:2]}, "a.npz: train has 4 inputs"),
    ],
)
def test_npz_with_missing_or_unequal_arrays_is_named(tmp_path, arrays, words):
    path = saved(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        SOURCES["npz"](Wanted(), path=path)


def npy_bytes() -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def npz_bytes(**given) -> bytes:
    file = io.BytesIO()
    np.savez(file, **given)
    return file.getvalue()


GOOD = npz_bytes(train_inputs=np.zeros((500, 8)), train_targets=np.zeros(500, np.int32))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a zip",
        GOOD[:40],
        GOOD[: len(GOOD) // 2],
        GOOD[:-10],
        npy_bytes(),
        GOOD[:900] + b"\xff" * 50 + GOOD[950:],
    ],
    ids=["empty", "text", "header", "half", "tail", "npy", "flipped"],
)
def test_damaged_npz_is_a_clear_error(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz") as caught:
        SOURCES["npz"](Wanted(), path=str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)


def test_npz_never_unpickles(tmp_path):
    path = saved(tmp_path / "a.npz", train_inputs=np.array([{"a": 1}], object), train_targets=np.array([0]))
    with pytest.raises(DataError, match="cannot be read"):
        SOURCES["npz"](Wanted(), path=path)


def test_missing_npz_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*nothing\.npz"):
        SOURCES["npz"](Wanted(), path=str(tmp_path / "nothing.npz"))
    with pytest.raises(DataError, match="cannot be read"):
        SOURCES["npz"](Wanted(), path=str(tmp_path))
