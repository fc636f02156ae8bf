"""Studies on the command line: what is typed, the exit code, the files, and an ensemble that predicts."""

import dataclasses
import json

import numpy as np
import pytest

from jtrain.main import STUDIES, VERBS, main
from jtrain.study_options import STUDY_OPTIONS

SMALL = (
    "--config=digits", "--config.model.cnn.features=(4,)", "--config.model.cnn.pools=1", "--config.data.examples=64",
    "--config.train.batch_size=16", "--config.train.total=20steps", "--config.train.eval_every=20steps",
    "--config.mesh.devices=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_study_is_a_verb_a_function_and_a_section_of_options():
    import jtrain

    assert set(STUDIES) == set(STUDY_OPTIONS)
    for name in STUDIES:
        assert name in VERBS
        assert getattr(jtrain, name).__module__ == f"jtrain.studies.{name}"


def test_a_study_leaves_its_files_and_the_same_command_goes_on_from_them(tmp_path, capsys):
    words = ("inits", *SMALL, "--config.study.inits.total=100%", "--config.study.inits.seeds=2", "--workdir=w",
             "--config.optimizer.lr=0.03", "--config.study.inits.names=('model', 'orthogonal')")  # fmt: skip
    assert main(words) == 0
    first = capsys.readouterr().out
    told = json.loads((tmp_path / "w" / "study.json").read_text())
    assert told["study"] == "inits"
    assert told["conclusion"] in first
    assert (tmp_path / "w" / "study.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "w" / "study.jsonl").read_text()
    assert main(("inits", "--workdir=w")) == 0
    assert "goes on in w" in capsys.readouterr().out
    assert (tmp_path / "w" / "study.jsonl").read_text() == lines
    assert main(("train", "--workdir=w")) == 2
    assert "holds a study" in capsys.readouterr().err
    assert main(("ladder", "--workdir=w")) == 2
    assert "holds another study, inits" in capsys.readouterr().err


def test_a_study_without_a_workdir_makes_one_that_bears_its_name(tmp_path):
    assert main(("overfit", *SMALL, "--config.study.overfit.neighbours=0")) in (0, 1)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("overfit-digits-2")


def test_no_is_exit_code_one_and_the_suspect_is_named(capsys):
    assert main(("overfit", *SMALL, '--config.groups=((".*", 1e-9),)', "--config.study.overfit.total=60steps")) == 1
    assert "fails" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--split=val", "--inputs=a.npy", "--out=a", "--branch=runs/a", "--rule=vote"])
def test_a_flag_that_is_not_for_studies_is_refused(flag, capsys):
    assert main(("ladder", "--config=digits", flag)) == 2
    assert f"{flag.partition('=')[0]}: is not for ladder" in capsys.readouterr().err


def test_predict_takes_the_folder_of_an_ensemble(tmp_path, capsys):
    assert main(("ensemble", *SMALL, "--config.study.ensemble.members=2", "--workdir=e")) == 0
    assert main(("predict", "--workdir=e")) == 0
    mean = np.load(tmp_path / "e" / "predictions-test.npz")["probabilities"]
    np.testing.assert_allclose(mean.sum(axis=-1), 1, atol=1e-5)
    assert main(("predict", "--workdir=e", "--rule=vote", "--split=val", "--out=votes")) == 0
    assert main(("predict", "--workdir=e", "--rule=vote")) == 0
    assert (tmp_path / "e" / "predictions-test-vote.csv").is_file()
    shares = np.load(tmp_path / "votes.npz")["probabilities"]
    assert set(np.unique(shares)) <= {0.0, 0.5, 1.0}
    assert main(("predict", "--workdir=e", "--rule=median")) == 2
    assert "--rule: no such rule 'median'" in capsys.readouterr().err
    assert main(("predict", "--workdir=e", "--at=best")) == 2
    assert "--at: is not for predict with an ensemble" in capsys.readouterr().err
    assert main(("predict", "--workdir=e/member0", "--rule=mean")) == 2
    assert "--rule: is for the folder of an ensemble" in capsys.readouterr().err


def test_help_of_a_study_tells_every_option_with_its_default(capsys):
    for name, options in STUDY_OPTIONS.items():
        assert main((name, "--help")) == 0
        shown = capsys.readouterr().out
        assert VERBS[name] in shown
        for field in dataclasses.fields(options):
            line = f"  --config.study.{name}.{field.name}={field.default}\n      "
            assert line in shown
            assert shown.partition(line)[2][0].isprintable()


def test_a_member_is_not_evaluated_on_examples_that_it_was_trained_on(tmp_path, capsys):
    assert main(("ensemble", *SMALL, "--config.study.ensemble.members=2", "--workdir=e")) == 0
    assert main(("eval", "--workdir=e/member0", "--split=val")) == 0
    assert main(("eval", "--workdir=e/member1", "--split=test")) == 0
    capsys.readouterr()
    assert main(("eval", "--workdir=e/member1", "--split=val")) == 2
    assert "it may have seen them" in capsys.readouterr().err
    assert main(("eval", "--workdir=e")) == 3
    assert "holds a study, which is no run; runs in it: e/member0, e/member1" in capsys.readouterr().err
