"""Members of a study: the bits of runs alone, one compilation, and no work for those that were dropped."""

import jax
import numpy as np
import pytest
from helpers import blobs, put, tiny, tiny_run

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.errors import ConfigError
from jtrain.step import advance
from jtrain.studies.members import Members, copied, with_lr_scale

SCALES = (1.0, 0.3, 3.0)


def bits(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def assert_same(one, other):
    for a, b in zip(bits(one), bits(other), strict=True):
        np.testing.assert_array_equal(a, b)


def states_of(run):
    return [copied(with_lr_scale(run, run.init_state(), scale)) for scale in SCALES]


def alone(run, step=40):
    (state,), sums, _ = advance(run.train_steps, [run.init_state()], [run.give], 0, step, most=run.per_call)
    losses = np.concatenate([np.asarray(found["loss"])[:count] for count, found in sums[0]])
    return state, losses


def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (64, 8, 8, 3)).astype(np.uint8), (np.arange(64) % 3).astype(np.int32)


def cnn(**fields):
    c = tiny()
    c.model = configs.base().model
    c.model.name, c.model.cnn.features, c.model.cnn.pools, c.model.cnn.dropout = "cnn", (6, 8), 2, 0.2
    return put(c, augment="pad_crop(1)|flip_lr", **fields)


@pytest.mark.parametrize("strategy", ["loop", "unroll"])
def test_members_have_the_bits_of_runs_alone_with_their_lr_scale(strategy):
    for config, data in ((tiny("40steps"), blobs()), (cnn(train__total="40steps"), images())):
        run = assemble(config, data=data)
        members = Members(run, states_of(run), strategy=strategy)
        found = members.advance(0, 40)
        for number, scale in enumerate(SCALES):
            state, losses = alone(assemble(put(config.copy_and_resolve_references(), lr_scale=scale), data=data))
            assert_same(members.states[number], state)
            np.testing.assert_array_equal(found[number]["loss"], losses)


@pytest.mark.parametrize("strategy", ["vmap", "mesh"])
def test_batched_members_and_those_on_devices_agree_with_runs_alone(strategy):
    run = tiny_run("40steps")
    members = Members(run, states_of(run), strategy=strategy)
    members.advance(0, 25)
    found = members.advance(25, 40)
    for number, scale in enumerate(SCALES):
        state, losses = alone(tiny_run("40steps", lr_scale=scale))
        np.testing.assert_allclose(found[number]["loss"], losses[25:], rtol=1e-5, atol=1e-5)
        for a, b in zip(bits(members.states[number].params), bits(state.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_members_of_a_run_over_eight_devices_go_one_to_a_device():
    config = tiny("20steps", mesh__devices=8, batch_size=16)
    run = assemble(config, data=blobs())
    members = Members(run, states_of(run), strategy="mesh")
    found = members.advance(0, 20)
    _, losses = alone(assemble(put(config.copy_and_resolve_references(), mesh__devices=1), data=blobs()), 20)
    np.testing.assert_allclose(found[0]["loss"], losses, rtol=1e-5, atol=1e-5)
    advance(run.train_steps, [members.drop(0)], [run.give], 20, 21, most=run.per_call, block=True)  # at home again


def test_what_went_in_is_there_afterwards():
    run = tiny_run("40steps")
    state = run.init_state()
    before = [leaf.copy() for leaf in bits(state)]
    for strategy in ("loop", "unroll", "vmap"):
        Members(run, [copied(state), copied(state)], strategy=strategy).advance(0, 10)
    for a, b in zip(before, bits(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("strategy", ["loop", "unroll", "vmap"])
def test_a_dropped_member_is_computed_no_more_and_the_others_go_on_as_before(strategy):
    run = tiny_run("40steps")
    members = Members(run, states_of(run), strategy=strategy)
    members.advance(0, 15)
    gone = members.drop(0)
    assert int(gone.step) == 15
    found = members.advance(15, 40)
    assert sorted(found) == sorted(members.states) == [1, 2]
    members.drop(2)
    assert int(members.states[1].step) == 40
    _, losses = alone(tiny_run("40steps", lr_scale=SCALES[1]))
    np.testing.assert_allclose(found[1]["loss"], losses[15:], rtol=0 if strategy != "vmap" else 1e-5, atol=1e-5)


def test_one_step_is_compiled_however_many_members_there_are():
    run = tiny_run("40steps")
    for count in (1, 3, 7):
        scales = [3.0**-i for i in range(count)]
        Members(run, [copied(with_lr_scale(run, run.init_state(), s)) for s in scales]).advance(0, 20)
    assert run.train_steps._cache_size() == 1


def test_members_with_feeds_of_their_own_see_their_own_batches():
    run = tiny_run("40steps")
    seeded = [run.reseed(seed) for seed in (0, 5, 6)]
    for strategy in ("loop", "unroll"):
        members = Members(
            run, [each.init_state() for each in seeded], feeds=[each.give for each in seeded], strategy=strategy
        )
        members.advance(0, 40)
        for number, seed in enumerate((0, 5, 6)):
            assert_same(members.states[number], alone(run.reseed(seed))[0])


def test_the_way_is_chosen_by_time_and_told(monkeypatch):
    told = []
    run = tiny_run("40steps")
    members = Members(run, states_of(run), told=told.append)
    clock = {"loop": 1.0, "unroll": 0.5, "vmap": 2.0, "mesh": 2.0}
    monkeypatch.setattr(Members, "_timed", lambda self, name, start, per_call: clock[name] * 1e-9)
    monkeypatch.setattr("jtrain.studies.members.HOPED", 1e9)  # as if very much were left
    members.advance(0, 200, until=10**9)
    assert members.strategy == "unroll"
    assert "3 members are moved in pairs" in told[0]
    _, losses = alone(tiny_run("400steps"), 200)
    again = Members(tiny_run("400steps"), states_of(run)).advance(0, 200)
    np.testing.assert_array_equal(again[0]["loss"], losses)


def test_a_batch_of_convolutions_is_never_offered_on_cpu():
    run = assemble(cnn(), data=images())
    with pytest.raises(ConfigError, match="vmap: no way for these members here; use one of loop"):
        Members(run, states_of(run), strategy="vmap")


def test_phases_are_refused():
    run = tiny_run(phases=(("0steps", "head/.*"), ("10steps", ".*")))
    with pytest.raises(ConfigError, match=r"phases: .* set phases to"):
        Members(run, [run.init_state()])
