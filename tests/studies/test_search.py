"""Search: what it searches, that no trial is lost or run twice, and what it says of what it has found."""

import contextlib
import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import optuna
import pytest
from helpers import blobs, put, tiny, tiny_run

import jtrain
import jtrain.studies.search as studied
from jtrain import config as configs
from jtrain.errors import ConfigError, Interrupted, NonFiniteError
from jtrain.loop import train
from jtrain.state import to_flat
from jtrain.studies.search import shared as search_shared
from jtrain.studies.search import storage as search_storage
from jtrain.studies.search.params import importance
from jtrain.studies.search.points import sequence
from jtrain.studies.search.report import report
from jtrain.studies.search.shared import optimise
from jtrain.studies.search.space import Axis, config_at, default_space, own_point, read_space
from jtrain.studies.search.storage import open_storage
from jtrain.studies.search.trial import WHOLE, Answer, Trial, ranked

X, Y = Axis("x"), Axis("y", 1e-5, 1e-1, log=True)
LR = (("optimizer.lr", 1e-3, 1e-1, "log"),)


@pytest.fixture(scope="module")
def run():
    return tiny_run("15steps", train__eval_every="5steps")


def bowl(asked):
    """Least, 0, at x = 0.3, y = 1e-3."""
    return Answer((asked.point["x"] - 0.3) ** 2 + (math.log10(asked.point["y"]) + 3) ** 2)


# --- the space


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("optimizer.lrr", 0, 1), r"space\[0\]: optimizer.lrr: no such option; did you mean 'optimizer.lr'"),
        (("optimizer", 0, 1), "is a section"),
        (("optimizer.adamw.b1", 0.5, 1.0), "optimizer.adamw.b1: must be at least 0 and below 1, got 1.0"),
        (("train.batch_size", 0.5, 2.0), "train.batch_size: must be a whole number"),
        (("train.total", 1, 2), "train.total: a duration is text: give a tuple of choices"),
        (("train.total", ("1epochs", "2")), "train.total: '2' needs a unit"),
        (("model.mlp.features", 1, 2), "is no number"),
        (("schedule.name", ("cosine", "cosin")), "did you mean 'cosine'|no such choice"),
        (("seed", (1, 2)), "the best seed is luck"),
        (("data.validation", 0.1, 0.2), "judged on the same examples"),
        (("optimizer.sgd.momentum", 0.5, 0.9), "but optimizer.name is 'adamw'"),
        (("ema.every", 2, 7), "it must be 'lookahead'"),
    ],
)
def test_an_entry_that_the_config_does_not_take_is_refused_by_name(entry, message):
    with pytest.raises(ConfigError, match=message):
        read_space((entry,), tiny())


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (("optimizer.lr", 1e-3, 1e-1), r"space\[0\]: must be a tuple such as .* needs a comma"),
        ((("optimizer.lr", 2, 1),), "low must be below high"),
        ((("optimizer.lr", 0.0, 1, "log"),), "must begin above 0"),
        ((("optimizer.lr", 1e-3, 1, "lin"),), "perhaps 'log'"),
        ((("optimizer.lr", (0.1,)),), "two choices or more"),
        ((("optimizer.lr", 0, 1), ("optimizer.lr", 0, 1)), r"space\[1\]: optimizer.lr is there twice"),
        ((("optimizer.name", "sgd", "adam"),), "must be numbers"),
    ],
)
def test_a_space_of_the_wrong_form_is_refused_with_the_config(space, message):
    with pytest.raises(ConfigError, match=message):
        configs.validate(tiny(study__search__space=space))


def test_few_trials_go_to_the_lr_in_two_decades_about_the_runs_own(run):
    assert default_space(run, 9) == (("optimizer.lr", 0.001, 0.1, "log"),)
    keys = [entry[0] for entry in default_space(run, 10)]
    assert keys == ["optimizer.lr", "optimizer.adamw.weight_decay", "optimizer.adamw.b1"]
    sgd = tiny_run(optimizer__name="sgd", optimizer__lr=0.0, optimizer__sgd__momentum=0.0)
    assert default_space(sgd, 20)[0] == ("optimizer.lr", 0.001, 0.1, "log"), "about the default of SGD, 0.01"
    assert [entry[0] for entry in default_space(sgd, 20)] == ["optimizer.lr", "optimizer.sgd.weight_decay"]
    for entries, of in ((default_space(run, 10), run), (default_space(sgd, 10), sgd)):
        assert own_point(read_space(entries, of.config), of) is not None


