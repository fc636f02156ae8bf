"""A few examples learnt by heart; and of what is broken, what is named."""

import dataclasses
import json
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import blobs, put, tiny, tiny_run

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.config_files import load
from jtrain.data.examples import DataSet
from jtrain.loop import train
from jtrain.studies.overfit import overfit
from jtrain.studies.overfit.data import conflicts, features, relation
from jtrain.studies.overfit.goal import make_goal
from jtrain.studies.overfit.plain import plain

module = sys.modules["jtrain.studies.overfit"]


class Net(nn.Module):
    """Two dense layers with something broken."""

    bias: float = 0.0
    detached: bool = False
    seen: float = 1.0
    head: float = 1.0
    end: str = ""
    rate: float = 0.0

    @nn.compact
    def __call__(self, inputs, train=False):
        x = nn.Dense(16, bias_init=nn.initializers.constant(self.bias), name="hidden")(inputs * self.seen)
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(x))
        x = jax.lax.stop_gradient(x) if self.detached else x
        x = nn.Dense(3, kernel_init=nn.initializers.variance_scaling(self.head**2, "fan_in", "normal"), name="head")(x)
        return {"": lambda x: x, "tanh": lambda x: jnp.tanh(1000 * x), "softmax": jax.nn.softmax}[self.end](x)


def shuffled(seed=0):
    inputs, targets = blobs()["train"]
    return {"train": (inputs, np.random.default_rng(seed).permutation(targets))}


class Redrawn:
    """Examples whose targets are others at every look."""

    def __init__(self):
        self.inputs, self.classes = blobs()["train"]
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return len(self.inputs)

    def fetch(self, rows):
        return self.inputs[rows], self.rng.permutation(self.classes)[rows]

    def targets(self, rows):
        return self.classes[rows]

    def arrays(self):
        return self.inputs, self.classes

    nbytes = 4000


def redrawn():
    return DataSet("redrawn", Redrawn(), None, None, 3)


def config(**fields):
    return tiny("300steps", **({"study__overfit__total": "150steps", "study__overfit__examples": 24} | fields))


def zeros():
    inputs, targets = blobs()["train"]
    return {"train": (np.zeros_like(inputs), targets)}


