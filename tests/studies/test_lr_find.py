"""The range test: right on curves whose answer is known or silent, and harmless to what it is given."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest
from helpers import blobs, put, tiny
from studies.sweeps import HIGH, LEVELS, LOW, UPDATES, Sweep, lrs, noisy, sweeps

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.errors import ConfigError
from jtrain.loop import train
from jtrain.studies import lr_find as lr_find_file
from jtrain.studies.lr_find import lr_find
from jtrain.studies.lr_find.curve import suggest
from jtrain.studies.lr_find.sweep import growing, sweep, sweeping
from jtrain.studies.members import Members

PLAIN = Sweep(start=2.0, fall=1.5, middle=1e-3, width=0.5, wild=0.1)


@pytest.mark.parametrize("level", LEVELS)
def test_suggestion_is_within_three_times_the_truth_or_there_is_none(level):
    found = [(each.truth, suggest(lrs(), noisy(each, LEVELS[level], i)).lr) for i, each in enumerate(sweeps())]
    answers = [lr / truth for truth, lr in found if lr is not None]
    assert all(1 / 3 <= ratio <= 3 for ratio in answers), sorted(answers)
    assert len(answers) >= {"quiet": 19, "noisy": 15, "loud": 0}[level]


def test_a_clean_curve_gives_its_steepest_point_and_its_blow_up():
    found = suggest(lrs(), PLAIN.loss(lrs())[None])
    (curve,) = found.curves
    assert curve.steepest == pytest.approx(1e-3, rel=0.2)
    risen = lrs()[PLAIN.loss(lrs()) < PLAIN.loss(lrs()).min() + 0.1 * 1.5][-1]
    assert curve.blow_up == pytest.approx(risen, rel=0.35)
    assert found.low < found.lr < found.high < found.blow_up
    assert found.confidence == "low"  # one seed alone


def test_no_answer_where_the_loss_never_falls():
    rng = np.random.default_rng(0)
    flat = 2.0 + 0.05 * rng.normal(size=(3, UPDATES)) + (lrs() / 0.5) ** 2
    found = suggest(lrs(), flat)
    assert (found.lr, found.low, found.confidence) == (None, None, "none")
    assert "falls" in found.why or "noisy" in found.why


def test_a_fall_within_the_noise_is_none():
    rng = np.random.default_rng(2)
    for _ in range(30):
        flat = 2.0 + 0.05 * rng.normal(size=(1, UPDATES)) + (lrs() / 0.5) ** 2
        assert suggest(lrs(), flat).lr is None


def test_no_answer_from_noise_alone():
    rng = np.random.default_rng(1)
    assert all(suggest(lrs(), rng.normal(size=(3, UPDATES)) + 2).lr is None for _ in range(50))


def test_no_answer_where_seeds_disagree():
    curves = [Sweep(2.0, 1.5, middle, 0.5, middle * 50).loss(lrs()) for middle in (1e-5, 1e-4, 1e-2)]
    found = suggest(lrs(), np.array(curves))
    assert found.lr is None
    assert "disagree" in found.why
    assert found.agreement > 100


@pytest.mark.parametrize(
    ("middle", "wild", "words"), [(1e-6, 1e-3, "lower the lowest"), (1e-2, 1e4, "raise the highest")]
)
def test_no_answer_where_the_sweep_does_not_hold_it(middle, wild, words):
    found = suggest(lrs(), Sweep(2.0, 1.5, middle, 0.5, wild).loss(lrs())[None])
    assert found.lr is None
    assert words in found.why


def test_what_comes_first_and_what_comes_after_the_blow_up_does_not_matter():
    plain = suggest(lrs(), PLAIN.loss(lrs())[None])
    strange = PLAIN.loss(lrs())
    strange[:4] = 100.0
    strange[190:] = np.nan
    assert suggest(lrs(), strange[None]).lr == pytest.approx(plain.lr, rel=0.05)
    assert suggest(lrs(), np.full((1, UPDATES), np.nan)).lr is None


def test_a_loss_that_is_not_finite_in_passing_ends_no_sweep():
    plain, gaps = suggest(lrs(), PLAIN.loss(lrs())[None]), PLAIN.loss(lrs())
    gaps[[20, 60, 100, 101, 120]] = np.nan
    assert suggest(lrs(), gaps[None]).lr == pytest.approx(plain.lr, rel=0.05)


def test_seeds_without_an_answer_are_not_counted_and_leave_less_confidence():
    rng = np.random.default_rng(9)
    losses = noisy(PLAIN, LEVELS["quiet"], 0)
    assert suggest(lrs(), losses).confidence == "high"
    losses[2] = 2.0 + 0.02 * rng.normal(size=UPDATES)
    found = suggest(lrs(), losses)
    assert found.confidence == "fair"
    run = assemble(small(), data=blobs())
    assert "(confidence fair: 2 of 3 seeds agree within" in lr_find_file._report(run, lrs(), losses, found).conclusion


def test_lr_grows_by_the_same_factor_in_numpy_and_in_jax():
    schedule = growing(0.5, UPDATES, LOW, HIGH)
    np.testing.assert_allclose(schedule(np.arange(UPDATES)), lrs(), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(schedule)(np.arange(UPDATES)), lrs(), rtol=1e-5)


def small(**fields):
    c = tiny("40steps", **fields)
    c.study.lr_find.total = "80steps"
    return c


def test_a_sweep_is_training_whose_lr_is_set_at_every_update():
    """Against single updates of SGD whose lr is set by hand."""
    config = put(small(), optimizer__name="sgd", optimizer__sgd__momentum=0.0, optimizer__sgd__weight_decay=0.0)
    run = assemble(config, data=blobs())
    found = sweep(sweeping(run, 60, 1e-4, 0.1))
    plain = assemble(configs.changed(run.config, train__total="60steps", schedule__name="constant"), data=blobs())
    gradient = jax.jit(plain.gradient)
    state, params, losses = plain.init_state(), plain.init_state().params, []
    for step, lr in enumerate(np.geomspace(1e-4, 0.1, 60)):
        data, rows = plain.give(step)
        grads, sums, _ = gradient(dataclasses.replace(state, params=params), data, rows[0])
        losses.append(float(sums["loss"][0] / sums["loss"][1]))
        params = jax.tree.map(lambda p, g: p - np.float32(lr) * g, params, grads)  # noqa: B023
    np.testing.assert_allclose(found, losses, rtol=1e-4)


def test_a_sweep_ends_where_it_has_blown_up(monkeypatch):
    calls, advance = [], Members.advance
    monkeypatch.setattr(Members, "advance", lambda self, *given: calls.append(given) or advance(self, *given))
    config = put(small(), optimizer__name="sgd", task__name="regression")
    inputs, targets = blobs()["train"]
    found = np.array(sweep(sweeping(assemble(config, data=(inputs, targets.astype(np.float32))), 100, 1e-3, 1e4)))
    assert np.isfinite(found[:30]).all()
    assert np.isnan(found[-1])
    assert 3 < len(calls) < 10


def told(monkeypatch, losses, failed):
    """A sweep whose members tell these losses, NaN: none, of updates that `failed` or not."""
    losses, failed = np.array(losses), np.array(failed)

    def advance(self, start, stop, **_):
        known = np.isfinite(losses[start:stop])
        pairs = np.stack([np.where(known, losses[start:stop], 0.0), known.astype(float)], 1)
        bad = failed[start:stop]
        return {0: {"loss": pairs, "non_finite": np.stack([bad, np.ones_like(bad)], 1)}} if stop > start else {}

    monkeypatch.setattr(Members, "advance", advance)


def test_an_overflow_of_the_scaled_loss_is_bridged_and_a_failure_is_none(monkeypatch):
    losses = np.linspace(3.0, 1.0, 20)
    failed = np.zeros(20)
    holes = losses.copy()
    holes[[0, 1, 2, 7, 8]] = np.nan
    told(monkeypatch, holes, failed)
    run = sweeping(assemble(small(), data=blobs()), 20, 1e-4, 0.1)
    expected = losses.copy()
    expected[:2] = expected[2] = losses[3]
    np.testing.assert_allclose(sweep(run), expected)
    holes[12], failed[12] = np.nan, 1.0
    told(monkeypatch, holes, failed)
    np.testing.assert_allclose(sweep(run), np.where(np.arange(20) < 12, expected, np.nan))
    skips = dataclasses.replace(run, options=dataclasses.replace(run.options, on_nan="skip"))
    np.testing.assert_allclose(sweep(skips), np.where(np.arange(20) != 12, expected, np.nan))


def test_float16_has_an_answer():
    config = small(precision="float16", task__name="regression")
    inputs, targets = blobs()["train"]
    found = lr_find(config, data=(inputs, 300 * targets.astype(np.float32)))
    assert found.ok, found.conclusion


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A whole study, and where it is."""
    folder = tmp_path_factory.mktemp("lr_find")
    config = small(
        optimizer__name="sgd",
        schedule__name="multistep",
        schedule__multistep__milestones=("10steps",),
        schedule__warmup="5steps",
    )
    before = config.to_json()
    study = lr_find(config, folder / "w", data=blobs())
    assert config.to_json() == before
    return config, study, folder / "w"


