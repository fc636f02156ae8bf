"""What a study leaves in its workdir, and how it goes on from there."""

import dataclasses
import io
import json

import flax.linen as nn
import numpy as np
import pytest
from helpers import blobs, tiny, tiny_run

from jtrain.errors import ConfigError, DataError, HeldError
from jtrain.io.progress import Screen
from jtrain.loop import train
from jtrain.studies import journal as journals
from jtrain.studies.journal import open_study
from jtrain.studies.study import Study, table


def counting(journal, keys, made):
    return [journal.piece(key, lambda key=key: made.append(key) or {"key": key, "bad": float("nan")}) for key in keys]


def ladder(config, workdir, keys=("a", "b"), **given):
    made = []
    with open_study("ladder", config, workdir, **({"data": blobs()} | given)) as journal:
        found = counting(journal, keys, made)
    return made, found


def test_a_piece_is_computed_once_and_comes_back_the_same(tmp_path):
    first = ladder(tiny(), tmp_path / "w", "ab")
    again = ladder(tiny(), tmp_path / "w", "abc")
    assert first[0] == ["a", "b"]
    assert again[0] == ["c"]
    assert again[1][:2] == first[1] == [{"key": "a", "bad": None}, {"key": "b", "bad": None}]


def test_a_line_that_a_kill_has_torn_is_computed_again(tmp_path):
    ladder(tiny(), tmp_path / "w", "ab")
    path = tmp_path / "w" / "study.jsonl"
    path.write_text(path.read_text()[:-5])
    assert ladder(tiny(), tmp_path / "w", "ab")[0] == ["b"]
    assert ladder(tiny(), tmp_path / "w", "ab")[0] == []


def test_another_config_other_data_or_another_study_are_refused_and_other_studies_options_are_not(tmp_path):
    ladder(tiny(), tmp_path / "w")
    with pytest.raises(ConfigError, match=r"optimizer.lr: .* holds a study with 0.01, the command says 0.02"):
        ladder(tiny(optimizer__lr=0.02), tmp_path / "w")
    with pytest.raises(ConfigError, match=r"study.ladder.rungs"):
        ladder(tiny(study__ladder__rungs=4), tmp_path / "w")
    assert ladder(tiny(study__lr_find__seeds=4), tmp_path / "w")[0] == []
    with pytest.raises(ConfigError, match="other data"):
        ladder(tiny(), tmp_path / "w", data=blobs(seed=1))
    with (
        pytest.raises(ConfigError, match="holds another study, ladder"),
        open_study("lr_find", tiny(), tmp_path / "w", data=blobs()),
    ):
        pass


def test_a_folder_of_a_run_or_of_other_files_is_refused(tmp_path):
    run = tiny_run("3steps")
    train(run, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run but no study"):
        ladder(tiny(), tmp_path / "run")
    ladder(tiny(), tmp_path / "study")
    with pytest.raises(ConfigError, match="holds a study"):
        train(tiny_run("3steps"), tmp_path / "study")


def test_a_workdir_is_held_by_one(tmp_path):
    with open_study("ladder", tiny(), tmp_path / "w", data=blobs()), pytest.raises(HeldError, match="held by"):
        ladder(tiny(), tmp_path / "w")


def test_a_study_takes_a_run_and_refuses_what_is_neither(tmp_path):
    with open_study("ladder", tiny_run(), None) as journal:
        assert journal.piece("a", lambda: 1) == 1
        assert journal.options.rungs == 5
    with pytest.raises(ConfigError, match="ladder: needs a config or a run"), open_study("ladder", {"lr": 1}, None):
        pass
    with (
        pytest.raises(ConfigError, match="has its model and data already"),
        open_study("ladder", tiny_run(), None, data=blobs()),
    ):
        pass


def test_the_result_is_written_and_shown(tmp_path):
    def draw(figure):
        figure.subplots().plot([1, 2], [3, 4])

    study = Study("ladder", "0.01 is best.", [{"lr": 0.01, "loss": 0.25}, {"lr": 1e-3, "why": "x"}], {"lr": 0.01}, draw)
    study = dataclasses.replace(study, found={"lr": 0.01, "unstable": np.float32("inf")})
    study.save(tmp_path)
    told = json.loads((tmp_path / "study.json").read_text())
    assert told["found"] == {"lr": 0.01, "unstable": None}
    assert told["rows"][1] == {"lr": 1e-3, "why": "x"}
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    assert study.table().splitlines() == ["   lr  loss  why", " 0.01  0.25", "0.001        x"]


def finished(folder, **fields):
    """The lines of a study that ends."""
    shown, study = io.StringIO(), Study("ladder", "0.01 is best.", [{"lr": 0.01}], {}, lambda figure: None)
    with open_study("ladder", tiny(**fields), folder, data=blobs(), screen=Screen(shown, live=False)) as journal:
        assert journal.finish(study) is study
    assert (folder / "study.json").is_file()
    return shown.getvalue()


def test_the_files_that_are_named_are_those_that_are_there(tmp_path):
    assert f"files in {tmp_path / 'a'}: report.html, study.json, study.png" in finished(tmp_path / "a")
    assert f"files in {tmp_path / 'b'}: study.json, study.png" in finished(tmp_path / "b", log__report=False)
    for name, there in (("a", True), ("b", False)):
        assert (tmp_path / name / "report.html").exists() is there


def test_a_page_that_cannot_be_written_is_told_and_no_end_of_the_study(tmp_path, monkeypatch):
    def full(folder):
        raise DataError("report.html: No space left on device")

    monkeypatch.setattr(journals, "write_report", full)
    shown = finished(tmp_path / "w")
    assert "report: report.html was not written: DataError('report.html: No space left on device')" in shown
    assert f"files in {tmp_path / 'w'}: study.json, study.png" in shown


def test_a_table_of_nothing_is_empty():
    assert table([]) == ""


def test_what_is_refused_before_any_work_leaves_the_folder_free(tmp_path):
    with pytest.raises(ConfigError, match="no good"), open_study("ladder", tiny(), tmp_path / "w", data=blobs()):
        raise ConfigError("no good")
    assert {p.name for p in (tmp_path / "w").iterdir()} <= {"lock"}
    assert ladder(tiny(optimizer__lr=0.02), tmp_path / "w")[0] == ["a", "b"]


def test_a_study_that_was_killed_as_it_began_can_be_begun_again(tmp_path):
    ladder(tiny(), tmp_path / "w", "")
    (tmp_path / "w" / "config.json").unlink()
    assert ladder(tiny(optimizer__lr=0.02), tmp_path / "w")[0] == ["a", "b"]


def test_another_model_of_a_program_is_refused(tmp_path):
    class Net(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Dense(self.width)(x))

    ladder(tiny(), tmp_path / "w", model=Net(4))
    assert ladder(tiny(), tmp_path / "w", model=Net(4))[0] == []
    with pytest.raises(ConfigError, match="a study of another model"):
        ladder(tiny(), tmp_path / "w", model=Net(5))


def test_a_study_is_printed_as_its_table_and_conclusion():
    study = Study("ladder", "0.01 is best.", [{"lr": 0.01}], {}, print)
    assert repr(study).splitlines() == ["  lr", "0.01", "ladder: 0.01 is best."]
