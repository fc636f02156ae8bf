"""The loop: exactly N updates, the lr that was used is the one logged, exact resume, clean ends."""

import dataclasses
import json
import os
import shutil
import signal
import sys
import types

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import blobs, hooked, timeless, tiny, tiny_run

import jtrain
from jtrain import readout
from jtrain.assembly import assemble
from jtrain.data.examples import ArrayExamples, DataSet
from jtrain.errors import ConfigError, DataError, HeldError, Interrupted, NonFiniteError
from jtrain.io.checkpoint import Checkpoints
from jtrain.io.progress import Screen
from jtrain.loop import train
from jtrain.losses import cross_entropy
from jtrain.models.pure import Model, from_linen
from jtrain.signals import Signals
from jtrain.state import to_flat
from jtrain.step import advance


def flat(state):
    return {path: np.asarray(leaf) for path, leaf in to_flat(state).items()}


def assert_same_state(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], err_msg=path)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def control_of(folder, step):
    return Checkpoints(folder / "checkpoints", keep=9, event=print, read_only=True).restore(step).control


def interrupt_at(run, step, number=signal.SIGTERM):
    """Sends this process a signal when the batch of update `step` is asked for."""

    def give(original, at):
        if at == step:
            os.kill(os.getpid(), number)
        return original()

    return hooked(run, give)


@pytest.mark.parametrize("total", ["13steps", "2epochs", "130examples", "1.99epochs"])
def test_exactly_n_updates_for_every_way_of_writing_n(total):
    # 65 examples in batches of 10: two epochs are 13 updates; 1.99 epochs 12.935, rounded up
    result = train(tiny_run(total))
    assert int(result.state.step) == 13
    counts = [state for path, state in flat(result.state).items() if path.endswith("count")]
    assert counts
    assert all(int(c) == 13 for c in counts)


def test_one_run_described_four_ways_is_the_same_run_bit_for_bit():
    ways = [("13steps", "7steps"), ("2epochs", "1.1epochs"), ("130examples", "70examples"), ("2epochs", "54%")]
    states = [train(tiny_run(total, train__eval_every=every, schedule__warmup=every)).state for total, every in ways]
    for state in states[1:]:
        assert_same_state(states[0], state)


def test_update_k_used_schedule_k_and_the_logged_lr_is_that_one():
    run = tiny_run("12steps", log__every="1steps", schedule__warmup="4steps", optimizer__name="sgd")
    rows = [row for row in train(run).history if row["split"] == "train"]
    for k, row in enumerate(rows):
        expected = 0.01 * (k + 1) / 4 if k < 4 else 0.01 * 0.5 * (1 + np.cos(np.pi * (k - 4) / 8))
        assert row["step"] == k + 1
        np.testing.assert_allclose(row["lr"], expected, rtol=1e-6)


def test_the_update_itself_is_lr_times_gradient():
    # plain SGD: the parameters' change must be the logged lr × the gradient, whatever the log says
    run = tiny_run("1steps", log__every="1steps", optimizer__name="sgd", optimizer__sgd__momentum=0.0,
                   optimizer__sgd__weight_decay=0.0, schedule__name="constant")  # fmt: skip
    start = jax.device_get(run.init_state().params)
    result = train(run)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), start, result.state.params)
    row = next(row for row in result.history if row["split"] == "train")
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(moved)))
    np.testing.assert_allclose(norm, row["lr"] * row["grad_norm"], rtol=1e-5)


def test_lr_of_every_group_is_logged():
    run = tiny_run("4steps", groups=(("head/.*", 1.0), (".*", 0.1)), schedule__name="constant", lr_scale=0.5)
    row = train(run).history[0]
    np.testing.assert_allclose([row["lr"], row["lr/head/.*"], row["lr/.*"]], [0.005, 0.005, 0.0005], rtol=1e-6)


def test_logged_loss_is_the_mean_over_the_interval():
    each = [r for r in train(tiny_run("6steps", log__every="1steps")).history if r["split"] == "train"]
    three = [r for r in train(tiny_run("6steps", log__every="3steps")).history if r["split"] == "train"]
    for i, row in enumerate(three):
        np.testing.assert_allclose(row["loss"], np.mean([r["loss"] for r in each[3 * i : 3 * i + 3]]), rtol=1e-12)