def test_options_of_a_part_that_is_not_taken_have_no_say():
    c = put(tiny(), optimizer__adamw__b1=0.8)
    axes = read_space((("optimizer.name", ("sgd", "adamw")), ("optimizer.sgd.momentum", 0.5, 0.9)), c)
    assert [axis.key for axis in axes] == ["optimizer.name", "optimizer.sgd.momentum"]
    sgd = config_at(c, {"optimizer.name": "sgd", "optimizer.sgd.momentum": 0.5})
    adamw = config_at(c, {"optimizer.name": "adamw", "optimizer.sgd.momentum": 0.5})
    assert (sgd.optimizer.name, sgd.optimizer.sgd.momentum, sgd.optimizer.adamw.b1) == ("sgd", 0.5, 0.9)
    assert (adamw.optimizer.name, adamw.optimizer.sgd.momentum, adamw.optimizer.adamw.b1) == ("adamw", 0.9, 0.8)
    for config in (sgd, adamw):
        configs.validate(config)
    assert c.optimizer.adamw.b1 == 0.8


def test_the_edge_is_a_twentieth_of_the_scale_and_only_where_the_key_goes_on():
    assert [Y.edge(v) for v in (1.1e-5, 1e-4, 9e-2)] == ["lower", "", "upper"]
    (momentum,) = read_space((("optimizer.sgd.momentum", 0.0, 0.9),), tiny(optimizer__name="sgd"))
    assert [momentum.edge(v) for v in (0.0, 0.89)] == ["", "upper"], "there is no momentum below 0"
    (size,) = read_space((("train.batch_size", (8, 16, 32)),), tiny())
    assert [size.edge(v) for v in (8, 16, 32)] == ["lower", "", "upper"]
    assert Axis("a", choices=("p", "q", "r")).edge("p") == ""
    key = "loss.cross_entropy.label_smoothing"
    (smoothing,) = read_space(((key, (0.0, 0.1, 0.3)),), tiny())
    assert [smoothing.edge(v) for v in (0.0, 0.1, 0.3)] == ["", "", "upper"], "there is none below 0"
    (lr,) = read_space((("optimizer.lr", (1e-9, 1e-3, 1e-1)),), tiny())
    assert [lr.edge(v) for v in (1e-9, 1e-1)] == ["lower", "upper"]


# --- the points


def test_quasi_random_points_fill_every_cell_once_and_are_the_same_however_many_follow():
    points = sequence((X, Y), "quasi", 16, seed=3)
    assert sorted(int(p["x"] * 16) for p in points) == list(range(16))
    assert sorted(int((math.log10(p["y"]) + 5) * 4) for p in points) == list(range(16))
    assert sequence((X, Y), "quasi", 40, seed=3)[:16] == points
    assert sequence((X, Y), "quasi", 16, seed=4) != points
    assert sequence((X, Y), "quasi", 3, seed=3, own={"x": 0.5, "y": 1e-2})[0] == {"x": 0.5, "y": 1e-2}


def test_a_grid_is_every_combination_once_within_the_trials():
    axes = (X, Axis("n", 1, 3, whole=True), Axis("c", choices=("p", "q")))
    points = sequence(axes, "grid", 25, seed=0)
    expected = itertools.product((0.0, 0.3333, 0.6667, 1.0), (1, 2, 3), ("p", "q"))
    assert sorted(tuple(p.values()) for p in points) == sorted(expected)
    with pytest.raises(ConfigError, match="least grid of this space has 8 points, got 7"):
        sequence(axes, "grid", 7, seed=0)


def test_auto_knows_the_first_half_and_bayes_the_first_point_alone():
    own = {"x": 0.5, "y": 1e-2}
    assert [p is None for p in sequence((X, Y), "auto", 5, 0, own)] == [False, False, False, True, True]
    assert sequence((X, Y), "bayes", 3, 0, own) == [own, None, None]


def test_values_have_four_digits_and_stay_in_the_range():
    axis = Axis("a", 1 / 3, 2 / 3)
    values = [axis.at(u) for u in (0.0, 0.12345, 1 - 1e-9)]
    assert all(axis.low <= v <= axis.high for v in values)
    assert len(str(values[1])) <= 6
    whole = Axis("n", 1, 100, log=True, whole=True)
    found = [whole.at(u) for u in np.linspace(0, 1 - 1e-9, 1000)]
    assert (min(found), max(found), {type(n) for n in found}) == (1, 100, {int})
    assert found.count(1) > 10 * found.count(99), "even on a logarithmic scale"


