import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import put

import jtrain
from jtrain import config as configs
from jtrain import losses
from jtrain.assembly import assemble
from jtrain.errors import ConfigError
from jtrain.loop import train
from jtrain.tasks import KINDS, LOSS, NEEDS, TASKS, Facts

RNG = np.random.default_rng(0)


def facts(num_outputs=3, shape=(5,), mean=0.0, std=1.0, **bounds):
    return Facts(num_outputs, shape, np.full(num_outputs, mean), np.full(num_outputs, std), **bounds)


def config(name, **fields):
    c = configs.base()
    c.task.name = name
    c.model.mlp.features = (16,)
    c.model.mlp.dropout = 0.0
    c.mesh.devices = 1
    c.train.total, c.train.batch_size, c.train.eval_every = "30steps", 8, "30steps"
    c.optimizer.lr = 0.01
    return put(c, **fields)


INPUTS = RNG.normal(size=(64, 5)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (64, 4, 4, 1)).astype(np.uint8)
DATA = {
    "classification": (INPUTS, (INPUTS[:, 0] > 0).astype(np.int32)),
    "multilabel": (INPUTS, (INPUTS[:, :3] > 0).astype(np.int32)),
    "regression": (INPUTS, 100 + 20 * INPUTS[:, 0]),
    "autoencoding": (INPUTS, None),
    "rotation": (IMAGES, None),
}


def test_every_task_has_what_the_tables_say():
    assert set(TASKS) == set(NEEDS) == set(KINDS) == set(LOSS)
    for name, loss in LOSS.items():
        assert KINDS[name] in losses.TAKES[loss]


@pytest.mark.parametrize("name", sorted(DATA))
def test_a_run_of_each_task_learns_and_its_predictions_have_their_shape(name):
    c = config(name, model__name="mlp" if name != "autoencoding" else "autoencoder")
    if name == "autoencoding":
        c.model.mlp = configs.base().model.mlp
        c.model.autoencoder.features = (16,)
    run = assemble(c, data=DATA[name])
    first = run.evaluate(run.init_state(), "train")["loss"]
    result = train(run)
    assert run.evaluate(result.state, "train")["loss"] < (0.9 if name != "rotation" else 1.0) * first
    shapes = {"classification": (2,), "multilabel": (3,), "regression": (1,), "autoencoding": (5,), "rotation": (4,)}
    assert run.predict(result.state, "train").shape[1:] == shapes[name]


@pytest.mark.parametrize("name", ["classification", "rotation"])
def test_class_probabilities_sum_to_one_and_come_of_one_softmax(name):
    task = TASKS[name](losses.cross_entropy, facts(4, (4, 4, 1)))
    logits = RNG.normal(size=(6, 4)).astype(np.float32) * 3
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(task.activation(jnp.asarray(logits)), expected, rtol=1e-5)


def test_loss_of_classification_is_that_of_logits():
    logits, targets = RNG.normal(size=(6, 3)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
    task = TASKS["classification"](losses.cross_entropy, facts())
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        task.loss(jnp.asarray(logits), jnp.asarray(targets)), -log_p[range(6), targets], rtol=1e-5
    )


def test_regression_predicts_in_the_unit_of_the_targets_and_measures_loss_in_standard_deviations():
    run = assemble(config("regression", data__validation=0.0), data=DATA["regression"])
    state = run.init_state()
    targets = DATA["regression"][1]
    predictions = run.predict(state, "train")[:, 0]
    assert abs(predictions.mean() - targets.mean()) < 2 * targets.std()  # an untrained one is around the mean
    found = run.evaluate(state, "train")
    error = np.square(predictions - targets).mean()
    assert found["mse"] == pytest.approx(error, rel=1e-4)
    assert found["loss"] == pytest.approx(error / targets.var(), rel=1e-4)
    assert found["r2"] == pytest.approx(1 - error / targets.var(), rel=1e-4)


BOUNDED = [("sigmoid", 2.0, 5.0), ("tanh", -1.0, 0.7), ("relu", 2.0, np.inf)]


def bounded(output, low, high):
    return {"output": output, "low": low} | ({"high": high} if output != "relu" else {})


