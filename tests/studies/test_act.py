"""`act`: what it does about a verdict, within the updates of one run, and never at the cost of the run as it was."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import blobs, tiny

from jtrain import coaching
from jtrain.assembly import assemble
from jtrain.coach.told import Act, Verdict
from jtrain.errors import ConfigError
from jtrain.loop import train
from jtrain.studies.act import Acting, act
from jtrain.studies.act import legs as act_legs
from jtrain.studies.act.choice import Chosen, choose
from jtrain.studies.act.legs import Ended, Leg, rank
from jtrain.studies.act.report import report
from jtrain.studies.journal import open_study
from jtrain.verbs.evaluate import evaluate
from jtrain.verbs.restored import open_state

TOTAL = 56  # updates; an evaluation every 7


def config(**fields):
    return tiny(f"{TOTAL}steps", **fields)


@pytest.fixture
def says(monkeypatch):
    """Sets what diagnose says: (update, lr of that update) -> Act or None."""

    def install(choose):
        def diagnose(curves, *, ended, silence=()):
            lr = 0.0 if curves.lr is None else float(np.nanmax(curves.lr))
            what = None if ended else choose(int(curves.done), lr)
            return [Verdict("planted", "it is planted", "act", {}, act=what)] if what else []

        monkeypatch.setattr(coaching, "diagnose", diagnose)

    install(lambda step, lr: None)
    return install


def config_in(folder):
    return json.loads((folder / "config.json").read_text())


def test_a_healthy_run_is_trained_as_without_it(says, tmp_path):
    study = act(config(), tmp_path / "w", data=blobs())
    plain = train(assemble(config(), data=blobs()), tmp_path / "plain")
    assert study.ok
    assert study.found["acts"] == []
    assert study.found["updates"] == study.found["total"] == TOTAL
    curve = {row["step"]: row for row in plain.history if row["split"] == "val"}
    assert study.found["value"] == curve[study.found["step"]]["accuracy"]
    run = assemble(config(), data=blobs())
    same = [open_state(run, tmp_path / where, TOTAL) for where in ("plain", "w/attempt0")]
    for a, b in zip(*(jax.tree.leaves(state.params) for state in same), strict=True):
        np.testing.assert_array_equal(a, b)
    final = evaluate(tmp_path / "w" / "final", data=blobs())
    assert final["loss"] == study.found["test"]["loss"]
    assert final["accuracy"] == study.found["test"]["accuracy"]


def test_a_restart_begins_anew_in_what_is_left_at_a_tenth_of_the_lr_where_nothing_was_learnt(says, tmp_path):
    says(lambda step, lr: Act("restart", 0.3) if step >= 14 and lr > 0.2 else None)
    given = config(optimizer__lr=100.0, schedule__warmup="14steps", diagnose__attempts=1)
    study = act(given, tmp_path / "w", data=blobs())
    assert [row["attempt"] for row in study.rows] == ["attempt0", "attempt1"]
    assert [row["to"] for row in study.rows] == [14, 42]
    assert study.found["updates"] == TOTAL
    second = config_in(tmp_path / "w" / "attempt1")
    assert second["optimizer"]["lr"] == 10.0
    assert second["train"]["total"] == "42steps"
    assert second["schedule"]["warmup"] == "10steps"  # 14 × 42 / 56
    assert "optimizer.lr 100 → 10, because planted: it is planted" in study.conclusion
    (one,) = study.found["acts"]
    assert (one["kind"], one["verdict"], one["after"]) == ("act", "planted", 14)
    (event,) = [json.loads(line) for line in (tmp_path / "w" / "events.jsonl").read_text().splitlines()]
    assert (event["kind"], event["text"], event["step"]) == ("act", one["text"], 14)


def test_a_larger_lr_is_had_at_once_and_no_update_is_lost(says, tmp_path):
    says(lambda step, lr: Act("restart", 10.0) if step >= 28 and lr < 0.002 else None)
    study = act(config(optimizer__lr=0.001, log__every="1steps"), tmp_path / "w", data=blobs())
    first, second = study.rows[:2]
    assert (first["to"], second["from"], second["of"]) == (28, 28, TOTAL)
    lrs = {row["step"]: row["lr"] for row in rows(tmp_path / "w" / "attempt1") if row["split"] == "train"}
    assert lrs[29] == pytest.approx(0.01, rel=0.1)  # ten times the peak, though the cosine has fallen by half
    assert study.found["attempt"] == "attempt1"
    # The cosine is at half of its peak at update 28.
    (one,) = study.found["acts"]
    assert "the lr in force 0.00053 → 0.0094 (optimizer.lr, the peak of its schedule: 0.001 → 0.0189)" in one["text"]


def test_a_tail_goes_on_from_the_knee_to_the_end_and_its_lr_falls_to_nothing(says, tmp_path, monkeypatch):
    says(lambda step, lr: Act("tail", 0.5, step=16) if lr > 0.006 and step >= 28 else None)
    monkeypatch.setattr(Acting, "_since", lambda self, leg, ended, knee: self._checkpoint(leg, knee))
    given = config(optimizer__lr=0.01, checkpoint__keep=1, schedule__name="constant", log__every="1steps")
    study = act(given, tmp_path / "w", data=blobs())
    first, second = study.rows[:2]
    assert (first["to"], second["from"], second["of"]) == (28, 14, 42)
    lrs = {row["step"]: row["lr"] for row in rows(tmp_path / "w" / "attempt1") if row["split"] == "train"}
    assert len(lrs) >= 7
    assert lrs == pytest.approx({step: 0.005 * (43 - step) / 28 for step in lrs})
    assert "and falling to nothing by its end" in study.found["acts"][0]["text"]
    assert study.found["updates"] <= TOTAL
    events = [json.loads(line) for line in (tmp_path / "w" / "attempt1" / "events.jsonl").read_text().splitlines()]
    assert any(row["kind"] == "branch" and row["step"] == 14 for row in events)
    assert config_in(tmp_path / "w" / "attempt1")["optimizer"]["lr"] == 0.005


def test_an_attempt_that_is_no_better_is_given_up_and_the_run_before_it_goes_on(says, tmp_path):
    says(lambda step, lr: Act("restart", 1e-6) if lr > 1e-4 and step >= 21 else None)
    study = act(config(), tmp_path / "w", data=blobs())
    assert [(row["attempt"], row["ended"]) for row in study.rows] == [
        ("attempt0", "stopped"), ("attempt1", "given up"), ("attempt0", "finished"),
    ]  # fmt: skip
    assert study.found["updates"] == TOTAL
    assert [row["to"] for row in study.rows] == [21, 14, TOTAL - 14]
    assert study.found["attempt"] == "attempt0"
    assert [one["kind"] for one in study.found["acts"]] == ["act", "back"]
    assert "no better than" in study.rows[1]["why"]


def test_nobody_goes_back_to_a_run_that_has_learnt_nothing(says, tmp_path):
    says(lambda step, lr: Act("restart", 0.1) if step == 14 else None)
    study = act(config(optimizer__lr=1e-7), tmp_path / "w", data=blobs())  # nor do the others learn
    assert [row["ended"] for row in study.rows] == ["stopped", "stopped", "finished"]
    assert [one["kind"] for one in study.found["acts"]] == ["act", "act"]
    assert study.found["updates"] == TOTAL


def test_too_late_for_a_restart_a_smaller_lr_goes_on_from_the_best_state(says, tmp_path):
    says(lambda step, lr: Act("restart", 0.5) if lr > 0.006 and step >= 42 else None)
    study = act(config(), tmp_path / "w", data=blobs())
    first, second = study.rows[:2]
    assert first["to"] == 42
    best = max((row for row in rows(tmp_path / "w" / "attempt0") if row["split"] == "val"), key=by_accuracy)["step"]
    assert second["from"] == best
    assert study.found["updates"] <= TOTAL


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def by_accuracy(row):
    return row["accuracy"], -row["step"]


def test_acts_are_no_more_than_asked_for(says, tmp_path):
    says(lambda step, lr: Act("restart", 1.5))
    study = act(config(diagnose__attempts=1), tmp_path / "w", data=blobs())
    assert sum(one["kind"] == "act" for one in study.found["acts"]) == 1
    none = act(config(diagnose__attempts=0), tmp_path / "none", data=blobs())
    assert none.found["acts"] == []
    assert [row["ended"] for row in none.rows] == ["finished"]


def test_a_run_that_is_not_finite_begins_anew_at_a_tenth_of_the_lr(says, tmp_path):
    given = config(optimizer__name="sgd", optimizer__lr=100.0, task__name="regression", clip__name="none")
    inputs, targets = blobs()["train"]
    data = {"train": (inputs * 1e3, targets.astype(np.float32)), "test": blobs()["test"]}
    data["test"] = (data["test"][0] * 1e3, data["test"][1].astype(np.float32))
    given.data.normalize = False
    given.diagnose.attempts = 1
    study = act(given, tmp_path / "w", data=data)
    assert study.rows[0]["ended"] == "not finite"
    assert study.rows[1]["lr"] == pytest.approx(10.0)
    assert study.found["acts"][0]["verdict"] == "not finite"
    assert not study.ok or study.found["value"] is not None


def test_where_every_attempt_is_not_finite_there_is_no_answer(says, tmp_path):
    inputs, targets = blobs()["train"]
    given = config(optimizer__name="sgd", optimizer__lr=1000.0, task__name="regression", data__normalize=False)
    study = act(given, tmp_path / "w", data={"train": (inputs * 1e18, targets.astype(np.float32))})
    assert not study.ok
    assert study.conclusion.startswith("no answer")
    assert study.found["attempt"] is None


class Killed(Exception):
    """In place of a SIGKILL."""


@pytest.mark.parametrize("when", [0, 1])
def test_after_a_kill_the_same_command_comes_to_the_same_end(says, tmp_path, monkeypatch, when):
    says(lambda step, lr: Act("restart", 10.0) if lr < 0.002 else None)
    given = config(optimizer__lr=0.001)
    whole = act(given, tmp_path / "whole", data=blobs())
    original, done = act_legs.train, []

    def killed(run, workdir, *, judge=None, **more):
        def once(step, found):
            if step >= (7, 14)[when] and len(done) == when:
                raise Killed
            return judge(step, found) if judge else ""

        result = original(run, workdir, judge=once, **more)
        done.append(workdir)
        return result

    monkeypatch.setattr(act_legs, "train", killed)
    with pytest.raises(Killed):
        act(given, tmp_path / "w", data=blobs())
    monkeypatch.setattr(act_legs, "train", original)
    again = act(given, tmp_path / "w", data=blobs())
    for key in ("attempt", "step", "value", "test", "updates"):
        assert again.found[key] == whole.found[key]
    once_more = act(given, tmp_path / "w", data=blobs())
    assert (once_more.conclusion, once_more.rows) == (again.conclusion, again.rows)


def test_old_checkpoints_are_removed_at_the_end_and_what_is_final_is_a_run(says, tmp_path):
    study = act(config(), tmp_path / "w", data=blobs())
    left = {int(path.name) for path in (tmp_path / "w" / "attempt0" / "checkpoints").iterdir()}
    best = json.loads((tmp_path / "w" / "attempt0" / "best.json").read_text())["step"]
    assert left <= {TOTAL, TOTAL - 7, study.found["step"], best}
    run = assemble(config(), data=blobs())
    latest, best = (open_state(run, tmp_path / "w" / "final", at) for at in ("latest", "best"))
    for a, b in zip(*map(jax.tree.leaves, (latest.params, best.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(latest.step) == study.found["step"]


def test_what_went_in_is_untouched_and_without_a_workdir_nothing_is_left(says):
    run = assemble(config(), data=blobs())
    before = run.config.to_json()
    study = act(run)
    assert run.config.to_json() == before
    assert study.found["folder"] is None
    assert study.ok


def test_phases_are_refused(says):
    with pytest.raises(ConfigError, match="phases"):
        act(config(phases=(("0", "dense0/.*"), ("10steps", ".*"))), data=blobs())


def test_of_states_as_good_by_the_metric_that_with_the_lowest_loss_is_the_answer(tmp_path):
    run = assemble(config(), data=blobs())
    for step in (7, 14, 28, 35):
        (tmp_path / "attempt0" / "checkpoints" / str(step)).mkdir(parents=True)
    curve = [(7, 1.0, 0.03), (14, 1.0, 0.02), (21, 1.0, 0.001), (28, 1.0, 0.01), (35, 0.5, 0.0)]  # 21 is not kept
    ended = Ended("finished", 35, {"step": 7, "metric": "val/accuracy", "value": 1.0}, curve, 0.1, 0.1)
    with open_study("act", run, None) as journal:
        leg = Leg(0, 0, 35, 1.0, acting=True)
        given_up = Ended("given_up", 7, None, [], 0.1, 0.1)
        found = choose(journal, {0: (leg, ended), 1: (dataclasses.replace(leg, attempt=1), given_up)}, tmp_path, True)
        assert (found.step, found.value, found.loss) == (28, 1.0, 0.01)
    with open_study("act", run, None) as journal:  # nothing was done: the best checkpoint, as of any run
        assert choose(journal, {0: (leg, ended)}, tmp_path, True).step == 7


def test_a_tail_goes_on_from_the_best_that_was_gained_since_the_knee(tmp_path):
    run = assemble(config(), data=blobs())
    for step in (7, 14, 28, 35):
        (tmp_path / "attempt0" / "checkpoints" / str(step)).mkdir(parents=True)
    leg = Leg(0, 0, TOTAL, 1.0, acting=True)

    def start(*curve):
        with open_study("act", run, None) as journal:
            return Acting(journal, tmp_path)._since(leg, Ended("stopped", 35, None, curve, 0.1, 0.1), 16)

    better = (7, 0.9, 0.1), (14, 0.5, 0.5), (21, 0.99, 0.1), (28, 0.7, 0.4), (35, 0.6, 0.3)
    assert start(*better) == 28  # 21 is not kept, 7 lies before the knee
    assert start((14, 0.5, 0.5), (28, 0.5, 0.4), (35, 0.4, 0.1)) == 28  # of equals that with the lower loss
    assert start((14, 0.5, 0.5), (28, 0.4, 0.4), (35, None, None)) == 14  # nothing was gained


SLOW = {"name": "lr_too_low", "text": "it is slow", "action": "start again with 10 times the lr", "level": "warning",
        "act": {"kind": "restart", "factor": 10.0, "step": 0}}  # fmt: skip


def told(said, *, attempts=2, loss=0.5, guess=1.0, acts=()):
    """The study of a run that finished with these verdicts."""
    run = assemble(config(diagnose__attempts=attempts), data=blobs())
    leg = Leg(0, 0, TOTAL, 1.0, acting=True)
    ended = Ended("finished", TOTAL, None, [], 0.5, 0.001, said=said, guess=guess)
    return report(run, [(leg, ended)], acts, Chosen(0, TOTAL, 1.0, 0.6, loss), {}, None)


def test_what_is_seen_after_the_last_update_is_told_with_what_to_type():
    study = told([SLOW])
    assert "nothing was to be done" not in study.conclusion
    assert "seen too late to act on (after the last update): lr_too_low: it is slow" in study.conclusion
    assert "--config.optimizer.lr=0.1" in study.conclusion  # ten times 0.01
    assert study.found["late"] == {"verdict": "lr_too_low", "text": "it is slow", "typed_lr": 0.1}
    assert "not acted on (diagnose.attempts is 0)" in told([SLOW], attempts=0).conclusion
    mended = told([SLOW | {"name": "overfitting", "act": None, "action": "stop earlier"}]).conclusion
    assert "nothing that another lr would mend, but overfitting: stop earlier" in mended
    assert "nothing was to be done" in told([]).conclusion


def test_a_state_that_is_no_better_than_a_guess_is_told_to_be_of_no_use():
    study = told([], loss=1.2)
    assert study.ok
    assert "no better than a guess (validation loss 1.2, a guess 1)" in study.found["advice"]
    assert study.found["advice"] in study.conclusion
    assert "--config.optimizer.lr=0.1, from the first update on" in told([SLOW], loss=1.2).found["advice"]
    longer = told([SLOW | {"name": "still_improving", "act": None, "level": "info"}]).found["advice"]
    assert longer == "still improving at its end: a larger --config.train.total would be better"
    assert told([]).found["advice"] == ""


def test_of_equal_metrics_the_lower_loss_is_better_and_what_is_not_finite_is_last():
    assert rank(0.9, 0.2, True) > rank(0.9, 0.3, True) > rank(0.8, 0.1, True) > rank(float("nan"), 0.0, True)
    assert rank(0.1, 0.1, False) > rank(0.2, 0.2, False)


@pytest.mark.parametrize(
    "own",
    [
        {"name": "exponential", "exponential__gamma": 0.999},
        {"name": "wsd", "wsd__floor": 0.4, "wsd__decay": "1steps"},
        {"name": "constant", "every": "7steps", "warmup": "5steps"},
    ],
)
def test_the_fall_to_nothing_takes_nothing_of_your_schedule(own):
    run = assemble(
        config(optimizer__lr=0.01, **{f"schedule__{key}": value for key, value in own.items()}), data=blobs()
    )
    leg = Leg(1, 28, TOTAL, 0.5, acting=False, parent=0, decays_from=28)
    tail = act_legs.leg_run(run, leg, 3)
    lrs = [tail.lrs(step, {})["lr"] for step in (28, 42, TOTAL - 1)]
    assert lrs == pytest.approx([0.005, 0.0025, 0.005 / 28])
