"""Initializers compared by short runs: which differs, and when none does."""

import json
import logging
import math
import sys
import types

import jax
import numpy as np
import pytest
from flax import linen as nn
from helpers import blobs, put, tiny, tiny_run

from jtrain import config as configs
from jtrain.assembly import assemble
from jtrain.config_files import load
from jtrain.errors import ConfigError, NonFiniteError
from jtrain.loop import train
from jtrain.studies.inits import inits
from jtrain.studies.inits.verdict import holm, judged

module = sys.modules["jtrain.studies.inits"]


def config(**fields):
    own = {
        "study__inits__names": ("model", "xavier_normal"), "study__inits__seeds": 2, "study__inits__total": "100%",
        "train__eval_every": "20steps",
    }  # fmt: skip
    return tiny("20steps", **(own | fields))


def test_a_member_is_the_run_of_its_initializer_and_seed():
    names = ("xavier_normal", "orthogonal")  # one is drawn on the host, one on the device
    found = inits(config(study__inits__names=names, early_stopping__metric="val/loss"), data=blobs())
    assert found.found["metric"] == "loss"
    assert not found.found["higher_is_better"]
    assert list(found.found["values"]) == ["model", *names]
    for name, values in found.found["values"].items():
        own = put(tiny("20steps", train__eval_every="20steps"), init__name=name)
        run = assemble(own, data=blobs()).reseed(1)
        np.testing.assert_array_equal(train(run).metrics["val"]["loss"], values[1])


def test_one_step_is_compiled_however_many_initializers(caplog):
    with jax.log_compiles(True), caplog.at_level(logging.WARNING):
        inits(config(study__inits__names=("model", "normal", "orthogonal")), data=blobs())
    compiled = [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()]
    assert [sum(name in text for text in compiled) for name in ("train_steps", "eval_step", "measured")] == [1, 1, 1]


def test_the_configs_own_initializer_is_compared_too_and_its_options_stay_with_it():
    c = config(init__name="normal", init__normal__std=1e-7, init__params=("dense0/kernel",))
    found = inits(c, data=blobs())
    assert list(found.found["values"]) == ["normal", "model", "xavier_normal"]
    first = {name: one["layers"][0]["rms"] for name, one in found.found["signals"].items()}
    assert first["normal"] < 1e-5 < first["model"]
    head = {name: one["params"]["head/kernel"]["rms"] for name, one in found.found["signals"].items()}
    assert head["normal"] == head["model"] == head["xavier_normal"]


def test_a_name_that_is_none_and_a_pattern_that_matches_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"study.inits.names: no such initializer 'xavier'; did you mean"):
        inits(config(study__inits__names=("xavier",)), data=blobs())


def test_diverged_runs_are_told_and_never_recommended(monkeypatch):
    runs = []

    def torn(run):
        runs.append(run)
        if len(runs) == 4:
            raise NonFiniteError("the loss is nan")
        return train(run)

    monkeypatch.setattr(module, "train", torn)
    found = inits(config(), data=blobs())
    assert found.found["diverged"] == ["xavier_normal"]
    assert found.rows[1]["diverged"] == 1
    assert found.conclusion.startswith("keep model")
    assert "diverged: xavier_normal" in found.conclusion


def fake(losses):
    """Training that does nothing, with these validation losses one after another; None diverges."""
    left = iter(losses)

    def trained(run):
        loss = next(left)
        if loss is None:
            raise NonFiniteError("the loss is nan")
        rows = [{"split": "train", "loss": value} for value in (0.7, math.nan)]
        return types.SimpleNamespace(metrics={"val": {"loss": loss}}, history=rows)

    return trained


def test_who_stands_with_one_run_left_is_told_by_what_diverged(monkeypatch):
    monkeypatch.setattr(module, "train", fake([2.0, None, None, 0.5, 0.51, 0.49]))
    found = inits(config(study__inits__seeds=3, early_stopping__metric="val/loss"), data=blobs())
    expected = "model diverged with 2 of 3 seeds: loss after 20 updates is xavier_normal 0.5 ± 0.01; set --config.init."
    assert found.conclusion.startswith(expected)
    assert found.found["recommended"] == "xavier_normal"


def test_a_last_loss_that_was_scaled_too_high_is_no_divergence(monkeypatch):
    monkeypatch.setattr(module, "train", fake([0.0] * 4))
    found = inits(config(data__validation=0.0), data={"train": blobs()["train"]})
    assert (found.found["diverged"], found.found["values"]["model"]) == ([], [0.7, 0.7])


def test_one_seed_gives_no_answer_and_no_validation_is_judged_by_the_training_loss():
    found = inits(config(study__inits__seeds=1, data__validation=0.0), data={"train": blobs()["train"]})
    assert found.found["metric"] == "training loss"
    assert found.conclusion.startswith("no answer: one seed shows no spread")