@pytest.mark.parametrize(("output", "low", "high"), BOUNDED)
def test_a_bounded_regressor_stays_in_its_range_and_begins_at_the_mean(output, low, high):
    mean, std = low + 0.5, 0.2
    given = facts(1, mean=mean, std=std, least=low, most=low)
    task = TASKS["regression"](losses.mse, given, **bounded(output, low, high))
    outputs = RNG.normal(size=(500, 1)).astype(np.float32) * 50
    shown = np.asarray(task.shown(jnp.asarray(outputs)))
    assert shown.min() >= low
    assert shown.max() <= np.float32(high)
    assert len(np.unique(shown)) > 20
    start, scale = (jnp.asarray(v, jnp.float32).reshape(1, 1) for v in task.rescale)
    assert float(task.shown(start)[0, 0]) == pytest.approx(mean, rel=1e-5)
    slope = jax.grad(lambda x: task.shown(start + scale * x)[0, 0])(jnp.zeros(()))
    assert float(slope) == pytest.approx(std, rel=1e-3)


@pytest.mark.parametrize("fields", [{}, bounded("sigmoid", 40.0, 160.0), bounded("relu", 0.0, np.inf)], ids=str)
def test_loss_metrics_and_predictions_of_a_regressor_are_of_the_same_numbers(fields):
    given = {f"task__regression__{key}": value for key, value in fields.items()}
    run = assemble(config("regression", data__validation=0.0, metrics=("rmse",), **given), data=DATA["regression"])
    state = train(run).state
    targets = DATA["regression"][1]
    found, predictions = run.evaluate(state, "train"), run.predict(state, "train")[:, 0]
    error = np.square(predictions - targets).mean()
    assert found["mse"] == pytest.approx(error, rel=1e-3)
    assert found["rmse"] == pytest.approx(np.sqrt(error), rel=1e-3)
    assert found["mae"] == pytest.approx(np.abs(predictions - targets).mean(), rel=1e-3)
    assert found["loss"] == pytest.approx(error / targets.var(), rel=1e-3)
    assert found["r2"] == pytest.approx(1 - error / targets.var(), rel=1e-2)


def test_targets_beyond_the_bounds_are_refused_with_both_ranges():
    with pytest.raises(ConfigError, match=r"task\.regression\.output: 'sigmoid' keeps outputs between 0 and 1.*102\.5"):
        TASKS["regression"](losses.mse, facts(1, least=0.0, most=102.5), output="sigmoid")
    for fields in ({"low": 2.0}, {"high": 3.0}, {"output": "relu", "high": 3.0}):
        with pytest.raises(ConfigError, match=r"task\.regression\.(low|high)"):
            TASKS["regression"](losses.mse, facts(1, least=0.0, most=0.5), **fields)
    with pytest.raises(ConfigError, match=r"task\.regression\.high: must be above"):
        TASKS["regression"](losses.mse, facts(1, least=0.0, most=0.5), output="sigmoid", low=1.0, high=0.0)


def test_rotation_turns_every_image_in_evaluation_and_one_way_each_in_training():
    task = TASKS["rotation"](losses.cross_entropy, facts(4, (4, 4, 1)))
    batch = {"inputs": jnp.asarray(IMAGES[:16]), "targets": jnp.zeros(16, jnp.int32), "weight": jnp.ones(16)}
    seen = task.pretext(batch, None)
    for turn in range(4):
        part = slice(16 * turn, 16 * (turn + 1))
        np.testing.assert_array_equal(seen["inputs"][part], np.rot90(IMAGES[:16], turn, axes=(1, 2)))
        assert (seen["targets"][part] == turn).all()
    drawn = task.pretext(batch, jax.random.key(0))
    for image, turned, turn in zip(IMAGES[:16], drawn["inputs"], drawn["targets"], strict=True):
        np.testing.assert_array_equal(turned, np.rot90(image, int(turn), axes=(0, 1)))
    assert len(set(np.asarray(drawn["targets"]).tolist())) > 1


def test_rotation_is_measured_the_same_at_any_batch_size():
    found = []
    for batch_size in (7, 64):
        run = assemble(config("rotation", data__validation=0.0, train__batch_size=batch_size), data=DATA["rotation"])
        found.append(run.evaluate(run.init_state(), "train"))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_bounds_are_held_against_the_targets_of_every_split():
    data = {"train": (INPUTS, INPUTS[:, 0] * 0 + 0.5), "test": (INPUTS[:3], np.array([0.5, 0.5, 7.0]))}
    with pytest.raises(ConfigError, match=r"targets reach from 0\.5 to 7"):
        assemble(config("regression", task__regression__output="sigmoid"), data=data)


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e6])
def test_inputs_and_targets_of_any_unit_are_learned_alike(scale):
    inputs, targets = (INPUTS * scale).astype(np.float32), (INPUTS[:, 0] * scale).astype(np.float32)
    run = assemble(config("regression", train__total="600steps", train__eval_every="600steps"), data=(inputs, targets))
    assert train(run).metrics["val"]["r2"] > 0.8


