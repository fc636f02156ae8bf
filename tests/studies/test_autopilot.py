"""`autopilot`: what it decides and what it leaves alone, the budget it keeps to, and a stop that goes on."""

import functools
import json
import types

import numpy as np
import pytest
from helpers import blobs, put, tiny

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.coach.told import Finding
from jtrain.errors import ConfigError
from jtrain.studies.autopilot import autopilot, finale, recipe
from jtrain.studies.autopilot import stages as autopilot_stages
from jtrain.studies.autopilot import trials as autopilot_trials
from jtrain.studies.autopilot.recipe import Candidate, candidates, check_options, is_yours, plan, rules_of, scolded
from jtrain.studies.autopilot.report import report
from jtrain.studies.autopilot.trials import try_out
from jtrain.studies.journal import open_study
from jtrain.verbs.evaluate import evaluate


def config(**fields):
    c = configs.base()
    c.mesh.devices = 1
    c.model.mlp.features = (16,)
    c.model.mlp.dropout = 0.0
    c.study.overfit.neighbours = 0
    c.study.overfit.examples = 8
    return put(c, **fields)


@functools.cache
def data_of(examples):
    return {"train": blobs(examples, seed=1)["train"], "val": blobs(examples, seed=2)["train"]}


@functools.cache
def run_of(examples=4000, **fields):
    return assemble(config(**fields), data=data_of(examples))


def values_of(decisions):
    return {key: value for one in decisions for key, value in one.values.items()}


def test_what_is_at_its_default_is_decided_and_what_is_yours_stays():
    # 3,000 examples are 23 batches of 128, and 469 updates in 20 epochs.
    assert values_of(plan(run_of(), 0)) == {
        "train.total": "1000steps", "schedule.warmup": "5%", "train.eval_every": "5%",
    }  # fmt: skip
    assert values_of(plan(run_of(400), 0))["train.batch_size"] == 16
    yours = plan(run_of(400, train__batch_size=50, train__total="7epochs", schedule__name="constant"), 0)
    assert values_of(yours) == {}
    assert [one.reason for one in yours[:3]] == ["it is yours"] * 3
    assert is_yours(run_of(400, train__batch_size=50), "train.batch_size")


def test_a_run_is_no_longer_than_half_of_the_budget_and_says_so():
    total = plan(run_of(400, train__total="1000steps"), 600)[1]
    assert total.values == {"train.total": "300steps"}
    assert "half of the budget of 600 updates" in total.reason


def test_candidates_leave_alone_what_is_yours():
    def names(run, **given):
        return [one.name for one in candidates(run, **({"lr_is_yours": True, "length_is_yours": True} | given))]

    assert names(run_of()) == ["weight decay 0.1", "weight decay 0.3", "label smoothing 0.1"]
    assert names(run_of(optimizer__adamw__weight_decay=0.2)) == ["label smoothing 0.1"]
    assert names(run_of(optimizer__lr=0.03), lr_is_yours=False)[2] == "lr 0.01"
    images = {"train": (np.zeros((200, 16, 16, 3), np.uint8), np.arange(200, dtype=np.int32) % 2)}
    assert names(assemble(config(), data=images))[2:4] == ["shifted images", "shifted and mirrored images"]
    assert "shifted images" not in names(assemble(config(augment="flip_lr"), data=images))


def trial(monkeypatch, given, gains, *, val=4000, updates=10**6):
    """Trials whose runs are made up: name -> gain over the recipe on each cut."""
    ran = []

    def value(self, one, number):
        ran.append((one.name, number))
        return 0.5 + 0.01 * number + gains.get(one.name, [0.0] * 9)[number]

    monkeypatch.setattr(autopilot_trials._Runs, "value", value)
    with open_study("autopilot", run_of(val), None) as journal:
        found = try_out(journal, run_of(val), given, updates, lambda: True)
    return found, ran


