"""The command line: verbs end to end, and the errors a beginner makes, each one line with its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jtrain.main import main, split_overrides

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
    for word in ("digits", "parameters", "schedule", "cosine", "val", "test", "best", "run: metrics.jsonl"):
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


def test_check_goes_through_everything_and_writes_nothing(capsys):
    assert main(["check", *TINY]) == 0
    shown = capsys.readouterr().out
    for word in ("one step", "one evaluation", "one checkpoint", "conv0/kernel", "decays", "check passed"):
        assert word in shown
    assert list(Path().iterdir()) == []


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
    (["--confg=digits"], 2, "config"),
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
    (["--config=digits", "--resume=yes"], 2, "resume"),
    (["--config=digits", "more", "words"], 2, "more"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "code", "words"), BAD_COMMANDS, ids=lambda v: " ".join(v)[-50:] if isinstance(v, list) else None
)
def test_beginners_errors_are_one_line_with_their_exit_code(argv, code, words, capsys):
    write_config("mine.py", "c.train.batchsize = 3")
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
    assert sorted(Path().rglob("*")) == before


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
