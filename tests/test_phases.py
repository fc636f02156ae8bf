import jax
import numpy as np
import pytest
from helpers import blobs, hooked, timeless, tiny, tiny_run

from jtrain import tree
from jtrain.assembly import assemble
from jtrain.errors import ConfigError, Interrupted
from jtrain.loop import train
from jtrain.state import to_flat
from jtrain.step import advance

PHASES = (("0", "head/.*"), ("6steps", ".*"))


def run_to(run, state, start, stop):
    for step in range(start, stop):
        (state,), _, _ = advance(run.phase(step).train_steps, [state], [run.give], step, step + 1)
        state = run.enter(state, step + 1)
    return state


def host(tree_):
    return jax.tree.map(np.array, tree_)


def test_only_what_a_phase_names_is_trained_in_it():
    run = tiny_run(phases=PHASES)
    state = run.init_state()
    start = host(state.params)
    state = run_to(run, state, 0, 6)
    for path, leaf in tree.flatten(host(state.params)).items():
        same = np.array_equal(leaf, tree.flatten(start)[path])
        assert same == (not path.startswith("head/")), path
    state = run_to(run, state, 6, 7)
    assert not np.array_equal(state.params["dense0"]["kernel"], start["dense0"]["kernel"])


def test_frozen_parameters_have_no_optimizer_state_and_get_a_fresh_one_with_its_own_count_when_they_are_unfrozen():
    run = tiny_run(phases=PHASES)
    state = run_to(run, run.init_state(), 0, 5)
    before = host(to_flat(state))
    assert not any("dense0" in path for path in before if path.startswith("opt_state"))
    state = run_to(run, state, 5, 6)
    after = host(to_flat(state))
    moments = [path for path in after if path.startswith("opt_state") and path.endswith("dense0/kernel")]
    assert len(moments) == 2
    assert all(not after[path].any() for path in moments)
    counts = sorted(
        int(leaf) for path, leaf in after.items() if path.startswith("opt_state") and path.endswith("count")
    )
    assert counts == [0, 6]
    kept = [path for path in before if path.startswith("opt_state") and path.endswith("head/kernel")]
    assert kept
    assert all(after[path].any() for path in kept)


def test_the_first_update_of_unfrozen_parameters_is_that_of_a_new_optimizer():
    """Adam's first update is lr · sign(gradient): with an old count it would be three times as large."""
    run = tiny_run(phases=PHASES, schedule__name="constant", optimizer__name="adam")
    state = run_to(run, run.init_state(), 0, 6)
    before = host(state.params)["dense0"]["kernel"]
    after = host(run_to(run, state, 6, 7).params)["dense0"]["kernel"]
    moved = np.abs(after - before)
    np.testing.assert_allclose(moved[moved > 1e-5], 0.01, rtol=1e-2)


def test_a_run_with_one_phase_of_everything_is_the_run_without_phases():
    one, other = train(tiny_run()), train(tiny_run(phases=(("0", ".*"),)))
    for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("at", [4, 6, 11])
def test_a_run_in_phases_resumes_to_the_bit(tmp_path, at):
    whole = train(tiny_run(phases=PHASES), tmp_path / "whole")
    run = tiny_run(phases=PHASES)

    def batch(original, step):
        if step == at:
            raise Interrupted("stopped", 15)
        return original()

    with pytest.raises(Interrupted):
        train(hooked(run, batch), tmp_path / "parts")
    resumed = train(tiny_run(phases=PHASES), tmp_path / "parts")
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert timeless(resumed.history) == timeless(whole.history)


def test_the_rows_show_the_lr_of_the_groups_that_are_trained():
    run = tiny_run(phases=PHASES, groups=(("head/.*", 1.0), (".*", 0.1)), log__every="1steps")
    rows = [row for row in train(run).history if row["split"] == "train"]
    assert "lr/.*" not in rows[5]
    assert rows[6]["lr/.*"] == pytest.approx(0.1 * rows[6]["lr/head/.*"])


def test_averages_and_schedule_free_parameters_go_on_through_a_phase():
    for fields in ({"ema__decay": 0.9}, {"ema__decay": 0.9, "ema__kind": "schedule_free", "optimizer__adamw__b1": 0.0}):
        run = tiny_run(phases=PHASES, **fields)
        result = train(run)
        moved = np.abs(result.state.ema["dense0"]["kernel"] - result.state.params["dense0"]["kernel"]).max()
        assert 0 < moved < 0.1
        assert tree.flatten(result.state.ema).keys() == tree.flatten(result.state.params).keys()


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ((("3steps", ".*"),), r"phases\[0\]: begins at update 3; the first phase must begin at '0'"),
        ((("0", "head/.*"), ("0", ".*")), r"phases\[1\]: .*not after phase 0"),
        (
            (("0", "head/.*"), ("500steps", ".*")),
            r"phases\[1\]: '500steps' is update 500, but the run has 20: it never begins",
        ),
        ((("0", "heda/.*"),), r"phases\[0\]: pattern 'heda/\.\*' matches no parameter"),
        ((("0", "head/.*"), ("5", ".*")), r"phases\[1\]: .*needs a unit"),
        ((("0", "("),), r"phases\[0\]: .*not a regular expression"),
        (("0", ".*"), r"phases\[0\]: must be a pair"),
    ],
)
def test_phases_that_cannot_be_are_refused(phases, words):
    with pytest.raises(ConfigError, match=words):
        tiny_run(phases=phases)