# --- the trials


@pytest.mark.parametrize("sampler", ["auto", "bayes"])
def test_the_planted_optimum_of_a_function_is_found(sampler):
    axes = (X, Y, Axis("c", choices=("p", "q")))
    found = optimise(axes, lambda a: Answer(bowl(a).value + (a.point["c"] == "p")), trials=60, sampler=sampler, seed=1)
    best = ranked(found, maximize=False)[0]
    assert len(found) == 60
    assert best.point["c"] == "q"
    assert abs(best.point["x"] - 0.3) < 0.15
    assert abs(math.log10(best.point["y"]) + 3) < 0.3
    first = min(trial.answer.value for trial in found[:20])
    assert best.answer.value < first, "it goes on getting better"


def test_maximizing_is_minimizing_the_other_way_round_and_equal_values_are_told_apart_by_the_loss():
    low = optimise((X, Y), bowl, trials=12, seed=2)
    high = optimise((X, Y), lambda a: Answer(-bowl(a).value), trials=12, seed=2, maximize=True)
    assert [trial.point for trial in low] == [trial.point for trial in high]
    assert [t.number for t in ranked(low, False)] == [t.number for t in ranked(high, True)]
    equal = [Trial(i, {}, Answer(0.5, tie=tie)) for i, tie in enumerate((0.3, 0.1, None, 0.1))]
    assert [t.number for t in ranked(equal, True)] == [1, 3, 0, 2]


def test_the_median_rule_gives_up_what_lags_after_a_quarter_and_nothing_that_leads():
    places = (100, 300, 600)

    def objective(asked):
        for place in places:
            if why := asked.report(place, asked.point["x"] + place / WHOLE):
                return Answer(None, "pruned", why)
        return Answer(asked.point["x"])

    found = optimise((X,), objective, trials=24, sampler="quasi", maximize=True, prune=True)
    pruned = [t for t in found if t.answer.status == "pruned"]
    assert pruned
    assert all(t.number >= search_shared.COMPARED for t in pruned)
    assert all(t.reports[-1][0] == 300 for t in pruned), "at 100 of 1000 it is too early, at 300 it is clear"
    for trial in pruned:
        before = [t.point["x"] for t in found[: trial.number] if t.answer.status == "done"]
        assert trial.point["x"] < np.median(before)
    assert "median" in pruned[0].answer.why
    kept = optimise((X,), objective, trials=24, sampler="quasi", maximize=True)
    assert all(t.answer.status == "done" for t in kept)


def test_what_diverged_is_a_result_that_the_sampler_avoids():
    def objective(asked):
        return Answer(None, "diverged", "too large") if asked.point["x"] > 0.5 else Answer(1 - asked.point["x"])

    found = optimise((X,), objective, trials=60, sampler="auto", seed=0)
    half = [t.answer.status for t in found[:30]].count("diverged")
    later = [t.answer.status for t in found[30:]].count("diverged")
    assert half in (14, 15, 16), "quasi-random: half of the range"
    assert later < half, "though the best lies at its border"
    assert len(found) == 60


def stranger(study, number, **more):
    """A trial that another worker has begun."""
    study.enqueue_trial({}, user_attrs={"number": number, "tries": 0})
    trial = study.ask()
    trial.set_user_attr("worker", search_storage.worker() | more)
    x = trial.suggest_float("x", 0, 1)
    return trial, x


def test_a_trial_whose_process_is_gone_is_run_again_with_its_values(tmp_path):
    storage = open_storage("", tmp_path)
    study = optuna.create_study(storage=storage, study_name="search")
    _, x = stranger(study, 2, born="before")  # the number of a process that now is another
    told, seen = [], []

    def objective(asked):
        seen.append((asked.number, asked.tries, asked.point["x"]))
        return Answer(0.0)

    found = optimise((X,), objective, trials=4, sampler="bayes", storage=open_storage("", tmp_path), told=told.append)
    assert [t.number for t in found] == [0, 1, 2, 3]
    assert sorted((number, tries) for number, tries, _ in seen) == [(0, 0), (1, 0), (2, 1), (3, 0)]
    assert {number: value for number, _, value in seen}[2] == X.taken(x)
    assert any("trial 2: process" in text and "is gone; it is run again" in text for text in told)


