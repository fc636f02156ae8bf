"""Control of a run: accumulation, averages, loss scaling, non-finite policies, plateau, early stopping, branches."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from helpers import blobs, hooked, timeless, tiny, tiny_run
from test_loop import assert_same_state, interrupt_at, rows_of

import jtrain
from jtrain.assembly import assemble
from jtrain.errors import ConfigError, DataError, Interrupted, NonFiniteError
from jtrain.io.checkpoint import Checkpoints
from jtrain.io.progress import Screen
from jtrain.loop import train
from jtrain.state import to_flat


def poisoned(run, update, until=None):
    """Plants NaN into the inputs of the batches of updates [update, until)."""
    run.feeds["train"].resident = False

    def give(original, step):
        data, rows = original()
        if update <= step < (until or update + 1):
            data = data | {"inputs": data["inputs"].at[3, 2].set(jnp.nan)}
        return data, rows

    return hooked(run, give)


def good_on_a_second_look(run, update):
    """NaN in the batch of `update` the first time alone: what a smaller lr is hoped to bring."""
    run = poisoned(run, update)
    bad, good = run.feeds["train"].train_batches, tiny_run().feeds["train"].train_batches
    seen = []

    def train_batches(order, step, count, most):
        seen.append(step)
        return (good if seen.count(update) > 1 else bad)(order, step, count, most)

    run.feeds["train"].train_batches = train_batches
    return run


def params(result):
    return jax.tree.map(np.asarray, result.state.params)


def assert_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


@pytest.mark.parametrize("devices", [1, 8])
def test_accumulate_8_equals_one_batch_of_8_times(devices):
    options = {"optimizer__name": "sgd", "mesh__devices": devices, "schedule__name": "constant"}
    whole = train(tiny_run("12steps", 48, **options))
    parts = train(tiny_run("12steps", 48, train__accumulate=8, **options))
    assert_close(params(whole), params(parts), rtol=0, atol=1e-6)
    for a, b in zip(whole.history, parts.history, strict=True):
        np.testing.assert_allclose([a["loss"], a["accuracy"]], [b["loss"], b["accuracy"]], atol=1e-6)


def test_accumulation_weighs_examples_not_micro_batches():
    # streamed batches carry weights: with 5 of 48 at weight 0, the micro-batches are ragged
    found = []
    for accumulate in (1, 8):
        run = tiny_run("3steps", 48, optimizer__name="sgd", train__accumulate=accumulate, data__placement="streamed")
        data, _ = run.feeds["train"].train_batch(run.order, 0)
        data = data | {"weight": data["weight"].at[jnp.array([0, 8, 16, 24, 5])].set(0.0)}
        state, sums = run.train_step(run.init_state(), data, None)
        run.close()
        assert float(sums["loss"][1]) == 43
        found.append(jax.tree.map(np.asarray, state.params))
    assert_close(*found, rtol=0, atol=1e-6)


def test_accumulation_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ConfigError, match=r"train\.accumulate: 3 micro-batches do not divide"):
        tiny_run(train__accumulate=3)


def test_averaged_parameters_follow_their_closed_form_and_are_evaluated_beside_the_raw():
    run = tiny_run("9steps", ema__decay=0.9)
    state = run.init_state()
    average = jax.tree.map(np.asarray, state.params)
    for step in range(9):
        state, _ = run.train_step(state, *run.feeds["train"].train_batch(run.order, step))
        d = min(0.9, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, p, d=d: d * a + (1 - d) * np.asarray(p), average, state.params)
    assert_close(average, jax.tree.map(np.asarray, state.ema), rtol=1e-5, atol=1e-7)
    result = train(tiny_run("9steps", ema__decay=0.9))
    assert {"accuracy", "ema/accuracy", "ema/loss"} <= result.metrics["test"].keys()
    assert result.metrics["val"]["ema/loss"] != result.metrics["val"]["loss"]
    assert result.best["metric"] == "val/ema/accuracy"


def test_schedule_free_training_equals_optax_and_evaluates_its_average():
    c = tiny("30steps", optimizer__name="sgd", schedule__name="constant", ema__kind="schedule_free", ema__decay=0.9)
    c.optimizer.sgd.momentum, c.optimizer.sgd.weight_decay, c.optimizer.lr = 0.0, 0.0, 0.1
    run = assemble(c, data=blobs())
    state = run.init_state()
    tx = optax.contrib.schedule_free_sgd(0.1, b1=0.9)
    params = jax.tree.map(jnp.copy, state.params)
    opt_state = tx.init(params)
    gradient = jax.jit(run.gradient)
    for step in range(30):
        given = run.feeds["train"].train_batch(run.order, step)
        probe = dataclasses.replace(run.init_state(), params=params, step=jnp.asarray(step, jnp.int32))
        updates, opt_state = tx.update(gradient(probe, *given)[0], opt_state, params)
        params = optax.apply_updates(params, updates)
        state, _ = run.train_step(state, *given)
    assert_close(jax.tree.map(np.asarray, state.params), params, rtol=1e-4, atol=1e-5)
    average = optax.contrib.schedule_free_eval_params(opt_state, params)
    assert_close(jax.tree.map(np.asarray, state.ema), average, rtol=1e-4, atol=1e-5)
    assert run.evaluate(state, "test")["ema/accuracy"] > 0.6
    with pytest.raises(ConfigError, match=r"ema\.decay is 0\.0"):
        tiny_run(ema__kind="schedule_free")
    with pytest.raises(ConfigError, match=r"set optimizer\.adamw\.b1 to 0"):
        tiny_run(ema__kind="schedule_free", ema__decay=0.9)


def test_frozen_leaves_stay_as_they_are_in_the_average_too():
    for kind in ("moving", "schedule_free"):
        groups = (("head/.*", 1.0), (".*", None))
        run = tiny_run(groups=groups, ema__decay=0.9, ema__kind=kind, optimizer__adamw__b1=0.0)
        start = jax.device_get(run.init_state().params)
        result = train(run)
        for found in (result.state.params, result.state.ema):
            np.testing.assert_array_equal(start["dense0"]["kernel"], found["dense0"]["kernel"])
            assert not np.array_equal(start["head"]["kernel"], found["head"]["kernel"])


def test_float16_overflow_is_skipped_halves_the_scale_and_recovers():
    run = tiny_run("80steps", precision="float16", optimizer__lr=0.03, schedule__name="constant")
    state = run.init_state()
    state = dataclasses.replace(state, extra=state.extra | {"loss_scale": jnp.asarray(2.0**40)})
    before = jax.tree.map(np.asarray, state.params)
    scales, losses = [], []
    for step in range(80):
        state, sums = run.train_step(state, *run.feeds["train"].train_batch(run.order, step))
        scales.append(float(state.extra["loss_scale"]))
        losses.append(float(sums["loss"][0]))
        if step == 0:
            assert float(sums["overflow"][0]) == 1
            assert float(sums["non_finite"][0]) == 0
            assert_close(before, jax.tree.map(np.asarray, state.params), rtol=0, atol=0)
    assert scales[0] == 2.0**39
    assert scales[-1] == scales[-2] < 2.0**30
    assert int(state.extra["failed"]) == -1
    learned = [loss for loss in losses if loss]  # 0: skipped
    assert 30 < len(learned) < 80
    assert np.mean(learned[-5:]) < 0.5 * np.mean(learned[:3])
    result = train(tiny_run("40steps", precision="float16", optimizer__lr=0.03))
    wide = train(tiny_run("40steps", optimizer__lr=0.03))
    assert abs(result.history[-1]["loss"] - wide.history[-1]["loss"]) < 0.05


def test_raise_names_the_update_and_the_parameter_and_saves_what_is_needed_to_look_again(tmp_path):
    with pytest.raises(NonFiniteError) as error:
        train(poisoned(tiny_run(), 8), tmp_path / "run")
    message = str(error.value)
    for words in ("update 9 of 20", "dense0/kernel", "failures/8-batch.npz", "checkpoint of update 7 is whole"):
        assert words in message, message
    batch = np.load(tmp_path / "run/failures/8-batch.npz")
    run = tiny_run()
    np.testing.assert_array_equal(batch["rows"], run.order.rows(8))
    clean = run.init_state()
    for step in range(8):
        clean, _ = run.train_step(clean, *run.feeds["train"].train_batch(run.order, step))
    saved = Checkpoints(tmp_path / "run/failures", keep=1, event=print, read_only=True).restore(8).state
    for path, leaf in to_flat(clean).items():
        if path.startswith(("params", "opt_state")):
            np.testing.assert_array_equal(np.asarray(leaf), saved[path], err_msg=path)
    assert int(train(tiny_run(), tmp_path / "run").state.step) == 20  # mended data: the same command goes on


def test_skip_passes_over_bad_updates_counts_them_and_has_a_cap(tmp_path, capsys):
    result = train(poisoned(tiny_run(train__on_nan="skip"), 8), tmp_path / "run", screen=Screen())
    assert int(result.state.step) == 20
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params(result)))
    counts = [row["skipped"] for row in rows_of(tmp_path / "run") if row["split"] == "train"]
    assert counts[0] == 0
    assert counts[-1] == 1
    assert "update 9" in capsys.readouterr().out
    with pytest.raises(NonFiniteError, match=r"train\.on_nan_limit 2"):
        train(poisoned(tiny_run(train__on_nan="skip", train__on_nan_limit=2), 5, 15))


def test_a_skipped_update_leaves_everything_but_the_step_number(tmp_path):
    run = poisoned(tiny_run(train__on_nan="skip", ema__decay=0.9), 0)
    state = run.init_state()
    before = {path: np.asarray(leaf) for path, leaf in to_flat(state).items()}
    state, sums = run.train_steps(state, *run.give(0))
    for path, leaf in to_flat(state).items():
        if path != "step":
            np.testing.assert_array_equal(np.asarray(leaf), before[path], err_msg=path)
    assert int(state.step) == 1
    assert float(sums["loss"][0, 1]) == 0
    run.close()


def test_rollback_goes_back_with_a_smaller_lr_and_gives_up_at_its_limit(tmp_path, capsys):
    run = good_on_a_second_look(tiny_run(train__on_nan="rollback"), 8)
    result = train(run, tmp_path / "run", screen=Screen())
    assert int(result.state.step) == 20
    assert float(result.state.lr_scale) == 0.5
    assert "lr factor 1 → 0.5, back to update 7" in capsys.readouterr().out
    steps = [row["step"] for row in rows_of(tmp_path / "run") if row["split"] == "train"]
    assert steps == sorted(set(steps))
    with pytest.raises(NonFiniteError):
        train(poisoned(tiny_run(train__on_nan="rollback", train__on_nan_limit=2), 3, 20), tmp_path / "other")
    events = [json.loads(line)["kind"] for line in (tmp_path / "other/events.jsonl").read_text().splitlines()]
    assert events.count("rollback") == 2
    with pytest.raises(ConfigError, match="workdir"):
        train(tiny_run(train__on_nan="rollback"))


def test_plateau_lowers_the_lr_is_logged_and_survives_a_resume(tmp_path):
    options = {
        "plateau__metric": "val/loss", "plateau__patience": 0, "plateau__factor": 0.5, "plateau__threshold": 0.9,
        "train__eval_every": "2steps", "schedule__name": "constant", "log__every": "1steps",
    }  # fmt: skip
    whole = train(tiny_run(**options), tmp_path / "whole")
    lrs = [row["lr"] for row in rows_of(tmp_path / "whole") if row["split"] == "train"]
    assert lrs[0] == pytest.approx(0.01)
    assert lrs[-1] < 0.01 / 100
    assert {round(np.log2(a / b), 5) for a, b in itertools.pairwise(lrs)} == {0.0, 1.0}
    with pytest.raises(Interrupted):
        train(interrupt_at(tiny_run(**options), 9), tmp_path / "cut")
    resumed = train(tiny_run(**options), tmp_path / "cut")
    assert_same_state(whole.state, resumed.state)
    assert timeless(rows_of(tmp_path / "cut")) == timeless(rows_of(tmp_path / "whole"))


def test_early_stopping_stops_restores_its_best_and_goes_on_when_asked(tmp_path):
    options = {"early_stopping__metric": "val/loss", "early_stopping__patience": 2, "early_stopping__min_delta": 0.05,
               "train__eval_every": "2steps"}  # fmt: skip
    result = train(tiny_run("200steps", **options), tmp_path / "run")
    ended = max(row["step"] for row in result.history)
    assert ended < 200
    vals = [row for row in result.history if row["split"] == "val"]
    assert int(result.state.step) == result.best["step"]
    assert result.best == {"step": int(result.state.step), "metric": "val/loss", "value": min(r["loss"] for r in vals)}
    assert result.metrics["val"]["loss"] == result.best["value"]
    run = tiny_run("200steps", **options)
    assert run.evaluate(result.state, "test") == result.metrics["test"]
    again = train(tiny_run("200steps", **options), tmp_path / "run")
    assert max(row["step"] for row in again.history) == ended
    tail = train(tiny_run("200steps", lr_scale=0.1, **options), tmp_path / "tail", branch=str(tmp_path / "run"))
    assert max(row["step"] for row in tail.history) > ended
    memory = train(tiny_run("200steps", **options))
    assert_same_state(memory.state, result.state)
    more = train(tiny_run("210steps", **options), tmp_path / "run")
    assert max(row["step"] for row in more.history) > ended


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("plateau__metric", "val/acuracy", "did you mean 'val/accuracy'"),
        ("plateau__factor", 0.5, r"plateau\.metric is ''"),
        ("early_stopping__metric", "test/loss", "no such metric"),
    ],
)
def test_watching_what_is_not_there_is_refused_before_anything_is_written(field, value, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        train(tiny_run(**{field: value}), "run")
    with pytest.raises(ConfigError, match=words):
        jtrain.check(tiny_run(**{field: value}))
    assert not list(tmp_path.iterdir())


def test_branch_continues_another_run_with_its_moments(tmp_path):
    options = {"schedule__name": "constant"}
    train(tiny_run("20steps", **options), tmp_path / "old")
    longer = train(tiny_run("30steps", **options), tmp_path / "whole")
    new = train(tiny_run("30steps", **options), tmp_path / "new", branch=str(tmp_path / "old"))
    assert_same_state(longer.state, new.state)
    assert rows_of(tmp_path / "new")[0]["step"] > 20
    tail = train(tiny_run("30steps", lr_scale=0.1, **options), tmp_path / "tail", branch=f"{tmp_path}/old@15")
    assert rows_of(tmp_path / "tail")[0]["lr"] == pytest.approx(0.001)
    assert int(tail.state.step) == 30
    again = train(tiny_run("30steps", lr_scale=0.1, **options), tmp_path / "tail", branch=f"{tmp_path}/old@15")
    assert_same_state(tail.state, again.state)
    assert "begins with update 15" in (tmp_path / "tail/events.jsonl").read_text()
    for branch, error, words in [
        (f"{tmp_path}/nowhere", DataError, "holds no run"),
        (f"{tmp_path}/old@bst", ConfigError, "must be 'latest', 'best'"),
        (f"{tmp_path}/old@3", DataError, "no checkpoint 3"),
    ]:
        with pytest.raises(error, match=words):
            train(tiny_run("30steps", **options), tmp_path / "never", branch=branch)
    with pytest.raises(ConfigError, match=r"train\.total.*ask for more"):
        train(tiny_run("20steps", **options), tmp_path / "never", branch=f"{tmp_path}/old")


def test_a_killed_or_rolled_back_branch_still_begins_with_its_parent(tmp_path):
    options = {"schedule__name": "constant", "checkpoint__every": "50steps", "train__eval_every": "50steps"}
    train(tiny_run("20steps", **options), tmp_path / "old")
    whole = train(tiny_run("30steps", **options), tmp_path / "whole", branch=str(tmp_path / "old"))
    run = tiny_run("30steps", **options)
    run.feeds["train"].train_batches = None  # dies at its first step
    with pytest.raises(TypeError):
        train(run, tmp_path / "new", branch=str(tmp_path / "old"))
    again = train(tiny_run("30steps", **options), tmp_path / "new", branch=str(tmp_path / "old"))
    assert_same_state(whole.state, again.state)
    with pytest.raises(ConfigError, match="began otherwise"):
        train(tiny_run("31steps", **options), tmp_path / "new", branch=f"{tmp_path}/old@best")
    bad = poisoned(tiny_run("30steps", train__on_nan="rollback", train__on_nan_limit=1, **options), 22, 30)
    with pytest.raises(NonFiniteError):
        train(bad, tmp_path / "back", branch=str(tmp_path / "old"))
    assert "back to update 20" in (tmp_path / "back/events.jsonl").read_text()


def test_a_branch_of_a_folder_with_an_at_sign(tmp_path):
    train(tiny_run("6steps"), tmp_path / "o@ld")
    assert int(train(tiny_run("8steps"), tmp_path / "new", branch=str(tmp_path / "o@ld")).state.step) == 8
    assert int(train(tiny_run("8steps"), tmp_path / "n2", branch=f"{tmp_path}/o@ld@best").state.step) == 8


def test_float16_does_not_take_a_nan_of_the_data_for_an_overflow():
    with pytest.raises(NonFiniteError, match="update 9 of 20"):
        train(poisoned(tiny_run(precision="float16"), 8))
    with pytest.raises(NonFiniteError, match=r"train\.on_nan_limit 2"):
        train(poisoned(tiny_run(precision="float16", train__on_nan="skip", train__on_nan_limit=2), 5, 20))


def test_the_plateaus_factor_goes_back_with_its_memory_in_a_rollback(tmp_path):
    options = {"plateau__metric": "val/loss", "plateau__patience": 0, "plateau__threshold": 0.9, "plateau__factor": 0.5,
               "train__eval_every": "4steps", "schedule__name": "constant"}  # fmt: skip
    plain = train(tiny_run("20steps", **options), tmp_path / "plain")
    run = good_on_a_second_look(tiny_run("20steps", train__on_nan="rollback", **options), 9)
    back = train(run, tmp_path / "back")
    assert float(back.state.lr_scale) == 0.5 * float(plain.state.lr_scale)


def test_a_plateau_on_another_metric_forgets_the_old_one(tmp_path):
    options = {"train__eval_every": "2steps", "schedule__name": "constant", "plateau__patience": 0}
    train(tiny_run("8steps", plateau__metric="val/accuracy", plateau__threshold=0.9, **options), tmp_path / "run")
    result = train(tiny_run("16steps", plateau__metric="val/loss", **options), tmp_path / "run")
    losses = [row["loss"] for row in result.history if row["split"] == "val" and row["step"] > 8]
    assert losses == sorted(losses, reverse=True)
    assert float(result.state.lr_scale) == 1.0


def test_a_run_that_was_raised_goes_on_under_another_policy_and_its_replay_is_renewed(tmp_path):
    for scale in (1.0, 0.5):
        with pytest.raises(NonFiniteError):
            train(poisoned(tiny_run(lr_scale=scale), 8), tmp_path / "run")
        saved = Checkpoints(tmp_path / "run/failures", keep=1, event=print, read_only=True).restore(8).state
        assert float(saved["lr_scale"]) == scale
    result = train(poisoned(tiny_run(train__on_nan="skip", lr_scale=0.5), 8), tmp_path / "run")
    assert int(result.state.step) == 20


@pytest.mark.parametrize(
    ("optimizer", "scaling", "factor"),
    [("sgd", "auto", 4), ("adamw", "auto", 2), ("adamw", "linear", 4), ("sgd", "sqrt", 2)],
)
def test_lr_is_scaled_by_the_batch_size_on_request(optimizer, scaling, factor):
    c = tiny("5steps", 40, optimizer__name=optimizer, schedule__name="constant")
    c.optimizer.reference_batch = 10
    c.optimizer.batch_scaling = scaling
    run = assemble(c, data=blobs())
    assert run.optimizer.lr == pytest.approx(0.01 * factor)
    row = train(run).history[0]
    assert row["lr"] == pytest.approx(0.01 * factor)


def test_the_plain_step_is_what_is_left_when_all_is_off():
    # The cost itself is measured by benchmarks/mlp_step.py.
    run = tiny_run()
    assert dataclasses.asdict(run.options) == {
        "accumulate": 1, "unroll": True, "loss_scaling": False, "ema_decay": 0.0, "schedule_free": False,
        "lookahead": 0,
        "on_nan": "raise",
    }  # fmt: skip
    assert run.shapes.ema == {}
    assert set(run.shapes.extra) == {"failed"}
