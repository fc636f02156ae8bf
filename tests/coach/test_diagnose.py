"""Verdicts on curves whose fault is known by their formula, and none on healthy ones that look much alike."""

import dataclasses
import math

import numpy as np
import pytest

from jtrain.coach.curves import Curves
from jtrain.coach.diagnose import VERDICTS, diagnose
from jtrain.coach.told import Act

TOTAL, ROWS, GUESS, EPOCH = 2000, 200, 2.3, 95.0
EVALUATIONS = np.linspace(0.05, 1, 20)  # as shares of the run


def cosine(t):
    return 0.5 * (1 + np.cos(np.pi * t))


def one_cycle(t):
    return np.where(t < 0.3, 0.04 + 0.96 * t / 0.3, cosine(np.clip((t - 0.3) / 0.7, 0, 1)))


def constant(t):
    return np.ones_like(t)


def falling(t):
    """A healthy loss: most of the fall early."""
    return 0.1 + 2.2 * np.exp(-t / 0.06)


def curves(loss, val=None, *, lr=cosine, noise=0.02, rows=ROWS, evaluations=EVALUATIONS, **known):
    """Curves of formulas, of the share of the run that is done."""
    random = np.random.default_rng(0)
    step = np.linspace(TOTAL / rows, TOTAL, rows)
    middle = (step - 0.5 * TOTAL / rows) / TOTAL
    val = val or (lambda t: falling(t) + 0.05)
    given = {
        "step": step, "loss": loss(middle) * np.exp(noise * random.normal(size=rows)), "lr": 0.01 * lr(middle),
        "val_step": TOTAL * evaluations, "val": {"loss": val(evaluations)}, "total": TOTAL, "guess": GUESS,
        "updates_per_epoch": EPOCH, "final_lr": 0.01 * float(lr(np.ones(1))[0]),
    }  # fmt: skip
    return Curves(**given | known)


def with_metric(found, trained, validated, **known):
    """The curves with an accuracy that goes straight from one number to another."""
    return dataclasses.replace(
        found, train={"accuracy": np.linspace(*trained, len(found.step))},
        val=dict(found.val) | {"accuracy": np.linspace(*validated, len(found.val_step))}, **known,
    )  # fmt: skip


def steadily(t):
    """Straight over the way that a cosine lr allows, as with one that is far too small."""
    return 2.3 - 0.8 * (t + np.sin(np.pi * t) / np.pi)


def jumping(t):
    loss = falling(t)
    loss[[60, 90, 130, 170]] += 3.0
    return loss


def restless(t):
    """Scatters by a fifth about its level."""
    return falling(t) + 0.4 + 0.1 * np.where(np.arange(len(t)) % 2, 1.0, -1.0)


def swinging(t):
    """Up and down once an epoch."""
    return falling(t) * np.exp(0.5 * np.sin(2 * np.pi * t * TOTAL / EPOCH))


def stalled(t):
    return 1.2 + 1.1 * np.exp(-t / 0.1)


def by_heart(t):
    return 2.3 * np.exp(-t / 0.2)