@pytest.mark.parametrize("step", [1, 6, 7, 10, 19])
def test_sigterm_saves_that_very_step_and_resume_is_bit_identical(tmp_path, step):
    def run():  # the line probe of a resumed run begins anew, and may tell less
        return tiny_run(diagnose__line_probe=False)

    whole = train(run(), tmp_path / "whole")
    with pytest.raises(Interrupted) as stopped:
        train(interrupt_at(run(), step), tmp_path / "cut")
    assert stopped.value.exit_code == 143
    newest = max(int(p.name) for p in (tmp_path / "cut/checkpoints").iterdir())
    assert newest == step + 1  # the update under way is finished, no further one is begun
    resumed = train(run(), tmp_path / "cut")
    assert_same_state(whole.state, resumed.state)
    assert timeless(rows_of(tmp_path / "cut")) == timeless(rows_of(tmp_path / "whole"))
    assert resumed.best == whole.best
    assert resumed.metrics == whole.metrics
    assert control_of(tmp_path / "cut", 20) == control_of(tmp_path / "whole", 20)
    assert set(os.listdir(tmp_path / "cut/checkpoints")) == set(os.listdir(tmp_path / "whole/checkpoints"))


def test_ctrl_c_is_130_and_signals_get_their_handlers_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        train(interrupt_at(tiny_run(), 3, signal.SIGINT), tmp_path / "run")
    assert stopped.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_during_evaluation_is_made_good_on_resume(tmp_path):
    whole = train(tiny_run(), tmp_path / "whole")
    run = tiny_run()
    feed = run.feeds["val"]
    original = feed.eval_batches

    def eval_batches(size):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from original(size)

    feed.eval_batches = eval_batches
    with pytest.raises(Interrupted):
        train(run, tmp_path / "cut")
    assert [r["split"] for r in rows_of(tmp_path / "cut")].count("val") == 0
    resumed = train(tiny_run(), tmp_path / "cut")
    assert_same_state(whole.state, resumed.state)
    assert timeless(rows_of(tmp_path / "cut")) == timeless(rows_of(tmp_path / "whole"))


