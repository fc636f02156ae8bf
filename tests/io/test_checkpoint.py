import errno
import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jtrain.errors import DataError, NonFiniteError
from jtrain.io import arrays as arrays_io
from jtrain.io import contents, manifest, parts, shelf


def arrays(seed=0):
    generator = np.random.default_rng(seed)
    return {
        "params/conv/kernel": generator.normal(size=(3, 3, 2, 4)).astype(np.float32),
        "params/a.b c/κ": generator.normal(size=(5,)).astype(ml_dtypes.bfloat16),
        "params/a.b": np.asfortranarray(generator.normal(size=(3, 4)).astype(np.float32)),
        "opt_state/0/count": np.int32(7),
        "opt_state/1/mask": np.array([True, False, True]),
        "opt_state/2/empty": np.zeros((0, 3), np.float32),
        "key": np.array([1, 2**32 - 1], np.uint32),
        "step": np.array(seed, np.int32),
        "nan": np.array([np.nan, -0.0, np.inf], np.float32),
    }


def same(found, expected):
    assert list(found) == sorted(expected)
    for path, array in expected.items():
        array = np.asarray(array)
        assert type(found[path]) is np.ndarray
        assert (found[path].dtype, found[path].shape) == (array.dtype, array.shape), path
        assert found[path].tobytes() == array.tobytes(), path


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_every_kind_of_array_and_the_control_state_come_back_bit_for_bit(make):
    control = {
        "best": {"step": 3, "value": 0.1},
        "worst": float("-inf"),
        "names": ["a", None],
        "deep": {"10": 1, "9": 2},
    }
    make().save(3, arrays(), control, block=True)
    restored = make().restore()
    assert (restored.step, restored.control) == (3, control)
    same(restored.state, arrays())


def test_jax_arrays_may_be_donated_as_soon_as_save_returns(make):
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {"a": jnp.arange(1000.0), "b": jnp.ones((3,), jnp.bfloat16)}
    expected = {path: np.array(leaf) for path, leaf in state.items()}
    checkpoints = make()
    checkpoints.save(1, state, {})
    jax.block_until_ready(bump(state))
    checkpoints.wait()
    same(checkpoints.restore().state, expected)


def test_an_array_that_the_caller_writes_into_afterwards_is_saved_as_it_was(make):
    state = {"a": np.zeros(100_000, np.float32)}
    checkpoints = make()
    checkpoints.save(1, state, {})
    state["a"][:] = 1
    checkpoints.wait()
    assert not checkpoints.restore().state["a"].any()


@pytest.mark.parametrize("state", [{}, {"a": np.zeros((0,), np.float32)}])
def test_a_state_without_numbers_is_saved(make, state):
    make().save(1, state, {"x": 1}, block=True)
    restored = make().restore()
    same(restored.state, state)
    assert restored.control == {"x": 1}


@pytest.mark.parametrize("name", manifest.DTYPES)
def test_every_type_of_number_is_saved(make, name):
    state = {"a": np.arange(6).reshape(2, 3).astype(manifest.DTYPES[name])}
    make().save(1, state, {}, block=True)
    same(make().restore().state, state)


@pytest.mark.parametrize("leaf", [np.array(["a"]), np.array([None]), np.zeros(2, "M8[s]"), np.zeros(2, ">f4,i1")])
def test_what_is_no_array_of_numbers_is_refused_when_saved(make, leaf):
    with pytest.raises(DataError, match="cannot save checkpoint 1: "):
        make().save(1, {"a": leaf}, {}, block=True)
    assert list(make().folder.iterdir()) == []


BAD = {
    "params/w": np.array([1, np.nan], np.float32),
    "params/h": np.array([1, np.inf], ml_dtypes.bfloat16),
    "ema/w": np.array(-np.inf, np.float32),
    "model_state/mean": np.array([[np.nan]], np.float16),
    "opt_state/0/mu/w": np.array([np.inf, 0], np.float32),
    "opt_state/0/best": np.array(np.nan, np.float32),
    "opt_state/c": np.array([complex(0, np.inf)], np.complex64),
}
GOOD = {
    "opt_state/1/threshold": np.array(np.inf, np.float32),
    "extra/seen": np.array([np.nan, np.inf], np.float32),
    "params/n": np.array([2**31 - 1], np.int32),
}


