"""Checkpoints that several processes write together, and that any number of them reads."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from io_peers import cut, together

from jtrain.errors import DataError, HeldError, NonFiniteError
from jtrain.io import arrays as arrays_io
from jtrain.io import contents, parts
from jtrain.io.checkpoint import Checkpoints
from jtrain.peers import ALONE


def whole(seed=0):
    generator = np.random.default_rng(seed)
    return {
        "params/rows": generator.normal(size=(8, 6)).astype(np.float32),
        "params/tiles": generator.normal(size=(4, 8, 2)).astype(ml_dtypes.bfloat16),
        "params/replica": generator.normal(size=(5,)).astype(np.float32),
        "opt_state/0/count": np.array(7, np.int32),
        "opt_state/1/empty": np.zeros((0, 3), np.float32),
        "step": np.array(seed, np.int32),
    }


GRIDS = {
    "params/rows": (4, 1),
    "params/tiles": (2, 4, 1),
    "params/replica": (1,),
    "opt_state/0/count": (),
    "opt_state/1/empty": (1, 1),
}


def state_of(process, processes, seed=0):
    """`step` stays an array of NumPy, the same in all processes."""
    arrays = whole(seed)
    return {p: cut(a, GRIDS[p], process, processes) if p in GRIDS else a for p, a in arrays.items()}


def same(found, expected):
    assert list(found) == sorted(expected)
    for path, array in expected.items():
        assert (found[path].dtype, found[path].shape) == (array.dtype, array.shape), path
        assert found[path].tobytes() == array.tobytes(), path


def save_steps(*steps, processes=4, **options):
    def work(checkpoints, process):
        for step in steps:
            checkpoints.save(step, state_of(process, processes, step), {"at": step, "by": process}, **options)
        checkpoints.wait()
        return checkpoints.steps()

    return work


def test_what_four_processes_save_one_reads_whole(tmp_path):
    assert together(tmp_path / "c", 4, save_steps(1, 2)) == [[1, 2]] * 4
    restored = Checkpoints(tmp_path / "c", keep=1, event=print, read_only=True).restore()
    same(restored.state, whole(2))
    assert restored.control == {"at": 2, "by": 0}
    inside = json.loads((tmp_path / "c/2/manifest.json").read_bytes())["manifest"]
    assert len(inside["arrays"]["params/tiles"]["parts"]) == 8
    assert {p["folder"] for p in inside["arrays"]["params/rows"]["parts"]} == {f"state-{i}" for i in range(4)}
    for path in ("params/replica", "opt_state/0/count", "step"):  # replicas are written once
        assert len(inside["arrays"][path]["parts"]) == 1
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["1", "2"]


def test_the_first_process_decides_what_is_held_and_what_goes(tmp_path):
    assert together(tmp_path / "c", 2, save_steps(1, 2, 3, processes=2, best_step=1), keep=1) == [[1, 3]] * 2
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "c/3").rglob("*")}
    assert together(tmp_path / "c", 2, save_steps(3, processes=2), keep=1) == [[3]] * 2
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "c/3").rglob("*")} == before


def test_one_process_goes_on_with_what_two_have_saved(tmp_path):
    together(tmp_path / "c", 2, save_steps(1, processes=2))
    alone = Checkpoints(tmp_path / "c", keep=5, event=print)
    alone.save(2, alone.restore().state, {}, block=True)
    same(alone.restore(2).state, whole(1))
    assert sorted(p.name for p in (tmp_path / "c/2").iterdir()) == ["manifest.json", "state"]
    alone.close()


def failing(process, error, monkeypatch):
    real = arrays_io.write_arrays

    def write(folder, arrays):
        if folder.name == f"state-{process}":
            folder.mkdir()
            (folder / "half").write_bytes(b"half")
            raise error
        real(folder, arrays)

    monkeypatch.setattr(arrays_io, "write_arrays", write)


@pytest.mark.parametrize("who", [0, 1])
def test_a_write_that_fails_in_one_process_fails_in_all_and_leaves_nothing(tmp_path, monkeypatch, who):
    together(tmp_path / "c", 3, save_steps(1, processes=3))
    with monkeypatch.context() as patch:
        failing(who, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), patch)
        found = together(tmp_path / "c", 3, save_steps(2, processes=3), keep=1)
    for error in found:
        assert isinstance(error, DataError)
        assert f"cannot save checkpoint 2: process {who}: No space left on device; older" in str(error)
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["1"]
    assert together(tmp_path / "c", 3, save_steps(2, processes=3)) == [[1, 2]] * 3


def test_a_commit_that_fails_in_the_first_process_fails_in_all(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(Path, "write_bytes", full)
    found = together(tmp_path / "c", 2, save_steps(1, processes=2))
    assert all("process 0: Disk quota exceeded" in str(error) for error in found)
    assert list((tmp_path / "c").iterdir()) == []


def test_a_part_that_nobody_has_written_is_noticed_before_the_commit(tmp_path):
    def work(checkpoints, process):
        state = state_of(process, 2)
        state["params/rows"].addressable_shards = state["params/rows"].addressable_shards[:-1]
        checkpoints.save(1, state, {}, block=True)

    found = together(tmp_path / "c", 2, work)
    assert all("params/rows: its 3 parts do not make up its shape [8, 6]" in str(error) for error in found)
    assert list((tmp_path / "c").iterdir()) == []


def test_a_state_that_is_not_finite_in_one_process_is_saved_by_none(tmp_path):
    def work(checkpoints, process):
        state = state_of(process, 2)
        if process == 1:
            state["params/rows"].addressable_shards[1].data = np.full((2, 6), np.nan, np.float32)
        checkpoints.save(1, state, {}, block=True)

    for error in together(tmp_path / "c", 2, work):
        assert isinstance(error, NonFiniteError)
        assert "checkpoint 1 is not saved: process 1: params/rows holds NaN" in str(error)
    assert list((tmp_path / "c").iterdir()) == []


def test_a_lost_process_ends_the_save_of_the_others_as_such(tmp_path):
    def work(checkpoints, process):
        if process == 1:
            checkpoints._peers.room.lose()
            return None
        checkpoints.save(1, state_of(process, 2), {}, block=True)

    found = together(tmp_path / "c", 2, work)
    assert isinstance(found[0], HeldError)
    assert not any((tmp_path / "c").glob("*"))


def test_a_workdir_that_is_not_shared_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "PATIENCE", 0.2)

    def work(checkpoints, process):
        checkpoints.folder = tmp_path / f"machine{process}" / "c"
        checkpoints.save(1, state_of(process, 2), {}, block=True)

    found = together(tmp_path / "c", 2, work)
    for error in found:
        assert isinstance(error, DataError)
        assert "process 1: " in str(error)
        assert "must be on a file system that all processes share" in str(error)
    assert not any((tmp_path / "machine0/c").iterdir())


def test_files_that_show_up_late_are_waited_for(tmp_path, monkeypatch):
    seen, real = [], os.listdir

    def late(folder):
        seen.append(folder)
        return [] if len(seen) < 3 else real(folder)

    monkeypatch.setattr(contents.os, "listdir", late)
    assert together(tmp_path / "c", 2, save_steps(1, processes=2)) == [[1]] * 2
    assert len(seen) >= 3


def test_a_single_process_says_what_it_always_said(tmp_path):
    assert ALONE.processes == 1
    one = Checkpoints(tmp_path / "c", keep=1, event=print)
    one.save(1, whole(), {}, block=True)
    assert sorted(p.name for p in (tmp_path / "c/1").iterdir()) == ["manifest.json", "state"]
    one.close()


def test_an_array_over_all_devices_of_one_process_is_one_part():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    array = jax.device_put(jnp.arange(16.0).reshape(8, 2), sharding)
    found = parts.snapshot({"a": array}, 0)["a"]
    assert list(found.parts) == [(0, 0)]
    np.testing.assert_array_equal(found.parts[0, 0], array)
    assert parts.snapshot({"a": array, "b": np.ones(3)}, 1) == {}


TWO = """
import sys
from pathlib import Path
import jax
import numpy as np
from jtrain.io.checkpoint import Checkpoints
from jtrain.peers import Joined

