"""The line probe: the losses are those of the very weights on the line, and nothing of it is left in training."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import blobs, interrupting, timeless, tiny, tiny_run

import jtrain
from jtrain import line
from jtrain.errors import Interrupted
from jtrain.evaluation import evaluate
from jtrain.line import LineProbe


class Normed(nn.Module):
    """A model with running statistics."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.relu(x))


def loss_at(run, state, params):
    """Validation loss of other weights, the long way."""
    return run.evaluate(dataclasses.replace(state, params=params), "val")["loss"]


@pytest.fixture(scope="module")
def trained():
    """A run and two of its states: after 10 and after 20 updates."""
    run = tiny_run(total="20steps")
    states = []
    for length in (10, 20):
        state = run.init_state()
        for step in range(length):
            state, _ = run.phases[0].train_step(state, *run.feeds["train"].train_batch(run.order, step))
        states.append(jax.device_get(state))
    return run, states


def test_losses_are_those_of_the_weights_on_the_line(trained):
    run, (before, after) = trained
    probe = LineProbe(run)
    assert probe.measure(before, 10) is None
    found = probe.measure(after, 20)
    assert found["step"] == 20
    for name, place in {"before": -1.0, "now": 0.0, "ahead": 1.0, "far": 3.0}.items():
        params = jax.tree.map(lambda a, b, t=place: b + t * (b - a), before.params, after.params)
        assert found[name] == pytest.approx(loss_at(run, after, params), rel=1e-5), name
    batches = run.feeds["train"].eval_batches(10, 60)  # whole batches of 65
    measured = evaluate(run.eval_step, run.task, after.params, after.model_state, batches)
    assert found["train/accuracy"] == pytest.approx(measured["accuracy"])
    assert (found["examples"], found["of_val"]) == (60, 7)


def test_a_probe_is_due_at_first_and_after_a_part_of_the_run(trained):
    run, (before, _) = trained
    probe = LineProbe(run)
    assert probe.due(3)
    probe.measure(before, 3)
    assert [step for step in range(4, 10) if probe.due(step)] == [5, 6, 7, 8, 9]  # 7 % of 20 updates are 1.4
    probe.drop()
    assert probe.due(4)
    assert probe.measure(before, 4) is None


def test_training_is_the_same_with_and_without_it(tmp_path):
    rows, states = [], []
    for on in (True, False):
        run = tiny_run(diagnose__line_probe=on, model__mlp__dropout=0.5)
        result = jtrain.train(run, tmp_path / str(on))
        rows.append(timeless(result.history))
        states.append(jax.device_get(result.state))
        assert bool(json.loads((tmp_path / str(on) / "coach.json").read_text())["line"]) == on
    assert rows[0] == rows[1]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_model_with_running_statistics_is_normalised_by_the_batch():
    run = jtrain.assemble(tiny(), model=Normed(), data=blobs())
    state = run.init_state()
    statistics = jax.tree.map(lambda x: x * 0 + 50.0, state.model_state["batch_stats"])
    broken = dataclasses.replace(state, model_state=state.model_state | {"batch_stats": statistics})
    probes = [LineProbe(run) for _ in range(2)]
    for probe, one in zip(probes, (state, broken), strict=True):
        probe.measure(one, 1)
    found = [probe.measure(one, 3) for probe, one in zip(probes, (state, broken), strict=True)]
    assert found[0]["ahead"] == found[1]["ahead"]  # whatever the running statistics are
    assert run.evaluate(state, "val")["loss"] != run.evaluate(broken, "val")["loss"]
    assert run.line_step is not run.eval_step


def test_a_model_without_them_needs_no_program_of_its_own():
    run = tiny_run(model__mlp__dropout=0.5)
    assert run.line_step is run.eval_step
    probe = LineProbe(run)
    assert (probe._batches("val"), probe._batches("train")) == ((10, 7), (10, 60))  # as it is evaluated


def test_it_is_left_out_where_it_cannot_be(monkeypatch):
    assert not LineProbe(tiny_run(data__validation=0.0)).on
    run = tiny_run()
    assert LineProbe(run).on
    monkeypatch.setattr(line, "LIMIT", run.parameter_count - 1)
    assert not LineProbe(run).on


def test_a_resumed_run_keeps_what_was_seen(tmp_path):
    whole = jtrain.train(tiny_run(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        jtrain.train(tiny_run(), tmp_path / "w", judge=interrupting(14))
    result = jtrain.train(tiny_run(), tmp_path / "w")
    assert timeless(result.history) == timeless(whole.history)
    seen = [[row["step"] for row in json.loads((tmp_path / name / "coach.json").read_text())["line"]]
            for name in ("whole", "w")]  # fmt: skip
    assert seen[0] == sorted(seen[0])
    # The first after the resumption has nothing before it.
    assert set(seen[1]) < set(seen[0])
    assert seen[1]


def test_a_probe_that_fails_ends_itself_and_not_the_run(tmp_path, monkeypatch):
    asked = []

    def no_room(self, state, step):
        asked.append(step)
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(LineProbe, "measure", no_room)
    result = jtrain.train(tiny_run(), tmp_path / "w")
    assert int(result.state.step) == 20
    assert asked == [7]
    rows = [json.loads(row) for row in (tmp_path / "w" / "events.jsonl").read_text().splitlines()]
    (told,) = [row["text"] for row in rows if row["kind"] == "coach"]
    assert "line probe failed, training goes on without it" in told


@pytest.mark.parametrize("batch_size", [8, 16, 48])
def test_batch_statistics_see_examples_alone_and_nothing_that_fills_a_batch_up(batch_size):
    run = jtrain.assemble(tiny(batch_size=batch_size, data__validation=24 / 72), model=Normed(), data=blobs())
    state = run.init_state()
    moved = dataclasses.replace(state, params=jax.tree.map(lambda x: x + 0.1, state.params))
    probe = LineProbe(run)
    assert len(run.feeds["val"].examples) == 24
    probe.measure(state, 1)
    found = probe.measure(moved, 3)
    size, some = probe._batches("val")
    assert some % size == 0
    # The long way: the loss of each batch alone, normalised by itself.
    losses = []
    for data, rows in run.feeds["val"].eval_batches(size, some):
        assert (np.asarray(rows) >= 0).all()
        sums = jax.device_get(run.line_step(moved.params, moved.model_state, data, rows))
        losses.append(float(sums["loss"][0]) / float(sums["loss"][1]))
    assert found["now"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    "damaged", [None, 5, "rows", ["row"], [{"now": 1.0}], [{"step": None}], {"step": 7}, [{"step": "7"}]]
)
def test_a_damaged_or_older_coach_json_loses_the_probes_alone(tmp_path, damaged):
    workdir = tmp_path / "w"
    jtrain.train(tiny_run(), workdir)
    told = json.loads((workdir / "coach.json").read_text())
    told["line"] = damaged
    if damaged is None:
        del told["line"]
    (workdir / "coach.json").write_text(json.dumps(told))
    jtrain.diagnose(workdir)
    jtrain.train(tiny_run(), workdir)  # at its end already
    again = json.loads((workdir / "coach.json").read_text())
    assert again["ended"]
    assert again["line"] == []
    events = [json.loads(row) for row in (workdir / "events.jsonl").read_text().splitlines()]
    assert not [row for row in events if row["kind"] == "coach"]
