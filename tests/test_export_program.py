import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn
from helpers import blobs, put, tiny
from jax import export as jax_export
from model_helpers import shapes

import jtrain
from jtrain.assembly import assemble
from jtrain.config_files import to_json
from jtrain.errors import ConfigError, DataError, JtrainError
from jtrain.io.checkpoint import Checkpoints
from jtrain.io.progress import Screen
from jtrain.models import MODELS
from jtrain.models.pure import as_model
from jtrain.state import to_flat
from jtrain.verbs import export_program
from jtrain.verbs.export import export

FILES = {"example.npz", "flatbuffers", "model.jaxexport", "predict.py", "signature.json"}
# As if nothing but jax and numpy were there; flatbuffers only beside predict.py, whose folder comes first.
ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jtrain", "flax", "optax", "orbax", "ml_collections", "absl", "sklearn"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import runpy
folder, *arguments = sys.argv[1:]
sys.argv, sys.path[0] = ["predict.py", *arguments], folder
runpy.run_path(folder + "/predict.py", run_name="__main__")
import flatbuffers
assert flatbuffers.__file__.startswith(folder), flatbuffers.__file__
"""


def begun(workdir, model=None, data=None, step=3, **fields):
    """The run of a workdir whose checkpoint holds weights that no training has touched; averaged ones are others."""
    run = assemble(put(tiny("5steps"), **fields), model=model, data=data or blobs())
    state = jax.device_get(to_flat(run.init_state()))
    state |= {path: leaf * 1.5 + 0.1 for path, leaf in state.items() if path.startswith("ema/")}
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1, event=print)
    checkpoints.save(step, state | {"step": np.int32(step)}, {}, block=True)
    checkpoints.close()
    (workdir / "config.json").write_text(to_json(run.config))
    return run


def alone(folder, *arguments):
    command = [sys.executable, "-c", ALONE, str(folder), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(workdir, its export, the screen's lines): images, a view, averaged weights, a batch that is padded."""
    workdir = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (40, 6, 6, 3)).astype(np.uint8), (np.arange(40) % 5).astype(np.int32)
    cnn = {"model__name": "cnn", "model__cnn__features": (4,), "model__cnn__pools": 1}
    mlp = {"model__mlp__features": (256, 256), "model__mlp__dropout": 0.5}  # as they are by default
    begun(workdir, data=data, **cnn, **mlp, tta="flip_lr", ema__decay=0.9)
    shown = io.StringIO()
    return workdir, export(workdir, data=data, screen=Screen(shown)), shown.getvalue(), data


def test_the_export_predicts_without_jtrain_what_the_run_predicts(made, tmp_path):
    workdir, folder, shown, data = made
    assert folder == workdir / "export"
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == FILES
    inputs = np.random.default_rng(1).integers(0, 256, (7, 6, 6, 3)).astype(np.uint8)
    np.save(tmp_path / "inputs.npy", inputs)
    done = alone(folder, tmp_path / "inputs.npy", tmp_path / "out.npy")
    assert (done.returncode, done.stderr) == (0, "")
    expected = jtrain.predict(workdir, inputs=inputs, data=data)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)
    np.testing.assert_allclose(expected.sum(axis=1), 1.0, rtol=1e-5)
    assert "averaged parameters of cnn after update 3 as a program" in shown
    assert "for cpu, cuda, tpu" in shown
    assert "inputs [n, 6, 6, 3] uint8; out come [n, 5] float32, the probability of each class" in shown