FAULTS = {
    "lr_too_high": curves(lambda t: 2.3 + 60 * np.exp(-t / 0.02), lambda t: 2.3 + 0 * t),
    "plateau_early": curves(lambda t: falling(t) + 0.3, restless, lr=constant),
    "lr_too_low": curves(steadily, steadily),
    "not_learning": curves(lambda t: GUESS + 0 * t, lambda t: GUESS + 0 * t),
    "overfitting": curves(by_heart, lambda t: 0.9 + 0.8 * t + 1.4 * np.exp(-t / 0.05)),
    "label_noise": with_metric(curves(stalled), (0.2, 0.6), (0.3, 0.95)),
    "spikes": curves(jumping),
    "not_shuffled": curves(swinging),
    "wrong_metric": with_metric(curves(falling), (0.2, 0.95), (0.3, 0.9), watch="accuracy", higher_is_better=False),
}
HEALTHY = {
    "cosine": curves(falling),
    "noisy": curves(falling, noise=0.4),
    "a row an update": curves(falling, noise=0.4, rows=TOTAL),
    "ten rows": curves(falling, rows=10),
    "one cycle, whose loss rises in its warm-up": curves(
        lambda t: falling(np.maximum(t - 0.1, 0)) + 0.3 * np.exp(-(((t - 0.08) / 0.04) ** 2)), lr=one_cycle
    ),
    "dropout, training above validation": with_metric(
        curves(lambda t: falling(t) + 0.25, falling), (0.2, 0.88), (0.3, 0.95), watch="accuracy", higher_is_better=True
    ),
    "constant lr, still falling": curves(lambda t: 0.1 + 0.7 * (t + 0.03) ** -0.4, lambda t: (t + 0.03) ** -0.4,
                                         lr=constant),
    "much that cannot be learnt": curves(lambda t: falling(t) + 1.2, lambda t: falling(t) + 1.25, noise=0.1),
    "validation loss a little up at the end": curves(falling, lambda t: falling(t) + 0.05 + 0.03 * t),
    "mixup": with_metric(curves(stalled, mixed=True), (0.2, 0.6), (0.3, 0.95)),
    "one jump": curves(lambda t: falling(t) + np.where(np.arange(len(t)) == 90, 3.0, 0.0)),
    "swings that are not those of the epoch": curves(
        lambda t: falling(t) * np.exp(0.5 * np.sin(2 * np.pi * t * TOTAL / 61.8))
    ),
    "no validation": curves(falling, evaluations=np.zeros(0)),
}  # fmt: skip


def warnings_of(found, **options):
    return [v.name for v in diagnose(found, **{"ended": True} | options) if v.level == "warning"]


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named_and_nothing_else(name):
    assert warnings_of(FAULTS[name]) == [name]
    verdict = diagnose(FAULTS[name], ended=True)[0]
    assert verdict.name in VERDICTS
    assert all(math.isfinite(value) for value in verdict.evidence.values())
    assert any(char.isdigit() for char in verdict.text) or name == "wrong_metric"


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_run_is_left_alone_at_its_end_and_on_its_way(name):
    found = HEALTHY[name]
    assert warnings_of(found) == []
    for step in np.linspace(0.05, 0.95, 10) * TOTAL:
        assert diagnose(found.until(step), ended=False) == []


@pytest.mark.parametrize("name", FAULTS)
def test_unit_of_the_loss_does_not_matter(name):
    found = FAULTS[name]
    scaled = dataclasses.replace(
        found, loss=1000 * found.loss, guess=1000 * GUESS, val=dict(found.val) | {"loss": 1000 * found.val["loss"]}
    )
    assert warnings_of(scaled) == [name]


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - {"not_shuffled", "spikes"}))
@pytest.mark.parametrize("every", [4, 10])
def test_how_often_is_logged_does_not_matter(name, every):
    found = FAULTS[name]
    mean = {key: values.reshape(-1, every).mean(axis=1) for key, values in {"loss": found.loss, **found.train}.items()}
    coarse = dataclasses.replace(
        found, step=found.step[every - 1 :: every], lr=found.lr[every - 1 :: every], loss=mean.pop("loss"), train=mean
    )
    assert warnings_of(coarse) == [name]


def test_loss_that_is_not_finite_is_told_at_once():
    loss = np.array([2.0, 2.5, math.nan])
    found = Curves(step=np.array([10.0, 20, 30]), loss=loss, total=100, failed_at=27)
    (verdict,) = diagnose(found, ended=False)
    assert verdict.name == "lr_too_high"
    assert "update 27" in verdict.text
    assert verdict.act == Act("restart", 1 / 3)


def test_acts_are_what_the_notes_say():
    assert diagnose(FAULTS["lr_too_high"], ended=True)[0].act == Act("restart", 1 / 3)
    slow = diagnose(FAULTS["lr_too_low"], ended=True)[0].act
    assert slow is not None
    assert (slow.kind, slow.factor >= 3) == ("restart", True)
    late = diagnose(FAULTS["plateau_early"], ended=True)[0].act
    assert late is not None
    assert (late.kind, late.factor) == ("tail", 1 / 3)
    assert 0.05 * TOTAL < late.step < 0.3 * TOTAL  # the knee: e^(-t/0.06) is a tenth at 0.14