def test_a_worker_elsewhere_counts_as_dead_after_silence_and_not_while_it_gives_signs_of_life(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(search_storage.time, "monotonic", lambda: clock[0])

    def lost(at, beat, **more):
        clock[0] = at
        attributes = {"worker": search_storage.worker() | {"machine": "another"} | more, "beat": beat}
        trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=attributes)
        return watch.is_lost(trial)

    watch, silence = search_storage.Watch(), search_storage.LOST
    assert [lost(at, beat) for at, beat in ((0, 1), (silence - 1, 1), (silence, 2), (2 * silence - 1, 2))] == [
        False
    ] * 4
    assert lost(2 * silence + 1, 2)
    watch = search_storage.Watch()
    assert lost(0, 1, machine=search_storage.worker()["machine"], born="before")
    assert not lost(0, 1, machine=search_storage.worker()["machine"])


def test_a_silent_worker_elsewhere_loses_its_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(search_storage, "LOST", 0.1)
    monkeypatch.setattr(search_shared, "POLL", 0.02)
    study = optuna.create_study(storage=open_storage("", tmp_path), study_name="search")
    stranger(study, 0, machine="another")
    seen = []

    def objective(asked):
        seen.append(asked.number)
        return Answer(0.0)

    optimise((X,), objective, trials=2, sampler="random", storage=open_storage("", tmp_path))
    assert seen == [1, 0], "the others first"


def test_a_worker_that_counted_as_dead_and_lives_disturbs_nobody():
    def objective(asked):
        if not taken:
            taken.append(asked)
            study = optuna.load_study(study_name="search", storage=storage)
            study.tell(study.trials[-1].number, state=optuna.trial.TrialState.FAIL)  # as another worker would
            assert asked.report(500, 1.0) == "another worker has taken it over"
        return Answer(float(len(taken)))

    storage, taken, told = optuna.storages.InMemoryStorage(), [], []
    found = optimise((X,), objective, trials=2, sampler="quasi", storage=storage, told=told.append)
    assert [(t.number, t.answer.status) for t in found] == [(0, "done"), (1, "done")]
    assert told == ["trial 0: another worker has taken it over"]


def test_what_is_in_the_queue_twice_is_run_once(monkeypatch):
    monkeypatch.setattr(search_shared, "POLL", 0.01)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name="search")
    trial, x = stranger(study, 0)
    for _ in range(2):  # as workers do that take the stranger for dead at the same time
        study.enqueue_trial({"x": 0.125}, user_attrs={"number": 0, "tries": 1})
    seen = []

    def told(text):
        if "waits for 1" in text:
            for name, value in (("status", "done"), ("why", ""), ("tie", None)):
                trial.set_user_attr(name, value)
            study.tell(trial, 7.0)

    def objective(asked):
        seen.append(asked.number)
        return Answer(0.0)

    found = optimise((X,), objective, trials=3, sampler="quasi", storage=storage, told=told)
    assert seen == [1, 2]
    assert (found[0].answer.value, found[0].point) == (7.0, {"x": X.taken(x)})


def test_a_trial_that_kills_every_worker_is_a_result_in_the_end(tmp_path):
    study = optuna.create_study(storage=open_storage("", tmp_path), study_name="search")
    for _ in range(search_shared.TRIES):
        trial, _ = stranger(study, 0)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    found = optimise((X,), lambda a: Answer(1.0), trials=2, sampler="quasi", storage=open_storage("", tmp_path))
    assert [t.answer.status for t in found] == ["killed", "done"]
    assert "was the memory full" in found[0].answer.why


@pytest.mark.parametrize("url", ["", pytest.param("sqlite:///{}/trials.db", marks=pytest.mark.slow)])
def test_workers_that_start_together_run_each_trial_once(tmp_path, monkeypatch, url):
    monkeypatch.setattr(search_shared, "POLL", 0.02)
    seen, results, failed = [], [], []

    def objective(asked):
        seen.append((asked.number, tuple(asked.point.items())))
        time.sleep(0.005)
        return bowl(asked)

    def work():
        try:
            storage = open_storage(url.format(tmp_path), tmp_path)
            results.append(optimise((X, Y), objective, trials=12, sampler="auto", storage=storage))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(number for number, _ in seen) == list(range(12))
    assert len({point for _, point in seen}) == 12
    assert results[0] == results[1] == results[2]
    planned = sequence((X, Y), "auto", 12, 0)[:6]
    assert [dict(point) for _, point in sorted(seen)[:6]] == planned, "whoever took them"