def test_a_candidate_is_taken_where_it_is_better_than_chance_and_the_best_of_its_group(monkeypatch):
    given = [Candidate("a", "x", {"k": 1}), Candidate("b", "x", {"k": 2}), Candidate("c", "y", {}),
             Candidate("d", "z", {})]  # fmt: skip
    gains = {"a": [0.02, 0.03], "b": [0.04, 0.05], "c": [0.10, -0.08], "d": [-0.1, 0.0]}
    found, ran = trial(monkeypatch, given, gains)
    assert found.rows[2]["told"] == "+0.01 ± 0.09, over 2 seeds"
    assert found.rows[3]["told"] == "-0.1, given up after 1 seed"
    assert [one.name for one in found.chosen] == ["b"]
    assert [row["better"] for row in found.rows] == [True, True, False, False]
    assert found.rows[2]["gain"] == pytest.approx(0.01)
    assert ("d", 1) not in ran  # no better on the first of two
    assert found.updates == found.length * len(ran)
    assert [row["updates"] / found.length for row in (found.base, *found.rows)] == [2, 2, 2, 2, 1]


def test_of_few_examples_five_folds_judge_and_who_loses_two_is_given_up(monkeypatch):
    given = [Candidate("a", "x", {}), Candidate("b", "y", {})]
    found, ran = trial(monkeypatch, given, {"a": [0.01] * 5, "b": [-0.01, -0.01, 9, 9, 9]}, val=400)
    assert [one.name for one in found.chosen] == ["a"]
    assert [number for name, number in ran if name == "b"] == [0, 1]
    assert "5 folds" in found.note
    assert [row["told"] for row in found.rows] == ["+0.01 each, over 5 folds", "-0.01 each, given up after 2 folds"]


def test_one_more_right_example_in_one_fold_is_chance(monkeypatch):
    # 400 and 400 examples in 5 folds: one example is 1/160. The mean of one fold alone is its standard error exactly.
    one, given = 1 / 160, [Candidate("a", "x", {}), Candidate("b", "y", {}), Candidate("c", "z", {})]
    gains = {"a": [0, 0, 0, 0, one], "b": [one, one, 0, 0, 0], "c": [one, 2 * one, one, one, 0]}
    found, _ = trial(monkeypatch, given, {**gains, "a": [one, 0, 0, 0, 0]}, val=400)
    assert [row["better"] for row in found.rows] == [False, False, True]
    few, _ = trial(monkeypatch, given, {"a": [1 / 3000] * 2})  # of 4,000 examples: one more on each seed
    assert not few.rows[0]["better"]


def test_as_many_candidates_are_tried_as_there_are_updates_for(monkeypatch):
    given = [Candidate(name, name, {}) for name in "abcd"]
    found, _ = trial(monkeypatch, given, {}, updates=2 * 3 * 100)  # 2 seeds of 3 runs of 100 updates
    assert [row["candidate"] for row in found.rows] == ["a", "b"]
    assert found.length == 100
    assert trial(monkeypatch, given, {}, updates=300)[0] is None


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """A whole flight in a small budget, and where it is."""
    folder = tmp_path_factory.mktemp("autopilot")
    given = small()
    before = given.to_json()
    study = autopilot(given, folder / "w", data=blobs(200))
    assert given.to_json() == before
    return given, study, folder / "w"


def small(**fields):
    given = {
        "train__total": "120steps",
        "train__batch_size": 16,
        "schedule__warmup": "3%",
        "optimizer__adamw__weight_decay": 0.02,
    }
    return config(**given, **({"study__autopilot__budget": "5000steps"} | fields))


def test_a_budget_too_small_for_any_final_run_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"study\.autopilot\.budget: '5steps' is 5 updates.* 200steps or more"):
        autopilot(small(study__autopilot__budget="5steps"), tmp_path / "w", data=blobs(200))
    assert not (tmp_path / "w" / "study.jsonl").exists()
    check_options(run_of(400, train__total="10steps"), 20)


def test_a_default_that_is_named_is_kept():
    run = run_of(400, study__autopilot__keep=("train.total",))
    assert "train.total" not in values_of(plan(run, 0))
    assert plan(run, 0)[1].reason == "it is yours"
    assert "20epochs is also the default: to keep it, --config.study.autopilot.keep=" in plan(run_of(400), 0)[1].reason
    with pytest.raises(ConfigError, match=r"study\.autopilot\.keep: .*train\.totl"):
        check_options(run_of(400, study__autopilot__keep=("train.totl",)), 0)


