import errno
import os

import numpy as np
import pytest

from jtrain.errors import DataError
from jtrain.io.plots import curves


def rows(groups=False):
    train = [
        {"step": s, "epoch": s / 50, "split": "train", "loss": 2 / (1 + s / 40), "accuracy": 1 - 1 / (1 + s / 60),
         "lr": 0.1 * 0.97 ** (s / 10), "grad_norm": 1.0, "examples_per_second": None, "data_wait": None}
        | ({"lr/head/.*": 0.1, "lr/.*": 0.01} if groups else {})
        for s in range(10, 1001, 10)
    ]  # fmt: skip
    val = [
        {"step": s, "epoch": s / 50, "split": "val", "loss": 2.1 / (1 + s / 50), "accuracy": 1 - 1.1 / (1 + s / 70)}
        for s in range(100, 1001, 100)
    ]
    return [*train, *val, {"step": 1000, "epoch": 20.0, "split": "test", "loss": 0.12, "accuracy": 0.91}]


def lines(axis):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}


def test_the_curves_hold_the_numbers_of_the_rows(tmp_path, drawn):
    curves(rows(), tmp_path / "curves.png", title="a run")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert os.listdir(tmp_path) == ["curves.png"]
    loss, metric, lr = drawn[0].axes
    assert (loss.get_ylabel(), metric.get_ylabel(), lr.get_ylabel()) == ("loss", "accuracy", "learning rate")
    assert (loss.get_yscale(), metric.get_yscale(), lr.get_yscale()) == ("log", "linear", "log")
    assert set(lines(loss)) == set(lines(metric)) == {"train", "val", "test"}
    assert lines(metric)["test"] == ([1000], [0.91])
    assert lines(loss)["val"] == (
        [float(s) for s in range(100, 1001, 100)],
        [2.1 / (1 + s / 50) for s in range(100, 1001, 100)],
    )
    assert drawn[0].get_suptitle() == "a run"
    assert lr.get_xlabel() == "step (optimizer updates)"


def test_each_group_has_its_own_learning_rate(tmp_path, drawn):
    curves(rows(groups=True), tmp_path / "c.png", title="t", metric="accuracy")
    assert set(lines(drawn[0].axes[2])) == {"head/.*", ".*"}
    assert drawn[0].axes[2].get_yscale() == "linear"


def test_epochs_stand_on_a_second_axis(tmp_path, drawn):
    curves(rows(), tmp_path / "c.png", title="t")
    (top,) = drawn[0].axes[0].child_axes
    assert top.get_xlabel() == "epoch"
    assert np.allclose(np.array(top.get_xlim()) * 50, drawn[0].axes[0].get_xlim())


def test_panels_without_data_are_left_out(tmp_path, drawn):
    curves([{"step": 5, "epoch": 0.1, "split": "train", "loss": 1.0, "accuracy": None}], tmp_path / "c.png", title="t")
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["loss"]
    assert drawn[0].axes[0].get_lines()[0].get_marker() not in ("", "None")


@pytest.mark.parametrize(
    "given",
    [
        [],
        [{"step": 0, "epoch": 0.0, "split": "val", "loss": None}],
        [{"step": 1, "split": "train", "loss": float("nan"), "lr": 0.0}, {"step": 2, "split": "train", "loss": -1.0}],
        [{"step": 0, "epoch": 0.0, "split": "val", "loss": 0.0, "accuracy": 0.0}],
    ],
)
def test_few_or_unusable_rows_still_make_a_picture(tmp_path, given):
    curves(given, tmp_path / "c.png", title="t")
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_nan_and_null_are_left_out(tmp_path, drawn):
    given = [
        {"step": s, "epoch": s / 2, "split": "val", "loss": v}
        for s, v in ((1, 1.0), (2, None), (3, float("nan")), (4, 2.0))
    ]
    curves(given, tmp_path / "c.png", title="t")
    assert lines(drawn[0].axes[0])["val"] == ([1, 4], [1.0, 2.0])


def test_a_full_disk_keeps_the_old_picture(tmp_path, monkeypatch):
    (tmp_path / "c.png").write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("jtrain.io.workdir.os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        curves(rows(), tmp_path / "c.png", title="t")
    assert (tmp_path / "c.png").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["c.png"]


def test_single_points_are_visible(tmp_path, drawn):
    curves(rows(groups=True)[:1], tmp_path / "c.png", title="t")
    for axis in drawn[0].axes:
        for line in axis.get_lines():
            assert line.get_marker() not in ("", "None")
            assert line.get_markevery() in (None, 1)
