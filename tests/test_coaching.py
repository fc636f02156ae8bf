"""The coach beside a run: it speaks once, it may end a run, and it never changes what is trained."""

import json

import jax
import numpy as np
import pytest
from helpers import timeless, tiny_run

import jtrain
from jtrain import coaching
from jtrain.coach.told import Act, Verdict, as_json
from jtrain.errors import Interrupted

ACTING = Verdict("lr_too_high", "the loss rises", "start anew with a third", {"loss": 9.0}, act=Act("restart", 1 / 3))
TOLD = Verdict("still_improving", "it falls to the end", "train longer", {}, ((7, "here"),), level="info")


def events(folder, kind):
    rows = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [(row["step"], row["text"]) for row in rows if row["kind"] == kind]


@pytest.fixture
def says(monkeypatch):
    """Makes diagnose say something from an update on."""

    def say(*verdicts, since=0):
        def judge(curves, *, ended, silence):
            return [verdict for verdict in verdicts if curves.done >= since and verdict.name not in silence]

        monkeypatch.setattr(coaching, "diagnose", judge)

    return say


def test_a_verdict_is_told_once_and_kept_in_coach_json(tmp_path, says):
    says(TOLD, since=14)
    result = jtrain.train(tiny_run(), tmp_path / "w")
    assert result.stop is None
    assert events(tmp_path / "w", "diagnose") == [(14, TOLD.line())]
    told = json.loads((tmp_path / "w" / "coach.json").read_text())
    assert [Verdict.from_json(verdict) for verdict in told["diagnosis"]] == [TOLD]
    assert told["ended"]


def test_what_was_told_is_not_told_again_when_the_run_is_resumed(tmp_path, says):
    says(TOLD, since=7)
    stopping = tiny_run()

    def interrupt(step, found):
        if step == 14:
            raise Interrupted("as by a signal", 15)
        return ""

    with pytest.raises(Interrupted):
        jtrain.train(stopping, tmp_path / "w", judge=interrupt)
    jtrain.train(tiny_run(), tmp_path / "w")
    assert [step for step, _ in events(tmp_path / "w", "diagnose")] == [7]


def test_silenced_verdicts_are_not_told(tmp_path, says):
    says(TOLD, ACTING)
    jtrain.train(tiny_run(diagnose__silence=("still_improving",)), tmp_path / "w")
    assert [text for _, text in events(tmp_path / "w", "diagnose")] == [ACTING.line()]


def test_report_goes_on_where_act_ends_the_run_with_the_verdict(tmp_path, says):
    says(ACTING, since=14)
    assert jtrain.train(tiny_run()).stop is None
    result = jtrain.train(tiny_run(diagnose__mode="act"), tmp_path / "w")
    assert result.stop == ACTING
    assert int(result.state.step) == 14
    assert "test" not in result.metrics  # nobody is to choose by it
    assert (tmp_path / "w" / "checkpoints" / "14").is_dir() or (tmp_path / "w" / "checkpoints" / "10").is_dir()


def test_act_lets_a_run_end_that_is_judged_at_its_last_update(says):
    says(ACTING, since=20)
    result = jtrain.train(tiny_run(diagnose__mode="act"))
    assert (result.stop, int(result.state.step)) == (None, 20)


def test_off_says_nothing(tmp_path, says):
    says(ACTING, TOLD)
    jtrain.train(tiny_run(diagnose__mode="off"), tmp_path / "w")
    assert not events(tmp_path / "w", "diagnose")
    assert json.loads((tmp_path / "w" / "coach.json").read_text())["diagnosis"] == []


def test_a_run_without_a_validation_split_is_judged_too(tmp_path, says):
    says(TOLD)
    jtrain.train(tiny_run(data__validation=0.0), tmp_path / "w")
    assert [step for step, _ in events(tmp_path / "w", "diagnose")] == [7]


def test_watching_changes_nothing_of_what_is_trained():
    plain = jtrain.train(tiny_run(total="40steps", diagnose__mode="off"))
    watched = jtrain.train(tiny_run(total="40steps", diagnose__noise_every="2steps"))
    assert timeless(plain.history) == timeless(watched.history)
    for one, other in zip(jax.tree.leaves(plain.state), jax.tree.leaves(watched.state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_noise_scale_is_told_once_its_interval_is_narrow(tmp_path):
    standing = {"optimizer__lr": 1e-7, "diagnose__noise_every": "1steps", "train__eval_every": "50steps"}
    jtrain.train(tiny_run(total="200steps", batch_size=20, **standing), tmp_path / "w")
    told = json.loads((tmp_path / "w" / "coach.json").read_text())["noise"]
    assert 0 < told["low"] < told["noise_scale"] < told["high"] <= 2 * told["low"]
    assert len(events(tmp_path / "w", "noise_scale")) == 1


def test_verdicts_come_back_from_json_as_they_were():
    for verdict in (ACTING, TOLD):
        assert Verdict.from_json(json.loads(json.dumps(as_json(verdict)))) == verdict
