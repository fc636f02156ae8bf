"""The ladder of learning rates: its rungs are runs alone, it ends where the best lies inside, and it tells ties."""

import json
import logging
import math

import jax
import numpy as np
import pytest
from helpers import blobs, put, tiny

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.errors import ConfigError
from jtrain.loop import train
from jtrain.studies import ladder as ladder_file
from jtrain.studies.ladder import ladder
from jtrain.studies.ladder.answer import Judge, answer, between, candidates, lr_of, missing_side, open_end
from jtrain.studies.ladder.rungs import Climber, climb, diverged, hopeless, states_at
from jtrain.studies.members import Members
from jtrain.studies.short import shortened, typed, updates_of

ACCURACY = Judge("accuracy", higher=True)


def small(total="40steps", **fields):
    c = tiny(total, **fields)
    c.study.ladder.total = "40steps"
    c.study.ladder.seeds = 1
    return c


def bits(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(one, other):
    for a, b in zip(bits(one), bits(other), strict=True):
        np.testing.assert_array_equal(a, b)


def rung(lr, metric, end=0.5, seeds=(), status="finished", loss=None):
    found = {"lr": lr, "metric": metric, "end": end, "status": status, "val_loss": loss, "why": "", "updates": 9}
    return found | ({"seeds": list(seeds)} if seeds else {}) | {"curve": [[9], [end]]}


def test_rungs_are_those_of_the_notes():
    assert [lr_of(i, 0.0, 3.0) for i in range(-4, 5)] == [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1]
    assert [lr_of(i, 0.02, 3.0) for i in range(3)] == [0.02, 0.06, 0.2]
    assert [lr_of(i, 0.01, 2.0) for i in (-1, 0, 1)] == [0.005, 0.01, 0.02]


@pytest.mark.parametrize(
    ("metrics", "side"), [((0.1, 0.5, 0.9), 1), ((0.9, 0.5, 0.1), -1), ((0.1, 0.9, 0.5), 0), ((None,) * 3, -1)]
)
def test_ladder_goes_on_at_the_end_where_the_best_is(metrics, side):
    rungs = [rung(lr, m, status="finished" if m else "diverged") for lr, m in zip((1, 3, 10), metrics, strict=True)]
    assert missing_side(rungs, ACCURACY, bar=1.0) == side


def test_a_rung_that_has_diverged_bounds_the_ladder():
    rungs = [rung(1, 0.1), rung(3, 0.9), rung(10, None, status="diverged")]
    assert missing_side(rungs, ACCURACY, bar=1.0) == 0
    assert between(rungs, ACCURACY) == [pytest.approx(1.73), pytest.approx(5.48)]


def test_while_nothing_is_learned_the_training_loss_leads():
    rungs = [rung(1, 0.11, end=2.6), rung(3, 0.13, end=2.5), rung(10, 0.09, end=2.4)]
    assert missing_side(rungs, ACCURACY, bar=2.3) == 1
    assert missing_side(rungs, ACCURACY, bar=2.55) == 0


def climbers(*losses):
    return [Climber(float(i + 1), list(each)) for i, each in enumerate(losses)]


def test_a_gradient_that_is_not_finite_is_divergence():
    assert "update 7" in diverged(Climber(1.0, [2.0], failed=7), 2.0, 1.0)
    assert diverged(Climber(1.0, [math.nan]), 2.0, 1.0)


def test_one_high_stretch_is_no_divergence_but_two_are():
    assert not diverged(Climber(1.0, [2.0, 50.0]), 2.0, 1.0)
    assert not diverged(Climber(1.0, [50.0, 3.0]), 2.0, 1.0)
    assert diverged(Climber(1.0, [50.0, 50.0]), 2.0, 1.0)
    assert not diverged(Climber(1.0, [500.0, 50.0]), 2.0, 1.0)  # on its way back


def test_who_hardly_moves_is_hopeless_but_not_beside_the_best():
    far, near, best = all_of = climbers([2.0, 1.99, 1.98], [2.0, 1.99, 1.98], [1.0, 0.5, 0.3])
    assert hopeless(far, all_of, 2.0, left=5)
    assert not hopeless(near, all_of, 2.0, left=5)
    assert not hopeless(best, all_of, 2.0, left=5)
    early = climbers([2.0, 1.99], [2.0, 1.99], [1.0, 0.5])
    assert not hopeless(early[0], early, 2.0, left=6)


def test_a_late_start_is_not_hopeless():
    """As a recurrent net does: on a plateau, then down to below all others."""
    course = np.array([2.0, 1.99, 1.98, 1.7, 1.2, 0.7, 0.3, 0.1])
    quick = np.array([1.5, 1.2, 1.0, 0.9, 0.85, 0.8, 0.78, 0.77])
    for done in range(1, 8):
        all_of = climbers(course[:done], quick[:done], quick[:done] - 0.01)
        if course[done - 1] < 1.98:
            assert not hopeless(all_of[0], all_of, 2.0, left=8 - done)


def test_who_is_behind_in_training_alone_is_kept(monkeypatch):
    """A rung that overfits is ahead in training; the slow one may be the better one in the end."""
    run = shortened(assemble(small(), data=blobs()), 40)
    found = {ahead: climb_judged(run, monkeypatch, ahead) for ahead in (True, False)}
    assert found[False][0]["status"] == "hopeless"
    assert found[True][0]["status"] == "finished"


def climb_judged(run, monkeypatch, slow_is_ahead):
    calls = {"accuracy": 0.5, "loss": 1.0}

    def evaluate(self, state, split):
        slow = float(state.lr_scale) < 0.01
        return calls | {
            "accuracy": 0.9 if slow == slow_is_ahead else 0.1,
            "loss": 0.1 if slow == slow_is_ahead else 9.0,
        }

    monkeypatch.setattr(type(run), "evaluate", evaluate)
    return climb(run, [1e-6, 1e-3, 0.01, 0.03], start=math.nan, strategy="loop", told=print)["rungs"]


def test_rungs_within_the_seeds_spread_are_equal_and_their_middle_is_recommended():
    rungs = [
        rung(0.1, 0.5), rung(0.3, 0.88, seeds=[0.92]), rung(1.0, 0.90, seeds=[0.93]), rung(3.0, 0.89, seeds=[0.91]),
        rung(10.0, 0.4),
    ]  # fmt: skip
    found = answer(rungs, ACCURACY, start=2.0)
    assert (found.best["lr"], found.low, found.high, found.seeds) == (1.0, 0.3, 3.0, 2)
    values = np.array([[0.88, 0.92], [0.9, 0.93], [0.89, 0.91]])
    effects = np.array([[i == 0, i == 1, i == 2, j == 1] for i in range(3) for j in range(2)], float)
    left = values.ravel() - effects @ np.linalg.lstsq(effects, values.ravel(), rcond=None)[0]
    assert found.noise == pytest.approx(math.sqrt(left @ left / 2))


def test_what_a_seed_does_to_all_rungs_is_no_noise_of_their_difference():
    rungs = [
        rung(0.001, 0.70), rung(0.003, 0.80, seeds=[0.90]), rung(0.01, 0.81, seeds=[0.91]),
        rung(0.03, 0.83, seeds=[0.93]), rung(0.1, 0.85, seeds=[0.951]), rung(0.3, 0.7),
    ]  # fmt: skip
    found = answer(rungs, ACCURACY, start=2.0)
    assert (found.best["lr"], found.low, found.high) == (0.1, 0.1, 0.1)


def test_a_rung_that_ran_once_is_as_good_perhaps_but_not_recommended():
    rungs = [
        rung(0.001, 0.2), rung(0.003, 0.899), rung(0.01, 0.898), rung(0.03, 0.90, seeds=[0.88]),
        rung(0.1, 0.89, seeds=[0.91]), rung(0.3, 0.88, seeds=[0.9]), rung(1.0, 0.2),
    ]  # fmt: skip
    found = answer(rungs, ACCURACY, start=2.0)
    assert (found.low, found.high) == (0.003, 0.3)
    assert found.best["lr"] == 0.03


def test_ladder_goes_on_where_its_end_is_as_good_as_the_best():
    rungs = [rung(0.1, 0.5), rung(0.3, 0.88, seeds=[0.92]), rung(1.0, 0.90, seeds=[0.93]), rung(3.0, 0.89)]
    assert open_end(rungs, ACCURACY, start=2.0, bar=1.0) == 1
    assert open_end(rungs, ACCURACY, start=2.0, bar=0.4) == 0  # chance
    assert open_end([*rungs, rung(10.0, 0.2)], ACCURACY, start=2.0, bar=1.0) == 0
    assert open_end([*rungs[1:], rung(10.0, 0.2)], ACCURACY, start=2.0, bar=1.0) == -1
    assert open_end([*rungs, rung(10.0, None, status="diverged")], ACCURACY, start=2.0, bar=1.0) == 0


def test_of_two_equal_rungs_the_lower_is_recommended():
    rungs = [rung(0.1, 0.5), rung(0.3, 0.9), rung(1.0, 0.9), rung(3.0, 0.5)]
    assert answer(rungs, ACCURACY, start=2.0).best["lr"] == 0.3


def test_what_differs_by_more_than_the_spread_is_not_equal():
    rungs = [rung(0.3, 0.80, seeds=[0.81]), rung(1.0, 0.90, seeds=[0.91]), rung(3.0, 0.80, seeds=[0.79])]
    found = answer(rungs, ACCURACY, start=2.0)
    assert (found.best["lr"], found.low, found.high) == (1.0, 1.0, 1.0)


def test_lower_is_better_where_the_metric_says_so():
    judge = Judge("rmse", higher=False)
    rungs = [rung(0.1, 5.0), rung(1.0, 3.0), rung(10.0, 4.0)]
    assert answer(rungs, judge, start=2.0).best["lr"] == 1.0
    assert candidates(rungs, judge) == [0.1, 1.0, 10.0]


def test_a_seed_that_diverges_takes_its_rung_out():
    rungs = [rung(0.3, 0.80, seeds=[0.81]), rung(1.0, 0.90, seeds=[None]), rung(3.0, 0.5, seeds=[0.5])]
    found = answer(rungs, ACCURACY, start=2.0)
    assert (found.best["lr"], found.unstable) == (0.3, 1.0)


def test_first_unstable_rung_is_one_that_diverged_or_lost_its_way():
    rungs = [rung(1.0, 0.9, end=0.2), rung(3.0, 0.8, end=0.4), rung(10.0, 0.2, end=1.9)]
    assert answer(rungs, ACCURACY, start=2.0).unstable == 10.0
    rungs[1] = rung(3.0, None, status="diverged")
    assert answer(rungs, ACCURACY, start=2.0).unstable == 3.0


@pytest.mark.parametrize("strategy", ["loop", "unroll"])
def test_a_rung_has_the_bits_of_a_run_alone_with_its_lr_scale(strategy):
    run = assemble(small(schedule__warmup="5steps", ema__decay=0.9), data=blobs())
    lrs = [0.01, 0.02, 0.05]
    members = Members(run, states_at(run, run.init_state(), lrs), strategy=strategy)
    members.advance(0, 40)
    found = climb(run, lrs, start=math.nan, strategy=strategy, told=print)["rungs"]
    for number, lr in enumerate(lrs):
        alone = train(run.again(configs.changed(run.config, lr_scale=lr / run.optimizer.lr), run.data))
        assert_same(members.states[number], alone.state)
        assert found[number]["metric"] == alone.metrics["val"]["ema/accuracy"]
        assert found[number]["val_loss"] == alone.metrics["val"]["loss"]


def test_one_compilation_however_many_rungs(caplog):
    config = put(small(), study__ladder__rungs=7, study__ladder__seeds=2, study__ladder__total="30steps")
    with jax.log_compiles(True), caplog.at_level(logging.WARNING):
        study = ladder(config, data=blobs())
    compiled = [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()]
    assert len(study.rows) >= 9
    assert sum("train_steps" in text for text in compiled) == 1
    assert sum("eval_step" in text for text in compiled) == 1


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """A whole ladder, and where it is."""
    folder = tmp_path_factory.mktemp("ladder")
    config = put(small("60steps"), study__ladder__seeds=2)
    before = config.to_json()
    study = ladder(config, folder / "w", data=blobs())
    assert config.to_json() == before
    return config, study, folder / "w"


def test_best_lies_inside_and_the_sentence_says_what_to_type(climbed):
    _, study, folder = climbed
    lrs = [row["lr"] for row in study.rows]
    assert study.ok
    assert lrs == sorted(lrs)
    assert lrs[0] < study.found["lr"] < lrs[-1]
    assert study.found["low"] <= study.found["lr"] <= study.found["high"]
    assert f"--config.optimizer.lr={study.found['lr']:g}" in study.conclusion
    assert json.loads((folder / "study.json").read_text())["found"]["lr"] == study.found["lr"]
    assert (folder / "study.png").stat().st_size > 10_000


def test_nothing_is_trained_that_is_done(climbed, monkeypatch):
    config, study, folder = climbed
    monkeypatch.setattr(ladder_file, "climb", None)
    again = ladder(config, folder, data=blobs())
    assert (again.conclusion, again.rows) == (study.conclusion, study.rows)


def test_after_a_kill_only_what_is_missing_is_done(climbed, monkeypatch, tmp_path):
    config, study, _ = climbed
    done, original = [], ladder_file.climb

    def killed(run, lrs, **options):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(lrs)
        return original(run, lrs, **options)

    monkeypatch.setattr(ladder_file, "climb", killed)
    with pytest.raises(KeyboardInterrupt):
        ladder(config, tmp_path / "w", data=blobs())
    first = list(done)
    monkeypatch.setattr(ladder_file, "climb", lambda run, lrs, **o: (done.append(lrs), original(run, lrs, **o))[1])
    again = ladder(config, tmp_path / "w", data=blobs())
    assert first[0] not in done[1:]
    assert len(done) > 2
    assert (again.conclusion, again.rows) == (study.conclusion, study.rows)


def test_what_went_in_is_untouched_and_trains_as_before():
    run = assemble(small(study__ladder__refine=False, study__ladder__rungs=3, study__ladder__most=3), data=blobs())
    state, config = run.init_state(), run.config.to_json()
    kept = [leaf.copy() for leaf in bits(state)]
    expected = train(run)
    ladder(run)
    assert_same(kept, state)
    assert run.config.to_json() == config
    after = train(run)
    assert_same(after.state, expected.state)


def test_a_rung_that_diverges_is_dropped_early_and_told():
    config = put(small(), study__ladder__start=0.1, study__ladder__rungs=3, study__ladder__factor=100.0,
                 study__ladder__refine=False, optimizer__name="sgd", optimizer__lr=0.1, study__ladder__most=4,
                 model__mlp__activation="gelu", task__name="regression")  # fmt: skip
    inputs, targets = blobs()["train"]
    study = ladder(config, data=(inputs, targets.astype(np.float32)))
    last = study.rows[-1]
    assert last["lr"] == 10.0
    assert last["updates"] < 40
    assert "not finite" in last["why"] or "at the start" in last["why"]
    assert study.found["unstable"] == 10.0
    assert "unstable" in study.conclusion


def test_no_answer_where_every_rung_diverges():
    config = put(small(), study__ladder__start=900.0, study__ladder__rungs=3, study__ladder__most=3,
                 study__ladder__factor=1.05, optimizer__name="sgd", task__name="regression")  # fmt: skip
    inputs, targets = blobs()["train"]
    study = ladder(config, data=(inputs, targets.astype(np.float32)))
    assert not study.ok
    assert study.found["lr"] is None
    assert study.conclusion.startswith("no answer")
    assert "the gradient of update" in study.rows[0]["why"]


def test_no_answer_at_the_edge_of_the_ladder():
    config = put(small(), study__ladder__start=1e-6, study__ladder__rungs=3, study__ladder__most=3)
    study = ladder(config, data=blobs())
    assert not study.ok
    assert "no answer" in study.conclusion


def test_without_validation_the_training_loss_judges():
    config = put(small(), data__validation=0.0, study__ladder__refine=False)
    study = ladder(config, data=blobs())
    assert "training loss" in study.conclusion
    assert "data.validation" in study.conclusion
    done = [row for row in study.rows if row["loss"] is not None]
    assert [row["loss"] for row in done] == [row["train loss"] for row in done]


def test_streamed_data_give_the_same_ladder():
    given = {"study__ladder__rungs": 3, "study__ladder__most": 3, "study__ladder__refine": False}
    found = [
        ladder(put(small(), data__placement=placement, **given), data=blobs()).rows
        for placement in ("resident", "streamed")
    ]
    assert [row["accuracy"] for row in found[0]] == [row["accuracy"] for row in found[1]]


def test_whole_schedule_lies_within_a_rung():
    config = put(tiny("20epochs"), schedule__name="multistep", schedule__multistep__milestones=("10epochs", "50%"),
                 schedule__warmup="2epochs", schedule__every="1epochs")  # fmt: skip
    run = assemble(config, data=blobs())
    short = shortened(run, run.clock.total // 4)
    assert short.config.schedule.warmup == "3steps"
    assert short.config.schedule.multistep.milestones == ("16steps", "50%")
    assert short.clock.total == run.clock.total // 4
    parts = (("linear", "10epochs", {"start": 0.1}), ("step", "10epochs", {"every": "4epochs"}))
    config = put(tiny("20epochs"), schedule__name="pieces", schedule__pieces__parts=parts)
    whole = assemble(config, data=blobs())
    short = shortened(whole, whole.clock.total // 4)
    assert short.config.schedule.pieces.parts == (
        ("linear", "16steps", {"start": 0.1}), ("step", "16steps", {"every": "6steps"}),
    )  # fmt: skip


def test_totals_that_tell_nothing_are_refused_or_raised():
    run = assemble(tiny("200steps"), data=blobs())
    assert updates_of(run, "25%", "k") == (100, "k: 25% is 50 updates, too few to tell anything: 100 are taken")
    assert updates_of(run, "25steps", "k") == (25, "")
    assert updates_of(run, "300steps", "k")[0] == 200
    assert updates_of(run, "300steps", "k", at_most=False)[0] == 300
    with pytest.raises(ConfigError, match=r"^k: '5steps' is 5 updates"):
        updates_of(run, "5steps", "k")


def test_what_to_type_takes_the_batch_into_account():
    run = assemble(tiny(optimizer__reference_batch=40, optimizer__batch_scaling="linear"), data=blobs())
    assert run.optimizer.lr == pytest.approx(0.0025)
    assert typed(run, 0.0025) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"study__ladder__total": "3steps"}, "study.ladder.total"),
        ({"study__ladder__rungs": 9, "study__ladder__most": 5}, "study.ladder.rungs"),
        ({"phases": (("0", "dense0/.*"), ("10steps", ".*"))}, "phases"),
        ({"early_stopping__metric": "val/nonsense"}, "early_stopping.metric"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        ladder(put(small(), **fields), data=blobs())