def test_what_the_schedule_will_mend_is_not_told_on_the_way():
    found = curves(lambda t: falling(t) + 0.3, restless, lr=lambda t: np.where(t < 0.97, 1.0, 0.001))
    assert diagnose(found.until(0.95 * TOTAL), ended=False) == []
    assert warnings_of(dataclasses.replace(found, final_lr=0.01).until(0.95 * TOTAL), ended=False) == ["plateau_early"]


def test_plateau_without_validation_asks_for_a_longer_stretch():
    flat = {"evaluations": np.zeros(0)}
    assert warnings_of(curves(lambda t: falling(t) + 0.3, lr=constant, **flat)) == ["plateau_early"]
    assert warnings_of(curves(lambda t: falling(t) + 0.3, **flat)) == []  # the lr has decayed


def test_worse_than_a_guess_for_long_after_something_was_learnt():
    def lost(t):
        return falling(t) + 2.6 * (t > 0.4)

    assert warnings_of(curves(lost, lost)) == ["lr_too_high"]


def test_silenced_verdict_is_left_out():
    assert warnings_of(FAULTS["overfitting"], silence=("overfitting",)) == []
    assert warnings_of(FAULTS["not_learning"], silence=("overfitting",)) == ["not_learning"]


def test_ends_are_told_as_worth_knowing():
    long = curves(falling, lambda t: 0.1 + 2.2 * np.exp(-t / 0.03))
    assert [(v.name, v.level) for v in diagnose(long, ended=True)] == [("saturated", "info")]
    short = curves(lambda t: (t + 0.02) ** -0.3, lambda t: 0.8 * (t + 0.02) ** -0.6, lr=constant)
    assert [(v.name, v.level) for v in diagnose(short, ended=True)] == [("still_improving", "info")]
    assert diagnose(short, ended=False) == []


def test_little_is_known_of_step_and_loss_alone_and_that_is_enough_for_a_blow_up():
    step = np.arange(1, 41) * 10.0
    rising = Curves(step=step, loss=2.3 + np.minimum(step / 40, 3.0))
    assert warnings_of(rising) == ["lr_too_high"]
    assert warnings_of(Curves(step=step, loss=falling(step / 400))) == []
    assert warnings_of(Curves(step=step[:2], loss=np.array([1.0, 9.0]))) == []
    assert diagnose(Curves(step=np.zeros(0), loss=np.zeros(0)), ended=False) == []


def test_lr_that_is_far_too_low_is_told_from_a_third_of_the_run():
    found = dataclasses.replace(FAULTS["lr_too_low"], total=TOTAL)
    assert warnings_of(found.until(0.45 * TOTAL), ended=False) == ["lr_too_low"]
    assert warnings_of(found.until(0.2 * TOTAL), ended=False) == []


def test_validation_that_wanders_while_the_lr_is_high_is_no_sign_of_a_low_lr():
    def wandering(t):
        return steadily(t) * np.exp(0.1 * (1 - t) * np.where(np.arange(len(t)) % 2, 1.0, -1.0))

    assert warnings_of(curves(steadily, wandering)) == []


def test_overshoot_of_the_first_updates_is_no_blow_up_but_one_that_lasts_is():
    def overshoot(share):
        return lambda t: falling(t) + 60.0 * (t < share)

    found = curves(overshoot(0.002), rows=TOTAL)
    assert warnings_of(found) == []
    assert diagnose(found.until(0.05 * TOTAL), ended=False) == []
    assert warnings_of(curves(overshoot(0.05), rows=TOTAL)) == ["lr_too_high"]


def test_loss_above_a_guess_for_long_is_told_though_the_schedule_mends_it():
    found = curves(lambda t: 2.3 + 3 * np.sin(np.pi * np.minimum(t / 0.4, 1)) - 2 * np.clip((t - 0.5) / 0.4, 0, 1))
    assert warnings_of(found) == ["lr_too_high"]