def test_the_export_checks_itself_and_knows_when_it_is_damaged(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made[1], folder)
    done = alone(folder)
    assert done.returncode == 0
    assert done.stdout.startswith("correct: predictions of 4 examples differ by ")
    content = bytearray((folder / "model.jaxexport").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.jaxexport").write_bytes(content)
    done = alone(folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "predict.py: model.jaxexport is damaged, or signature.json is of another export\n"


def test_the_signature_says_what_goes_in_and_comes_out(made):
    signature = json.loads((made[1] / "signature.json").read_text())
    assert signature["input"]["shape"] == [None, 6, 6, 3]
    assert signature["input"]["dtype"] == "uint8"
    assert signature["output"]["shape"] == [None, 5]
    assert (signature["batch"], signature["platforms"]) == (None, ["cpu", "cuda", "tpu"])
    assert signature["run"] == {
        "workdir": made[0].name, "step": 3, "model": "cnn", "task": "classification", "parameters": 141,
        "averaged": True, "precision": "float32", "tta": "flip_lr",
    }  # fmt: skip


def loaded(folder, monkeypatch):
    """The loader as a module, its path taken away again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = {"__name__": "predict", "__file__": str(folder / "predict.py")}
    exec(compile((folder / "predict.py").read_text(), "predict.py", "exec"), names)
    return names


def test_the_loader_is_of_use_in_a_program_and_refuses_other_inputs(made, monkeypatch):
    predict = loaded(made[1], monkeypatch)["predict"]
    inputs = np.zeros((5, 6, 6, 3), np.uint8)
    inputs[-1] = 255
    np.testing.assert_allclose(predict(inputs, most=2), predict(inputs), atol=1e-6)  # 2, 2 and one filled up
    for wrong in (inputs[:, :5], inputs.astype(np.float32), inputs[:0], np.zeros(3, np.uint8)):
        with pytest.raises(SystemExit, match=r"inputs must be \[n, 6, 6, 3\] uint8, got \["):
            predict(wrong)


def test_the_loader_is_short_and_imports_jax_and_numpy_alone(made):
    lines = (made[1] / "predict.py").read_text().splitlines()
    found = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import", "from"))}
    assert found - sys.stdlib_module_names == {"jax", "numpy"}
    assert len(lines) < 70


def test_an_earlier_export_is_replaced_and_what_else_lies_there_stays(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made[1], folder)
    (folder / "mine.npy").write_text("kept")
    (folder / "predict.py").write_text("old")
    export(made[0], out=folder, data=made[3])
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == FILES | {"mine.npy"}
    assert (folder / "predict.py").read_text() != "old"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_an_export_that_cannot_be_is_refused_before_anything_is_written(made, tmp_path):
    workdir, _, _, data = made
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    for error, match, place, options in (
        (DataError, "--workdir: .*holds no run", tmp_path / "none", {}),
        (ConfigError, "--at: 'never' must be", workdir, {"at": "never"}),
        (DataError, "no checkpoint 999", workdir, {"at": 999}),
        (DataError, "no evaluation has chosen a best", workdir, {"at": "best"}),
        (DataError, r"--out=.*other: holds something that is no export", workdir, {"out": tmp_path / "other"}),
        (DataError, r"--out=.*file: is a file; give a folder", workdir, {"out": tmp_path / "file"}),
        (ConfigError, "--format=onnx: no such format", workdir, {"format": "onnx"}),
        (ConfigError, "is a file of --format=safetensors", workdir, {"out": "w.safetensors", "format": "stablehlo"}),
        (ConfigError, "arrays of a program", workdir, {"data": None}),
    ):
        with pytest.raises(error, match=match):
            export(place, **({"data": data, "out": tmp_path / "new"} | options))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_earlier_export_as_it_was(made, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(made[1], folder)
    before = (folder / "model.jaxexport").read_bytes(), (folder / "signature.json").read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"copy: cannot write: No space left on device"):
        export(made[0], out=folder, data=made[3])
    assert ((folder / "model.jaxexport").read_bytes(), (folder / "signature.json").read_bytes()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_program_that_predicts_otherwise_is_not_put_there(made, tmp_path, monkeypatch):
    right = export_program.make_predict_step

    def wrong(**parts):
        step = right(**parts)
        return lambda *given: step(*given) * 1.001

    monkeypatch.setattr(export_program, "make_predict_step", wrong)
    with pytest.raises(JtrainError, match="predictions differ from the run's by"):
        export(made[0], out=tmp_path / "new", data=made[3])
    assert list(tmp_path.iterdir()) == []
    assert not any(str(tmp_path) in path for path in sys.path)


def regression(workdir, monkeypatch, factor):
    """The export of a run whose targets are some 1e-6, by a program that predicts `factor` times as much."""
    inputs = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    data = inputs, (5e-6 + 1e-6 * inputs[:, 0]).astype(np.float32)
    begun(workdir, data=data, task__name="regression", loss__name="mse")
    right = export_program.make_predict_step

    def scaled(**parts):
        step = right(**parts)
        return lambda *given: step(*given) * factor

    monkeypatch.setattr(export_program, "make_predict_step", scaled)
    return export(workdir, data=data)


def test_predictions_of_tiny_numbers_are_compared_by_their_size(tmp_path, monkeypatch):
    with pytest.raises(JtrainError, match=r"predictions differ from the run's by 0\.001"):
        regression(tmp_path, monkeypatch, 1.001)
    assert not (tmp_path / "export").exists()


def test_the_loader_compares_tiny_numbers_by_their_size_too(tmp_path, monkeypatch, capsys):
    folder = regression(tmp_path, monkeypatch, 1.0)
    with np.load(folder / "example.npz") as file:
        example = dict(file)
    assert 1e-7 < np.abs(example["predictions"]).max() < 1e-4
    assert loaded(folder, monkeypatch)["main"]([]) is None
    assert capsys.readouterr().out.startswith("correct: ")
    np.savez(folder / "example.npz", inputs=example["inputs"], predictions=example["predictions"] * 1.001)
    with pytest.raises(SystemExit, match=r"differ by 1\.0e-03 at most"):
        loaded(folder, monkeypatch)["main"]([])


class OneByOne(nn.Module):
    """Needs to know the size of a batch."""

    @nn.compact
    def __call__(self, inputs, *, train):
        head = nn.Dense(3)
        return jax.numpy.concatenate([head(inputs[i : i + 1]) for i in range(int(inputs.shape[0]))])


def test_a_model_that_needs_the_batch_size_is_exported_for_one(tmp_path, monkeypatch):
    run = begun(tmp_path, OneByOne())
    shown = io.StringIO()
    folder = export(tmp_path, model=OneByOne(), data=blobs(), screen=Screen(shown))
    assert json.loads((folder / "signature.json").read_text())["batch"] == run.batch_size
    assert f"note: takes batches of {run.batch_size} alone (" in shown.getvalue()
    inputs = blobs()["test"][0]
    assert len(inputs) % run.batch_size
    expected = jtrain.predict(tmp_path, inputs=inputs, model=OneByOne(), data=blobs())
    np.testing.assert_allclose(loaded(folder, monkeypatch)["predict"](inputs), expected, atol=1e-6)


def test_a_model_for_this_platform_alone_says_so(tmp_path, monkeypatch):
    begun(tmp_path)
    original = jax_export.export

    def partial(function, *, platforms):
        if "tpu" in platforms:
            raise NotImplementedError("no such kernel\non a TPU")
        return original(function, platforms=platforms)

    monkeypatch.setattr(jax_export, "export", partial)
    shown = io.StringIO()
    folder = export(tmp_path, data=blobs(), screen=Screen(shown))
    signature = json.loads((folder / "signature.json").read_text())
    assert (signature["platforms"], signature["batch"]) == (["cpu"], None)
    assert "note: runs on cpu alone, not on cpu, cuda, tpu (no such kernel on a TPU)" in shown.getvalue()


def test_a_model_that_cannot_be_exported_at_all_is_refused(tmp_path, monkeypatch):
    begun(tmp_path)

    def never(function, *, platforms):
        raise NotImplementedError("a callback")

    monkeypatch.setattr(jax_export, "export", never)
    with pytest.raises(ConfigError, match=r"model\.name: mlp cannot be exported: a callback"):
        export(tmp_path, data=blobs())
    assert not (tmp_path / "export").exists()


def test_numbers_come_in_the_unit_of_the_targets_whatever_the_mesh_was(tmp_path, monkeypatch):
    inputs = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    data = inputs, (500 + 100 * inputs[:, 0]).astype(np.float32)
    begun(tmp_path, data=data, task__name="regression", loss__name="mse", mesh__devices=8, mesh__fsdp=2)
    expected = jtrain.predict(tmp_path, inputs=inputs, data=data)
    config = json.loads((tmp_path / "config.json").read_text())
    config["mesh"]["devices"] = 64  # more than there are here
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = export(tmp_path, data=data)
    found = loaded(folder, monkeypatch)["predict"](inputs.astype(np.float64))  # wide numbers are narrowed
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 300 < found.mean() < 700


TINY = {
    "mlp": {}, "cnn": {"features": (4,), "pools": 1}, "resnet": {"depth": 20}, "wide_resnet": {"depth": 10, "widen": 1},
    "fast_cnn": {}, "highway": {}, "lstm": {}, "gru": {}, "autoencoder": {},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in MODELS if name != "given"])
def test_every_model_is_exported_for_any_batch_and_platform(name):
    inputs = {"lstm": ((12,), np.int32), "gru": ((12,), np.int32), "autoencoder": ((16, 16, 3), np.float32)}
    shape, dtype = inputs.get(name, ((32, 32, 3), np.float32))
    module = MODELS[name](16 * 16 * 3 if name == "autoencoder" else 10, **TINY.get(name, {}))
    params, state = shapes(module, shape, dtype)
    model = as_model(module)

    def predict(params, state, inputs):
        return model.apply(params, state, inputs, key=None, train=False)[0]

    batch = jax_export.symbolic_shape("batch")[0]
    example = jax.ShapeDtypeStruct((batch, *shape), dtype)
    exported = jax_export.export(jax.jit(predict), platforms=export_program.PLATFORMS)(params, state, example)
    assert str(exported.out_avals[0].shape[0]) == "batch"


def test_the_format_goes_by_the_name_of_the_file(made, tmp_path):
    assert export(made[0], out=tmp_path / "w.safetensors") == tmp_path / "w.safetensors"
    assert export(made[0], format="safetensors") == made[0] / "weights.safetensors"
    assert export(made[0], out=tmp_path / "w", format="safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"--config\.tta: is not for --format=safetensors"):
        export(made[0], format="safetensors", overrides={"tta": ""})


@pytest.mark.slow
def test_a_fresh_environment_with_jax_and_numpy_alone_runs_the_export(made, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", f"jax=={jax.__version__}", f"numpy=={np.__version__}"]
    if subprocess.run(pip, check=False, capture_output=True).returncode:
        pytest.skip("pip reaches no package index")
    for absent in ("jtrain", "flax", "flatbuffers"):
        command = [python, "-c", f"import {absent}"]
        assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 1
    folder = Path(shutil.copytree(made[1], tmp_path / "export"))
    environment = {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([python, folder / "predict.py"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("correct: ")
