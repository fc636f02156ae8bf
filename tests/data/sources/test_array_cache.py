import errno
import multiprocessing

import numpy as np
import pytest

from jtrain.data.sources import array_cache

INPUTS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
TARGETS = np.array([3, 1, 4, 1, 5], np.int32)
NOTE = {"num_classes": 6}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return array_cache.place("set-train[:90%]", {"split": "train"})


def chunks():
    yield INPUTS[:2], TARGETS[:2]
    yield INPUTS[2:], TARGETS[2:]


def keep(folder, fingerprint="one"):
    array_cache.write(folder, fingerprint, chunks(), examples=5, note=NOTE)


def test_what_was_kept_comes_back_mapped_and_read_only(folder):
    assert array_cache.read(folder, "one") is None
    keep(folder)
    inputs, targets, note = array_cache.read(folder, "one")
    assert np.array_equal(inputs, INPUTS)
    assert np.array_equal(targets, TARGETS)
    assert (inputs.dtype, targets.dtype) == (np.uint8, np.int32)
    assert note == NOTE
    assert isinstance(inputs, np.memmap)
    assert not inputs.flags.writeable


def test_request_decides_the_place(folder):
    assert folder == array_cache.place("set-train[:90%]", {"split": "train"})
    assert folder != array_cache.place("set-train[:90%]", {"split": "test"})
    assert "/" not in folder.name
    assert "[" not in folder.name


def test_other_source_files_make_it_stale_and_it_is_replaced(folder):
    keep(folder)
    old = array_cache.read(folder, "one")[0]
    assert array_cache.read(folder, "two") is None
    keep(folder, "two")
    assert array_cache.read(folder, "two") is not None
    assert np.array_equal(old, INPUTS)  # who has it open keeps it
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def retype(file):
    np.save(file, np.load(file).view(np.int8 if file.stem == "inputs" else np.uint32))


@pytest.mark.parametrize("name", ["inputs.npy", "targets.npy", "meta.json"])
@pytest.mark.parametrize("damage", [flip, cut, empty, retype, lambda file: file.unlink()])
def test_damage_is_noticed_and_said(folder, name, damage, capsys):
    if damage is retype and name == "meta.json":
        pytest.skip("meta.json is no array")
    keep(folder)
    damage(folder / name)
    assert array_cache.read(folder, "one") is None
    assert "is damaged" in capsys.readouterr().err
    keep(folder)
    assert array_cache.read(folder, "one") is not None


def test_full_disk_raises_and_leaves_the_old_one_alone(folder):
    keep(folder)

    def failing():
        yield INPUTS[:2], TARGETS[:2]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        array_cache.write(folder, "two", failing(), examples=5, note=NOTE)
    assert array_cache.read(folder, "one") is not None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_leftovers_of_a_killed_process_are_removed_after_a_day(folder, monkeypatch):
    (folder.parent / ".tmp-fresh").mkdir()
    keep(folder)
    assert (folder.parent / ".tmp-fresh").exists()
    monkeypatch.setattr(array_cache, "_LEFTOVER", -60)
    (folder.parent / ".tmp-old").mkdir()
    array_cache._remove_leftovers(folder.parent)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def _write_often(folder):
    for _ in range(30):
        keep(folder)


def test_processes_that_write_at_once_leave_one_whole_folder(folder):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(folder,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    _write_often(folder)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert array_cache.read(folder, "one") is not None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