@pytest.mark.parametrize("path", BAD)
def test_a_state_that_is_not_finite_is_not_saved(make, path):
    checkpoints = make(keep=1)
    checkpoints.save(1, GOOD, {}, block=True)
    before = files_of(checkpoints.folder)
    checkpoints.save(2, GOOD | {path: BAD[path]}, {})  # the check is made in the background
    with pytest.raises(NonFiniteError, match=f"checkpoint 2 is not saved: {path} holds (NaN|an infinity); older"):
        checkpoints.wait()
    assert files_of(checkpoints.folder) == before
    checkpoints.save(2, GOOD, {}, block=True)
    assert checkpoints.steps() == [2]


def test_a_state_may_be_saved_for_the_very_reason_that_it_is_not_finite(make):
    make(finite=False).save(1, BAD, {}, block=True)
    same(make().restore().state, BAD)


def test_nothing_saved_restores_nothing(make):
    assert make().restore() is None
    assert make().steps() == []


def test_a_save_returns_before_it_is_written_and_the_next_waits_for_it(make, monkeypatch):
    gate, order = threading.Event(), []
    real = arrays_io.write_arrays

    def slow(folder, given):
        gate.wait(10)
        real(folder, given)
        order.append("written")

    monkeypatch.setattr(arrays_io, "write_arrays", slow)
    checkpoints = make()
    checkpoints.save(1, arrays(1), {})
    assert checkpoints.steps() == []
    threading.Timer(0.1, gate.set).start()
    checkpoints.save(2, arrays(2), {})
    assert order[0] == "written"
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]


def test_newest_and_best_are_kept(make):
    checkpoints = make(keep=2)
    for step in range(1, 8):
        checkpoints.save(step, {"a": np.ones(3)}, {}, best_step=3 if step >= 3 else 1)
    checkpoints.close()
    assert checkpoints.steps() == [3, 6, 7]
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["3", "6", "7"]


def test_a_new_best_lets_the_old_best_go(make):
    checkpoints = make(keep=1)
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3)):
        checkpoints.save(step, {"a": np.ones(3)}, {}, best_step=best, block=True)
    assert checkpoints.steps() == [3, 4]


def test_saving_a_whole_step_again_changes_nothing_but_who_is_kept(make):
    checkpoints = make(keep=1)
    checkpoints.save(1, {"a": np.ones(3)}, {}, best_step=1, block=True)
    checkpoints.save(2, {"a": np.ones(3)}, {}, best_step=1, block=True)
    before = {p: p.stat().st_mtime_ns for p in files_of(checkpoints.folder / "2")}
    checkpoints.save(2, {"a": np.zeros(3)}, {}, best_step=2, block=True)
    assert {p: p.stat().st_mtime_ns for p in files_of(checkpoints.folder / "2")} == before
    assert checkpoints.steps() == [2]


def test_a_failed_save_removes_nothing(make, monkeypatch):
    checkpoints = make(keep=1)
    checkpoints.save(1, arrays(1), {}, block=True)
    monkeypatch.setattr(arrays_io, "write_arrays", no_space)
    with pytest.raises(DataError):
        checkpoints.save(2, arrays(2), {}, block=True)
    assert checkpoints.steps() == [1]
    same(make().restore().state, arrays(1))


def no_space(folder, given):
    folder.mkdir()
    (folder / "half").write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("ask", ["save", "wait", "close"])
def test_a_full_disk_is_told_at_the_next_call_once_and_leaves_nothing(make, monkeypatch, ask):
    checkpoints = make()
    with monkeypatch.context() as patch:
        patch.setattr(arrays_io, "write_arrays", no_space)
        checkpoints.save(4, arrays(), {})
        calls = {
            "save": lambda: checkpoints.save(5, arrays(), {}),
            "wait": checkpoints.wait,
            "close": checkpoints.close,
        }
        with pytest.raises(DataError, match=r"checkpoints: cannot save checkpoint 4: No space left on device"):
            calls[ask]()
    assert list(checkpoints.folder.iterdir()) == []
    checkpoints.wait()


def test_orbax_meeting_a_full_disk_is_told_as_such(make, monkeypatch):
    def fail(folder, given):
        raise ValueError('RESOURCE_EXHAUSTED: Error writing "x": [OS error 28: No space left on device]\nmore')

    monkeypatch.setattr(arrays_io, "write_arrays", fail)
    with pytest.raises(DataError, match="checkpoint 4: No space left on device; older"):
        make().save(4, arrays(), {}, block=True)