def test_one_of_two_processes_is_killed_and_no_trial_is_lost(tmp_path):
    count, storage = 10, tmp_path / "trials"
    command = [sys.executable, str(Path(__file__).with_name("search_worker.py")), str(storage), str(tmp_path)]

    def begun():
        names = [path.name for path in tmp_path.iterdir()]  # a lock of Optuna's may lie among them
        return {tuple(map(int, name.split("-"))) for name in names if re.fullmatch(r"\d+-\d+-\d+", name)}

    with contextlib.ExitStack() as stack:
        workers = []
        for name, seconds in (("victim", "60"), ("other", "0.05")):
            said = stack.enter_context((tmp_path / f"{name}.txt").open("w"))
            started = stack.enter_context(subprocess.Popen([*command, seconds, str(count)], stdout=said))
            stack.callback(started.kill)
            workers.append(started)
            end = time.monotonic() + 60
            while started.pid not in {pid for _, _, pid in begun()}:
                assert time.monotonic() < end
                time.sleep(0.01)
        victim, other = workers
        (was,) = [number for number, _, pid in begun() if pid == victim.pid]
        victim.kill()
        victim.wait()
        assert other.wait(60) == 0
    text = (tmp_path / "other.txt").read_text()
    assert text.splitlines()[-1] == " ".join(f"{number}:done" for number in range(count))
    assert f"trial {was}: process {victim.pid} on" in text
    again = [(number, tries, pid) for number, tries, pid in begun() if tries]
    assert again == [(was, 1, other.pid)]
    files = {(n, t): path.read_text() for path in tmp_path.glob("*-*-*") for n, t, _ in [path.name.split("-")]}
    assert files[str(was), "0"] == files[str(was), "1"], "with the same values"


def test_a_line_that_a_kill_has_torn_does_not_spoil_the_file(tmp_path):
    optimise((X,), lambda a: Answer(1.0), trials=3, sampler="quasi", storage=open_storage("", tmp_path))
    with (tmp_path / search_storage.FILE).open("ab") as file:
        file.write(b'{"op_code": 9, "worker_id": "some')
    for trials in (5, 6):
        found = optimise(
            (X,), lambda a: Answer(2.0), trials=trials, sampler="quasi", storage=open_storage("", tmp_path)
        )
        assert [t.answer.value for t in found] == [1.0] * 3 + [2.0] * (trials - 3)


def test_a_storage_that_cannot_be_opened_is_told():
    with pytest.raises(ConfigError, match=r"study.search.storage: cannot be opened \(.*; give a file, a URL"):
        open_storage("nosuch://x/y", None)
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_storage("/proc/nowhere/trials", None)


def test_a_relative_storage_lies_in_the_workdir_wherever_the_command_is_given(tmp_path, monkeypatch):
    for where in ("a", "b"):
        (tmp_path / where).mkdir()
        monkeypatch.chdir(tmp_path / where)
        storage = open_storage("mine/trials.jsonl", tmp_path / "w")
        found = optimise((X,), lambda a: Answer(len(str(tmp_path))), trials=2, sampler="quasi", storage=storage)
        assert len(found) == 2
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("trials.jsonl")] == [Path("w/mine/trials.jsonl")]
    open_storage(str(tmp_path / "b/trials.jsonl"), tmp_path / "w")
    assert (tmp_path / "b/trials.jsonl").exists()


# --- the study


def flat(state):
    return {path: np.asarray(leaf) for path, leaf in to_flat(state).items()}


def short(**fields):
    """A config of 15 updates, its trials by the lr alone."""
    fields = {"train__eval_every": "5steps", "study__search__trials": 3} | fields
    return tiny("15steps", **fields)


def test_a_search_compares_whole_runs_and_leaves_what_it_was_given_alone(tmp_path, run):
    asked = []
    before = flat(train(run).state)
    config = put(run.config.copy_and_resolve_references(), study__search__trials=3)
    given = dataclasses.replace(run, config=config, again=lambda *what: asked.append(what))
    study = jtrain.search(given, tmp_path / "w")
    assert study.ok
    assert given.config == config
    assert not asked, "the lr alone: by the same compiled step"
    after = flat(train(given).state)
    for path, leaf in before.items():
        np.testing.assert_array_equal(leaf, after[path], err_msg=path)

    told = json.loads((tmp_path / "w/study.json").read_text())
    assert told["found"]["metric"] == "val/accuracy"
    assert (tmp_path / "w/study.png").read_bytes().startswith(b"\x89PNG")
    best = told["found"]["trial"]
    assert f"--config.optimizer.lr={told['found']['best']['optimizer.lr']}" in study.conclusion
    folders = {path.parent.name for path in (tmp_path / "w").glob("trials/*/checkpoints")}
    assert folders == {str(best)}, "of the others the rows alone stay"
    for number in range(3):
        rows = [json.loads(line) for line in (tmp_path / f"w/trials/{number}/metrics.jsonl").read_text().splitlines()]
        assert {row["split"] for row in rows} == {"train", "val"}, "the test is unseen"
        value = next(row["val/accuracy"] for row in told["rows"] if row["trial"] == number)
        assert value == [row["accuracy"] for row in rows if row["split"] == "val"][-1]


