"""Several updates in one call: the same bits however they are cut, and no convolution in a loop on CPU."""

import json
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import blobs, put, timeless, tiny, tiny_run

from jtrain import config as configs
from jtrain import loop
from jtrain.assembly import assemble
from jtrain.io import stopwatch
from jtrain.loop import train
from jtrain.step import advance


def bits(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def assert_same(one, other):
    for a, b in zip(bits(one), bits(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("devices", [1, 8])
def test_updates_may_be_cut_into_any_calls(devices):
    run = tiny_run("20steps", 16, mesh__devices=devices, train__steps_per_call=16, ema__decay=0.9)
    found = {}
    for most in (1, 3, 16):
        (state,), ((*calls,),), done = advance(
            run.train_steps, [run.init_state()], [run.give], 0, 20, most=most, block=devices > 1
        )
        assert done == 20
        losses = np.concatenate([np.asarray(sums["loss"])[:count] for count, sums in calls])
        found[most] = (state, losses)
    for most in (1, 3):
        assert_same(found[most], found[16])
    assert found[16][1].shape == (20, 2)


def test_several_updates_in_a_loop_are_those_of_single_steps():
    run = tiny_run("20steps", 16, train__steps_per_call=20)
    state = run.init_state()
    for step in range(20):
        state, _ = run.train_step(state, *run.feeds["train"].train_batch(run.order, step))
    (several,), _, _ = advance(run.train_steps, [run.init_state()], [run.give], 0, 20, most=20)
    for a, b in zip(bits(state.params), bits(several.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_rows_of_minus_one_are_no_updates():
    run = tiny_run(train__steps_per_call=8)
    data, rows = run.give(0, 3)
    assert rows.shape == (8, 10)
    assert (np.asarray(rows)[3:] == -1).all()
    state, sums = run.train_steps(run.init_state(), data, rows)
    assert int(state.step) == 3
    assert np.asarray(sums["loss"])[:, 1].tolist() == [10, 10, 10, 0, 0, 0, 0, 0]


def test_the_sums_of_a_call_are_one_array_on_the_device_and_a_mapping_to_the_reader():
    run = tiny_run(train__steps_per_call=4)
    state = run.init_state()
    alone = run.train_step(jax.tree.map(jnp.copy, state), run.give(0)[0], run.give(0)[1][0])[1]
    _, sums = run.train_steps(state, *run.give(0))
    assert [leaf.shape for leaf in jax.tree.leaves(sums)] == [(4, sum(len(each) for each in alone.values()))]
    assert set(sums) == set(alone)
    assert "losses" not in sums
    for name, each in jax.device_get(sums).items():
        np.testing.assert_allclose(each[0], alone[name], rtol=1e-5, err_msg=name)


def test_resident_and_streamed_runs_have_the_same_bits_and_so_have_calls_of_any_length(tmp_path):
    runs = [
        train(tiny_run(**fields), tmp_path / str(i))
        for i, fields in enumerate(
            ({}, {"data__placement": "streamed"}, {"train__steps_per_call": 2}, {"train__steps_per_call": 100})
        )
    ]
    for other in runs[1:]:
        assert_same(runs[0].state, other.state)
        assert timeless(other.history) == timeless(runs[0].history)


def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (64, 8, 8, 3)).astype(np.uint8), (np.arange(64) % 3).astype(np.int32)


def cnn(**fields):
    c = tiny()
    c.model = configs.base().model
    c.model.name, c.model.cnn.features, c.model.cnn.pools = "cnn", (6, 8), 2
    return put(c, **fields)


def while_bodies(run):
    """(the text of the compiled program, the computations that its loops run)."""
    text = run.train_steps.lower(run.init_state(), *run.give(0)).compile().as_text()
    return text, set(re.findall(r"body=(%?[\w.\-]+)", text))


def test_a_dense_model_is_trained_in_a_loop_and_a_convolution_on_cpu_never():
    _, loops = while_bodies(tiny_run())
    assert loops
    for fields in ({}, {"train__steps_per_call": 16}, {"train__accumulate": 2}):
        run = assemble(cnn(**fields), data=images())
        assert run.per_call == 1
        text, loops = while_bodies(run)
        assert "convolution" in text
        inside = [part for part in re.split(r"\n(?=%?\S+ \()", text) if part.split(" ")[0] in loops]
        assert not [part for part in inside if "convolution(" in part]
    text, loops = while_bodies(assemble(tiny(train__steps_per_call=1), data=blobs()))
    assert not loops


def test_calls_take_no_longer_than_a_moment(monkeypatch):
    run = tiny_run("200steps", log__every="200steps", train__eval_every="200steps", checkpoint__every="200steps")
    asked = []
    original = run.feeds["train"].train_batches

    def slow(order, step, count, most):
        asked.append(count)
        time.sleep(0.01 * count)
        return original(order, step, count, most)

    run.feeds["train"].train_batches = slow
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.05)
    train(run)
    assert asked[:3] == [1, 1, 1]
    assert sum(asked) == 200
    assert 1 <= max(asked) <= 5


def test_an_evaluation_among_the_first_steps_is_no_part_of_their_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    watch = stopwatch.Stopwatch(1)

    def first_steps():
        found = []
        for step in (1, 2, 3):
            now[0] += 0.5
            found.append(watch.first_steps(step))
            with watch.paused():
                now[0] += 60
        return found

    assert first_steps() == [None, None, 0.5]
    assert not watch.starting
    watch.begin_again()
    assert first_steps() == [None, None, 0.5]


def test_a_resumed_run_may_take_other_calls_but_nothing_else_is_changed(tmp_path):
    whole = train(tiny_run(), tmp_path / "whole")
    train(tiny_run("10steps", schedule__name="constant"), tmp_path / "run")
    again = train(tiny_run("20steps", schedule__name="constant", train__steps_per_call=7), tmp_path / "run")
    assert int(again.state.step) == int(whole.state.step)
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert any("train.steps_per_call: 0 → 7" in event["text"] for event in events)
