"""`jtrain diagnose`: words and a picture."""

import io
import json
import struct

import numpy as np
import pytest

from jtrain.errors import DataError
from jtrain.io.progress import Screen
from jtrain.verbs.diagnose import diagnose


def told(path, **options):
    stream = io.StringIO()
    verdicts = diagnose(path, screen=Screen(stream, live=False), **options)
    return verdicts, stream.getvalue()


def test_csv_of_a_blow_up_is_named_and_drawn(tmp_path):
    file = tmp_path / "run.csv"
    file.write_text("step,loss\n" + "".join(f"{10 * i},{2.3 + min(i / 4, 3)}\n" for i in range(1, 41)))
    verdicts, text = told(file)
    assert [v.name for v in verdicts] == ["lr_too_high"]
    assert "lr_too_high" in text
    assert "third" in text
    png = (tmp_path / "run.diagnosis.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    assert min(struct.unpack(">II", png[16:24])) > 300


def test_healthy_run_is_one_sentence_with_numbers(tmp_path):
    file = tmp_path / "run.csv"
    losses = 0.1 + 2 * np.exp(-np.arange(1, 41) / 8)
    file.write_text("step,loss\n" + "".join(f"{10 * i},{loss:.6g}\n" for i, loss in enumerate(losses, 1)))
    verdicts, text = told(file, out=tmp_path / "picture.png", silence=("saturated", "still_improving"))
    assert verdicts == []
    assert "diagnose: healthy: training loss 1.865 → 0.1135 in 400 updates" in text
    assert (tmp_path / "picture.png").is_file()


def test_few_rows_are_too_early_to_tell(tmp_path):
    (tmp_path / "run.csv").write_text("step,loss\n1,2\n2,nan\n3,1\n4,nan\n5,1\n")
    verdicts, text = told(tmp_path / "run.csv")
    assert verdicts == []
    assert "too early to tell: 3 rows" in text


def test_verdict_that_the_config_of_the_run_silences_is_left_out(tmp_path):
    rows = [{"step": 10 * i, "split": "train", "loss": 2.3 + min(i / 4, 3)} for i in range(1, 41)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.json").write_text("{}")
    assert [v.name for v in told(tmp_path)[0]] == ["lr_too_high"]
    (tmp_path / "config.json").write_text(json.dumps({"diagnose": {"silence": ["lr_too_high"]}}))
    assert "lr_too_high" not in [v.name for v in told(tmp_path)[0]]


def test_missing_workdir_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        diagnose(tmp_path / "runs" / "nothing")


def test_folder_of_a_study_is_answered_with_the_runs_in_it(tmp_path):
    (tmp_path / "attempt0").mkdir()
    (tmp_path / "study.jsonl").write_text("{}\n")
    (tmp_path / "attempt0" / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match=r"is the folder of a study; diagnose reads one run, such as .*attempt0"):
        diagnose(tmp_path)


def test_a_picture_that_cannot_be_written_is_no_error_unless_it_was_asked_for(tmp_path):
    file = tmp_path / "run.csv"
    file.write_text("step,loss\n" + "".join(f"{step},{2 - step / 20}\n" for step in range(1, 31)))
    (tmp_path / "run.diagnosis.png").mkdir()  # nothing can be written there, by root neither
    assert "no picture: " in told(file)[1]
    with pytest.raises(DataError, match="elsewhere"):
        diagnose(file, out=tmp_path / "elsewhere" / "nowhere" / "x.png")