PLANTED = {
    "dead units": (
        Net(bias=-100.0),
        blobs,
        {},
        "dead gradients",
        "and 1 more have not changed by a bit; every unit behind hidden is 0",
    ),
    "detached": (Net(detached=True), blobs, {}, "dead gradients", "hidden/kernel has not changed by a bit"),
    "shuffled": (Net(), shuffled, {}, "shuffled labels", "targets have nothing to do with inputs"),
    "redrawn": (Net(), redrawn, {"data__placement": "streamed"}, "shuffled labels", "others when they are fetched"),
    "zeros": (Net(), zeros, {}, "constant input", "all 24 inputs are equal"),
    "not seen": (Net(seen=0.0), blobs, {}, "constant input", "what hidden makes of different inputs is the same"),
    "scale": (Net(head=1e3), blobs, {}, "wrong loss scale at the start", "a guess has 1.1"),
    "saturated": (Net(end="tanh"), blobs, {}, "saturated output", "at the ends of a tanh behind head"),
    "softmax": (Net(end="softmax"), blobs, {}, "saturated output", "probabilities already"),
    "frozen": (
        Net(),
        blobs,
        {"groups": ((".*kernel", None), (".*", 1.0))},
        "frozen parameters",
        "head/kernel and 1 more",
    ),
    "stopped": (
        Net(),
        blobs,
        {"groups": ((".*kernel", 0.0), (".*", 1.0))},
        "frozen parameters",
        "head/kernel and 1 more",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_named(name, tmp_path):
    model, data, fields, suspect, words = PLANTED[name]
    found = overfit(config(**fields), model=model, data=data())
    assert not found.ok
    assert found.found["suspects"][0]["name"] == suspect, found.conclusion
    assert found.conclusion.startswith("fails: 24 examples are ")
    assert re.search(words, found.conclusion), found.conclusion
    found.save(tmp_path)
    assert (tmp_path / "study.png").stat().st_size > 10_000


def test_what_is_sound_passes_and_says_what_was_switched_off():
    c = config(model__mlp__dropout=0.5, ema__decay=0.9, early_stopping__metric="val/loss", tta="", optimizer__lr=0.05)
    c.loss.name, c.loss.cross_entropy.label_smoothing = "cross_entropy", 0.1
    found = overfit(c, data=blobs())
    assert found.ok, found.conclusion
    assert not found.found["suspects"]
    off = {
        "ema.decay", "early_stopping.metric", "model.mlp.dropout", "loss.cross_entropy.label_smoothing",
        "optimizer.adamw.weight_decay",
    }  # fmt: skip
    assert set(found.found["switched_off"]) == off
    assert all(key in found.conclusion for key in off)
    assert "draws" not in found.conclusion


def test_examples_are_as_many_of_each_class_as_can_be():
    found = overfit(config(study__overfit__total="10steps"), data=blobs())
    run = tiny_run()
    targets = run.data.train.fetch(np.asarray(found.found["rows"]))[1]
    assert np.bincount(targets).tolist() == [8, 8, 8]


def test_nothing_that_regularises_is_left_in_any_of_our_parts():
    for section in ("model", "loss", "optimizer", "task"):
        for name in configs.CHOICES[section][1]:
            c = configs.base()
            c[section].name = name
            for key, value in c[section].get(name, {}).items():
                if any(word in key for word in ("drop", "stochastic", "decay", "smoothing")) and value == 0:
                    c[section][name][key] = 0.3
            before = configs.flat(c)
            after, off = plain(c, 32, 100, 0.01)
            assert configs.flat(c) == before
            left = configs.flat(after[section].get(name, {}))
            words = ("dropout", "stochastic_depth", "weight_decay", "label_smoothing", "corrupt")
            assert not [key for key, value in left.items() if any(word in key for word in words) and value], name
            assert all(key.split(".")[0] in configs.CHOICES for key in off)


def test_a_model_of_a_program_that_drops_at_random_is_told():
    found = overfit(config(), model=Net(rate=0.3), data=blobs())
    assert "the model draws at random in training (dropout?)" in found.conclusion
    assert found.found["start"]["draws"]


def test_an_lr_that_is_too_large_is_told_from_a_bug():
    found = overfit(config(optimizer__name="sgd", optimizer__lr=30.0, study__overfit__total="300steps"), data=blobs())
    assert not found.ok
    assert found.found["suspects"][0]["name"] == "learning rate", found.conclusion
    assert "set --config.optimizer.lr=3" in found.conclusion
    assert [row["learnt"] for row in found.rows][:2] == [False, True]


def test_an_overflow_of_the_scaled_loss_is_no_divergence():
    inputs, targets = blobs()["train"]
    c = config(precision="float16", task__name="regression", optimizer__lr=0.1)
    found = overfit(c, data={"train": (inputs, 300 * targets.astype(np.float32))})
    assert found.ok, found.conclusion
    fit = found.found["fits"]["1"]
    assert not fit["diverged"]
    assert None not in [loss for _, loss in fit["curve"]]
    assert fit["curve"][0][0] > 1, "the first update overflowed, or this test shows nothing"


def test_a_loss_that_still_falls_asks_for_more_updates_and_one_target_is_nothing_to_learn():
    found = overfit(config(study__overfit__total="60steps"), data=blobs())
    assert "too few updates" in [one["name"] for one in found.found["suspects"]], found.conclusion
    inputs = blobs()["train"][0]
    found = overfit(config(task__name="regression"), data=(inputs, np.full(len(inputs), 3.0, np.float32)))
    assert not found.ok
    assert found.found["suspects"][0]["name"] == "constant targets", found.conclusion


def test_numbers_and_images_of_themselves_are_learnt_too():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 6)).astype(np.float32)
    values = 40 + 3 * inputs @ rng.normal(size=(6, 2)).astype(np.float32)
    fields = {"model__mlp__features": (32,), "optimizer__lr": 0.03, "study__overfit__total": "300steps"}
    found = overfit(config(task__name="regression", **fields), data=(inputs, values.astype(np.float32)))
    assert found.ok, found.conclusion
    assert found.rows[0]["r2"] > 0.99
    c = configs.changed(config(task__name="autoencoding", optimizer__lr=0.03))
    c.model = configs.base().model
    c.model.name, c.model.autoencoder.encoder, c.model.autoencoder.features = "autoencoder", "mlp", (16,)
    assert overfit(c, data=(inputs, np.zeros(60, np.int32))).ok


def test_a_study_leaves_the_run_as_it_was():
    run = tiny_run(study__overfit__total="30steps")
    before, config_before = train(tiny_run()).state, configs.flat(run.config)
    rows, data = run.order.rows(3), run.data
    overfit(run)
    assert configs.flat(run.config) == config_before
    assert run.data is data
    np.testing.assert_array_equal(run.order.rows(3), rows)
    after = train(run).state
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