def test_a_control_state_that_is_no_json_fails_at_its_caller(make):
    with pytest.raises(TypeError):
        make().save(1, arrays(), {"x": object()})


def test_a_step_that_is_not_there_names_those_that_are(make):
    checkpoints = make()
    for step in (1, 2):
        checkpoints.save(step, arrays(), {}, block=True)
    with pytest.raises(DataError, match="no checkpoint 7; there are: 1, 2"):
        checkpoints.restore(7)


def test_a_state_of_another_model_is_refused_with_a_list_of_what_differs(make, events):
    checkpoints = make()
    checkpoints.save(400, {"a": np.ones((3, 4)), "b": np.ones(3), "c": np.ones(3)}, {}, block=True)
    abstract = {
        "a": jax.ShapeDtypeStruct((3, 5), jnp.float32),
        "b": np.ones(3, np.float32),
        "d": jax.ShapeDtypeStruct((1,), jnp.bfloat16),
    }
    with pytest.raises(DataError) as caught:
        checkpoints.restore(None, lambda step: abstract)
    assert str(caught.value).startswith(
        "checkpoint 400: missing: d; extra: c; other shape: a (3, 4), not (3, 5); "
        "other dtype: a float64, not float32, b float64, not float32; "
    )
    assert events == []


def test_a_matching_abstract_state_is_accepted(make):
    checkpoints = make()
    checkpoints.save(1, arrays(), {}, block=True)
    abstract = {p: jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype) for p, a in arrays().items()}
    same(checkpoints.restore(1, lambda step: abstract).state, arrays())


def test_clean_removes_leftovers_alone(make):
    checkpoints = make()
    checkpoints.save(1, arrays(), {}, block=True)
    (checkpoints.folder / ".tmp-2-99" / "state").mkdir(parents=True)
    (checkpoints.folder / ".tmp-2-99" / "state" / "x").write_bytes(b"x")
    (checkpoints.folder / "notes").mkdir()
    checkpoints.clean()
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["1", "notes"]
    assert checkpoints.steps() == [1]


def test_a_save_becomes_visible_whole_by_one_rename(make, monkeypatch):
    checkpoints, renames, real = make(), [], os.rename

    def spy(source, target):
        if Path(target) == checkpoints.folder / "1":  # orbax renames too
            assert not os.path.exists(target)
            contents.verify(source, manifest.read_manifest(source, 1)["files"])
            renames.append(source.name[:7])
        real(source, target)

    monkeypatch.setattr(shelf.os, "rename", spy)
    checkpoints.save(1, arrays(), {}, block=True)
    assert renames == [".tmp-1-"]


QUIET = """
import sys
import numpy as np
from pathlib import Path
from absl import app  # as the command line does: absl then shows INFO on stderr
from jtrain.io.checkpoint import Checkpoints

def main(_):
    checkpoints = Checkpoints(Path(sys.argv[1]), keep=2, event=print)
    checkpoints.save(1, {"a": np.ones(3)}, {}, block=True)
    checkpoints.restore()
    checkpoints.close()

app.run(main)
"""


def test_the_screen_stays_quiet(tmp_path):
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", QUIET, str(tmp_path / "c")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize("fails", [False, True])
def test_closing_gives_back_the_memory_that_the_next_save_would_have_taken(make, monkeypatch, fails):
    copies, real = [], parts.snapshot

    def noted(*arguments):
        found = real(*arguments)
        copies.append([weakref.ref(part) for owned in found.values() for part in owned.parts.values()])
        return found

    def refuse(folder, found):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(parts, "snapshot", noted)
    checkpoints = make()
    checkpoints.save(1, arrays(), {}, block=True)
    checkpoints.save(2, arrays(1), {}, block=True)
    assert all(old() is new() is not None for old, new in zip(*copies, strict=True))  # the same memory, written again
    if fails:
        monkeypatch.setattr(arrays_io, "write_arrays", refuse)
        checkpoints.save(3, arrays(2), {})
        with pytest.raises(DataError, match="cannot save checkpoint 3"):
            checkpoints.close()
    else:
        checkpoints.close()
    gc.collect()
    assert all(copy() is None for copy in copies[0])