def test_a_denoising_autoencoder_sees_damage_in_training_alone_and_shall_give_the_whole():
    task = TASKS["autoencoding"](losses.mse, Facts(1, (4, 4, 1), np.zeros(1), np.ones(1)), corrupt="noise(0.1)")
    batch = {"inputs": jnp.asarray(IMAGES), "targets": jnp.zeros(64), "weight": jnp.ones(64)}
    trained, evaluated = task.pretext(batch, jax.random.key(1)), task.pretext(batch, None)
    seen = np.asarray(trained["inputs"])
    assert (seen != IMAGES).mean() > 0.5
    assert 0.5 < np.corrcoef(seen.ravel(), IMAGES.ravel())[0, 1] < 0.98
    np.testing.assert_array_equal(evaluated["inputs"], IMAGES)
    for seen in (trained, evaluated):
        np.testing.assert_array_equal(seen["targets"], IMAGES.astype(np.float32))


def test_reconstructions_are_in_the_unit_of_the_inputs():
    images = (128 + 20 * RNG.normal(size=(64, 5))).astype(np.float32)
    c = config("autoencoding", model__name="autoencoder", data__validation=0.0)
    c.model.mlp = configs.base().model.mlp
    c.model.autoencoder.features = (16,)
    run = assemble(c, data=(images, None))
    state = run.init_state()
    found = run.evaluate(state, "train")
    error = np.square(run.predict(state, "train") - images).mean()
    assert found["mse"] == pytest.approx(error, rel=1e-4)
    assert found["explained"] == pytest.approx(1 - (error / images.var(0)).mean(), rel=0.15)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("regression", "digits", "'regression' needs numbers as targets, but those of digits are class numbers"),
        ("multilabel", "digits", "needs 0 or 1 for every class as targets"),
        ("language_modelling", "digits", "needs tokens as targets"),
    ],
)
def test_data_of_another_kind_is_refused_with_the_task_that_suits_it(name, data, words):
    c = config(name, data__name=data)
    with pytest.raises(ConfigError, match=rf"task\.name: .*{words}.*set task\.name to 'classification'"):
        assemble(c)