def test_a_finished_run_started_again_changes_nothing(tmp_path):
    first = train(tiny_run(), tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    again = train(tiny_run(), tmp_path / "run")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    assert again.metrics == first.metrics
    assert_same_state(first.state, again.state)


def test_changes_on_resume_are_honoured_and_printed(tmp_path, capsys):
    train(tiny_run("10steps", schedule__name="constant"), tmp_path / "run")
    longer = tiny_run("15steps", schedule__name="constant", optimizer__lr=0.005, lr_scale=0.5)
    result = train(longer, tmp_path / "run", screen=Screen())
    assert int(result.state.step) == 15
    np.testing.assert_allclose(result.history[-3]["lr"], 0.0025, rtol=1e-6)
    shown = capsys.readouterr().out
    events = (tmp_path / "run/events.jsonl").read_text()
    for text in ("optimizer.lr: 0.01 → 0.005", "train.total: '10steps' → '15steps'", "lr_scale: 1.0 → 0.5"):
        assert text in shown
        assert json.dumps(text)[1:-1] in events or text in events


def test_another_config_in_the_workdir_is_refused_unless_forced(tmp_path):
    train(tiny_run("6steps"), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.batch_size: .* 10, the command says 12"):
        train(tiny_run("6steps", batch_size=12), tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert int(train(tiny_run("8steps", batch_size=12), tmp_path / "run", force=True).state.step) == 8


def test_a_run_that_has_done_more_than_the_total_is_refused(tmp_path):
    train(tiny_run("6steps"), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.total.*has done 6"):
        train(tiny_run("5steps"), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(ConfigError, match="holds files but no run"):
        train(tiny_run(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match=r"thesis\.tex"):
        train(tiny_run(), tmp_path / "thesis.tex")


def test_a_held_workdir_is_refused(tmp_path):
    from jtrain.io.workdir import Workdir

    with Workdir(tmp_path / "run"), pytest.raises(HeldError, match=str(os.getpid())):
        train(tiny_run(), tmp_path / "run")


def test_nan_stops_the_run_names_the_step_and_spares_the_checkpoints(tmp_path):
    run = tiny_run("20steps", optimizer__name="sgd", optimizer__lr=900.0, optimizer__sgd__momentum=0.99, lr_scale=1e6)
    with pytest.raises(NonFiniteError, match=r"update \d+ of 20") as error:
        train(run, tmp_path / "run")
    assert error.value.exit_code == 1
    for step in (tmp_path / "run/checkpoints").glob("*"):
        found = Checkpoints(tmp_path / "run/checkpoints", keep=9, event=print, read_only=True).restore(int(step.name))
        assert all(np.isfinite(leaf).all() for path, leaf in found.state.items() if path.startswith("params"))


def test_damaged_newest_checkpoint_is_noticed_and_the_one_before_used(tmp_path, capsys):
    whole = train(tiny_run(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(interrupt_at(tiny_run(), 12), tmp_path / "run")
    newest = max((tmp_path / "run/checkpoints").iterdir(), key=lambda p: int(p.name))
    victim = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    resumed = train(tiny_run(), tmp_path / "run", screen=Screen())
    shown = capsys.readouterr().out
    assert shown.count("is damaged") == 1
    assert "checkpoint 13 is damaged" in shown
    assert "using 10" in shown
    assert_same_state(whole.state, resumed.state)
    assert timeless(rows_of(tmp_path / "run")) == timeless(rows_of(tmp_path / "whole"))


def test_all_checkpoints_damaged_is_refused(tmp_path):
    train(tiny_run("6steps"), tmp_path / "run")
    for manifest in (tmp_path / "run/checkpoints").glob("*/manifest.json"):
        manifest.unlink()
    with pytest.raises(DataError, match="all checkpoints are damaged"):
        train(tiny_run("6steps"), tmp_path / "run")


def test_best_is_kept_beside_the_newest(tmp_path):
    result = train(tiny_run(), tmp_path / "run")
    steps = {int(p.name) for p in (tmp_path / "run/checkpoints").iterdir()}
    assert result.best["step"] in steps
    assert 20 in steps
    assert json.loads((tmp_path / "run/best.json").read_text()) == result.best


def test_without_a_workdir_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(tiny_run("6steps"))
    assert result.workdir is None
    assert list(tmp_path.iterdir()) == []
    assert {"loss", "accuracy"} <= result.metrics["test"].keys()


def test_advance_moves_members_alike_and_leaves_what_it_was_not_given():
    run = tiny_run()
    (one, two), sums, done = advance(run.train_steps, [run.init_state(), run.init_state()], [run.give], 0, 5, most=2)
    (alone,), _, _ = advance(run.train_steps, [run.init_state()], [run.give], 0, 5, most=64)
    assert done == 5
    assert [[count for count, _ in member] for member in sums] == [[2, 2, 1], [2, 2, 1]]
    assert_same_state(one, two)
    assert_same_state(one, alone)


def test_one_compile_for_any_lr_scale_and_no_transfer_in_the_step():
    traced = []
    linear = from_linen(nn.Dense(3))

    def apply(*args, **kwargs):
        traced.append(kwargs["train"])  # runs when the step is traced, not when it is run
        return linear.apply(*args, **kwargs)

    run = assemble(tiny(), model=Model(linear.init, apply), data=blobs())
    traced.clear()
    state = run.init_state()
    given = [run.feeds["train"].train_batch(run.order, step) for step in range(3)]
    state, _ = run.train_step(state, *given[0])
    assert traced.count(True) == 1
    for scale, batch in zip((0.1, 7.0), given[1:], strict=True):
        state = dataclasses.replace(state, lr_scale=jax.device_put(np.float32(scale), state.lr_scale.sharding))
        with jax.transfer_guard("disallow"):
            state, _ = run.train_step(state, *batch)
    assert traced.count(True) == 1


def test_early_words_on_a_long_run(monkeypatch, capsys):
    monkeypatch.setattr("jtrain.describe.LONG_RUN", 0.0)
    c = tiny("6steps")
    c.log.smaller = "configs/cifar.py:small"
    train(assemble(c, data=blobs()), screen=Screen())
    assert "a smaller recipe: --config=configs/cifar.py:small" in capsys.readouterr().out


def test_bfloat16_computes_narrow_and_keeps_float32_parameters():
    wide = train(tiny_run("20steps", optimizer__lr=0.03))
    narrow = train(tiny_run("20steps", optimizer__lr=0.03, precision="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.state.params)} == {np.dtype(np.float32)}
    one, other = (r.history[-1]["loss"] for r in (wide, narrow))
    assert one != other
    np.testing.assert_allclose(other, one, atol=0.05)


def test_wrong_values_in_streamed_data_name_their_row():
    inputs, targets = blobs()["train"]
    targets = targets.copy()
    targets[40] = 7
    source = DataSet("mine", ArrayExamples(inputs, targets), None, None, num_outputs=3)
    run = assemble(tiny("20steps", data__placement="streamed", data__validation=0.0), data=source)
    with pytest.raises(DataError, match="train target of row 40 is 7"):
        train(run)


def test_tensorboard_files_are_written_and_a_missing_package_is_said_before_anything_is(tmp_path, monkeypatch):
    train(tiny_run("6steps", log__tensorboard=True), tmp_path / "run")
    assert sum(p.stat().st_size for p in (tmp_path / "run/tensorboard").iterdir()) > 500
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"log\.tensorboard.*pip install"):
        train(tiny_run("6steps", log__tensorboard=True), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_run_killed_at_its_very_start_can_be_started_again(tmp_path, monkeypatch):
    def die(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jtrain.run.Run.init_state", die)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_run("6steps"), tmp_path / "run")
    assert (tmp_path / "run/config.json").is_file()
    assert int(train(tiny_run("6steps"), tmp_path / "run").state.step) == 6
    (tmp_path / "run/config.json").unlink()
    with pytest.raises(ConfigError, match=r"lost its config\.json"):
        train(tiny_run("6steps"), tmp_path / "run")
    for name in ("lock", "events.jsonl", "metrics.jsonl"):
        (tmp_path / "early").mkdir(exist_ok=True)
        (tmp_path / "early" / name).touch()
    assert int(train(tiny_run("6steps"), tmp_path / "early").state.step) == 6


def test_other_data_in_the_workdir_is_refused_unless_forced(tmp_path):
    train(tiny_run("6steps"), tmp_path / "run")
    more = assemble(tiny("8steps"), data=blobs(examples=120))
    with pytest.raises(ConfigError, match=r"begun with other data .*train 65 → 81"):
        train(more, tmp_path / "run")
    inputs, targets = blobs()["train"]
    moved = assemble(tiny("8steps"), data=dict(blobs(), train=(inputs + 1, targets)))
    with pytest.raises(ConfigError, match=r"begun with other data .checksum"):
        train(moved, tmp_path / "run")
    assert int(train(moved, tmp_path / "run", force=True).state.step) == 8


def test_your_own_validation_split_is_used_and_nothing_is_cut_from_train():
    inputs, targets = blobs()["train"]
    data = {"train": (inputs, targets), "val": (inputs[:5], targets[:5])}
    run = assemble(tiny(), data=data)
    assert {name: len(feed.examples) for name, feed in run.feeds.items()} == {"train": 72, "val": 5}
    with pytest.raises(ConfigError, match=r"data\.validation: 0\.2 .* has one of its own"):
        assemble(tiny(data__validation=0.2), data=data)


def test_weights_keep_the_normalising_they_were_trained_with(tmp_path):
    result = train(tiny_run("20steps"), tmp_path / "run")
    inputs, targets = blobs()["train"]
    few = {"train": (inputs[:20] * 3, targets[:20]), "test": blobs()["test"]}
    found = jtrain.evaluate(tmp_path / "run", data=few)
    assert found["accuracy"] == result.metrics["test"]["accuracy"]


def test_lost_checkpoints_and_lost_rows_are_told(tmp_path, capsys):
    whole = train(tiny_run(), tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").unlink()
    again = train(tiny_run(), tmp_path / "run", screen=Screen())
    assert again.metrics["test"] == whole.metrics["test"]
    assert "a new file is begun" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run/checkpoints")
    third = train(tiny_run(), tmp_path / "run", screen=Screen())
    assert "begins again" in capsys.readouterr().out
    assert_same_state(whole.state, third.state)
    assert (tmp_path / "run/metrics.before.jsonl").exists()


def test_a_second_signal_leaves_at_once_but_not_when_a_launcher_repeats_the_first():
    exits = []
    with Signals(active=True) as signals:
        signals_exit = signals._note
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        signals._at -= 5
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "_exit", exits.append)
            signals_exit(signal.SIGINT, None)
    assert exits == [130]


def test_every_factor_of_lr_scale_survives_a_resume(tmp_path):
    with pytest.raises(Interrupted):
        train(interrupt_at(tiny_run(schedule__name="constant"), 5), tmp_path / "run")
    path = tmp_path / "run/checkpoints/6"
    checkpoints = Checkpoints(tmp_path / "run/checkpoints", keep=9, event=print)
    restored = checkpoints.restore(6)
    control = restored.control | {"lr_factors": {"user": 1.0, "plateau": 0.5}}
    shutil.rmtree(path)
    checkpoints.save(6, restored.state, control, block=True)
    checkpoints.close()
    result = train(tiny_run(schedule__name="constant", lr_scale=0.1), tmp_path / "run")
    assert float(result.state.lr_scale) == pytest.approx(0.05)
    assert result.history[-3]["lr"] == pytest.approx(0.01 * 0.05)


def test_the_step_draws_anew_at_every_step():
    c = tiny("9steps", 10, schedule__name="constant", optimizer__name="sgd", lr_scale=1e-30)
    c.model.mlp.dropout = 0.5
    run = assemble(c, data=blobs())
    state, given = run.init_state(), run.feeds["train"].train_batch(run.order, 0)
    losses = []
    for _ in range(3):
        state, sums = run.train_step(state, *given)
        losses.append(float(sums["loss"][0]))
    assert len(set(losses)) == 3


def test_the_state_is_donated_and_the_batch_is_cut_over_the_devices():
    run = assemble(tiny("9steps", 16, mesh__devices=8, data__placement="streamed"), data=blobs())
    state, (data, rows) = run.init_state(), run.feeds["train"].train_batch(run.order, 0)
    assert data["inputs"].sharding.shard_shape(data["inputs"].shape) == (2, 6)
    lowered = run.train_step.lower(state, data, rows).compile()
    alone = assemble(tiny("9steps", 16, mesh__devices=1), data=blobs())
    whole = alone.train_step.lower(alone.init_state(), *alone.feeds["train"].train_batch(alone.order, 0)).compile()
    assert lowered.cost_analysis()["flops"] < 0.6 * whole.cost_analysis()["flops"]
    run.train_step(state, data, rows)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    run.close()


def test_frozen_leaves_are_bit_identical_and_have_no_optimizer_state():
    run = tiny_run(groups=(("head/.*", 1.0), (".*", None)), schedule__name="constant")
    start = jax.device_get(run.init_state())
    result = train(run)
    np.testing.assert_array_equal(start.params["dense0"]["kernel"], result.state.params["dense0"]["kernel"])
    assert not np.array_equal(start.params["head"]["kernel"], result.state.params["head"]["kernel"])
    assert not any("dense0" in path for path in to_flat(result.state) if path.startswith("opt_state"))


def test_a_nan_is_noticed_within_a_hundred_updates_whatever_is_logged():
    run = tiny_run("3000steps", log__every="3000steps", train__eval_every="3000steps", checkpoint__every="3000steps",
                   optimizer__name="sgd", optimizer__lr=900.0, lr_scale=1e6)  # fmt: skip
    seen = []
    feed = run.feeds["train"]
    original = feed.train_batches
    feed.train_batches = lambda order, step, count, most: (
        seen.append(step + count) or original(order, step, count, most)
    )
    with pytest.raises(NonFiniteError):
        train(run)
    assert max(seen) < 220


def test_numbers_are_fetched_only_once_the_next_step_is_on_its_way(monkeypatch):
    run = tiny_run("12steps", log__every="3steps", train__eval_every="12steps", checkpoint__every="12steps")
    asked, fetched = [], []
    add = readout.Readout._add
    run = hooked(run, lambda original, step: asked.append(step) or original())

    def watched(self, sums, step, control):
        fetched.append((step, max(asked) + 1))
        return add(self, sums, step, control)

    monkeypatch.setattr(readout.Readout, "_add", watched)
    train(run)
    assert [(done, sent) for done, sent in fetched if done < 12] == [(1, 2), (2, 3), (3, 4), (6, 7), (9, 10)]


def test_a_loss_that_is_not_one_number_an_example_is_refused(monkeypatch):
    module = types.ModuleType("my_losses")
    module.wide = lambda outputs, targets: cross_entropy(outputs, targets)[:, None]
    module.mean = lambda outputs, targets: cross_entropy(outputs, targets).mean()
    monkeypatch.setitem(sys.modules, "my_losses", module)
    for name in ("wide", "mean"):
        with pytest.raises(ConfigError, match=r"loss\.name.*one number an example"):
            assemble(tiny(loss__name=f"my_losses:{name}"), data=blobs())


def test_a_judge_is_asked_after_each_evaluation_but_the_last_and_may_end_the_run(tmp_path):
    asked = []

    def judge(step, found):
        asked.append((step, found["accuracy"]))
        return "it is hopeless" if step == limit else ""

    limit = 99
    whole = train(tiny_run(), tmp_path / "whole", judge=judge)
    assert [step for step, _ in asked] == [7, 14]
    assert_same_state(whole.state, train(tiny_run()).state)
    asked, limit = [], 7
    ended = train(tiny_run(), tmp_path / "ended", judge=judge)
    assert [step for step, _ in asked] == [7]
    assert int(ended.state.step) == 7
    assert ended.metrics.keys() == {"val"}
    assert ended.metrics["val"]["accuracy"] == asked[0][1]
    events = [json.loads(line) for line in (tmp_path / "ended/events.jsonl").read_text().splitlines()]
    told = next(event for event in events if event["kind"] == "given_up")
    assert told["text"] == "stops after update 7 of 20, because it is hopeless"
    rows = [row for row in whole.history if row["step"] <= 7]
    assert timeless(ended.history) == timeless(rows), "up to there it is the same run"