def test_the_config_as_it_is_is_trial_0_to_the_last_digit_and_known_again(monkeypatch, run):
    lrs = []

    def trained(trial, folder, judge):
        lrs.append(trial.optimizer.lr * float(trial.config.lr_scale))
        return types.SimpleNamespace(metrics={"val": {"accuracy": 0.5 + len(lrs) / 100, "loss": 1.0}})

    monkeypatch.setattr(studied, "train", trained)
    c = short(optimizer__lr=0.012345, study__search__sampler="bayes")
    study = studied.search(c, data=blobs())
    assert lrs[0] == pytest.approx(0.012345, rel=1e-6)
    assert study.found["untuned"] == 0.51
    assert "0.51 as the config is" in study.conclusion
    drawn = [row["optimizer.lr"] for row in study.rows if row["trial"] > 0]
    assert all(lr == float(f"{lr:.4g}") for lr in drawn)


@pytest.mark.parametrize(("space", "best"), [(LR, 1), ((("loss.cross_entropy.label_smoothing", (0.0, 0.1, 0.3)),), 0)])
def test_losses_that_the_space_itself_changes_tell_nothing_apart(monkeypatch, space, best):
    losses = [0.5, 0.3, 0.4]

    def trained(trial, folder, judge):
        return types.SimpleNamespace(metrics={"val": {"accuracy": 0.9, "loss": losses.pop(0)}})

    monkeypatch.setattr(studied, "train", trained)
    study = studied.search(short(study__search__space=space, study__search__sampler="quasi"), data=blobs())
    assert study.found["trial"] == best


def test_another_lr_by_the_same_compiled_step_trains_as_a_run_of_that_lr(run):
    config = put(run.config.copy_and_resolve_references(), optimizer__lr=0.05)
    scaled = studied._run_at(run, config)
    assert scaled.train_steps is run.train_steps
    assert scaled.config.lr_scale == pytest.approx(5.0)
    own = train(run.again(config, run.data))
    one, other = flat(train(scaled).state), flat(own.state)
    for path in other:
        if path.startswith("params/"):
            np.testing.assert_allclose(one[path], other[path], rtol=1e-3, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer__adamw__b1": 0.8},
        {"plateau__metric": "val/loss"},
        {"schedule__name": "one_cycle"},
    ],
)
def test_what_is_more_than_another_lr_is_another_run(run, fields):
    config = put(run.config.copy_and_resolve_references(), optimizer__lr=0.05, **fields)
    made = []
    unseen = studied._judged_on_val(run)
    assert run.feeds.keys() - unseen.feeds.keys() == {"test"}
    studied._run_at(dataclasses.replace(unseen, again=lambda *given: made.append(given)), config)
    ((taken, data),) = made
    assert taken == config
    assert data.test is None


def test_a_search_that_was_interrupted_does_only_what_is_missing(tmp_path, monkeypatch):
    real, calls = studied.train, []

    def failing(trial, folder, **more):
        calls.append(folder.name)
        if len(calls) == 2:
            raise Interrupted("signal 15", 15)
        return real(trial, folder, **more)

    monkeypatch.setattr(studied, "train", failing)
    with pytest.raises(Interrupted):
        jtrain.search(short(), tmp_path / "w", data=blobs())
    assert calls == ["0", "1"]
    study = jtrain.search(short(), tmp_path / "w", data=blobs())
    assert calls == ["0", "1", "1", "2"]
    assert [row["trial"] for row in sorted(study.rows, key=lambda row: row["trial"])] == [0, 1, 2]
    jtrain.search(short(), tmp_path / "w", data=blobs())
    assert len(calls) == 4
    with pytest.raises(ConfigError, match=r"optimizer.lr: .* holds a study with 0.01"):
        jtrain.search(short(optimizer__lr=0.02), tmp_path / "w", data=blobs())
    with pytest.raises(ConfigError, match=r"study.search.trials"):  # the space would be another one
        jtrain.search(short(study__search__trials=30), tmp_path / "w", data=blobs())