process, port, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
peers = Joined("127.0.0.1", port, process, 2)
jax.distributed.initialize(f"127.0.0.1:{port + 1}", 2, process, initialization_timeout=60)
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

def put(array, *axes):
    sharding = jax.NamedSharding(mesh, jax.P(*axes))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

def state(step):
    array = np.arange(32.0, dtype=np.float32).reshape(8, 4) + step
    return {"cut": put(array, ("data", "fsdp")), "halves": put(array, "data", "fsdp"), "fsdp": put(array, "fsdp"),
            "same": put(array[0]), "host": np.array(step)}

checkpoints = Checkpoints(folder, keep=2, event=print, peers=peers)
for step in (1, 2, 3):
    checkpoints.save(step, state(step), {"step": step})
    jax.block_until_ready(jax.jit(lambda x: x.sum())(state(step)["cut"]))  # the devices' collectives run meanwhile
checkpoints.wait()
restored = checkpoints.restore()  # by itself, while the other may be anywhere
assert restored.step == 3 and restored.state["host"] == 3
if process == 0:  # a save of one process alone does not wait for the other
    alone = Checkpoints(folder.with_name("alone"), keep=1, event=print)
    alone.save(1, {"a": np.ones(3)}, {}, block=True)
    alone.restore()
    alone.close()
peers.exchange("done", None)
checkpoints.close()
jax.distributed.shutdown()
peers.leave()
print("ended well")
"""


def test_two_real_processes_write_one_checkpoint(tmp_path, two_ports):
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }  # fmt: skip
    commands = [[sys.executable, "-c", TWO, str(i), str(two_ports), str(tmp_path / "c")] for i in range(2)]
    running = [
        subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    try:
        outputs = [one.communicate(timeout=120)[0] for one in running]
    finally:
        for one in running:
            one.kill()
    assert [(one.returncode, "ended well" in text) for one, text in zip(running, outputs, strict=True)] == [
        (0, True)
    ] * 2, outputs
    checkpoints = Checkpoints(tmp_path / "c", keep=1, event=print, read_only=True)
    assert checkpoints.steps() == [2, 3]
    for step in (2, 3):
        array = np.arange(32.0, dtype=np.float32).reshape(8, 4) + step
        expected = {"cut": array, "halves": array, "fsdp": array, "same": array[0], "host": np.array(step)}
        same(checkpoints.restore(step).state, expected)
    inside = json.loads((tmp_path / "c/3/manifest.json").read_bytes())["manifest"]["arrays"]
    assert {p["folder"] for p in inside["cut"]["parts"]} == {"state-0", "state-1"}
    assert [len(inside[p]["parts"]) for p in ("cut", "halves", "fsdp", "same", "host")] == [4, 4, 2, 1, 1]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3"]
