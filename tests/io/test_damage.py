import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jtrain.errors import DataError
from jtrain.io import arrays as arrays_io
from jtrain.io import manifest
from jtrain.io.checkpoint import Checkpoints


def arrays(seed=0):
    values = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    return {"params/kernel": values, "params/empty": np.zeros((0, 3)), "step": np.array(seed, np.int32)}


def same(found, expected):
    assert list(found) == sorted(expected)
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, strict=True)


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_saving_a_damaged_step_again_replaces_it(make):
    checkpoints = make()
    checkpoints.save(2, {"a": np.ones(3)}, {}, block=True)
    (checkpoints.folder / "2" / "manifest.json").write_text("{}")
    checkpoints.save(2, {"a": np.zeros(3)}, {}, block=True)
    assert not checkpoints.restore(2).state["a"].any()
    assert [p.name for p in checkpoints.folder.iterdir()] == ["2"]


def test_the_only_whole_checkpoint_outlives_damaged_newer_ones(make):
    checkpoints = make(keep=3)
    for step in (100, 200, 300):
        checkpoints.save(step, arrays(step), {}, block=True)
    for step in (200, 300):
        (checkpoints.folder / str(step) / "manifest.json").unlink()
    again = make(keep=1)
    assert again.restore().step == 100
    assert again.steps() == [100]
    again.save(250, arrays(250), {}, block=True)  # 300 must not count as the newest that is kept
    assert make().restore().step == 250
    assert again.steps() == [250]


def damage(kind, path):
    content = path.read_bytes()
    if kind == "deleted":
        path.unlink()
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[:-1])
    elif kind == "longer":
        path.write_bytes(content + b"\0")
    else:
        position = kind * (len(content) - 1) // 7
        path.write_bytes(content[:position] + bytes([content[position] ^ 1 << kind]) + content[position + 1 :])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    one = Checkpoints(folder, keep=5, event=print)
    one.save(300, arrays(3), {"lr": 1e-05}, block=True)
    one.save(400, arrays(4), {"lr": 1e-05})
    one.close()
    return folder


@pytest.mark.parametrize("kind", ["deleted", "emptied", "truncated", "longer", 0, 3, 7])
def test_damage_to_any_file_is_noticed_and_the_one_before_is_used(whole, make, events, tmp_path, kind):
    for number in range(len(files_of(whole / "400"))):
        checkpoints = make()
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
        shutil.copytree(whole, checkpoints.folder)
        target = files_of(checkpoints.folder / "400")[number]
        if kind == "emptied" and target.stat().st_size == 0:
            continue
        if target.stat().st_size == 0 and kind not in ("deleted", "longer"):
            continue
        damage(kind, target)
        events.clear()
        restored = checkpoints.restore()
        assert restored.step == 300, target
        same(restored.state, arrays(3))
        assert len(events) == 1
        assert events[0][1].startswith("checkpoint 400 is damaged (")
        assert target.name in events[0][1]
        assert events[0][1].endswith("using 300")


def flip_bits(whole, folder, count):
    """Flips a bit of the newest checkpoint, `count` times anew; how often that was noticed, and the one before used."""
    generator, noticed = np.random.default_rng(0), 0
    shutil.copytree(whole, folder)
    targets = files_of(folder / "400")
    ends = np.cumsum([path.stat().st_size for path in targets])
    for position in generator.integers(ends[-1], size=count):
        number = int(np.searchsorted(ends, position, side="right"))
        target, events = targets[number], []
        content = target.read_bytes()
        at, bit = int(position - (ends[number] - len(content))), int(generator.integers(8))
        target.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        checkpoints = Checkpoints(folder, keep=5, event=lambda *e, events=events: events.append(e), read_only=True)
        restored = checkpoints.restore()
        assert restored.step == 300, (target, at, bit)
        same(restored.state, arrays(3))
        assert len(events) == 1
        assert target.relative_to(folder / "400").as_posix() in events[0][1]
        assert checkpoints.steps() == [300]
        noticed += 1
        target.write_bytes(content)
    return noticed


def test_twenty_random_bits_are_all_noticed(whole, tmp_path):
    assert flip_bits(whole, tmp_path / "c", 20) == 20


@pytest.mark.faults
def test_two_hundred_random_bits_are_all_noticed(whole, tmp_path):
    assert flip_bits(whole, tmp_path / "c", 200) == 200


def test_every_bit_of_a_manifest_counts(whole, tmp_path):
    content = (whole / "400" / "manifest.json").read_bytes()
    for position in range(0, len(content), 7):
        for bit in (0, 5, 7):
            flipped = content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]
            (tmp_path / "manifest.json").write_bytes(flipped)
            with pytest.raises(manifest.Damaged):
                manifest.read_manifest(tmp_path, 400)


