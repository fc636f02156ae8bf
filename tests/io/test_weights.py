import json
import os
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from jtrain.errors import DataError
from jtrain.io import weights


def raw(header, content=b""):
    """The bytes of a safetensors file, made by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def record(dtype, shape, start, stop):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.safetensors"


def refused(path, content, match):
    path.write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        weights.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_arrays_come_back_as_they_were_whatever_their_memory_order(path):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {
        "transposed": base.transpose(2, 0, 1),
        "strided": base[:, ::2],
        "counter": np.zeros((), np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "half": np.arange(6, dtype=np.float64).reshape(2, 3),
    }
    weights.write(path, arrays, {"model": "mlp"})
    found = weights.read(path)
    assert list(found) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert weights.read_metadata(path) == {"model": "mlp"}
    assert list(path.parent.iterdir()) == [path]


def test_other_readers_of_the_format_see_the_same(path):
    array = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32).T
    weights.write(path, {"a": array}, {})
    np.testing.assert_array_equal(load_file(path)["a"], array, strict=True)
    assert weights.read_metadata(path) == {}


@pytest.mark.parametrize(("name", "dtype"), [("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_every_16_bit_float_is_read_as_the_float32_of_the_same_value(path, name, dtype):
    bits = np.arange(2**16, dtype=np.uint16)
    path.write_bytes(raw({"a": record(name, [2**16], 0, 2**17)}, bits.tobytes()))
    found = weights.read(path)["a"]
    np.testing.assert_array_equal(found, bits.view(dtype).astype(np.float32), strict=True)


def test_a_read_array_may_be_written_into(path):
    weights.write(path, {"a": np.ones(3, np.float32)}, {})
    found = weights.read(path)["a"]
    found[0] = 2
    assert found.tolist() == [2, 1, 1]
    assert weights.read(path)["a"].tolist() == [1, 1, 1]


def test_a_file_cut_short_anywhere_is_refused(path):
    weights.write(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(2)}, {"k": "v"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        refused(path, whole[:length], "damaged|empty")
    refused(path, whole + b"\0", "damaged")


def test_a_flipped_byte_of_the_head_is_refused_or_leaves_arrays(path):
    weights.write(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(2)}, {"k": "v"})
    whole = path.read_bytes()
    for position in range(int.from_bytes(whole[:8], "little") + 8):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :])
        for read in (weights.read, weights.read_metadata):
            try:
                read(path)
            except DataError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017 (many are read without one)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04"], ids=["pickle", "zip"])
def test_a_torch_pickle_is_never_opened(path, tmp_path, monkeypatch, start):
    monkeypatch.chdir(tmp_path)
    refused(path, start + pickle.dumps(Trap(), protocol=2), r"can run code and are not read.*safetensors\.torch\.save_")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "no safetensors file"),
        (struct.pack("<Q", 2**63) + b"{", "no safetensors file, or damaged"),
        (raw({}), "holds no arrays"),
        (raw({"__metadata__": {"a": "b"}}), "holds no arrays"),
        (raw([1, 2]), "no safetensors file, or damaged"),
        (raw(b"[" * 5000), "no safetensors file, or damaged"),
        (raw({"a": record("F32", [2**40, 2**40], 0, 4)}, b"\0" * 4), "damaged"),
        (raw({"a": record("F32", [-1], 0, 4)}, b"\0" * 4), "damaged"),
        (raw({"a": record("F32", [2], 0, 4)}, b"\0" * 4), "damaged"),
        (raw({"a": record("F32", [1], 0, 4), "b": record("F32", [1], 0, 4)}, b"\0" * 4), "damaged"),
        (raw({"a": record("F8_E4M3", [4], 0, 4)}, b"\0" * 4), "'a' is of type F8_E4M3|damaged"),
    ],
)
def test_what_is_no_whole_safetensors_file_is_refused_with_a_reason(path, content, match):
    refused(path, content, match)


def test_a_name_that_stands_twice_is_refused_even_over_the_same_bytes(path):
    one = json.dumps(record("F32", [1], 0, 4)).encode()
    refused(path, raw(b'{"a": ' + one + b', "a": ' + one + b"}", b"\0" * 4), "holds 'a' twice")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        weights.read(tmp_path / "none.safetensors")
    with pytest.raises(DataError, match="is no file"):
        weights.read(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    weights.write(path, {"a": np.ones(3)}, {})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        weights.write(path, {"a": np.zeros(3)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
