"""Verdicts on the lr from probes of the line, on ways that are known: straight, between walls, or just over."""

import dataclasses
import math

import numpy as np
import pytest

from jtrain.coach.curves import Curves
from jtrain.coach.diagnose import diagnose
from jtrain.coach.signs_way import FAR, NEAR
from jtrain.coach.told import Act

TOTAL, GUESS = 1000, 2.3
AT = np.linspace(0.1, 1.0, 10)  # of the run, at which it is evaluated


def seen(loss, *, ahead=1.0, far=1.0, lr=None, final=None, until=1.0, **known):
    """Curves of a loss over the share of the run; at each probe the loss ahead and far ahead, × that of now."""
    step = np.linspace(10, TOTAL, 100)
    share = step / TOTAL
    lr = np.full(100, 0.01) if lr is None else lr(share)
    now, before = loss(AT), loss(AT - 0.1)
    given = {
        "step": step, "loss": loss(share) * (1 + 0.01 * np.random.default_rng(0).normal(size=100)), "lr": lr,
        "val_step": AT * TOTAL, "val": {"loss": now}, "total": TOTAL, "guess": GUESS, "updates_per_epoch": 50.0,
        "final_lr": float(lr[-1]) if final is None else final,
        "probes": {
            "step": AT * TOTAL, "before": before, "now": now, "ahead": now * ahead, "far": now * far,
        },
    }  # fmt: skip
    found = Curves(**given | known)
    return found if until == 1 else found.until(until * TOTAL)


BY_CHANCE = np.where(np.arange(10) % 3, 0.99, 1.03)  # two of three fall


def slow(t):
    return 2.3 - 0.8 * t


def settled(t):
    return 0.5 + 1.8 * np.exp(-np.maximum(t, 0) / 0.05)


def decays(t):
    return 0.01 * 0.5 * (1 + np.cos(np.pi * t))


def names(curves, *, ended=True):
    return [verdict.name for verdict in diagnose(curves, ended=ended) if verdict.level == "warning"]


def test_straight_on_with_far_to_go_is_an_lr_too_low():
    (verdict,) = diagnose(seen(slow, ahead=0.95, far=0.9), ended=True)
    assert (verdict.name, verdict.act) == ("lr_too_low", Act("restart", FAR))
    assert verdict.evidence["straight"] == 1
    assert "three times as far" in verdict.text


def test_uneven_ground_ahead_asks_for_a_smaller_step_up():
    def bent(t):
        return 0.6 + 1.7 * np.exp(-t / 0.3)

    found = seen(bent)
    now, before = bent(AT), bent(AT - 0.1)
    line = {"ahead": now - 0.5 * (before - now), "far": now - 0.6 * (before - now)}
    (verdict,) = diagnose(dataclasses.replace(found, probes=dict(found.probes) | line), ended=True)
    assert (verdict.name, verdict.act) == ("lr_too_low", Act("restart", NEAR))


@pytest.mark.parametrize(
    ("curves", "why"),
    [
        (seen(slow, ahead=0.95, far=1.02), "it rises further on"),
        (seen(slow, ahead=1.001, far=0.9), "it rises ahead"),
        (seen(lambda t: 0.05 + 2.2 * np.exp(-t / 0.1), ahead=0.9, far=0.8), "nothing is left to be learnt"),
        (seen(slow), "there is neither wall nor slope"),
        (seen(settled, ahead=BY_CHANCE, far=BY_CHANCE, lr=decays), "it fell fast, and what is left is noise"),
    ],
)
def test_elsewhere_it_is_not_too_low(curves, why):
    assert "lr_too_low" not in names(curves), why


def test_it_is_told_early_but_not_while_the_lr_is_warmed_up():
    going = {"ahead": 0.95, "far": 0.9}
    assert names(seen(slow, until=0.4, **going), ended=False) == ["lr_too_low"]
    assert names(seen(slow, until=0.1, **going), ended=False) == []
    warming = seen(slow, lr=lambda t: 0.01 * np.minimum(t / 0.5, 1), until=0.4, **going)
    assert names(warming, ended=False) == []


def test_walls_at_an_lr_that_stays_high():
    found = diagnose(seen(settled, ahead=1.4, far=6.0), ended=True)
    assert [verdict.name for verdict in found] == ["plateau_early"]
    assert found[0].act is not None
    assert (found[0].act.kind, found[0].act.factor) == ("tail", 1 / 3)
    assert 0 < found[0].act.step < 300  # where the fall ends
    assert names(seen(settled, ahead=1.4, far=6.0, until=0.6), ended=False) == ["plateau_early"]


def test_walls_are_none_where_the_lr_decays_the_weights_are_averaged_or_the_loss_rises_anyway():
    walls = {"ahead": 1.4, "far": 6.0}
    assert "plateau_early" not in names(seen(settled, lr=decays, **walls))
    averaged = {"loss": settled(AT), "ema/loss": settled(AT)}
    assert "plateau_early" not in names(seen(settled, val=averaged, **walls))

    def by_heart(t):
        return 0.5 + t

    rising = seen(settled)
    now, before = by_heart(AT), by_heart(AT - 0.1)
    line = {"now": now, "before": before, "ahead": 2 * now - before, "far": 4 * now - 3 * before}
    rising = dataclasses.replace(rising, probes=dict(rising.probes) | line, val={"loss": now})
    assert "plateau_early" not in names(rising)


