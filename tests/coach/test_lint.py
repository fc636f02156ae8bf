"""Every rule of lint: what it scolds, a near miss that it must not, and how it is silenced."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jtrain.coach.facts import Facts
from jtrain.coach.lint import RULES, check_silence, lint
from jtrain.coach.lint_lr import LR
from jtrain.errors import ConfigError
from jtrain.optim.optimizers import OPTIMIZERS

PAGE = Path(__file__).parents[2] / "docs" / "lint.md"


def but(**changes):
    return changes


# A run that there is nothing to say about: AdamW with a cosine on 5,000 images.
SOUND = Facts(
    task="classification", loss="cross_entropy", model="cnn", own_model=False, optimizer="adamw", schedule="cosine",
    source="folder", total=1000, evaluations=20, batch_size=128, accumulate=1, shards=0, reference_batch=0,
    family="adam", default_lr=1e-3, lr_given=3e-3, lr=3e-3, momentum=None, betas=(0.9, 0.999), weight_decay=1e-2,
    decay="decoupled", decay_set=True, summed_lr=1.5, averaging="", ema_decay=0.0, multipliers=(1.0,), frozen=0.0,
    starts=False, peak=3e-3, end=0.0, spans={}, warmup=0.05, rounded=(), plateau="", plateau_patience=10, stopping="",
    stopping_patience=5, min_delta=0.0, directions={"accuracy": True}, log_every=50, eval_every=50, activation="relu",
    depth=4, batch_norm=True, dense_dropout=0.0, conv_dropout=0.0, dense_weights=640, train=4500, val=500, test=1000,
    outputs=3, class_counts=(1500, 1500, 1500), class_names=("cat", "dog", "owl"), raw_pixels=False, test_is_val=False,
    test_in_train=0.0, augment={"pad_crop": {"pad": 4}, "flip_lr": {}}, views=(), smoothing=0.0, mixed=False,
)  # fmt: skip
SGD = but(
    optimizer="sgd", family="sgd", default_lr=1e-2, lr_given=0.1, lr=0.1, momentum=0.9, betas=None, decay="coupled",
    weight_decay=5e-4, summed_lr=50.0,
)  # fmt: skip
NUMBERS = but(
    task="regression", loss="mse", class_counts=None, class_names=(), outputs=1, least=25.0, most=346.0,
    bounded_output="linear", directions={"r2": True},
)  # fmt: skip
WATCHED = but(plateau="val/loss", plateau_patience=3, stopping="val/loss", stopping_patience=10)
DIGITS = tuple("0123456789")

# rule -> [(level, what differs from SOUND)]
SCOLDED = {
    "lr-high": [
        ("warning", but(lr=0.1)), ("info", but(lr=0.02)), ("warning", SGD | but(lr=1.0, momentum=0.99)),
        ("warning", SGD | but(lr=4.0)), ("info", SGD | but(lr=2.0)),
    ],
    "lr-low": [
        ("info", but(lr=1.1e-5)), ("warning", but(lr=0.9e-5)), ("warning", but(lr=3e-6)), ("info", but(lr=3e-5)),
        ("warning", SGD | but(lr=3e-5)),
    ],
    "lr-of-adam": [
        ("info", SGD | but(lr_given=1e-3, lr=1e-3)), ("info", but(optimizer="lion", default_lr=1e-4, lr_given=1e-3)),
    ],
    "batch-without-lr": [
        ("warning", SGD | but(lr_given=0.0, lr=1e-2, batch_size=1024)), ("info", but(lr_given=0.0, batch_size=4096)),
    ],
    "fine-tuning-lr": [
        ("warning", but(starts=True, loaded_lr=1e-3)), ("info", but(starts=True, loaded_lr=2e-4)),
        ("info", SGD | but(starts=True, loaded_lr=1e-3)), ("warning", SGD | but(starts=True, loaded_lr=0.1)),
    ],
    "momentum": [
        ("info", SGD | but(momentum=0.95)), ("warning", SGD | but(momentum=0.995)), ("info", SGD | but(momentum=0.0)),
    ],
    "betas": [("warning", but(betas=(0.999, 0.9)))],
    "decay-coupled": [
        ("warning", but(optimizer="adam", decay="coupled", weight_decay=1e-4)),
        ("info", but(optimizer="rmsprop", decay="coupled", weight_decay=1e-4)),
    ],
    "decay-strong": [
        ("info", SGD | but(lr=5e-3, weight_decay=9e-4)), ("warning", SGD | but(lr=1e-2, weight_decay=1.5e-3)),
        ("info", SGD | but(lr=1e-2, weight_decay=9.9e-4)), ("info", SGD | but(lr=1.0, weight_decay=5e-2)),
        ("info", but(weight_decay=0.9, lr=1e-2)), ("warning", SGD | but(weight_decay=2e-2)),
        ("info", SGD | but(lr=1e-2, weight_decay=5e-4)), ("warning", but(decay="independent", weight_decay=2e-3)),
        ("info", but(decay="independent", weight_decay=6e-4)), ("info", but(weight_decay=0.5)),
        ("warning", but(optimizer="lamb", lr=2e-2, weight_decay=0.9)),
    ],
    "decay-unfelt": [
        ("info", but(weight_decay=1e-5)), ("info", SGD | but(weight_decay=1e-6)),
        ("info", but(decay="independent", weight_decay=1e-7)),
    ],
    "schedule-end": [
        ("info", but(end=3e-3 / 99)), ("info", but(end=3e-3 / 11)), ("warning", but(end=3e-3 / 9)),
        ("info", but(schedule="cyclic", end=3e-4)), ("info", but(schedule="constant", end=3e-3)),
        ("warning", but(schedule="step", end=1e-3)), ("info", but(end=3e-4)),
    ],
    "schedule-length": [
        ("warning", but(schedule="step", spans={"schedule.step.every": 1.5})),
        ("warning", but(schedule="multistep", spans={"schedule.multistep.milestones[1]": 1.1})),
        ("warning", but(schedule="pieces", spans={"schedule.pieces.parts": 0.5})),
        ("warning", but(schedule="pieces", spans={"schedule.pieces.parts": 1.13})),
        ("warning", but(schedule="cosine_restarts", spans={"schedule.cosine_restarts.period": 2.0})),
        ("warning", but(spans={"schedule.every": 1.0})),
    ],
    "warmup-long": [("info", but(warmup=0.2)), ("warning", but(warmup=0.5))],
    "warmup-twice": [("info", but(schedule="cyclic", warmup=0.05)), ("info", but(schedule="one_cycle", warmup=0.05))],
    "warmup-missing": [("info", SGD | but(lr=0.8, batch_size=2048, warmup=0.0))],
    "plateau-idle": [("warning", WATCHED | but(plateau_patience=10, evaluations=12))],
    "stopping-idle": [("warning", WATCHED | but(evaluations=11))],
    "stopping-before-plateau": [("warning", WATCHED | but(stopping_patience=4))],
    "evaluated-once": [("info", but(eval_every=1001)), ("info", but(log_every=2000))],
    "rounds-to-zero": [
        ("warning", but(rounded=(("schedule.warmup", "5%", 0.5),))),
        ("info", but(rounded=(("log.every", "0.1%", 0.2),))),
    ],
    "average-long": [("info", but(averaging="moving", ema_decay=0.9999))],
    "saturating-activation": [
        ("warning", but(activation="sigmoid", batch_norm=False)), ("info", but(activation="tanh", batch_norm=False)),
        ("warning", but(activation="tanh", depth=8, batch_norm=False)), ("info", but(activation="sigmoid")),
    ],
    "dropout-convolution": [("info", but(conv_dropout=0.25)), ("warning", but(conv_dropout=0.5))],
    "dropout-dense": [("info", but(dense_dropout=0.6)), ("warning", but(dense_dropout=0.9))],
    "dropout-recurrent": [("warning", but(drops_memory=True))],
    "dropout-missing": [
        ("info", but(dense_weights=110_000, train=1_000, augment={})),
        ("info", but(dense_weights=2_000_000, augment={})),
    ],
    "output-activation": [
        ("warning", but(ends_in="softmax")), ("warning", but(ends_in="relu")),
        ("warning", NUMBERS | but(ends_in="tanh")),
        ("warning", but(task="multilabel", loss="binary_cross_entropy", ends_in="sigmoid")),
    ],
    "output-unbounded": [
        ("info", NUMBERS | but(least=-1.0, most=1.0)), ("info", NUMBERS | but(least=0.0, most=100.0)),
        ("info", NUMBERS | but(least=0.0, most=1.0)),
    ],
    "norm-of-few": [
        ("warning", but(batch_size=2)), ("warning", but(batch_size=64, accumulate=32)), ("info", but(batch_size=4)),
        ("warning", but(batch_size=64, shards=32)),
    ],
    "frozen-all": [("warning", but(multipliers=(0.0, None)))],
    "frozen-random": [("info", but(multipliers=(1.0, None), frozen=0.9))],
    "single-class": [("warning", but(class_counts=(4500, 0, 0)))],
    "empty-classes": [("warning", but(class_counts=(2250, 2250, 0)))],
    "constant-targets": [("warning", NUMBERS | but(constant=1))],
    "classes-as-numbers": [
        ("info", NUMBERS | but(distinct=10, train=100)), ("info", NUMBERS | but(distinct=3, least=0.0, most=2.0)),
    ],
    "numbers-as-classes": [
        ("info", but(class_counts=(3,) * 50, class_names=(), train=150)),
        ("info", but(class_counts=(2,) * 300, class_names=(), train=600)),
    ],
    "raw-pixels": [("warning", but(raw_pixels=True, batch_norm=False))],
    "validation-small": [("info", WATCHED | but(val=21)), ("info", but(val=50)), ("warning", WATCHED | but(val=10))],
    "difference-in-noise": [("info", but(stopping="val/accuracy", min_delta=0.001))],
    "test-chooses": [("warning", but(test_is_val=True))],
    "test-in-train": [
        ("warning", but(test_in_train=1.0)), ("warning", but(slices=("train", "train[:10%]"))),
        ("warning", but(slices=("train[:90%]", "train[80%:]"))),
    ],
    "metric-direction": [
        ("warning", but(directions={"accuracy": False})), ("warning", but(directions={"error": True})),
    ],
    "smoothing-high": [("info", but(smoothing=0.3)), ("warning", but(smoothing=0.5))],
    "smoothing-of-mixed": [("info", but(smoothing=0.1, mixed=True))],
    "augment-changes-target": [
        ("info", but(class_names=DIGITS, augment={"rotate": {"degrees": 61.0}})),
        ("info", but(class_names=DIGITS, augment={"flip_alternating": {}})),
        ("info", but(class_names=DIGITS, outputs=10)), ("warning", but(source="mnist:3.0.1")),
        ("info", but(class_names=tuple("ABCDF"))), ("warning", but(source="emnist/letters")),
        ("warning", but(class_names=DIGITS, source="svhn_cropped", augment={"rotate": {"degrees": 61.0}})),
        ("warning", but(class_names=DIGITS, source="digits")),
        ("warning", but(task="rotation", augment={"flip_ud": {}})),
        ("info", but(class_names=DIGITS, augment={"rotate": {"degrees": 180.0}})),
    ],
    "views-unseen": [("info", but(views=("flip_lr",), augment={}))],
}  # fmt: skip

# rule -> what differs from SOUND, close to what it scolds, and right
SPARED = {
    "lr-high": [
        but(lr=1e-2), SGD | but(lr=1.0), SGD | but(lr=1.5, momentum=0.85, batch_size=1024),
        SGD | but(lr=3.0, momentum=0.0), but(lr=0.05, averaging="schedule_free"), but(lr=None),
        but(optimizer="my:Own", lr=5.0),
    ],
    "lr-low": [
        but(lr=1e-4), SGD | but(lr=1e-3), but(lr=1e-5, starts=True), SGD | but(lr=5e-4, momentum=0.99),
        SGD | but(lr=1e-4, batch_size=8),
    ],
    "lr-of-adam": [but(lr_given=1e-3), SGD | but(lr_given=1e-3, starts=True), SGD | but(lr_given=2e-3)],
    "batch-without-lr": [
        SGD | but(lr_given=0.0, lr=1e-2, batch_size=512), SGD | but(lr_given=0.0, batch_size=4096, reference_batch=128),
        SGD | but(batch_size=4096),
    ],
    "fine-tuning-lr": [but(starts=True, loaded_lr=1e-4), but(starts=True, loaded_lr=0.0, lr=1e-2)],
    "momentum": [SGD, SGD | but(momentum=0.5), SGD | but(momentum=0.0, averaging="schedule_free")],
    "betas": [but(betas=(0.9, 0.9)), but(betas=(0.95, 0.98))],
    "decay-coupled": [
        but(optimizer="adam", decay="coupled", weight_decay=0.0), SGD, but(optimizer="adam", decay="decoupled"),
    ],
    "decay-strong": [
        but(weight_decay=0.1), SGD | but(lr=0.02), SGD | but(lr=1e-4, weight_decay=1e-4, starts=True),
        but(decay="independent", weight_decay=1e-4), but(optimizer="lion", lr=1e-4, weight_decay=1.0),
    ],
    "decay-unfelt": [
        but(weight_decay=1e-3), but(weight_decay=1e-4, decay_set=False), but(weight_decay=0.0),
        SGD | but(weight_decay=1e-5, summed_lr=50.0),
    ],
    "schedule-end": [
        but(schedule="multistep", end=3e-5), but(schedule="constant", end=3e-3, averaging="schedule_free"),
        but(schedule="constant", end=3e-3, plateau="val/loss"), but(schedule="constant", end=3e-3, stopping="val/loss"),
    ],
    "schedule-length": [
        but(schedule="cosine_restarts", spans={"schedule.cosine_restarts.period": 0.5}),
        but(schedule="step", spans={"schedule.step.every": 0.3}),
        but(schedule="multistep", spans={"schedule.multistep.milestones[1]": 0.95}),
        but(schedule="pieces", spans={"schedule.pieces.parts": 1.11}),
    ],
    "warmup-long": [but(warmup=0.1), but(warmup=0.0)],
    "warmup-twice": [but(schedule="one_cycle", warmup=0.0)],
    "warmup-missing": [
        SGD | but(lr=0.4, batch_size=2048, warmup=0.0), SGD | but(lr=0.8, batch_size=2048),
        SGD | but(lr=0.8, warmup=0.0),
    ],
    "plateau-idle": [WATCHED | but(plateau_patience=10, evaluations=13), but(plateau_patience=100)],
    "stopping-idle": [WATCHED | but(evaluations=12), but(stopping_patience=100)],
    "stopping-before-plateau": [
        WATCHED | but(stopping_patience=5), WATCHED | but(stopping_patience=2, stopping="val/accuracy"),
    ],
    "evaluated-once": [but(eval_every=1000, log_every=1000)],
    "rounds-to-zero": [but(rounded=())],
    "average-long": [but(averaging="moving", ema_decay=0.99), but(averaging="schedule_free", ema_decay=0.9999)],
    "saturating-activation": [
        but(activation="sigmoid", depth=3, batch_norm=False), but(activation="tanh", depth=None),
        but(activation="gelu", depth=20),
    ],
    "dropout-convolution": [but(conv_dropout=0.2)],
    "dropout-dense": [but(dense_dropout=0.5)],
    "dropout-recurrent": [but(drops_memory=False)],
    "dropout-missing": [
        but(dense_weights=90_000, train=500, augment={}), but(dense_weights=10**9, augment={}, train=10_001),
        but(dense_weights=2_000_000), but(dense_weights=2_000_000, augment={}, dense_dropout=0.2),
        but(dense_weights=400_000, augment={}), but(dense_weights=200_000_000, augment={}, train=50_000),
    ],
    "output-activation": [but(ends_in=""), but(task="my:task", loss="my:loss", ends_in="softmax")],
    "output-unbounded": [
        NUMBERS | but(least=0.0, most=0.99), NUMBERS | but(least=0.0, most=1.0, bounded_output="sigmoid"),
        NUMBERS | but(least=0.0, most=1.0, distinct=2),
    ],
    "norm-of-few": [but(batch_size=8), but(batch_size=2, batch_norm=False)],
    "frozen-all": [but(multipliers=(0.1, None))],
    "frozen-random": [but(multipliers=(1.0, None), frozen=0.9, starts=True), but(multipliers=(1.0, 0.1))],
    "single-class": [but(class_counts=(4499, 1, 0))],
    "empty-classes": [but(class_counts=(4498, 1, 1))],
    "constant-targets": [NUMBERS | but(constant=0)],
    "classes-as-numbers": [
        NUMBERS | but(distinct=11), NUMBERS | but(distinct=10, train=99), NUMBERS | but(distinct=200),
        NUMBERS | but(distinct=None), NUMBERS | but(distinct=3, train=20),
    ],
    "numbers-as-classes": [
        but(class_counts=(2,) * 49, class_names=(), train=98), but(class_counts=(5,) * 300, class_names=(), train=1500),
        but(class_counts=(2,) * 300, train=600),
    ],
    "raw-pixels": [but(raw_pixels=True)],
    "validation-small": [but(val=100), but(val=0), but(val=50, task="language_modelling")],
    "difference-in-noise": [
        but(stopping="val/accuracy", min_delta=0.007), but(stopping="val/loss", min_delta=0.001),
        but(stopping="val/accuracy", min_delta=0.001, val=25_000),
        but(stopping="val/accuracy", min_delta=0.0),
    ],
    "test-chooses": [but(test_is_val=None)],
    "test-in-train": [
        but(test_in_train=0.4), but(slices=("train", "test")), but(slices=("train[:90%]", "train[90%:]")),
        but(slices=("train+unlabelled", "test")),
    ],
    "metric-direction": [but(directions={"mean_class_accuracy": True, "bits_per_token": False, "explained": True})],
    "smoothing-high": [but(smoothing=0.2)],
    "smoothing-of-mixed": [but(smoothing=0.1), but(mixed=True)],
    "augment-changes-target": [
        but(class_names=DIGITS, augment={"rotate": {"degrees": 59.0}}),
        but(class_names=DIGITS, augment={"pad_crop": {"pad": 2}, "rotate": {"degrees": 15.0}}),
        but(task="rotation", class_names=("0°", "90°", "180°", "270°")),
        but(class_names=tuple("ABCD")), but(source="fashion_mnist"), but(source="digits", augment={"pad_crop": {}}),
    ],
    "views-unseen": [but(views=("flip_lr",), augment={"flip_alternating": {}}), but(views=("crops",), augment={})],
}  # fmt: skip


def levels(rule, **changes):
    return [found.level for found in lint(dataclasses.replace(SOUND, **changes)) if found.rule == rule]


def cases(table):
    return [pytest.param(rule, case, id=f"{rule}-{i}") for rule, found in table.items() for i, case in enumerate(found)]


def test_every_rule_has_what_it_scolds_and_what_it_spares():
    assert list(SCOLDED) == list(RULES)
    assert list(SPARED) == list(RULES)


def test_sound_facts_have_nothing_said_about_them():
    assert lint(SOUND) == []


def test_nothing_is_said_of_what_is_not_known():
    assert lint(Facts()) == []


@pytest.mark.parametrize(("rule", "case"), cases(SCOLDED))
def test_rule_scolds(rule, case):
    level, changes = case
    assert levels(rule, **changes) == [level]
    assert level in RULES[rule].levels


@pytest.mark.parametrize(("rule", "case"), cases(SPARED))
def test_rule_spares_a_near_miss(rule, case):
    assert levels(rule, **case) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_speaks_at_every_level_that_it_names(rule):
    assert {level for level, _ in SCOLDED[rule]} == set(RULES[rule].levels)


@pytest.mark.parametrize(("rule", "case"), cases(SCOLDED))
def test_a_rule_that_needs_what_is_unknown_says_nothing(rule, case):
    """One value after another is taken away: no rule fails, and none speaks that had no cause before."""
    facts = dataclasses.replace(SOUND, **case[1])
    for field in dataclasses.fields(Facts):
        before = {(found.rule, found.key) for found in lint(facts)}
        after = {(found.rule, found.key) for found in lint(dataclasses.replace(facts, **{field.name: None}))}
        assert {rule for rule, _ in after} <= {rule for rule, _ in before}, field.name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_ours_has_a_range_with_its_default_inside(name):
    core = OPTIMIZERS[name]()
    low, high = LR[name]
    assert low < core.default_lr < high
    known = but(optimizer=name, family=core.family, default_lr=core.default_lr, batch_size=128)
    known |= but(momentum=0.9 if name == "sgd" else None)
    assert levels("lr-high", **known, lr=core.default_lr) == levels("lr-low", **known, lr=core.default_lr) == []
    assert levels("lr-high", **known, lr=high * 1.1) == levels("lr-low", **known, lr=low * 0.9) == ["info"]
    assert levels("lr-high", **known, lr=high * 4) == levels("lr-low", **known, lr=low * 0.09) == ["warning"]


def test_range_of_the_lr_moves_with_the_batch_and_the_kind_of_steps():
    sgd = SGD | but(batch_size=512)
    assert levels("lr-high", **sgd) == levels("lr-high", **(sgd | but(lr=3.9))) == []
    assert levels("lr-high", **(sgd | but(lr=4.1))) == ["info"]
    assert levels("lr-high", batch_size=512, lr=0.019) == []
    assert levels("lr-high", batch_size=512, lr=0.021) == ["info"]
    muon = but(optimizer="muon", muon_adjust="original")
    assert levels("lr-high", **muon, lr=0.59) == []
    assert levels("lr-high", **muon, lr=0.61) == ["info"]
    assert levels("lr-high", lr=0.11, averaging="schedule_free") == ["info"]


def test_the_noise_of_a_difference_is_that_of_two_evaluations_on_the_same_examples():
    """Of 90 % of the examples both are right, of 8 % both wrong, of 2 % one or the other."""
    rng, n = np.random.default_rng(0), 500
    _, better, worse, _ = rng.multinomial(n, [0.9, 0.01, 0.01, 0.08], size=20_000).T
    spread = np.std((better - worse) / n)
    watched = but(stopping="val/accuracy", val=n)
    assert levels("difference-in-noise", **watched, min_delta=0.96 * spread) == ["info"]
    assert levels("difference-in-noise", **watched, min_delta=1.04 * spread) == []


@pytest.mark.parametrize("val", [30, 500, 777, 2_000, 10_000, 20_000])
def test_who_takes_the_difference_that_is_advised_is_left_alone(val):
    watched = but(stopping="val/accuracy", val=val)
    (found,) = [f for f in lint(dataclasses.replace(SOUND, **watched, min_delta=1e-6)) if f.key.endswith("min_delta")]
    advised = float(re.search(r"take ([\d.]+) or more", found.text)[1])
    assert levels("difference-in-noise", **watched, min_delta=advised) == []
    assert advised < 1.1 * (0.02 / val) ** 0.5


def test_warnings_come_first_and_silenced_rules_not_at_all():
    facts = dataclasses.replace(SOUND, lr=0.1, warmup=0.2, smoothing=0.5)
    assert [found.rule for found in lint(facts)] == ["lr-high", "smoothing-high", "warmup-long"]
    assert [found.rule for found in lint(facts, ("lr-high", "warmup-long"))] == ["smoothing-high"]
    assert lint(facts, ("all",)) == []


def test_a_finding_says_what_is_there_what_to_do_and_why():
    (found,) = lint(dataclasses.replace(SOUND, lr=0.1, lr_given=0.1))
    assert found.line() == (
        "lint warning [lr-high] optimizer.lr: 0.1 is above what adamw takes at batch 128, 0.0001 to 0.01; "
        "lower it to 0.001 or run `jtrain ladder`"
    )
    assert found.reason == RULES["lr-high"].reason
    (scaled,) = lint(dataclasses.replace(SOUND, lr=0.1, lr_given=0.01))
    assert scaled.text.startswith("0.1 (0.01 with the factors of batch, group and lr_scale) is above")
    assert "training notes" in found.source


def test_an_unknown_id_is_refused_with_the_nearest():
    check_silence(("lr-high", "all"))
    with pytest.raises(ValueError, match=r"\[1\]: no such rule 'lr-hihg'; did you mean 'lr-high'\?"):
        check_silence(("all", "lr-hihg"))
    with pytest.raises((ValueError, ConfigError)):
        lint(SOUND, ("nonsense",))


def test_the_rules_import_no_jax():
    code = "import sys, jtrain.coach.lint; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_page_lists_every_rule_as_it_is():
    table = PAGE.read_text().partition("| rule | level |")[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == [
        f"| `{name}` | {', '.join(rule.levels)} | {rule.what} | {rule.reason} | {rule.source} |"
        for name, rule in RULES.items()
    ]
