"""What is read never runs: configs as JSON, workdirs, checkpoints, data; and no load path that could."""

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jtrain
from jtrain import config as configs
from jtrain import config_files
from jtrain.data.sources.images import decode
from jtrain.data.sources.tfds import find
from jtrain.errors import ConfigError, DataError
from jtrain.main import main

PACKAGE = Path(jtrain.__file__).parent

NET = """
import flax.linen as nn
class Net(nn.Module):
    num_outputs: int = 3
    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_outputs)(x)
"""
MINE = """
from jtrain.config import base

def get_config(arg=None):
    c = base()
    c.data.name, c.data.npz.path = "npz", {data!r}
    c.train.total, c.train.batch_size, c.mesh.devices = "4steps", 8, 1
    return c
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the run `run` of a part of somebody's, `foreign_net:Net`, and the run `plain` of none."""
    folder = tmp_path_factory.mktemp("safety")
    inputs, targets = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32), np.arange(60) % 3
    np.savez(folder / "data.npz", train_inputs=inputs, train_targets=targets, test_inputs=inputs[:7],
             test_targets=targets[:7])  # fmt: skip
    (folder / "mine.py").write_text(MINE.format(data=str(folder / "data.npz")))
    (folder / "foreign_net.py").write_text(f"import pathlib; pathlib.Path({str(folder / 'ran')!r}).touch()\n{NET}")
    command = [f"--config={folder / 'mine.py'}", f"--workdir={folder / 'run'}"]
    assert main([*command, "--config.model.name=foreign_net:Net"]) == 0
    assert main([*command[:1], f"--workdir={folder / 'plain'}", "--config.model.mlp.features=(4,)"]) == 0
    return folder


@pytest.fixture
def foreign(folder, monkeypatch):
    """The folder, as if the part had not been imported yet."""
    monkeypatch.delitem(sys.modules, "foreign_net", raising=False)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    (folder / "ran").unlink(missing_ok=True)
    return folder


REFUSED = [
    ["--config=run/config.json", "--workdir=new"],
    ["check", "--config=run/config.json"],
    ["--workdir=run"],
    ["--branch=run", "--workdir=new", "--config.train.total=6steps"],
    ["eval", "--workdir=run"],
    ["predict", "--workdir=run"],
]


@pytest.mark.parametrize("argv", REFUSED, ids=" ".join)
def test_a_part_that_json_names_is_refused_before_it_is_imported(foreign, argv, capsys):
    before = sorted(foreign.rglob("*"))
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "run/config.json: names code that jtrain would run, model.name='foreign_net:Net'" in error
    assert "--trust" in error
    assert len(error.splitlines()) == 1
    assert "foreign_net" not in sys.modules
    assert sorted(foreign.rglob("*")) == before


def test_trust_or_typing_the_part_lets_it_run(foreign, capsys):
    assert main(["eval", "--workdir=run", "--trust"]) == 0
    assert (foreign / "ran").exists()
    assert main(["--workdir=run", "--config.model.name=foreign_net:Net", "--config.train.total=5steps"]) == 0
    assert "resume" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="trust=True"):
        jtrain.evaluate("run")
    assert jtrain.predict("run", trust=True).shape == (7, 3)
    assert jtrain.load("run/config.json", trust=True).model.name == "foreign_net:Net"
    typed = {"model.name": "other_net:Net"}
    assert jtrain.load("run/config.json", typed).model.name == "other_net:Net"


def test_an_export_of_weights_needs_no_trust_since_it_imports_no_part(foreign):
    assert main(["export", "--workdir=run", "--out=weights.safetensors"]) == 0
    assert not (foreign / "ran").exists()
    with pytest.raises(ConfigError, match="trust=True"):
        jtrain.export("run")
    assert not (foreign / "ran").exists()


@pytest.mark.parametrize("section", configs.CHOICES)
def test_every_choice_of_a_part_is_guarded(tmp_path, section):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({section: {"name": "subprocess:call", "options": {"args": ("touch", "x")}}}))
    with pytest.raises(ConfigError, match=f"{section}.name='subprocess:call'.*--trust"):
        jtrain.load(str(path))
    with pytest.raises(ConfigError, match="subprocess:call"):
        jtrain.load(str(path), {f"{'data' if section != 'data' else 'model'}.name": "mine:Part"})
    assert config_files.load(str(path), trust=True)[section].name == "subprocess:call"


def test_a_python_config_is_named_before_it_is_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Path("noisy.py").write_text("print('here it runs')\nraise SystemExit")
    assert main(["--config=noisy.py:argument"]) == 2
    assert capsys.readouterr().out.splitlines() == [f"config: runs {folder}/noisy.py", "here it runs"]
    for text in ("digits", "cifar:small", "plain/config.json"):
        assert config_files.python_of(text) is None


DRIVER = """
import json, sys
from jtrain.main import VERBS, main
W = sys.argv[1]
verbs = [["eval"], ["predict", f"--out={sys.argv[2]}/p"], ["export", f"--out={sys.argv[2]}/w.safetensors"]]
verbs += [["inspect"]] if "inspect" in VERBS else []
verbs += [["train", "--config.train.total=6steps"]]
print(json.dumps([main([verb, f"--workdir={W}", *more]) for verb, *more in verbs]), file=sys.stderr)
"""