def test_more_trials_go_on_and_what_diverges_or_cannot_be_is_a_result(monkeypatch, tmp_path):
    def trained(trial, folder, judge):
        lr = trial.config.lr_scale
        if lr > 2:
            raise NonFiniteError("the gradient of update 3 is not finite")
        if lr > 1:
            raise ConfigError("train.batch_size: does not fit")
        why = judge(5, {"accuracy": float("nan") if lr < 0.3 else 0.5})
        assert bool(why) == (lr < 0.3)
        return type("Result", (), {"metrics": {"val": {"accuracy": lr, "loss": 1.0}}})

    monkeypatch.setattr(studied, "train", trained)
    fields = {"study__search__space": LR, "study__search__sampler": "quasi"}
    jtrain.search(short(**fields), tmp_path / "w", data=blobs())
    study = jtrain.search(short(study__search__trials=12, **fields), tmp_path / "w", data=blobs())
    ends = {row["trial"]: row["ended"] for row in study.rows}
    assert len(ends) == 12
    assert set(ends.values()) == {"done", "diverged", "refused"}
    assert ends[0] == "done"
    assert "diverged" in study.conclusion
    assert study.found["best"] == {"optimizer.lr": 0.01}
    assert "no trial is better than the config as it is" in study.conclusion


def test_no_trial_with_a_value_is_no_answer(monkeypatch):
    def trained(trial, folder, judge):
        raise NonFiniteError("not finite")

    monkeypatch.setattr(studied, "train", trained)
    study = jtrain.search(short(), data=blobs())
    assert not study.ok
    assert study.conclusion.startswith("no answer: none of 3 trials came to its end with a finite metric (diverged:")


def test_what_cannot_be_searched_is_told_before_a_trial_is_run(monkeypatch):
    with pytest.raises(ConfigError, match=r"data.validation: is 0"):
        jtrain.search(short(data__validation=0.0), data=blobs())
    by_loss = short(early_stopping__metric="val/loss", study__search__space=(("loss.name", ("auto", "focal")),))
    with pytest.raises(ConfigError, match="changes the loss, by which trials are judged"):
        jtrain.search(by_loss, data=blobs())
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'jtrain\[search\]'"):
        jtrain.search(short(), data=blobs())