def test_fine_tuning_takes_a_small_lr_of_its_own_and_says_so(tmp_path):
    train(tiny_run(), tmp_path / "old")
    c = tiny(transfer__init_from=str(tmp_path / "old"))
    c.optimizer.lr = 0.0
    run = assemble(c, data=blobs())
    assert run.optimizer.lr == 1e-4
    from jtrain.describe import header

    assert any("lr 0.0001 (for fine-tuning; adamw from scratch takes 0.001)" in line for line in header(run))
    state = run.init_state()
    old = tiny_run()
    from jtrain.session import place_state
    from jtrain.weights_source import read_checkpoint

    trained = place_state(old, read_checkpoint(tmp_path / "old", "latest", key="--at", event=print))
    for a, b in zip(jax.tree.leaves(trained.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(state.step) == 0


def test_a_new_head_is_no_draw_that_the_old_weights_were_trained_with(tmp_path):
    scratch = tiny_run()
    first = host(scratch.init_state().params)["head"]["kernel"]
    train(scratch, tmp_path / "old")
    run = assemble(tiny(transfer__init_from=str(tmp_path / "old"), transfer__reinit=("head/.*",)), data=blobs())
    new = host(run.init_state().params)["head"]["kernel"]
    assert abs(np.corrcoef(new.ravel(), first.ravel())[0, 1]) < 0.9
    assert not np.array_equal(new, first)


def test_weights_that_do_not_fit_leave_no_workdir_behind(tmp_path):
    train(tiny_run(), tmp_path / "old")
    c = tiny(transfer__init_from=str(tmp_path / "old"))
    c.model.mlp.features = (9,)
    with pytest.raises(ConfigError, match=r"transfer\.reinit"):
        train(assemble(c, data=blobs()), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_resumed_run_does_not_need_the_weights_that_it_began_with(tmp_path):
    train(tiny_run(), tmp_path / "old")
    c = tiny(transfer__init_from=str(tmp_path / "old"))
    train(assemble(c, data=blobs()), tmp_path / "new")
    (tmp_path / "old").rename(tmp_path / "gone")
    c.train.total = "25steps"
    assert int(train(assemble(c, data=blobs()), tmp_path / "new").state.step) == 25


def test_the_average_of_a_layer_that_is_frozen_later_stays_as_it_was():
    for fields in ({"ema__decay": 0.9}, {"ema__decay": 0.9, "ema__kind": "schedule_free", "optimizer__adamw__b1": 0.0}):
        run = tiny_run(phases=(("0", ".*"), ("6steps", "head/.*")), **fields)
        state = run_to(run, run.init_state(), 0, 6)
        before, raw = host(state.ema["dense0"]["kernel"]), host(state.params["dense0"]["kernel"])
        assert not np.array_equal(before, raw)
        np.testing.assert_array_equal(run_to(run, state, 6, 8).ema["dense0"]["kernel"], before)


@pytest.mark.parametrize("start", ["1steps", "6steps"])
def test_check_goes_through_every_phase(start, capsys, tmp_path):
    from jtrain.io.progress import Screen
    from jtrain.verbs.check import check

    groups = (("head/.*", 1.0), (".*", 0.5))
    check(tiny_run(phases=(("0", "head/.*"), (start, ".*")), groups=groups), screen=Screen(), out=tmp_path)
    shown = capsys.readouterr().out
    assert "the training step in phase 0" in shown
    assert "the training step in phase 1" in shown
    line = next(line for line in shown.splitlines() if "dense0/kernel" in line)
    assert line.endswith(f"lr ×0.5, decays, from update {start.removesuffix('steps')} on")
    assert "frozen" not in shown
    assert (tmp_path / "schedule.png").stat().st_size > 1000


def test_phases_in_percent_do_not_move_under_a_run_that_is_resumed(tmp_path):
    train(tiny_run(phases=(("0", "head/.*"), ("50%", ".*"))), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"phases: '50%' moves with train\.total"):
        train(tiny_run("60steps", phases=(("0", "head/.*"), ("50%", ".*"))), tmp_path / "run")