class Harmful:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_that_lies_in_a_workdir_is_run(folder, tmp_path):
    workdir, canary = tmp_path / "run", tmp_path / "canary"
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(["cp", "-r", folder / "plain", workdir], check=True)
    (newest,) = (workdir / "checkpoints").glob("4")
    names = ("config", "sitecustomize", "usercustomize", "jtrain", "numpy", "jax", "pickle", "tensorflow", "conftest")
    for spot in (workdir, workdir / "checkpoints", newest):
        for name in names:
            (spot / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')")
        (spot / "x.pkl").write_bytes(pickle.dumps(Harmful(canary)))
    driver = tmp_path / "elsewhere" / "driver.py"
    driver.write_text(DRIVER)
    assert not canary.exists()
    # -P: as the command `jtrain` does, Python leaves the folder of the program, and the current one, alone.
    done = subprocess.run(
        [sys.executable, "-P", driver, workdir, tmp_path], capture_output=True, text=True, check=True, cwd=workdir
    )
    assert set(json.loads(done.stderr.splitlines()[-1])) == {0}, done.stderr
    assert not canary.exists()
    pickle.loads((workdir / "x.pkl").read_bytes()).close()
    assert canary.exists()  # it could have been made


NEVER = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code", "runpy", "torch"}
RUN = {"eval", "exec", "compile", "__import__"}
ALLOWED = {
    ("data/worker.py", "pickle"): "speaks over a private pair of sockets with the process that started it alone",
    ("data/workers.py", "pickle"): "the other end: what it reads comes from its own children",
    ("config_files.py", "exec_module"): "a config is code: the file that --config=x.py names is run, and said to be",
    ("table.py", "import_module"): "a part 'module:Name', typed, of a config that is code, or trusted",
    ("__init__.py", "import_module"): "jtrain's own modules, by names that are written there",
    ("io/__init__.py", "import_module"): "jtrain's own modules, by names that are written there",
    ("verbs/export_program.py", "exec_module"): "the loader that it has just written, jtrain's own text",
    ("commands.py", "import_module"): "a study of jtrain's own, by a name that is written there",
}


def runs_code(tree):
    """Names in a syntax tree of what can run code that was read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ({alias.name.partition(".")[0] for alias in node.names} & NEVER)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module.partition(".")[0], *(alias.name for alias in node.names)}
            yield from (names & (NEVER | {"import_module", "import_string"}))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from {node.func.id} & RUN
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, options = node.func.attr, {k.arg: getattr(k.value, "value", "?") for k in node.keywords}
            if name in ("import_module", "exec_module", "load_module", "from_yaml", "read_pickle", "unsafe_load"):
                yield name
            owner = getattr(node.func.value, "id", "")
            if owner in ("np", "numpy") and name == "load" and options.get("allow_pickle") is not False:
                yield "np.load"
            if options.get("allow_pickle") or options.get("shell"):
                yield "allow_pickle or shell"
            if owner == "os" and name in ("system", "popen"):
                yield f"os.{name}"


def test_no_load_path_can_run_code():
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        if "configs" not in path.parts:
            found |= {(str(path.relative_to(PACKAGE)), name) for name in runs_code(ast.parse(path.read_text()))}
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "eval(x)", "exec(x)", "np.load(f)", "np.load(f, allow_pickle=True)",
        "importlib.import_module(x)", "from importlib import import_module", "ConfigDict.from_yaml(x)",
        "np.load(f, allow_pickle=flag)", "os.system(x)", "subprocess.run(x, shell=True)", "import torch.nn",
    ],
)  # fmt: skip
def test_what_is_looked_for_is_found(code):
    assert list(runs_code(ast.parse(code)))


@pytest.mark.parametrize("depth", [33, 500, 100_000])
@pytest.mark.parametrize("ends", [('{"model": {"options": {"x": ', "[", "]", "}}}"), ("", '{"a": ', "}", "")])
def test_json_that_is_nested_without_end_is_refused(tmp_path, depth, ends):
    path = tmp_path / "x.json"
    head, opening, closing, tail = ends
    path.write_text(head + opening * depth + ("1" if ":" in opening else "") + closing * depth + tail)
    with pytest.raises(ConfigError, match="nested too deep"):
        jtrain.load(str(path))


def test_json_that_is_too_long_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(config_files, "LONGEST", 100)
    path = tmp_path / "x.json"
    path.write_text(" " * 101)
    with pytest.raises(ConfigError, match="longer than 100 characters"):
        jtrain.load(str(path))


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\x9b1m", "\x07"])
def test_text_that_a_terminal_would_obey_is_refused(tmp_path, text, capsys):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"log": {"smaller": text}}))
    assert main([f"--config={path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jtrain: log.smaller: must hold no control characters")
    assert error.rstrip("\n").isprintable()


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_prepared_data_cannot_name_code_to_import(tmp_path, key):
    version = tmp_path / "planted" / "1.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    features = {"featuresDict": {"features": {"image": [{key: "planted_module.Feature"}]}}}
    (version / "features.json").write_text(json.dumps(features))
    with pytest.raises(DataError, match=r"names code to import, 'planted_module\.Feature'"):
        find("planted", str(tmp_path))


def test_an_image_cannot_start_a_program(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    image = tmp_path / "cat.png"
    image.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ValueError, match="no image of a known kind"):
        decode(image, channels=3)
    assert not (tmp_path / "canary").exists()