def test_chances_are_corrected_as_holm_has_it():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    np.testing.assert_allclose([found[name] for name in "abcd"], [0.03, 0.06, 0.06, 0.02])
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_a_difference_within_the_spread_is_none_and_one_beyond_it_is_told():
    values = {"model": (0.10, 0.11, 0.10), "he": (0.91, 0.92, 0.90), "lecun": (0.90, 0.93, 0.91)}
    found = judged(values, "model", higher=True, least=0.01)
    assert (found.best, found.worse, found.recommended) == ("lecun", ["model"], "lecun")
    assert judged(values, "he", higher=True, least=0.01).recommended == ""
    assert judged(values, "he", higher=False, least=0.01).best == "model"
    same = {"model": (0.90, 0.90, 0.90), "he": (0.91, 0.91, 0.91)}  # by less than an example of the 50
    assert judged(same, "model", higher=True, least=0.02).worse == []
    assert judged({"a": (0.0, 0.0), "b": (0.0, 0.0)}, "a", higher=True, least=0.1).worse == []


def test_what_all_but_diverged_hides_no_difference_between_others():
    values = {"model": (2.30, 2.31, 2.29), "good": (0.50, 0.51, 0.49), "bad": (3e4, 5e4, 2e4)}
    assert judged(values, "model", higher=False, least=0.01).recommended == "good"
    more = values | {"worse": (2e4, 3e4, 9e4), "worst": (1e5, 3e5, 9e5)}  # three of five: the median spread is theirs
    assert judged(more, "model", higher=False, least=0.01).recommended == "good"


def test_equal_initializers_are_told_apart_in_no_more_than_the_chance_that_is_named():
    rng = np.random.default_rng(0)
    alarms = [
        bool(judged({n: rng.normal(size=3).tolist() for n in "abcde"}, "a", higher=True, least=0.0).worse)
        for _ in range(400)
    ]
    assert np.mean(alarms) <= 0.07  # 5 %, and two standard deviations of this count


def test_after_a_kill_only_what_is_missing_is_done(tmp_path, monkeypatch):
    done = []

    def counted(run):
        done.append(run.config.seed)
        if len(done) == 3:
            raise KeyboardInterrupt
        return train(run)

    monkeypatch.setattr(module, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        inits(config(), tmp_path / "w", data=blobs())
    found = inits(config(), tmp_path / "w", data=blobs())
    assert done == [0, 1, 0, 0, 1]
    told = json.loads((tmp_path / "w" / "study.json").read_text())
    assert told["found"]["values"] == {name: list(v) for name, v in found.found["values"].items()}
    assert (tmp_path / "w" / "study.png").stat().st_size > 10_000


def test_a_study_leaves_the_run_as_it_was():
    run = tiny_run("20steps", study__inits__names=("orthogonal",), study__inits__seeds=2, study__inits__total="100%")
    before, of_config = train(tiny_run("20steps")).state, configs.flat(run.config)
    inits(run)
    assert configs.flat(run.config) == of_config
    after = train(run).state
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


class Deep(nn.Module):
    """24 dense layers with ReLU, drawn too small."""

    @nn.compact
    def __call__(self, inputs):
        x = inputs.reshape(len(inputs), -1)
        for _ in range(24):
            x = nn.relu(nn.Dense(64, kernel_init=nn.initializers.normal(0.02))(x))
        return nn.Dense(10)(x)


@pytest.mark.slow
def test_kaiming_is_preferred_on_a_deep_plain_relu_net():
    c = load("digits", {})
    c.optimizer.lr, c.study.inits.total, c.mesh.devices = 1e-3, "50%", 1
    found = inits(c, model=Deep())
    assert found.found["recommended"] == "kaiming_normal", found.conclusion
    assert "--config.init.name=kaiming_normal" in found.conclusion
    kept = {name: one["layers"][-1]["rms"] / one["layers"][0]["rms"] for name, one in found.found["signals"].items()}
    assert kept["model"] < 1e-15
    assert 0.05 < kept["kaiming_normal"] < 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_no_difference_is_found_on_a_residual_net_with_norm(seed):
    c = load("digits", {})
    c.model.cnn = configs.base().model.cnn
    c.model.name, c.model.resnet.depth, c.model.resnet.width = "resnet", 20, 8
    c.study.inits.total, c.seed, c.mesh.devices = "20%", seed, 1
    found = inits(c)
    assert found.conclusion.startswith("no difference"), found.conclusion
    assert not found.found["differ"]


def test_where_no_run_has_learned_anything_there_is_no_answer():
    config = tiny("10steps", optimizer__lr=1e-9, study__inits__total="10steps", study__inits__seeds=2,
                  study__inits__names=("model", "orthogonal"))  # fmt: skip
    study = inits(config, data=blobs())
    assert not study.ok
    assert study.conclusion.startswith("no answer: within 10 updates no run has brought the training loss below")
    assert study.found["recommended"] == ""
