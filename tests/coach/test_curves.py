"""What is read of a run's log, and what is refused."""

import json
import math

import numpy as np
import pytest

from jtrain.coach.curves import Curves, read_curves, silenced
from jtrain.errors import DataError


def test_rows_become_columns_and_null_becomes_nan():
    rows = [
        {"step": 20, "split": "train", "loss": 1.0, "lr": 0.1, "accuracy": 0.5},
        {"step": 10, "split": "train", "loss": None, "lr": 0.2, "accuracy": 0.25},
        {"step": 20, "split": "val", "loss": 2.0, "accuracy": 0.4},
        {"step": 20, "split": "test", "loss": 9.0},
    ]
    curves = Curves.of_rows(rows, total=40)
    np.testing.assert_array_equal(curves.step, [10, 20])
    np.testing.assert_array_equal(curves.loss, [math.nan, 1.0])
    np.testing.assert_array_equal(curves.train["accuracy"], [0.25, 0.5])
    np.testing.assert_array_equal(curves.val["loss"], [2.0])
    np.testing.assert_array_equal(curves.updates, [10, 10])
    assert curves.done == 20
    assert curves.grad_norm is None


def test_short_last_row_is_joined_to_the_one_before_by_its_updates():
    rows = [{"step": s, "loss": v} for s, v in ((20, 4.0), (40, 2.0), (60, 1.0), (64, 0.4))]
    curves = Curves.of_rows(rows)
    np.testing.assert_array_equal(curves.step, [20, 40, 64])
    np.testing.assert_allclose(curves.loss, [4.0, 2.0, (20 * 1.0 + 4 * 0.4) / 24])


def test_loss_of_a_guess_is_what_r2_says_of_a_squared_error_and_unknown_for_another_loss():
    rows = [{"step": s, "split": "val", "loss": 1.3 * (1 - r), "r2": r} for s, r in ((10, 0.1), (20, 0.5), (30, 0.9))]
    assert Curves.of_rows(rows).guess == pytest.approx(1.3)
    other = [dict(row, loss=math.exp(-9 * row["r2"])) for row in rows]
    assert Curves.of_rows(other).guess is None


def test_until_forgets_what_came_later_and_who_was_best():
    val = [{"step": s, "split": "val", "loss": 1.0, "accuracy": a} for s, a in ((10, 0.1), (20, 0.7), (30, 0.9))]
    curves = Curves.of_rows(val, watch="accuracy", higher_is_better=True, best_step=30, failed_at=31)
    cut = curves.until(20)
    assert cut.best_step == 20
    assert cut.failed_at is None
    assert curves.until(40).failed_at == 31
    assert len(cut.val_step) == 2


def test_many_rows_are_joined_by_their_updates():
    found = Curves(step=np.array([1.0, 4, 5, 9, 10]), loss=np.array([8.0, 4, 2, 7, 1])).thinned(3)
    np.testing.assert_array_equal(found.step, [4, 9, 10])
    np.testing.assert_allclose(found.loss, [(8 + 3 * 4) / 4, (2 + 4 * 7) / 5, 1])
    assert found.thinned(3) is found


def workdir(folder, rows, **files):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 1')
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_workdir_tells_length_best_and_end(tmp_path):
    rows = [{"step": 10 * i, "epoch": i / 2, "split": "train", "loss": 1 / i} for i in range(1, 5)]
    rows += [{"step": 10 * i, "epoch": i / 2, "split": "val", "loss": 1.0, "accuracy": i / 9} for i in range(1, 5)]
    config = {"train": {"total": "3epochs", "batch_size": 5}, "augment": "mixup(0.2)", "task": {}, "loss": {}}
    best = {"step": 10, "metric": "val/accuracy", "value": 1 / 9}
    curves, ended = read_curves(workdir(tmp_path, rows, config=config, best=best))
    assert (curves.total, curves.watch, curves.higher_is_better, curves.best_step) == (60, "accuracy", False, 10)
    assert curves.mixed
    assert not ended  # 40 of 60 updates
    (tmp_path / "events.jsonl").write_text('{"kind": "non_finite", "step": 43, "text": ""}\n')
    curves, ended = read_curves(tmp_path)
    assert curves.failed_at == 43
    assert ended


def test_csv_of_others_is_read_by_the_usual_names(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("epoch,train/loss,val_loss,val_accuracy\n0,2.0,2.5,0.1\n1,1.0,nan,0.2\n2,0.5,,0.3\n3,0.4,2.0,0.3\n")
    curves, ended = read_curves(file)
    assert ended
    np.testing.assert_array_equal(curves.step, [1, 2, 3, 4])
    np.testing.assert_array_equal(curves.loss, [2.0, 1.0, 0.5, 0.4])
    np.testing.assert_array_equal(curves.val["accuracy"], [0.1, 0.2, 0.3, 0.3])
    np.testing.assert_array_equal(curves.val["loss"], [2.5, math.nan, math.nan, 2.0])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "is empty"),
        ("b.csv", "step,accuracy\n1,2\n2,3\n", "no column of losses"),
        ("c.csv", "time,loss\n1,2\n", "no column of steps"),
        ("d.csv", "step,loss\n1,2\n", "holds 1 rows"),
        ("e.csv", "step,loss\n1,2\n2,2\n3,2\n", "holds 3 rows of training losses, a diagnosis needs 4"),
        ("metrics.jsonl", "", "holds 0 rows"),
        ("metrics.jsonl", '{"step": 1, "loss": \n{"step": 2, "loss": 1}\n', "line 1 is no JSON"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_curves(tmp_path / name)


def test_few_rows_that_end_in_a_loss_that_is_not_finite_are_enough(tmp_path):
    (tmp_path / "a.csv").write_text("step,loss\n1,2\n2,nan\n")
    assert len(read_curves(tmp_path / "a.csv")[0].step) == 2


def test_fact_that_is_null_leaves_what_the_rows_tell(tmp_path):
    rows = [{"step": 10 * i, "epoch": i / 2, "split": "train", "loss": 1 - i / 9, "r2": i / 9} for i in range(1, 5)]
    coach = {"curves": {"guess": None, "updates_per_epoch": None, "total": 60, "harder": False}}
    curves, _ = read_curves(workdir(tmp_path, rows, config={}, coach=coach))
    assert (curves.guess, curves.updates_per_epoch, curves.total, curves.harder) == (pytest.approx(1), 20, 60, False)


def test_silenced_verdicts_are_those_of_the_config_of_the_workdir(tmp_path):
    workdir(tmp_path, [], config={"diagnose": {"silence": ["overfitting"]}})
    assert silenced(tmp_path) == silenced(tmp_path / "metrics.jsonl") == ("overfitting",)
    assert silenced(tmp_path / "other.csv") == ()


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_curves(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="no such file"):
        read_curves(tmp_path)
