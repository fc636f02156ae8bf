import json
import math
import os
import re

import numpy as np
import page_check
import pytest

from jtrain.errors import DataError
from jtrain.io.report import write_comparison, write_report
from jtrain.io.report.mistakes import Mistake, Mistakes, Residual

EVIL = "<script>alert(1)</script>\"'&\x00\u202e"
PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


def train_row(step, **more):
    return {"step": step, "epoch": step / 50, "split": "train", "loss": 2 / step, "accuracy": 1 - 1 / step,
            "grad_norm": 0.5, "lr": 0.1, "examples_per_second": 1000.0, "data_wait": 0.1} | more  # fmt: skip


def val_row(step, **more):
    return {"step": step, "epoch": step / 50, "split": "val", "loss": 3 / step, "accuracy": 1 - 2 / step} | more


ROWS = [
    *(train_row(s) for s in range(10, 101, 10)),
    val_row(50),
    val_row(100),
    val_row(100, split="test", accuracy=0.75),
]


def workdir(folder, rows=ROWS, *, total="100steps", events=(), tail="", **files):
    """A folder of a run with these files; `best` and the like become best.json, '_' in their names is a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"train": {"total": total, "batch_size": 8}, "model": {"name": "mlp"}, "data": {"name": "digits"}}
    (folder / "config.json").write_text(json.dumps(files.pop("config", config)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def written(folder, **options):
    return page_check.read(write_report(folder, **options))


def test_a_finished_run_is_told_with_its_numbers_and_curves(tmp_path):
    best = {"step": 50, "metric": "val/accuracy", "value": 0.96}
    page = written(workdir(tmp_path / "a-run", best=best))
    assert "Done: all 100 updates (2 epochs)." in page.text
    assert "test accuracy 0.7500 at update 100" in page.text
    assert "best validation accuracy 0.9600 at update 50" in page.text
    for title in ("Loss", "Accuracy", "Learning rate", "Gradient norm", "Examples per second"):
        assert f"<h3>{title}</h3>" in page.html
    assert "jtrain train --config=" in page.text.replace(" \\ ", " ")
    assert sorted(os.listdir(tmp_path / "a-run")) == [
        "best.json", "config.json", "events.jsonl", "metrics.jsonl", "report.html",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "events", "words"),
    [
        (ROWS[:4], [], "Unfinished: update 40 of 100"),
        ([], [], "nothing was logged yet"),
        (ROWS[:5], [{"step": 50, "kind": "early_stopping", "text": "stops after update 50"}], "Stopped early: stops"),
        (ROWS[:5], [{"step": 50, "kind": "given_up", "text": "hopeless"}], "Given up: hopeless."),
        (ROWS[:2], [{"step": 25, "kind": "non_finite", "text": "update 26"}], "Ended by a number that is not finite"),
        (ROWS[:2], [{"step": 25, "kind": "interrupted", "text": "signal 15"}], "Interrupted: signal 15."),
        (ROWS, [{"step": 25, "kind": "interrupted", "text": "x"}, {"step": 25, "kind": "resume", "text": "y"}], "Done"),
        (
            ROWS[:5],
            [{"step": 9, "kind": "non_finite", "text": "x"}, {"step": 5, "kind": "rollback", "text": "y"}],
            "Unfinished: update 50",
        ),
    ],
)
def test_how_a_run_ended_is_said_in_a_sentence(tmp_path, rows, events, words):
    assert words in written(workdir(tmp_path / "r", rows, events=events)).text


def test_nothing_that_a_run_holds_becomes_markup(tmp_path):
    rows = [{**row, EVIL: 1.0, "lr/" + EVIL: 0.1} for row in ROWS]
    finding = {"rule": EVIL, "level": EVIL, "key": EVIL, "text": EVIL, "reason": EVIL, "source": EVIL}
    verdict = {
        "name": EVIL,
        "text": EVIL,
        "action": EVIL,
        "evidence": {EVIL: 1.0},
        "marks": [[50, EVIL]],
        "level": EVIL,
    }
    found = Mistakes(
        "test", 100, 2, 2, 2, [EVIL, EVIL], np.ones((2, 2)), [Mistake(0, EVIL, EVIL, 0.9, 0.1, PIXEL, 8)],
        [Residual(0, EVIL, 1.0, 2.0)], [(EVIL, np.arange(2.0), np.arange(2.0))],
    )  # fmt: skip
    events = [{"step": 20, "kind": "plateau", "text": EVIL}, {"kind": EVIL, "text": EVIL}]
    folder = workdir(
        tmp_path / "<script>x", rows, events=events,
        config={"model": {"name": EVIL, EVIL: [EVIL]}, "train": {"total": EVIL}},
        best={"step": 50, "metric": f"val/{EVIL}", "value": 1.0}, coach={"lint": [finding], "diagnosis": [verdict]},
        run={"jtrain": EVIL, "devices": EVIL, "described": [[EVIL, EVIL]], "packages": {EVIL: EVIL}, "total": EVIL,
             "sessions": [{"started": EVIL, "command": ["jtrain", EVIL, "--config=x"]}], "data": {EVIL: EVIL},
             "schedule": {"lr": EVIL}},
    )  # fmt: skip
    page = written(folder, mistakes=found)
    assert page.tags.count("script") == 1  # our own
    assert "alert(1)" in page.text
    assert "\x00" not in page.html
    assert "\u202e" not in page.html


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [train_row(1)],
        [train_row(5, loss=None, accuracy=None, lr=None)],
        [train_row(s, loss=None if s % 2 else 1.0) for s in range(1, 9)],
        [train_row(s, loss=10.0**s) for s in range(1, 300, 20)],
        [train_row(1, loss=1.7e308), train_row(2, loss=-1.7e308)],
        [train_row(1, loss=5e-324), train_row(2, loss=1e308)],
        [train_row(1, loss=True, accuracy="high", lr=[1, 2])],
        [{"step": 3}, {"step": "x", "loss": 1}, {"loss": 2}, {"step": -4, "loss": 1}, {"step": True}],
        [{"step": 0, "epoch": 0, "split": "val", "loss": 0.0}],
        [{"step": 5, "epoch": 0.1, "split": "test", "loss": 1.0, "confusion": [[1, 2], [3, 4]]}],
    ],
)
def test_odd_numbers_are_no_end_of_it_and_never_a_place_in_a_picture(tmp_path, rows):
    page = written(workdir(tmp_path / "r", rows))
    assert "Run it again" in page.text  # the last section: all before it were written
    assert not re.search(r'\b(?:d|points|c?[xy][12]?|r)="[^"]*(?:nan|inf)', page.html)


def test_damaged_files_are_told_and_left_out(tmp_path):
    folder = workdir(tmp_path / "r", tail='[1]\n{"step": 110, "lo')
    for name in ("best", "coach", "run"):
        (folder / f"{name}.json").write_text('{"step": ')
    page = written(folder)
    assert "metrics.jsonl: 2 lines are torn or damaged, and left out" in page.text
    for name in ("best", "coach", "run"):
        assert f"{name}.json cannot be read" in page.text
    assert "Done: all 100 updates" in page.text


def test_files_of_another_shape_than_ours_are_no_end_of_it(tmp_path):
    odd = [None, 3, "x", [1], {"a": 1}]
    for i, value in enumerate(odd):
        coach = {"lint": value, "diagnosis": [{"marks": value, "evidence": value, "name": value}], "noise": value}
        run = {"sessions": value, "described": [value], "packages": value, "mesh": value, "data": value,
               "schedule": {"lr": [value]}, "defaults": value, "total": value, "processes": value}  # fmt: skip
        best = {"step": value, "metric": value, "value": value}
        events = [{"step": value, "kind": value if isinstance(value, str) else None, "text": value}]
        page = written(workdir(tmp_path / str(i), coach=coach, run=run, best=best, events=events))
        assert "Done: all 100 updates" in page.text
        assert "Run it again" in page.text


def test_what_happened_is_marked_on_the_curves_and_listed(tmp_path):
    events = [
        {"step": 30, "kind": "plateau", "text": "lr factor 1 → 0.1"},
        {"step": 70, "kind": "phase", "text": "phase 1"},
        {"step": None, "kind": "data", "text": "a broken record"},
    ]
    verdict = {
        "name": "overfitting",
        "text": "t",
        "action": "a",
        "marks": [[50, "turns here"]],
        "evidence": {"gap": 0.25},
    }
    page = written(workdir(tmp_path / "r", events=events, coach={"diagnosis": [verdict]}))
    loss = page.html.partition("<h3>Loss</h3>")[2].partition("</figure>")[0]
    assert loss.count('class="event') == 3
    assert loss.count('class="mark') - loss.count('class="marks') == 3
    assert "update 30 · lr lowered: lr factor 1 → 0.1" in page.text
    assert "update 50 · overfitting: turns here" in page.text
    assert "What to do: a" in page.text
    assert "gap 0.25" in page.text
    assert "a broken record" in page.text


def test_a_run_of_many_events_is_cut_short(tmp_path):
    events = [{"step": i, "kind": "resume", "text": f"number {i}"} for i in range(1000)]
    page = written(workdir(tmp_path / "r", events=events))
    assert "and 960 more between them" in page.text
    assert "number 0" in page.text
    assert "number 999" in page.text


def test_lint_and_noise_scale_are_shown(tmp_path):
    finding = {
        "rule": "lr-high",
        "level": "warning",
        "key": "optimizer.lr",
        "text": "is 3",
        "reason": "r",
        "source": "s",
    }
    noise = {"step": 90, "noise_scale": 412.3, "low": 305.0, "high": 588.1, "suggested_batch": 256}
    page = written(workdir(tmp_path / "r", coach={"lint": [finding], "diagnosis": [], "noise": noise}))
    assert "warning optimizer.lr is 3 r (s) · rule lr-high" in page.text
    assert "after update 90 is 412 examples (99 % interval 305 to 588)" in page.text
    assert "noise scale, 99 % interval" in page.text
    assert "95 %" not in page.text
    assert "Suggested batch size: 256." in page.text
    assert "diagnosis" not in page.ids


def test_the_options_that_differ_come_first(tmp_path):
    page = written(workdir(tmp_path / "r", run={"defaults": {"train.batch_size": 128}}))
    changed = page.html.partition('id="config"')[2].partition("<details>")[0]
    assert "train.batch_size" in changed
    assert ">8<" in changed
    assert ">128<" in changed
    assert "model.name" not in changed
    assert "Every option is at its default." in written(workdir(tmp_path / "r", run={}), defaults={}).text


def test_a_page_names_neither_the_home_folder_nor_accounts_nor_machines(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    config = {"log": {"mlflow": "https://corp", "wandb": "alice/p"}, "data": {"npz": {"path": f"{tmp_path}/alice/x"}}}
    command = ["jtrain", "train", "--config=x", "--coordinator=corp:1", "--config.log.mlflow=https://corp"]
    run = {"defaults": {"log.mlflow": "", "data.npz.path": ""}, "sessions": [{"command": command}]}
    events = [{"step": 1, "kind": "data", "text": f"{tmp_path}/alice/x is new"}]
    page = written(workdir(tmp_path / "alice" / "runs" / "r", config=config, run=run, events=events))
    assert "alice" not in page.html
    assert "corp" not in page.html
    changed = page.html.partition('id="config"')[2].partition("<details>")[0]
    assert ">~/x</td>" in changed
    assert ">set</td>" in changed
    assert "~/runs/r/config.json" in page.html


def test_the_command_is_given_without_the_folder_that_it_was_begun_in(tmp_path):
    words = ["jtrain", "train", "--config=digits", "--workdir=/secret/place", "--resume", "force", "--config.x=a b"]
    page = written(workdir(tmp_path / "r", run={"sessions": [{"command": words}]}))
    assert "jtrain train --config=digits '--config.x=a b'" in page.text
    assert "secret" not in page.html


def test_mistakes_are_shown_as_a_matrix_and_pictures(tmp_path):
    confusion = np.array([[8, 2], [0, 10]])
    worst = [Mistake(7, "cat", "dog", 0.95, 0.004, PIXEL, 8), Mistake(11, "cat", "dog", 0.6, 0.3, PIXEL, 8)]
    found = Mistakes("test", 100, 20, 20, 2, ["cat", "dog"], confusion, worst)
    page = written(workdir(tmp_path / "r"), mistakes=found)
    assert "18 right, 2 wrong" in page.text
    assert "example 7: cat, taken for dog" in page.html
    assert "cat → dog 95 % true 0.4 % no. 7" in page.text.replace("\xa0", " ")
    assert page.html.count("data:image/png;base64,") == 2
    assert "cat 10 80.0 % 100.0 %" in page.text


def test_many_classes_are_shown_by_the_pairs_that_are_confused_most(tmp_path):
    confusion = np.eye(1000, dtype=int) * 9
    confusion[5, 7] = 6
    names = [f"class{i}" for i in range(1000)]
    page = written(workdir(tmp_path / "r"), mistakes=Mistakes("val", 100, 9006, 50_000, 6, names, confusion))
    assert "class5 class7 6 40.0 %" in page.text
    assert "class999" not in page.text
    assert "9,006 evenly spread of 50,000 examples of the validation split" in page.text


def test_pictures_beyond_the_limit_are_left_out(tmp_path):
    worst = [Mistake(i, "a", "b", 0.9, 0.1, b"\x89PNG" + os.urandom(150_000), 96) for i in range(24)]
    page = written(workdir(tmp_path / "r"), mistakes=Mistakes("test", 1, 99, 99, 24, ["a", "b"], np.eye(2), worst))
    assert page.tags.count("img") == 6


def test_residuals_are_drawn_and_listed(tmp_path):
    pairs = [("", np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.0, math.nan]))]
    found = Mistakes(
        "test", 9, 3, 3, residuals=[Residual(2, "", 3.0, math.nan), Residual(0, "", 1.0, 1.5)], pairs=pairs
    )
    page = written(workdir(tmp_path / "r"), mistakes=found)
    assert "Predictions over targets" in page.text
    assert "0 1 1.5 0.5" in page.text


def test_why_there_are_no_mistakes_is_said(tmp_path):
    page = written(workdir(tmp_path / "r"), mistakes=Mistakes(note="the data are gone"))
    assert "the data are gone" in page.text


def study(folder, **told):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model": {"name": "mlp"}}))
    (folder / "study.jsonl").write_text(json.dumps({"study": "ladder"}) + '\n{"key": "a", "value": 1}\n')
    if told:
        (folder / "study.json").write_text(json.dumps({"study": "ladder", "ok": True, "found": {}, "rows": []} | told))
        (folder / "study.png").write_bytes(PIXEL)
    return folder


def test_a_study_is_shown_with_its_conclusion_table_picture_and_decisions(tmp_path):
    decisions = [
        {"stage": "ladder", "decision": "lr 0.01", "reason": "it is <best>"},
        {"stage": "train", "decision": "8 epochs", "reason": "the budget", "seconds": 3.5},
    ]
    folder = study(
        tmp_path / "s", conclusion="lr 0.01 & no more", rows=[{"lr": 0.1, "why": ""}, {"lr": None, "ok": True}],
        found={"lr": 0.01, "mean": {"r2": 0.5, "mse": None}, "folds": [[1, 2], [3, 4]], "decisions": decisions},
    )  # fmt: skip
    page = written(folder)
    assert "lr 0.01 & no more" in page.text
    assert "ladder lr 0.01 it is <best>" in page.text
    assert page.tags.count("img") == 1
    assert "r2 0.5 · mse –" in page.text
    assert "jtrain ladder --config=" in page.text.replace(" \\ ", " ")
    steps = page.html.partition('<ol class="steps">')[2].partition("</ol>")[0]
    assert steps.count("<li>") == 2
    assert "decisions" not in page.html.partition('id="found"')[2]


def test_a_study_on_its_way_says_so(tmp_path):
    assert "Unfinished: 1 piece is done" in written(study(tmp_path / "s")).text


def test_a_folder_of_neither_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither a run nor a study"):
        write_report(tmp_path)


def run_of(folder, accuracy, lr, **more):
    best = {"step": 50, "metric": "val/accuracy", "value": accuracy}
    config = {"optimizer": {"lr": lr}, "model": {"name": "mlp"}, "log": {"every": str(lr)}}
    rows = [train_row(10), val_row(50, accuracy=accuracy, loss=1 - accuracy)]
    return workdir(folder, rows, best=best, config=config, **more)


def test_runs_are_compared_with_the_best_first(tmp_path):
    folders = [run_of(tmp_path / f"r{i}", a, lr) for i, (a, lr) in enumerate([(0.5, 0.1), (0.9, 0.01), (0.7, 0.3)])]
    folders += [study(tmp_path / "s", conclusion="yes"), tmp_path / "nothing"]
    (tmp_path / "nothing").mkdir()
    write_report(folders[1])
    page = page_check.read(write_comparison(folders, tmp_path / "report.html", skipped=["gone: no such folder"]))
    assert "Best by validation accuracy: r1 with 0.9000." in page.text
    places = [page.html.partition('id="results"')[2].find(f"r{i}") for i in (1, 2, 0)]
    assert places == sorted(places)
    assert page.html.count('<tr class="best">') == 1
    differing = page.html.partition('id="configs"')[2].partition("</section>")[0]
    assert "optimizer.lr" in differing
    assert "model.name" not in differing
    assert "log.every" not in differing
    assert 'href="r1/report.html"' in page.html
    for words in ("gone: no such folder", "nothing: holds neither", "ladder yes"):
        assert words in page.text
    assert page.html.count("<path") > 5


def test_less_is_better_where_it_is_said(tmp_path):
    for i, value in enumerate((3.0, 1.0, 2.0)):
        best = {"step": 50, "metric": "val/mse", "value": value}
        workdir(tmp_path / f"r{i}", [{"step": 50, "epoch": 1, "split": "val", "loss": 1.0, "mse": value}], best=best)
    folders = [tmp_path / f"r{i}" for i in range(3)]
    page = page_check.read(write_comparison(folders, tmp_path / "c.html", lower={"mse": True}))
    assert "Best by validation MSE: r1" in page.text


def test_a_folder_named_like_an_address_is_only_a_folder(tmp_path):
    name = "javascript:alert(1)"
    folders = [run_of(tmp_path / name, 0.5, 0.1), run_of(tmp_path / "b", 0.6, 0.1)]
    write_report(folders[0])
    page = page_check.read(write_comparison(folders, tmp_path / "report.html"))
    assert [r for r in page.references if "alert" in r] == ["javascript%3Aalert%281%29/report.html"]


def test_a_long_run_stays_small_and_keeps_its_peaks(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.uniform(1.0, 2.0, 20_000)
    noise[12_345] = 77.0
    rows = [train_row(i + 1, loss=float(v)) for i, v in enumerate(noise)]
    path = write_report(workdir(tmp_path / "r", []), rows=rows)
    page_check.read(path)
    assert path.stat().st_size < 500_000
    assert "greatest 77" in path.read_text()
