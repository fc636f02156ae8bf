"""The coach beside a run: it speaks once, it may end a run, and it never changes what is trained."""

import json
import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import blobs, hooked, interrupting, timeless, tiny, tiny_run

import jtrain
from jtrain import coaching
from jtrain.coach.told import Act, Verdict, as_json
from jtrain.coaching import Coaching
from jtrain.control import Control
from jtrain.errors import Interrupted, NonFiniteError
from jtrain.io.progress import Screen
from jtrain.io.record import Record
from jtrain.peers import Peers

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
    with pytest.raises(Interrupted):
        jtrain.train(tiny_run(), tmp_path / "w", judge=interrupting(14))
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


@pytest.fixture
def seen(monkeypatch):
    """The curves that diagnose is given, each with whether the run has ended."""
    found = []

    def judge(curves, *, ended, silence):
        found.append((curves, ended))
        return []

    monkeypatch.setattr(coaching, "diagnose", judge)
    return found


def test_diagnose_is_told_what_rows_do_not_say(seen):
    run = tiny_run()
    result = jtrain.train(run)
    last, ended = seen[-1]
    assert ended
    assert not any(ended for _, ended in seen[:-1])
    assert last.guess == pytest.approx(math.log(3), rel=1e-5)
    assert last.best_step == result.best["step"]
    assert last.final_lr == pytest.approx(run.lrs(19, {})["lr"])
    assert (last.total, last.updates_per_epoch, last.watch, last.higher_is_better) == (20, 6.5, "accuracy", True)
    assert last.failed_at is None


def test_diagnose_is_told_which_update_was_not_finite(tmp_path, seen):
    def give(original, step):
        data, rows = original()
        return {**data, "inputs": data["inputs"] * (np.nan if step == 11 else 1.0)}, rows

    with pytest.raises(NonFiniteError, match="update 12 of"):
        jtrain.train(hooked(tiny_run(), give), tmp_path / "w")
    assert [(curves.failed_at, ended) for curves, ended in seen] == [(None, False), (12, True)]


def test_the_same_command_on_a_finished_run_keeps_what_was_said(tmp_path, says):
    says(TOLD)
    jtrain.train(tiny_run(), tmp_path / "w")
    before = json.loads((tmp_path / "w" / "coach.json").read_text())
    assert before["ended"]
    jtrain.train(tiny_run(), tmp_path / "w")
    assert json.loads((tmp_path / "w" / "coach.json").read_text()) == before


def test_a_branch_is_told_anew(tmp_path, says):
    says(TOLD)
    jtrain.train(tiny_run(), tmp_path / "old")
    jtrain.train(tiny_run(total="30steps"), tmp_path / "new", branch=f"{tmp_path / 'old'}@15")
    assert [step for step, _ in events(tmp_path / "new", "diagnose")] == [21]


def test_the_noise_of_one_phase_is_not_that_of_the_next(tmp_path):
    options = {"diagnose__noise_every": "1steps", "phases": (("0", "(head|out).*|.*1/.*"), ("12steps", ".*"))}
    run = tiny_run(**options)
    probes = []
    original = coaching.noise_scale.add

    def add(noise, *found):
        probes.append(noise.probes)
        return original(noise, *found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coaching.noise_scale, "add", add)
        jtrain.train(run, tmp_path / "w")
    start = probes.index(0, 1)
    assert probes == [*range(start), *range(len(probes) - start)]
    assert start == 11, "of the 12 probes of the first phase the last was not read before the second began"


@pytest.mark.parametrize("part", ["diagnose", "lint", "write_json_atomic", "is_harder"])
def test_a_coach_that_fails_is_an_event_and_the_run_goes_on(tmp_path, monkeypatch, part):
    def fail(*given, **options):
        raise ZeroDivisionError("as in a formula")

    monkeypatch.setattr(coaching, part, fail)
    result = jtrain.train(tiny_run(), tmp_path / "w")
    assert int(result.state.step) == 20
    texts = [text for _, text in events(tmp_path / "w", "coach")]
    assert len(texts) == (2 if part == "is_harder" else 1)  # by diagnose, and by coach.json
    assert all("training goes on without it: ZeroDivisionError('as in a formula')" in text for text in texts)


def test_a_streamed_batch_that_is_probed_is_made_once(monkeypatch):
    fetched = []
    run = tiny_run(diagnose__noise_every="1steps", data__placement="streamed", data__workers=0)
    feed = run.feeds["train"]
    original = feed._ordered
    monkeypatch.setattr(feed, "_ordered", lambda order, step: fetched.append(step) or original(order, step))
    jtrain.train(run)
    assert sorted(step for step in fetched if step < 20) == list(range(20))


def test_a_process_that_does_not_lead_acts_on_what_the_leader_says(says):
    says()  # it would find nothing itself
    asked = []

    class Follower(Peers):
        leads = False

        def first(self, key, value):
            asked.append((key, value))
            return as_json(ACTING) if key == "diagnose" else value

    run = tiny_run(diagnose__mode="act")
    record = Record(None, screen=Screen.quiet())
    coach = Coaching(run, record, Follower())
    assert coach.begin(Control(), 0) == []
    assert coach.judge(Control(), 7, ended=False) == ACTING
    assert asked == [("diagnose", None)]


def test_what_is_judged_too_often_is_judged_seldom(seen):
    jtrain.train(tiny_run(total="200steps", train__eval_every="1steps"))
    assert len(seen) == 50  # every 2 % of the run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 1, "diagnose__noise_every": "1steps"}, "a batch of 1 is too small"),
        ({"diagnose__noise_every": "5steps"}, "4 probes in this run are too few"),
        ({"diagnose__noise_every": "1steps"}, ""),
    ],
)
def test_a_probe_that_can_tell_nothing_is_told_at_the_start(options, words):
    run = tiny_run(**options)
    lines = Coaching(run, Record(None, screen=Screen.quiet()), Peers()).begin(Control(), 0)
    assert [line for line in lines if "noise_every" in line and words in line] == [
        line for line in lines if "noise_every" in line
    ]
    assert any("noise_every" in line for line in lines) == bool(words)


@pytest.mark.parametrize(
    ("options", "harder"),
    [
        ({}, False),
        ({"model__mlp__dropout": 0.1}, False),
        ({"model__mlp__dropout": 0.3}, True),
        ({"loss__name": "cross_entropy", "loss__cross_entropy__label_smoothing": 0.1}, True),
    ],
)
def test_what_makes_training_harder_than_validation_is_known(options, harder):
    assert coaching.is_harder(tiny_run(**options)) is harder


def test_of_a_model_of_yours_it_is_not_known_whether_training_is_harder(tmp_path):
    run = jtrain.assemble(tiny(), model=nn.Dense(3), data=blobs())
    assert coaching.is_harder(run) is None
    jtrain.train(run, tmp_path / "w")
    assert not events(tmp_path / "w", "coach")