def test_an_array_that_orbax_reads_wrongly_is_noticed(make, monkeypatch):
    checkpoints = make()
    checkpoints.save(1, arrays(), {}, block=True)
    real = arrays_io.read_arrays
    for path in arrays():
        if path == "params/empty":
            continue

        def wrong(folder, records, path=path):
            state = real(folder, records)
            state[path] = state[path].copy()
            state[path].reshape(-1).view(np.uint8)[-1] ^= 1
            return state

        monkeypatch.setattr(arrays_io, "read_arrays", wrong)
        with pytest.raises(DataError, match="checksum differs"):
            checkpoints.restore(1)


def test_a_manifest_moved_to_another_step_is_refused(make):
    checkpoints = make()
    checkpoints.save(1, arrays(), {}, block=True)
    (checkpoints.folder / "1").rename(checkpoints.folder / "2")
    with pytest.raises(DataError, match="holds step 1, not 2"):
        checkpoints.restore()


@pytest.mark.parametrize("name", ["/etc/passwd", "../1/state/x", "state/../../x", "..\\x"])
def test_a_path_that_leads_out_of_the_checkpoint_is_refused(make, name):
    checkpoints = make()
    checkpoints.save(1, arrays(), {}, block=True)
    path = checkpoints.folder / "1" / "manifest.json"
    inside = json.loads(path.read_bytes())["manifest"]
    inside["files"][name] = {"size": 1, "checksum": ""}
    path.write_bytes(manifest.encode(inside))
    with pytest.raises(DataError, match="leads out of the checkpoint"):
        checkpoints.restore(1)


def test_a_kill_while_a_step_is_replaced_loses_neither(make):
    checkpoints = make(keep=1)
    checkpoints.save(1, arrays(1), {"try": 1}, block=True)
    (checkpoints.folder / "1").rename(checkpoints.folder / ".old-1")  # as between the two renames
    (checkpoints.folder / ".tmp-1-beef").mkdir()
    checkpoints.clean()
    assert [p.name for p in checkpoints.folder.iterdir()] == ["1"]
    same(make().restore().state, arrays(1))
    (checkpoints.folder / ".old-1").mkdir()  # as after them
    checkpoints.clean()
    assert [p.name for p in checkpoints.folder.iterdir()] == ["1"]


def test_clean_removes_a_link_and_not_what_it_leads_to(make, tmp_path):
    checkpoints = make()
    checkpoints.save(1, arrays(1), {}, block=True)
    (tmp_path / "kept").mkdir()
    (checkpoints.folder / ".tmp-2-beef").symlink_to(tmp_path / "kept")
    checkpoints.clean()
    assert [p.name for p in checkpoints.folder.iterdir()] == ["1"]
    assert (tmp_path / "kept").is_dir()


def test_all_damaged_is_an_error_that_names_each(make):
    checkpoints = make()
    for step in (1, 2):
        checkpoints.save(step, arrays(), {}, block=True)
        (checkpoints.folder / str(step) / "manifest.json").write_bytes(b"")
    with pytest.raises(DataError, match=r"all checkpoints are damaged: 2 \(manifest.*1 \(manifest.*put back a copy"):
        checkpoints.restore()


def test_nothing_is_pickled(whole):
    assert not any(b"pickle" in p.read_bytes() or p.suffix in (".pkl", ".npy") for p in files_of(whole))


KILLED = """
import sys
import numpy as np
from pathlib import Path
from jtrain.io.checkpoint import Checkpoints
folder, start = Path(sys.argv[1]), int(sys.argv[2])
checkpoints = Checkpoints(folder, keep=2, event=print)
checkpoints.save(start, {"a": np.full(50_000, start)}, {"step": start}, block=True)
print("ready", flush=True)
for step in range(start + 1, start + 100_000):
    checkpoints.save(step, {"a": np.full(50_000, step), "b": np.full(7, step)}, {"step": step})
"""


def test_sigkill_at_any_moment_leaves_whole_checkpoints(tmp_path, events):
    folder = tmp_path / "checkpoints"
    last = 0
    for delay in (0.003, 0.021, 0.05, 0.11):
        command = [sys.executable, "-c", KILLED, str(folder), str(last + 1)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        checkpoints = Checkpoints(folder, keep=2, event=lambda *e: events.append(e))
        for step in checkpoints.steps():
            restored = checkpoints.restore(step)
            assert restored.control == {"step": step}
            assert (restored.state["a"] == step).all()
        assert checkpoints.steps()[-1] > last
        last = checkpoints.steps()[-1]
        checkpoints.clean()
        assert all(p.name.isdecimal() for p in folder.iterdir())
        checkpoints.close()
    assert events == []
