"""The command line: verbs end to end, and the errors a beginner makes, each one line with its exit code."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jtrain
from jtrain import command_parts
from jtrain import main as cli
from jtrain.data.examples import ArrayExamples, Subset
from jtrain.errors import ConfigError, DataError
from jtrain.main import main, split_overrides
from jtrain.run import Run

TINY = [
    "--config=digits", "--config.train.total=6steps", "--config.train.eval_every=3steps", "--config.log.every=2steps",
    "--config.model.cnn.features=(4,)", "--config.model.cnn.pools=1", "--config.mesh.devices=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_config(path, *lines):
    body = "\n".join(f"    {line}" for line in lines)
    Path(path).write_text(
        f"from jtrain.config import base\n\ndef get_config(arg=None):\n    c = base()\n{body}\n    return c\n"
    )


def write_npz(path, inputs=None, targets=None):
    inputs = np.zeros((100, 8, 8, 1), np.uint8) if inputs is None else inputs
    targets = np.arange(len(inputs)) % 4 if targets is None else targets
    np.savez(path, train_inputs=inputs, train_targets=targets)


def test_train_eval_predict_and_resume_end_to_end(capsys):
    assert main(["train", *TINY, "--workdir=run"]) == 0
    shown = capsys.readouterr().out
    for word in ("digits", "parameters", "schedule", "cosine", "val", "test", "best", "run: report.html"):
        assert word in shown
    assert Path("run/curves.png").read_bytes()[:4] == b"\x89PNG"
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["split"] == "test"
    assert main(["eval", "--workdir=run"]) == 0
    assert f"{last['accuracy']:.4g}" in capsys.readouterr().out
    assert main(["eval", "--workdir=run", "--split=val", "--at=best"]) == 0
    assert main(["predict", "--workdir=run"]) == 0
    saved = np.load("run/predictions-test.npz")
    np.testing.assert_allclose(saved["probabilities"].sum(-1), 1, atol=1e-5)
    assert np.mean(saved["predicted"] == saved["targets"]) == pytest.approx(last["accuracy"])
    lines = Path("run/predictions-test.csv").read_text().splitlines()
    assert lines[0].startswith("example,target,predicted,0,1")
    assert len(lines) == 1 + len(saved["targets"])
    np.save("some.npy", np.zeros((3, 8, 8, 1), np.uint8))
    assert main(["predict", "--workdir=run", "--inputs=some.npy"]) == 0
    assert np.load("run/predictions-some.npz")["probabilities"].shape == (3, 10)
    assert main(["--workdir=run", "--config.train.total=8steps"]) == 0
    assert "resume" in capsys.readouterr().out


def test_check_goes_through_everything_and_draws_the_schedule(capsys):
    assert main(["check", *TINY]) == 0
    shown = capsys.readouterr().out
    for word in ("one step", "one evaluation", "one checkpoint", "conv0/kernel", "decays", "check passed"):
        assert word in shown
    assert "adamw(b1=0.9, b2=0.999, eps=1e-08, weight_decay=0.0001, decay='decoupled')" in shown
    (picture,) = (p for p in Path().rglob("*") if p.is_file())
    assert picture == Path("runs/check-digits/schedule.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("name", "lr", "decay"),
    [("sgd", 0.01, 1e-4), ("adam", 0.001, 0.0), ("adamw", 0.001, 1e-4), ("rmsprop", 0.001, 0.0), ("lion", 1e-4, 1e-3)],
)
def test_the_notes_defaults_can_be_read_off_check(name, lr, decay, capsys):
    Path("mine.py").write_text(
        "from jtrain.config import base\n\ndef get_config(arg=None):\n    c = base()\n"
        f"    c.optimizer.name = {name!r}\n    c.model.mlp.features = (4,)\n    return c\n"
    )
    assert main(["check", "--config=mine.py", "--config.train.total=3steps", "--config.mesh.devices=1"]) == 0
    shown = capsys.readouterr().out
    assert f"{name} · lr {lr:g} (its default)" in shown
    assert f"weight_decay={decay!r}" in shown
    assert "dropout=0.5" in shown
    if name == "sgd":
        assert "momentum=0.9" in shown


def test_a_branch_from_the_command_line(capsys):
    assert main([*TINY, "--workdir=old"]) == 0
    command = ["--branch=old@best", "--workdir=new", "--config.lr_scale=0.1", "--config.train.total=9steps"]
    assert main(command) == 0
    assert "branch: begins with update" in capsys.readouterr().out
    first = json.loads(Path("new/metrics.jsonl").read_text().splitlines()[0])
    old = json.loads(Path("old/metrics.jsonl").read_text().splitlines()[0])
    assert first["lr"] < 0.2 * old["lr"]
    assert main(["--workdir=new", "--config.train.total=10steps"]) == 0
    assert main(["--branch=nowhere", "--workdir=other"]) == 3


def test_help_lists_verbs_flags_and_configs(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("train", "check", "eval", "predict", "--workdir", "cifar", "digits"):
        assert word in shown


BAD_COMMANDS = [
    ([], 2, "--config=digits"),
    (["trian", "--config=digits"], 2, "did you mean 'train'"),
    (["--config=digit"], 2, "did you mean 'digits'"),
    (["--config=nowhere.py"], 2, "nowhere.py"),
    (["--confg=digits"], 2, "--confg: no such flag; did you mean '--config'"),
    (["ladder", "--config=digits", "--rungs=3"], 2,
     "--rungs: no such flag; an option is written --config.study.ladder.rungs=…"),
    (["--config=digits", "--rules=3"], 2, "--rules: no such flag; an option is written --config.mesh.rules=…"),
    (["--config=digits", "--spilt=val"], 2, "--spilt: no such flag; did you mean '--split'"),
    (["--config=digits", "--config=cifar"], 2, "--config: is given twice, 'digits' and 'cifar'"),
    (["--config=digits", "--config.seed=1", "--config.seed", "2"], 2, "--config.seed: is given twice, '1' and '2'"),
    (["--config=digits", "--workdir="], 2, "--workdir: is empty"),
    (["--config=digits", "--config.model.cnn.features=64"], 2, "must be a tuple, such as '(64,)'"),
    (["--config=digits", "--config.model.options.act=x"], 2, "model.options.act: is for a part of yours"),
    (["--config=typed.py"], 2, "typed.py:5: train.total: needs a unit, such as '3steps'"),
    (["--config=exits.py"], 2, "exits.py:5: the config ends the program"),
    (["--config=foreign.py", "--config.train.batch_size=3"], 2, "foreign.py: a: no such option"),
    (["--config=cut.py", "--config.train.batch_size=3"], 2, "cut.py: train.total: is missing"),
    (["--config=act.py"], 2, "act.py: model.options.act: config.json cannot hold"),
    (["--config=null.py"], 2, "null.py"),
    (["--config=digits", "--config.data.name=npz", "--config.data.npz.path=empty.npz"], 3, "at least one number"),
    (["--config=digits", "--config.data.name=npz", "--config.data.npz.path=great.npz"], 3, "hold 1e+300 in row 0"),
    (["--config=digits", "--config.train.batchsize=3"], 2, "did you mean 'train.batch_size'"),
    (["--config=digits", "--config.train.batch_size=0"], 2, "train.batch_size: must be at least 1"),
    (["--config=digits", "--config.train.batch_size=-1"], 2, "train.batch_size: must be at least 1"),
    (["--config=digits", "--config.train.batch_size=5000"], 2, "5000"),
    (["--config=digits", "--config.train.total=20"], 2, "needs a unit"),
    (["--config=digits", "--config.optimizer.name=adm"], 2, "did you mean 'adam'"),
    (["--config=digits", "--config.optimizer.lr=-1"], 2, "optimizer.lr"),
    (["--config=digits", "--config.optimizer.lr=nan"], 2, "optimizer.lr"),
    (["--config=digits", "--config.optimizer.lr=inf"], 2, "optimizer.lr"),
    (["--config=digits", "--config.optimizer=adam"], 2, "optimizer: is a section"),
    (["--config=digits", "--config.groups=((\"hed/.*\", 1.0), (\".*\", 0.1))"], 2, "'hed/.*' matches no parameter"),
    (["--config=digits", "--config.optimizer.sgd.momentum=0.5"], 2, "optimizer.name is 'adamw'"),
    (["--config=digits", "--config.augment=flip_rl"], 2, "flip_lr"),
    (["--config=digits", "--config.mesh.devices=99"], 2, "mesh.devices"),
    (["--config=digits", "--config.train.eval_every"], 2, "needs a value"),
    (["--config=digits", "--config.data.name=npz"], 2, "data.npz.path"),
    (["--config=digits", "--config.data.name=npz", "--config.data.npz.path=no.npz"], 3, "no.npz"),
    (["--config=digits", "--config.model.cnn.pools=3", "--config.model.cnn.features=(4,4,4)", "--config.data.name=npz",
      "--config.data.npz.path=narrow.npz"], 2, "model.cnn"),
    (["--config=digits", "--config.data.name=npz", "--config.data.npz.path=flat.npz"], 2, "model.cnn"),
    (["--config=digits", "--config.data.name=npz", "--config.data.npz.path=labels.npz"], 3, "target of row 0 is -1"),
    (["--config=digits", "--config.data.name=npz", "--config.data.npz.path=nan.npz"], 3, "nan"),
    (["--config=digits", "--config.data.name=npz", "--config.data.npz.path=torn.npz"], 3, "torn.npz"),
    (["--config=mine.py"], 2, "mine.py:5: train.batchsize"),
    (["eval"], 2, "--workdir"),
    (["eval", "--workdir=nowhere"], 3, "holds no run"),
    (["predict", "--workdir=nowhere", "--config=digits"], 2, "--config"),
    (["--workdir=nowhere"], 2, "--config"),
    (["--config=digits", "--workdir=file.txt"], 3, "file.txt"),
    (["--config=digits", "--workdir=full"], 2, "holds files but no run"),
    (["--config=digits", "--split=test"], 2, "--split"),
    (["--config=digits", "--resume=yes"], 2, "--resume=yes: must be force"),
    (["--config=digits", "more", "words"], 2, "more"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "code", "words"), BAD_COMMANDS, ids=lambda v: " ".join(v)[-50:] if isinstance(v, list) else None
)
def test_beginners_errors_are_one_line_with_their_exit_code(argv, code, words, capsys):
    write_config("mine.py", "c.train.batchsize = 3")
    write_config("typed.py", "c.train.total = 3")
    write_config("exits.py", "raise SystemExit(3)")
    write_config("foreign.py", "import ml_collections", "c = ml_collections.ConfigDict({'a': 1})")
    write_config("cut.py", "c.unlock(); del c['train']")
    write_config("act.py", "c.model.options.act = sum")
    Path("null.py").write_bytes(b"x = 1\0")
    write_npz("empty.npz", np.zeros((60, 0)))
    write_npz("great.npz", np.full((60, 2), 1e300))
    write_npz("narrow.npz", np.zeros((100, 4, 4, 1), np.uint8))
    write_npz("flat.npz", np.zeros((100, 64), np.float32))
    write_npz("labels.npz", targets=np.arange(100) - 1)
    write_npz("nan.npz", np.full((100, 8, 8, 1), np.nan, np.float32))
    write_npz("torn.npz")
    Path("torn.npz").write_bytes(Path("torn.npz").read_bytes()[:-200])
    Path("file.txt").write_text("dear")
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("dear")
    before = sorted(Path().rglob("*"))
    found = main(argv)
    shown = capsys.readouterr()
    assert found == code, shown
    assert words.lower() in shown.err.lower()
    assert "Traceback" not in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert [path for path in sorted(Path().rglob("*")) if "__pycache__" not in path.parts] == before


def test_a_flag_that_is_mistyped_is_told_without_importing_what_trains():
    code = """