@pytest.mark.slow
def test_of_two_commands_one_is_killed_and_its_trial_goes_on_from_its_checkpoint(tmp_path):
    words = "search --config=digits --config.train.total=60steps --config.train.eval_every=15steps"
    words += " --config.checkpoint.every=5steps --config.mesh.devices=1 --config.study.search.trials=6"
    command = [sys.executable, "-m", "jtrain.main", *words.split(), f"--workdir={tmp_path / 'w'}"]

    def owner():
        """{number of a trial: process that runs it}, of those that are under way and have saved."""
        found = {}
        for lock in (tmp_path / "w").glob("trials/*/lock"):
            with contextlib.suppress(ValueError, KeyError, OSError):
                if any((lock.parent / "checkpoints").glob("[0-9]*")):
                    found[json.loads(lock.read_text())["pid"]] = int(lock.parent.name)
        return found

    with contextlib.ExitStack() as stack:
        workers = []
        for name in ("one", "two"):
            said = stack.enter_context((tmp_path / f"{name}.txt").open("w"))
            workers.append(stack.enter_context(subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)))
            stack.callback(workers[-1].kill)
        victim, other = workers
        end = time.monotonic() + 120
        while victim.pid not in owner():
            assert time.monotonic() < end, (tmp_path / "one.txt").read_text()
            time.sleep(0.005)
        was = owner()[victim.pid]
        victim.kill()
        victim.wait()
        assert other.wait(300) == 0, (tmp_path / "two.txt").read_text()
    told = json.loads((tmp_path / "w/study.json").read_text())
    assert sorted(row["trial"] for row in told["rows"]) == list(range(6))
    assert {row["ended"] for row in told["rows"]} <= {"done", "pruned"}
    events = [json.loads(line) for line in (tmp_path / f"w/trials/{was}/events.jsonl").read_text().splitlines()]
    assert "resume" in {event["kind"] for event in events}
    assert f"trial {was}: process {victim.pid}" in (tmp_path / "two.txt").read_text()
    rows = [json.loads(line) for line in (tmp_path / f"w/trials/{was}/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "val"] == [15, 30, 45, 60]


# --- the report


def planted(count=40, seed=0):
    """Trials whose metric follows x alone; some were given up or diverged."""
    trials = []
    for number, point in enumerate(sequence((X, Y), "quasi", count, seed)):
        value = 1 - (point["x"] - 1) ** 2
        if number % 10 == 3 and point["x"] < 0.9:
            trials.append(Trial(number, point, Answer(None, "pruned", "lags"), ((300, value - 0.3),), 1.0))
        elif number % 10 == 7 and point["x"] < 0.9:
            trials.append(Trial(number, point, Answer(None, "diverged", "not finite")))
        else:
            trials.append(Trial(number, point, Answer(value, tie=1 - value), ((500, value),), 2.0))
    return trials


def test_importance_is_that_of_the_key_that_matters():
    found = importance((X, Y), planted(), maximize=True)
    assert list(found) == ["x", "y"]
    assert found["x"] > 0.9
    assert importance((X,), planted(), True) == {}
    assert importance((X, Y), planted(9), True) == {}
    assert importance((X, Y), [Trial(i, {"x": i / 20, "y": 1e-3}, Answer(1.0)) for i in range(20)], True) == {}


def test_options_of_a_part_that_a_trial_does_not_take_are_in_no_report():
    axes = (Axis("optimizer.name", choices=("sgd", "adamw")), Axis("optimizer.sgd.momentum"), Axis("optimizer.lr"))
    found = optimise(axes, lambda a: Answer(float(a.point["optimizer.name"] == "sgd")), trials=16, sampler="quasi")
    for trial in found:
        keys = ["optimizer.name", "optimizer.sgd.momentum", "optimizer.lr"]
        expected = keys if trial.point["optimizer.name"] == "sgd" else [keys[0], keys[2]]
        assert list(trial.point) == expected
    study = report(axes, found, "loss", False, importance(axes, found, False), own=None, validation=10)
    assert "--config.optimizer.name=adamw" in study.conclusion
    assert "momentum" not in study.conclusion
    from matplotlib.figure import Figure

    study.draw(Figure())


def test_the_report_tells_the_best_its_command_and_the_edge_and_draws_every_axis(tmp_path):
    trials = planted()
    share = importance((X, Y), trials, True)
    study = report((X, Y), trials, "accuracy", True, share, own=trials[0].point, validation=100)
    best = max((t for t in trials if t.answer.value), key=lambda t: t.answer.value)
    assert study.found["trial"] == best.number
    assert study.found["edges"] == {"x": "upper"}
    assert "x is best at the upper edge of its range (0 to 1): widen it" in study.conclusion
    assert f"--config.x={best.point['x']}" in study.conclusion
    ends = [t.answer.status for t in trials]
    assert f"({ends.count('diverged')} diverged, {ends.count('pruned')} pruned)" in study.conclusion
    order = [t.number for t in ranked(trials, True)]
    assert [row["trial"] for row in study.rows[: len(order)]] == order
    study.plot(tmp_path / "a.png")
    from matplotlib.figure import Figure

    figure = Figure()
    study.draw(figure)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [panel.get_xscale() for panel in panels] == ["linear", "log"]
    assert panels[0].get_xlabel() == f"x, importance {share['x']:.0%}"
    stars = [line for line in panels[0].lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == [best.point["x"]]


def test_a_difference_that_chance_explains_is_called_so():
    def told(best, own, count):
        trials = [Trial(0, {"x": 0.5}, Answer(own, tie=0.3)), Trial(1, {"x": 0.6}, Answer(best, tie=0.2))]
        return report((X,), trials, "accuracy", True, {}, own={"x": 0.5}, validation=count).conclusion

    assert "within what 100 validation examples can tell (± 0.085)" in told(0.92, 0.88, 100)
    assert "can tell" not in told(0.92, 0.88, 10_000)
    assert "none is better by this metric; --config.x=0.6 has the least loss" in told(0.9, 0.9, 100)
    trials = [Trial(0, {"x": 0.6}, Answer(0.9)), Trial(1, {"x": 0.5}, Answer(0.9))]
    grid = report((X,), trials, "accuracy", True, {}, own={"x": 0.5}, validation=100).conclusion
    assert "as the config is: none is better by this metric; nothing to change." in grid