def test_numbers_as_class_targets_are_refused_with_the_task_that_takes_them():
    with pytest.raises(Exception, match=r'task\.name="regression"'):
        assemble(config("classification"), data=DATA["regression"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"loss__name": "mse"},
            r"loss\.name: 'mse' is for regression or autoencoding; classification takes cross_entropy",
        ),
        ({"task__name": "regression", "augment": "mixup(0.2)", "loss__name": "focal"}, r"loss\.name: 'focal'"),
        (
            {"task__name": "autoencoding", "augment": "mixup(0.2)"},
            r"augment: mixing examples has no meaning in autoencoding",
        ),
        ({"loss__name": "multi_margin", "augment": "mixup(0.2)"}, r"augment: multi_margin takes no mixed targets"),
        ({"metrics": ("r2",)}, r"metrics: 'r2' is not for this task's targets; choose from accuracy"),
        ({"metrics": ("top3_accuracy",)}, r"metrics: 'top3_accuracy' is always 1: there are 3 classes"),
        ({"augment": "pad_crop(5)"}, r"augment: pad_crop with pad 5 leaves nothing of images \[4, 4, 1\]"),
        ({"augment": "cutout(8)"}, r"augment: cutout with size 8 leaves nothing"),
        ({"metrics": ("acuracy",)}, r"metrics: no such metric 'acuracy'; did you mean 'accuracy'"),
        ({"task__name": "rotation", "tta": "flip_lr"}, r"tta: several views"),
        ({"task__name": "clasification"}, r"task\.name: no such choice 'clasification'; did you mean 'classification'"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        assemble(config(fields.pop("task__name", "classification"), **fields), data=(IMAGES, np.arange(64) % 3))


def test_the_loss_that_the_task_takes_by_itself_has_its_options_without_being_named():
    c = config("classification", loss__cross_entropy__label_smoothing=0.1)
    assert configs.choice(c, "loss")[1]["label_smoothing"] == 0.1
    c.task.name = "regression"
    with pytest.raises(ConfigError, match=r"loss\.cross_entropy\.label_smoothing: .* loss\.name is 'mse'"):
        configs.validate(c)


def test_more_metrics_are_measured_on_request_and_the_costly_ones_in_evaluation_alone():
    run = assemble(
        config("classification", metrics=("confusion", "macro_f1", "top2_accuracy"), data__validation=0.0),
        data=(INPUTS, np.arange(64) % 3),
    )
    state = run.init_state()
    found = run.evaluate(state, "train")
    predicted = run.predict(state, "train").argmax(-1)
    expected = np.zeros((3, 3))
    np.add.at(expected, (np.arange(64) % 3, predicted), 1)
    np.testing.assert_array_equal(found["confusion"], expected)
    _, sums = run.train_step(state, *run.feeds["train"].train_batch(run.order, 0))
    assert "confusion" not in sums
    assert "accuracy" in sums


@pytest.mark.parametrize("name", ["classification", "multilabel", "regression"])
def test_views_of_test_time_augmentation_give_the_mean_of_their_predictions(name):
    targets = {
        "classification": np.arange(64) % 3, "multilabel": (np.arange(128).reshape(64, 2) % 3 > 0).astype(int),
        "regression": RNG.uniform(1, 2, 64),
    }[name]  # fmt: skip
    fields = {"task__regression__output": "relu"} if name == "regression" else {}
    fields["data__validation"] = 0.0
    plain, pooled = (assemble(config(name, tta=tta, **fields), data=(IMAGES, targets)) for tta in ("", "flip_lr"))
    state = plain.init_state()
    mirrored = plain.predict_inputs(state, IMAGES[:, :, ::-1])
    expected = (plain.predict(state, "train") + mirrored) / 2
    np.testing.assert_allclose(pooled.predict(state, "train"), expected, rtol=1e-4, atol=1e-6)


def own_task(loss, facts):
    return dataclasses.replace(TASKS["classification"](loss, facts), as_floats=None)


def test_a_task_of_yours_says_what_targets_it_needs(monkeypatch):
    c = config("tasks_of_the_test:own", loss__name="cross_entropy")
    module = types.ModuleType("tasks_of_the_test")
    module.own = lambda loss, facts: own_task(loss, facts)
    monkeypatch.setitem(sys.modules, "tasks_of_the_test", module)
    with pytest.raises(ConfigError, match=r"task\.name: tasks_of_the_test:own must say what targets it needs"):
        assemble(c, data=DATA["classification"])
    module.own.needs = "class"
    run = assemble(c, data=DATA["classification"])
    assert run.task.num_outputs == 2
    c.augment = "mixup(0.4)"
    with pytest.raises(ConfigError, match=r"augment: tasks_of_the_test:own has no way to mix targets"):
        assemble(c, data=DATA["classification"])


def test_rotation_names_its_own_classes(tmp_path):
    c = config(
        "rotation", data__name="digits", metrics=("confusion",), train__total="2steps", train__eval_every="2steps"
    )
    run = assemble(c)
    assert run.names == ("0°", "90°", "180°", "270°")
    train(run, tmp_path / "run")
    assert len(jtrain.evaluate(tmp_path / "run", split="test")["confusion"]) == 4
    jtrain.predict(tmp_path / "run", split="test", out=tmp_path / "p")
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "example,predicted,0°,90°,180°,270°"


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "multi_margin"])
def test_what_guessing_gives_is_told_in_the_loss_of_the_run(loss):
    run = assemble(config("classification", loss__name=loss), data=(INPUTS, np.arange(64) % 3))
    expected = {"cross_entropy": np.log(3), "focal": np.log(3) * (2 / 3) ** 2, "multi_margin": 2 / 3}[loss]
    assert run.task.guess() == pytest.approx(expected, rel=1e-5)


def test_variance_explained_is_that_of_centred_inputs_whatever_is_normalised():
    images = (100 + RNG.normal(size=(64, 5))).astype(np.float32)
    for normalize in (True, False):
        c = config("autoencoding", model__name="autoencoder", data__validation=0.0, data__normalize=normalize)
        c.model.mlp = configs.base().model.mlp
        c.model.autoencoder.features = (4,)
        run = assemble(c, data=(images, None))
        state = run.init_state()
        error = np.square(run.predict(state, "train") - images).mean(0)
        expected = 1 - (error / images.var(0)).mean()
        assert run.evaluate(state, "train")["explained"] == pytest.approx(expected, rel=1e-2, abs=0.05)


UNLABELLED = {"array": IMAGES, "dict": {"train": IMAGES, "test": IMAGES[:8]}, "pair": (IMAGES, None)}


@pytest.mark.parametrize("data", UNLABELLED.values(), ids=UNLABELLED)
def test_a_task_without_labels_takes_inputs_alone(data, tmp_path):
    run = assemble(config("rotation"), data=data)
    assert np.isfinite(run.evaluate(run.init_state(), "train")["loss"])
    np.savez(tmp_path / "a.npz", train_inputs=IMAGES)
    assemble(config("rotation", data__name="npz", data__npz__path=str(tmp_path / "a.npz")))