import sys
from jtrain.main import main
assert main(["eval", "--workdri=a"]) == 2
sys.exit(bool({"jax", "flax", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "jtrain: --workdri: no such flag; did you mean '--workdir'?\n")


def test_data_that_is_missing_gets_a_beginner_going(capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "nothing-here")
    assert main(["--config=cifar"]) == 3
    shown = capsys.readouterr().err
    for words in ("nothing-here", "TFDS_DATA_DIR", "jtrain[prepare]", "configs/cifar.py:shapes"):
        assert words in shown
    assert list(Path().iterdir()) == []


def test_a_real_process_ends_with_the_code_and_no_traceback():
    command = [sys.executable, "-m", "jtrain.main", "--config=digits", "--config.optimizer.momentun=0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "optimizer.momentun" in done.stderr
    assert "optimizer.sgd.momentum" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_reader_that_leaves_does_not_kill_the_training():
    command = f"{sys.executable} -m jtrain.main {' '.join(TINY)} --workdir=run | head -n 1"
    command = command.replace("(4,)", "'(4,)'")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=os.environ)
    assert "Traceback" not in done.stderr
    assert json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["split"] == "test"


def test_overrides_are_told_apart_from_flags():
    assert split_overrides(["--config=x", "--config.a.b=1=2", "--config.c", "3", "train"]) == (
        {"a.b": "1=2", "c": "3"}, ["--config=x", "train"],
    )  # fmt: skip


def test_a_platform_that_is_not_there_is_explained(capsys, monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cda':\nnot known")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cda")
    assert main(["check", *TINY]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("jtrain: JAX_PLATFORMS=cda: Unable to initialize")
    assert len(shown.splitlines()) == 1


def test_paths_may_begin_at_home_and_data_is_found_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = cli._parse(["--config=~/c.py", "--workdir=~/w", "--inputs=~/i.npy", "--out=~/o"])
    assert [given[name] for name in ("config", "workdir", "inputs", "out")] == [
        f"{tmp_path}/{name}" for name in ("c.py", "w", "i.npy", "o")
    ]
    values, overrides = cli._parse(["--config=digits"]), {"data.name": "npz"}
    for path in ("a.npz", "~/a.npz"):
        config = command_parts.load(values, overrides | {"data.npz.path": path})
        assert config.data.npz.path == f"{tmp_path}/a.npz"


def test_modules_are_found_in_the_current_folder_and_beside_the_config(monkeypatch, capsys):
    net = "import flax.linen as nn\nclass Net(nn.Module):\n    @nn.compact\n    def __call__(self, x):\n"
    net += "        return nn.Dense(10)(x.reshape(x.shape[0], -1))\n"
    Path("sub").mkdir()
    Path("net_of_the_folder.py").write_text(net)
    Path("sub/net_of_the_config.py").write_text(net)
    write_config("sub/mine.py", "c.model.name = 'net_of_the_config:Net'", "c.mesh.devices = 1")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(Path.cwd()))])
    assert main(["check", "--config=sub/mine.py"]) == 0
    assert main(["check", "--config=sub/mine.py", "--config.model.name=net_of_the_folder:Net"]) == 0
    assert main(["check", "--config=sub/mine.py", "--config.model.name=net_of_nobody:Net"]) == 2
    assert "looked for in the current folder, that of the config file, and PYTHONPATH" in capsys.readouterr().err


def test_help_needs_no_glyphs_and_no_output(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["--help"]) == 0
    assert b"[--config.KEY=VALUE ...]" in raw.getvalue()
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--help"]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(60, 3)).astype(np.float32), np.arange(60) % 3
    np.savez(folder / "data.npz", train_inputs=inputs, train_targets=targets, test_inputs=inputs[:7],
             test_targets=targets[:7])  # fmt: skip
    write_config(folder / "mine.py", "c.data.name = 'npz'", f"c.data.npz.path = {str(folder / 'data.npz')!r}",
                 "c.train.total = '4steps'", "c.train.batch_size = 8", "c.model.mlp.features = (4,)",
                 "c.mesh.devices = 1")  # fmt: skip
    assert main([f"--config={folder / 'mine.py'}", f"--workdir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.mark.parametrize("key", ["train.batch_size", "data.normalize", "model.mlp.features", "precision", "seed"])
@pytest.mark.parametrize("verb", ["eval", "predict"])
def test_a_run_is_looked_at_as_it_was_trained(trained, verb, key, capsys):
    values = {"data.normalize": "false", "model.mlp.features": "(5,)", "precision": "bfloat16"}
    assert main([verb, f"--workdir={trained}", f"--config.{key}={values.get(key, 3)}"]) == 2
    assert f"{key}: is as {trained}/config.json says" in capsys.readouterr().err


def test_where_data_lies_may_differ(trained, tmp_path):
    moved = shutil.copy(trained.parent / "data.npz", tmp_path / "moved.npz")
    options = ("log.every=1steps", "data.placement=streamed", f"data.npz.path={moved}", "mesh.devices=2")
    assert main(["eval", f"--workdir={trained}", *(f"--config.{option}" for option in options)]) == 0


def test_a_step_may_be_a_number_of_python_and_no_other_digit(trained, capsys):
    assert jtrain.evaluate(trained, at=4) == jtrain.evaluate(trained, at="latest")
    np.testing.assert_array_equal(jtrain.predict(trained, at=4), jtrain.predict(trained))
    for at in ("²", "4" * 5000, "-4"):
        assert main(["eval", f"--workdir={trained}", f"--at={at}"]) == 2
        assert "must be 'latest', 'best' or the number of a step" in capsys.readouterr().err


def test_inputs_are_cast_as_training_data_are(trained):
    inputs = np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_array_equal(
        jtrain.predict(trained, inputs=inputs), jtrain.predict(trained, inputs=inputs.astype(np.float32))
    )


@pytest.mark.parametrize(
    ("inputs", "kind", "words"),
    [
        (np.full((2, 3), np.nan), DataError, "row 0 holds nan"), (np.full((2, 3), 1e300), DataError, "1e.300 in row 0"),
        (np.ones((2, 4)), ConfigError, r"must be \[n, 3\] float32 as in training, got \[2, 4\] float64"),
        (np.ones((2, 3), int), ConfigError, r"got \[2, 3\] int64"), (np.ones((0, 3)), DataError, "at least one"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_told_before_a_checkpoint_is_looked_for(trained, tmp_path, inputs, kind, words):
    (tmp_path / "bare").mkdir()
    shutil.copy(trained / "config.json", tmp_path / "bare")
    with pytest.raises(kind, match=words):
        jtrain.predict(tmp_path / "bare", inputs=inputs)


def test_predictions_go_where_they_are_said_to(trained, capsys):
    Path("file").write_text("x")
    assert main(["predict", f"--workdir={trained}", "--out=file/x"]) == 3
    assert "--out=file/x: cannot make the folder file" in capsys.readouterr().err
    for out, place in (("new/", "new/predictions-test"), ("deep/in/x", "deep/in/x"), ("new", "new/predictions-test")):
        assert main(["predict", f"--workdir={trained}", f"--out={out}"]) == 0
        assert f"7 predictions in {place}.npz and {place}.csv" in capsys.readouterr().out
        assert Path(f"{place}.npz").is_file()
        assert Path(f"{place}.csv").is_file()


def test_targets_of_streamed_splits_are_fetched_in_parts(trained, monkeypatch):
    def refuse(self):
        raise AssertionError("all inputs at once")

    monkeypatch.setattr("jtrain.data.examples.CHUNK", 3)
    monkeypatch.setattr(ArrayExamples, "arrays", refuse)
    monkeypatch.setattr(Subset, "arrays", refuse)
    jtrain.predict(trained, overrides={"data.placement": "streamed"}, out="some")
    assert np.load("some.npz")["targets"].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_what_fails_ends_its_threads_too(trained, monkeypatch):
    closed = []
    monkeypatch.setattr(Run, "close", lambda run: closed.append(run))
    for look in (jtrain.evaluate, jtrain.predict):
        with pytest.raises(DataError, match="no checkpoint 99"):
            look(trained, at=99)
    config = jtrain.load(str(trained / "config.json"))
    monkeypatch.setattr(Run, "init_state", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        jtrain.check(jtrain.assemble(config))
    assert len(closed) == 3


def catches(process, number):
    """Whether the process has a handler for a signal: bit n − 1 of SigCgt (proc(5))."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("wait", [0.0, 0.1, 0.25])
def test_a_signal_before_training_is_one_line_and_its_code(number, wait):
    command = [sys.executable, "-m", "jtrain.main", "--config=digits", "--workdir=run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not catches(process, signal.SIGTERM) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(wait)
        process.send_signal(number)
        shown, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert (shown, error) == (b"", f"jtrain: interrupted by {number.name}\n".encode())
    assert not Path("run").exists()


def test_nothing_heavy_is_imported_before_signals_are_caught():
    code = "import sys, jtrain.main; print([m for m in ('absl', 'jax', 'numpy', 'pathlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(Path(jtrain.__file__).parents[1])})  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_main_in_a_program_leaves_signals_alone():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    main(["--help"])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_no_file_takes_the_place_of_a_closed_output():
    code = "import os; os.close(1); os.close(2); import jtrain.main as m; "
    code += "m.main = lambda argv: os.open(os.devnull, os.O_RDONLY); m.run()"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode > 2