def test_what_lint_would_scold_is_known_before_it_is_tried():
    run = run_of(optimizer__lr=0.001)
    key = "optimizer.adamw.weight_decay"
    assert [one.rule for one in scolded(run, {key: 1.0}, rules_of(run))] == ["decay-strong"]
    assert not scolded(run, {key: 0.3}, rules_of(run))
    both = [Candidate("a", "x", {key: 0.3}), Candidate("b", "y", {"optimizer.lr": 0.1})]  # forgets within 33 updates
    taken, against = autopilot_trials.agreed(run, both)
    assert list(taken) == ["a"]
    assert list(against) == ["b"]


def test_of_two_decisions_on_one_option_the_last_one_is_told():
    said = [("lr 0.03", ["optimizer.lr"], False), ("weight decay 0.3", ["optimizer.adamw.weight_decay"], False),
            ("lr 0.01", ["optimizer.lr"], False), ("nothing", [], False), ("update 5", [], True)]  # fmt: skip
    names = ("decision", "keys", "always")
    rows = [
        {"stage": "s", "reason": "r", "updates": 1, "seconds": 1.0} | dict(zip(names, one, strict=True)) for one in said
    ]
    study = report(run_of(), rows, {"budget": 9}, "")
    assert study.conclusion.endswith("decided: weight decay 0.3; lr 0.01; update 5")


def test_what_is_seen_after_the_last_update_is_done_once_more_or_told():
    late = {"verdict": "lr_too_low", "text": "slow", "typed_lr": 0.1}
    more = finale._once_more(late, False, 100, finale.Allowed(100, True, lr=True))
    assert (more["more"], more["next"]) == (100, {"optimizer.lr": 0.1})
    (yours,) = finale._once_more(late, False, 100, finale.Allowed(100, True, lr=False))["decisions"]
    assert "--config.optimizer.lr=0.1" in yours.text
    assert "the lr is yours" in yours.reason
    assert "more" not in finale._once_more(late, False, 100, finale.Allowed(99, True, lr=True))
    assert finale._once_more(None, True, 100, finale.Allowed(200, True, lr=True))["more"] == 200
    assert finale._once_more(None, True, 100, finale.Allowed(199, True, lr=True)) == {}


def test_every_stage_tells_its_decision_with_a_reason_and_the_budget_is_kept(flown):
    _, study, folder = flown
    assert study.ok, study.conclusion
    stages = list(dict.fromkeys(one["stage"] for one in study.found["decisions"]))
    assert stages[:8] == ["lint", "plan", "overfit", "batch size", "ladder", "trials", "check", "train"]
    trials = [one for one in study.found["decisions"] if one["stage"] == "trials"]
    assert all(one["updates"] > 0 and one["seconds"] > 0 for one in trials)
    (taken,) = [one for one in study.found["decisions"] if one["stage"] == "train"][:1]
    assert "test" not in taken["reason"]
    assert all(one["decision"] and one["reason"] for one in study.found["decisions"])
    assert study.found["updates"] <= study.found["budget"] == 5000
    assert study.found["config"]["optimizer.lr"] > 0
    assert not study.found["config"].keys() & {"train.total", "train.batch_size", "optimizer.adamw.weight_decay"}
    told = json.loads((folder / "study.json").read_text())
    assert told["rows"] == told["found"]["decisions"]
    assert (folder / "study.png").is_file()


def test_what_is_final_is_a_run_with_the_recipe_that_was_found(flown):
    _, study, folder = flown
    again = evaluate(folder / "final", data=blobs(200))
    assert again["accuracy"] == study.found["test"]["accuracy"]
    without_test = evaluate(folder / "final", data=blobs(200)["train"])  # a split that there is
    assert without_test["accuracy"] == study.found["val"]["accuracy"]
    with pytest.raises(ConfigError, match=r"jtrain\.evaluate\('.*final', data=…\)"):
        evaluate(folder / "final")
    config = json.loads((folder / "final" / "config.json").read_text())
    assert config["optimizer"]["lr"] == study.found["config"]["optimizer.lr"]
    assert config["train"]["batch_size"] == 16


