"""Checkpoints looked at from outside: listed, read and compared as plain NumPy."""

import datetime
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import jtrain.io
from jtrain.errors import DataError
from jtrain.io.checkpoint import Checkpoints, Restored


def state(add=0.0):
    return {
        "params/w": np.full((2, 3), 1 + add, np.float32),
        "step": np.array(3, np.int32),
        "empty": np.zeros((0, 2), np.float32),
    }


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder / "checkpoints", keep=9, event=print)
    checkpoints.save(1, state(), {"best": None})
    checkpoints.save(2, state(0.5), {"best": {"step": 2, "value": 0.25}})
    checkpoints.close()
    return folder


def test_the_steps_of_a_run_are_listed_with_what_their_manifests_tell(workdir):
    one, two = jtrain.io.steps(workdir)
    assert (one.step, two.step) == (1, 2)
    assert two.control == {"best": {"step": 2, "value": 0.25}}
    assert two.arrays == {"params/w": ((2, 3), "float32"), "step": ((), "int32"), "empty": ((0, 2), "float32")}
    assert (two.processes, two.damage) == (1, "")
    files = [p for p in (workdir / "checkpoints/2/state").rglob("*") if p.is_file()]
    assert two.size == sum(p.stat().st_size for p in files)
    assert abs(datetime.datetime.now(datetime.UTC) - two.saved) < datetime.timedelta(minutes=5)


def test_a_damaged_one_is_listed_as_such_and_passed_over_when_read(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run/checkpoints/2/manifest.json").write_text("{}")
    assert [found.damage for found in jtrain.io.steps(str(tmp_path / "run"))] == ["", "manifest.json: not readable"]
    events = []
    assert jtrain.io.read(tmp_path / "run", event=lambda *e: events.append(e)).step == 1
    assert len(events) == 1
    with pytest.raises(DataError, match="checkpoint 2 is damaged"):
        jtrain.io.read(tmp_path / "run", 2)


def test_one_is_read_as_plain_arrays(workdir):
    for step, add in ((1, 0), (2, 0.5), (None, 0.5)):
        restored = jtrain.io.read(workdir, step)
        for path, array in state(add).items():
            np.testing.assert_array_equal(restored.state[path], array, strict=True)


def test_a_folder_without_checkpoints_is_told(tmp_path):
    for look in (jtrain.io.steps, jtrain.io.read):
        with pytest.raises(DataError, match="holds no run"):
            look(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert jtrain.io.steps(tmp_path) == []
    with pytest.raises(DataError, match="holds no checkpoint yet"):
        jtrain.io.read(tmp_path)


def test_two_steps_of_a_run_are_compared(workdir):
    found = jtrain.io.compare(jtrain.io.read(workdir, 1), jtrain.io.read(workdir, 2))
    assert found.differences == {"empty": 0.0, "params/w": 0.5, "step": 0.0}
    assert not found.equal
    assert jtrain.io.compare(jtrain.io.read(workdir, 2), jtrain.io.read(workdir)).equal


def compared(one, other):
    return jtrain.io.compare(Restored(1, {"a": np.asarray(one)}, {}), Restored(1, {"a": np.asarray(other)}, {}))


NAN, INF = np.nan, np.inf
LARGE = 2**63


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, NAN, -INF, 0.0], [1.0, NAN, -INF, -0.0], 0.0),
        ([1.0, NAN], [1.0, 2.0], INF),
        ([1.0, INF], [3.0, -INF], INF),
        ([1.0, INF], [3.0, INF], 2.0),
        (np.array([-LARGE, 5]), np.array([LARGE - 1, 5]), float(2 * LARGE - 1)),
        (np.array([3], np.uint8), np.array([250], np.uint8), 247.0),
        ([True, False], [True, True], 1.0),
        ([1 + 1j], [1 - 2j], 3.0),
        (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 2.5], ml_dtypes.bfloat16), 0.5),
    ],
)
def test_the_largest_difference_is_exact(one, other, expected):
    found = compared(one, other)
    assert found.differences == {"a": expected}
    assert found.equal == (expected == 0)


def test_what_only_one_of_them_has_is_named():
    one = Restored(1, {"a": np.ones(3), "b": np.ones((2, 2)), "c": np.ones(2, np.float32)}, {})
    other = Restored(2, {"b": np.ones(4), "c": np.ones(2), "d": np.ones(1)}, {})
    found = jtrain.io.compare(one, other)
    assert (found.only_one, found.only_other) == (("a",), ("d",))
    assert found.other_shape == {"b": ((2, 2), (4,))}
    assert found.other_dtype == {"c": ("float32", "float64")}
    assert found.differences == {"c": 0.0}
    assert not found.equal


def test_importing_the_room_imports_no_jax():
    code = "import sys, jtrain.io; assert not {'jax', 'numpy', 'orbax'} & set(sys.modules); print(dir(jtrain.io))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "['compare', 'read', 'steps']"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jtrain.io.nothing  # noqa: B018