def test_walls_with_nearly_all_left_are_an_lr_too_high_from_the_start():
    def stuck(t):
        return 2.0 + 0.3 * np.exp(-t / 0.1)

    (verdict,) = diagnose(seen(stuck, ahead=1.3, far=3.0), ended=True)
    assert (verdict.name, verdict.act) == ("lr_too_high", Act("restart", 1 / 3))


def test_walls_under_a_schedule_that_decays_count_if_much_is_left():
    def poor(t):
        return 1.2 + 1.1 * np.exp(-t / 0.1)

    assert names(seen(poor, ahead=1.8, far=9.0, lr=decays)) == ["lr_too_high"]
    assert names(seen(poor, ahead=1.2, far=9.0, lr=decays)) == []
    assert names(seen(lambda t: poor(t) - 1.0, ahead=3.0, far=9.0, lr=decays)) == []
    assert names(seen(poor, ahead=1.8, far=9.0, lr=decays, normed=True)) == []


def test_what_is_not_finite_ahead_is_a_wall():
    found = seen(settled)
    line = {"ahead": np.full(10, math.nan), "far": np.full(10, math.inf)}
    found = dataclasses.replace(found, probes=dict(found.probes) | line)
    assert names(found) == ["plateau_early"]


def test_without_probes_the_curves_alone_are_asked():
    def restless(t):
        return settled(t) + 0.1 * np.where(np.arange(len(t)) % 2, 1.0, -1.0)

    plain = seen(restless, probes={}, val={"loss": restless(AT)})
    assert names(plain) == ["plateau_early"]


def calm(trained, cost, **known):
    """A run whose training examples, as evaluation sees them, are got right so often, at such a cost; batches cost 1 at
    its end."""
    found = seen(lambda t: settled(t) + 0.5, lr=decays)
    extra = {"examples": np.full(10, 1000.0), "train/accuracy": np.full(10, trained), "train/loss": np.full(10, cost)}
    accuracy = {"accuracy": np.full(10, 0.8), "loss": settled(AT)}
    return dataclasses.replace(found, probes=dict(found.probes) | extra, val=accuracy, **known)


def test_training_examples_behind_validation_are_wrong_labels_however_hard_training_is():
    assert names(calm(0.6, 0.9, harder=True)) == ["label_noise"]
    assert names(calm(0.78, 0.9, harder=True)) == []
    assert names(calm(0.6, 0.45, harder=True)) == []
    few = calm(0.6, 0.9, harder=True)
    few = dataclasses.replace(few, probes=dict(few.probes) | {"examples": np.full(10, 30.0)})
    assert names(few) == []  # by chance


def test_examples_that_cost_what_no_batch_shows_are_broken():
    assert names(calm(0.8, 2.0)) == ["spikes"]
    both = calm(0.8, 2.0)
    high = {"loss": np.full(10, 2.2), "accuracy": np.full(10, 0.8)}
    assert "spikes" not in names(dataclasses.replace(both, val=high))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kept", [1, 0])
def test_too_few_probes_leave_the_curves_to_speak(kept):
    def restless(t):
        return settled(t) + 0.1 * np.where(np.arange(len(t)) % 2, 1.0, -1.0)

    found = seen(restless, val={"loss": restless(AT)})
    few = {name: values[:kept] for name, values in found.probes.items()}
    assert names(dataclasses.replace(found, probes=few)) == ["plateau_early"]
    nothing = {name: np.full(10, math.nan) for name in found.probes}
    assert names(dataclasses.replace(found, probes=nothing)) == ["plateau_early"]


def test_averaged_weights_that_are_lost_as_well_are_told():
    def lost(t):
        return np.where(t < 0.4, 2.3 - 4.5 * t, 2.6)

    averaged = {"loss": lost(AT), "ema/loss": lost(AT)}
    assert names(seen(lost, val=averaged, probes={}, lr=decays)) == ["lr_too_high"]


def test_a_small_validation_split_makes_wrong_labels_less_sure():
    few = calm(0.62, 0.9, harder=True)
    assert names(few) == ["label_noise"]
    assert names(dataclasses.replace(few, probes=dict(few.probes) | {"of_val": np.full(10, 30.0)})) == []


@pytest.mark.parametrize(
    ("norms", "far", "name"),
    [
        (np.r_[8.0, np.full(99, 0.1)], 1.0, "lr_too_high"),  # it died
        (np.full(100, 0.1), 1.3, "lr_too_high"),  # it moves far
        (np.full(100, 0.1), 1.0, "not_learning"),
        (np.r_[1e-7, np.full(99, 1e-9)], 1.0, "not_learning"),  # it was never alive
    ],
)
def test_nothing_is_learnt_because_the_lr_killed_it_or_for_other_reasons(norms, far, name):
    def guess(t):
        return 2.3 + 0 * t

    assert names(seen(guess, ahead=1.0, far=far, lr=decays, grad_norm=norms)) == [name]