def test_the_same_command_goes_on_where_it_was_stopped(flown, tmp_path, monkeypatch):
    given, study, _ = flown
    original = autopilot_stages.ladder

    def killed(*words, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(autopilot_stages, "ladder", killed)
    with pytest.raises(KeyboardInterrupt):
        autopilot(given, tmp_path / "w", data=blobs(200))
    monkeypatch.setattr(autopilot_stages, "ladder", original)
    monkeypatch.setattr(autopilot_stages, "overfit", killed)  # it is done
    again = autopilot(given, tmp_path / "w", data=blobs(200))
    for key in ("config", "val", "test", "updates"):
        assert again.found[key] == study.found[key]


def test_a_model_that_cannot_learn_is_no_answer_and_nothing_is_trained(tmp_path):
    broken = small(groups=((".*", 1e-9),))
    study = autopilot(broken, tmp_path / "w", data=blobs(200))
    assert not study.ok
    assert "suspect" in study.conclusion
    assert not (tmp_path / "w" / "6-train").exists()


def test_lint_is_told_and_nothing_is_overridden(tmp_path, monkeypatch):
    one = Finding("lr-high", "warning", "optimizer.lr", "is 3", "it blows up", "the notes")
    monkeypatch.setattr(recipe, "lint", lambda facts, silence=(): [one])
    monkeypatch.setattr(autopilot_stages, "overfit", lambda *words, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        autopilot(small(optimizer__lr=3.0), tmp_path / "w", data=blobs(200))
    row = json.loads((tmp_path / "w" / "study.jsonl").read_text().splitlines()[1])
    assert row["value"]["decisions"][0]["text"] == "optimizer.lr stays as it is"
    assert row["value"]["decisions"][0]["values"] == {}
    with pytest.raises(ZeroDivisionError):
        autopilot(small(), tmp_path / "open", data=blobs(200))  # the ladder is yet to find an lr
    row = json.loads((tmp_path / "open" / "study.jsonl").read_text().splitlines()[1])
    assert row["value"]["decisions"][0]["text"] == "nothing is to be changed"


def test_minutes_are_turned_into_updates(tmp_path):
    study = autopilot(small(study__autopilot__minutes=0.001), tmp_path / "w", data=blobs(200))
    assert study.found["budget"] < 5000
    assert "pace" in {one["stage"] for one in study.found["decisions"]}
    assert study.ok


def test_fewer_examples_than_the_default_batch_are_no_hindrance():
    study = autopilot(config(study__autopilot__budget="20steps", train__total="10steps"), data=blobs(100))
    assert study.found["config"]["train.batch_size"] == 16
    assert study.found["updates"] <= 20
    assert study.found["folder"] is None


@pytest.mark.parametrize(
    ("length", "verdict", "step", "why"),
    [
        (True, "overfitting", 56, "a shorter run was tried over folds"),
        (False, "overfitting", 14, "it is the best of all"),
        (False, "saturated", 56, "nothing overfits"),
    ],
)
def test_folds_settle_the_length_rather_than_a_few_validation_examples(
    tmp_path, monkeypatch, length, verdict, step, why
):
    attempt = tmp_path / "6-train" / "attempt0"
    for kept in (14, 56):
        (attempt / "checkpoints" / str(kept)).mkdir(parents=True)
    (attempt / "coach.json").write_text(json.dumps({"diagnosis": [{"name": verdict}]}))
    found = {"updates": 56, "attempt": "attempt0", "step": 14, "value": 0.9, "metric": "val/accuracy", "acts": []}
    study = types.SimpleNamespace(
        found=found | {"advice": "", "late": None}, rows=[{"ended": "finished"}], ok=True, conclusion=""
    )
    monkeypatch.setattr(finale, "act", lambda *given, **named: study)
    journal = types.SimpleNamespace(screen=None)
    run = assemble(tiny("56steps"), data=blobs())
    may = finale.Allowed(0, time=False, lr=False, length=length)
    told = finale.final_run(journal, run, tmp_path / "6-train", 56, {}, may)
    assert told["step"] == step
    assert why in told["decisions"][0].reason