def test_after_a_kill_only_what_is_missing_is_done(tmp_path, monkeypatch):
    done, fit = [], module._fit

    def counted(run, small, goal, factor, updates):
        done.append(factor)
        if factor == 10.0 and done.count(10.0) == 1:
            raise KeyboardInterrupt
        return fit(run, small, goal, factor, updates)

    monkeypatch.setattr(module, "_fit", counted)
    given = {"model": Net(end="softmax"), "data": blobs()}
    with pytest.raises(KeyboardInterrupt):
        overfit(config(), tmp_path / "w", **given)
    found = overfit(config(), tmp_path / "w", **given)
    assert done == [1.0, 0.1, 10.0, 10.0]
    told = json.loads((tmp_path / "w" / "study.json").read_text())
    assert told["ok"] is False
    assert told["found"]["suspects"] == found.found["suspects"]
    assert (tmp_path / "w" / "study.png").stat().st_size > 10_000
    assert dataclasses.replace(found, draw=None).rows == overfit(config(), tmp_path / "w", **given).rows
    assert len(done) == 4


def test_the_floor_is_that_of_the_best_that_sees_the_inputs_alone():
    inputs, targets = (part[:16].copy() for part in blobs()["train"])
    inputs[1], targets[:2] = inputs[0], (0, 2)
    small = assemble(put(config(), train__batch_size=16), data=(np.tile(inputs, (2, 1)), np.tile(targets, 2)))
    goal = make_goal(small, inputs, targets)
    np.testing.assert_allclose(goal.floor, 2 * np.log(2) / 16, rtol=1e-5)
    np.testing.assert_allclose(goal.guess, np.log(3), rtol=1e-5)
    np.testing.assert_allclose(goal.line, goal.floor + 0.05 * (goal.guess - goal.floor), rtol=1e-5)
    assert goal.need == 15 / 16
    assert conflicts(inputs, targets) == 2 / 16


def test_relation_is_that_of_a_slow_count_and_chance_is_told_right():
    inputs, targets = blobs()["train"]
    wide = np.eye(3)[targets]
    share, chance = relation(features(inputs), wide, 0)
    values = (inputs - inputs.mean(0)) / inputs.std(0)
    agree = 0.0
    for i, one in enumerate(values):
        order = np.argsort([np.inf if i == j else np.square(one - other).sum() for j, other in enumerate(values)])
        agree += np.mean([(wide[i] - wide.mean(0)) @ (wide[j] - wide.mean(0)) for j in order[:5]])
    np.testing.assert_allclose(share, agree / np.square(wide - wide.mean(0)).sum(), rtol=1e-5)
    assert chance < 1e-6
    rng = np.random.default_rng(0)
    chances = [relation(features(inputs), rng.permutation(wide), 0)[1] for _ in range(100)]
    assert 0.3 < np.mean(chances) < 0.7
    assert np.mean(np.asarray(chances) < 0.01) <= 0.05


def test_features_of_images_are_means_of_blocks_and_of_tokens_counts():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 33, 32, 3)).astype(np.uint8)
    found = features(images)
    slow = np.array([[[image[y * 2 : y * 2 + 2, x * 2 : x * 2 + 2].mean((0, 1)) for x in range(16)] for y in range(16)]
                     for image in images.astype(float)]).reshape(8, -1)  # fmt: skip
    np.testing.assert_allclose(found, (slow - slow.mean(0)) / slow.std(0), rtol=1e-3, atol=1e-3)
    tokens = np.array([[1, 1, 2], [2, 1, 1], [3, 3, 3]])
    found = features(tokens)
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "diabetes", "cnn"])
def test_a_healthy_config_passes_within_30_seconds(name):
    c = load("digits" if name == "cnn" else name, {})
    if name == "cnn":
        c.model.cnn.features, c.model.cnn.norm, c.model.cnn.dropout = (16, 32), "none", 0.3
    begun = time.perf_counter()
    found = overfit(c)
    assert found.ok, found.conclusion
    assert time.perf_counter() - begun < 30


def test_an_lr_that_is_far_too_high_is_named_as_such():
    config = tiny("30steps", optimizer__name="sgd", optimizer__lr=900.0, study__overfit__total="30steps")
    study = overfit(config, data=blobs())
    assert not study.ok
    assert "suspect learning rate" in study.conclusion
    assert "too few updates" not in study.conclusion