def test_study_gives_a_range_and_says_what_to_type(swept):
    _, study, folder = swept
    assert study.ok
    assert study.found["low"] < study.found["lr"] < study.found["high"] <= study.found["blow_up"]
    assert f"--config.optimizer.lr={study.found['lr']:g}" in study.conclusion
    assert json.loads((folder / "study.json").read_text())["found"]["confidence"] in ("high", "fair")
    assert (folder / "study.png").stat().st_size > 10_000


def test_after_a_kill_only_missing_sweeps_are_done(swept, monkeypatch, tmp_path):
    config, study, _ = swept
    done, original = [], lr_find_file.sweep

    def killed(run):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(run.config.seed)
        return original(run)

    monkeypatch.setattr(lr_find_file, "sweep", killed)
    with pytest.raises(KeyboardInterrupt):
        lr_find(config, tmp_path / "w", data=blobs())
    done.clear()
    again = lr_find(config, tmp_path / "w", data=blobs())
    assert done == [2]
    assert (again.conclusion, again.rows) == (study.conclusion, study.rows)


def test_one_compilation_for_all_seeds(caplog):
    with jax.log_compiles(True), caplog.at_level(logging.WARNING):
        lr_find(small(), data=blobs())
    compiled = [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()]
    assert sum("train_steps" in text for text in compiled) == 1


def test_what_went_in_is_untouched_and_trains_as_before():
    run = assemble(small(ema__decay=0.9, data__placement="streamed"), data=blobs())
    state, config = run.init_state(), run.config.to_json()
    kept = [np.array(leaf) for leaf in jax.tree.leaves(state)]
    expected = train(run)
    lr_find(run)
    after = train(run)
    for a, b in zip(kept, jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(*map(jax.tree.leaves, (after.state, expected.state)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert run.config.to_json() == config


def test_study_without_an_answer_says_so_and_is_not_ok():
    study = lr_find(put(small(), study__lr_find__low=1e-9, study__lr_find__high=1e-7), data=blobs())
    assert not study.ok
    assert study.found["lr"] is None
    assert study.conclusion.startswith("no answer")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"study__lr_find__low": 1.0, "study__lr_find__high": 0.5}, "study.lr_find.high"),
        ({"study__lr_find__total": "5steps"}, "study.lr_find.total"),
        ({"phases": (("0", "dense0/.*"), ("10steps", ".*"))}, "phases"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        lr_find(put(small(), **fields), data=blobs())