def test_what_was_learnt_and_ends_at_a_guess_is_told_however_it_scatters():
    random = np.random.default_rng(1)

    def lost(t):
        return np.where(
            t < 0.1, 0.8, 2.25 + np.where((t < 0.6) & (np.arange(len(t)) % 2 == 0), random.exponential(9), 0)
        )

    assert warnings_of(curves(lost, lambda t: 2.25 + 0 * t, rows=40)) == ["lr_too_high"]


def test_overfitting_that_leaves_the_watched_accuracy_unharmed_is_worth_knowing():
    found = FAULTS["overfitting"]
    unharmed = with_metric(found, (0.5, 0.99), (0.9, 0.96), watch="accuracy", higher_is_better=True)
    assert [(v.name, v.level) for v in diagnose(unharmed, ended=True)] == [("overfitting", "info")]
    harmed = with_metric(found, (0.5, 0.99), (0.96, 0.9), watch="accuracy", higher_is_better=True)
    assert warnings_of(harmed) == ["overfitting"]


def test_small_jumps_count_where_nothing_else_scatters():
    def small(t):
        loss = falling(t)
        loss[[60, 90, 130, 170]] += 0.09  # of ten updates each: one batch adds 0.4 of a guess
        return loss

    assert warnings_of(curves(small)) == ["spikes"]
    assert warnings_of(curves(small, noise=0.3)) == []


def test_small_difference_is_label_noise_only_where_nothing_makes_training_harder():
    stays = with_metric(curves(lambda t: falling(t) + 0.35, lambda t: falling(t) + 0.1), (0.2, 0.8), (0.3, 0.88))
    assert warnings_of(dataclasses.replace(stays, harder=False)) == ["label_noise"]
    for harder in (None, True):
        assert warnings_of(dataclasses.replace(stays, harder=harder)) == []


def test_training_far_below_chance_is_an_order():
    found = with_metric(curves(lambda t: 3.5 - 1.1 * t, lambda t: 2.4 + 0 * t), (0.0, 0.01), (0.1, 0.1))
    assert warnings_of(found) == ["not_shuffled"]


KINDS = (
    lambda i, random: 2.3 * math.exp(-i / 10), lambda i, random: 0.0, lambda i, random: -0.1 * i, lambda i, random: 1.0,
    lambda i, random: float(random.normal()), lambda i, random: 1e-30 * i, lambda i, random: 1e30 * i,
    lambda i, random: math.nan if random.random() < 0.5 else 1.0, lambda i, random: max(0.0, 1 - i / 10),
)  # fmt: skip


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_nothing_that_a_log_may_hold_raises_or_warns(kind):
    random = np.random.default_rng(kind)
    for _ in range(60):
        rows, every = [], int(random.integers(1, 6))
        count = int(random.integers(0, 40))
        for i in range(1, count + 1):
            loss = KINDS[kind](i, random)
            loss = float(random.choice([loss, math.nan, 0.0, 1e38], p=[0.9, 0.05, 0.03, 0.02]))
            known = {"step": 10 * i, "epoch": i / 10, "accuracy": float(random.random())}
            norm = None if random.random() < 0.5 else 1.0
            rows.append(
                {**known, "split": "train", "loss": loss, "lr": float(random.choice([0, 0.1])), "grad_norm": norm}
            )
            if i % every == 0:
                rows.append({**known, "split": "val", "loss": float(random.choice([loss, 0.0, 1.0, random.random()]))})
        found = Curves.of_rows(
            rows, total=10 * count + int(random.choice([0, 500])), watch=str(random.choice(["accuracy", "ema/loss"])),
            updates_per_epoch=float(random.choice([10, 30, 100])), higher_is_better=bool(random.random() < 0.5),
            guess=random.choice([None, 2.3, 0.0]), final_lr=float(random.choice([0.0, 0.1])),
            harder=random.choice([None, False, True]), failed_at=10 * count + 1 if random.random() < 0.1 else None,
        )  # fmt: skip
        for ended in (False, True):
            for verdict in diagnose(found, ended=ended):
                assert verdict.name in VERDICTS
