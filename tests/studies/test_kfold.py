"""Cross-validation: folds as scikit-learn cuts them, scores as it finds them, and nothing that leaks."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import blobs, tiny, tiny_run
from sklearn import linear_model, model_selection
from studies.torn import Torn, TornWhole

from jtrain import assembly, pipeline
from jtrain.assembly import assemble
from jtrain.data.examples import ArrayExamples, DataSet, targets_of
from jtrain.errors import ConfigError, DataError, NonFiniteError
from jtrain.loop import train
from jtrain.state import to_flat
from jtrain.studies import journal
from jtrain.studies import kfold as module
from jtrain.studies.folds import cut, fold_run, pool_of, rare, read_groups
from jtrain.studies.kfold import kfold, out_of_fold

TARGETS = np.random.default_rng(3).integers(0, 3, size=60)
GROUPS = np.random.default_rng(4).integers(0, 12, size=60)


def config(**fields):
    return tiny("8steps", study__kfold__folds=3, **fields)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(run, study, its workdir) of three folds."""
    run, folder = assemble(config(), data=blobs()), tmp_path_factory.mktemp("kfold") / "w"
    return run, kfold(run, folder), folder


def host(state):
    return jax.tree.map(np.asarray, to_flat(state))


@pytest.mark.parametrize(
    ("kind", "groups", "splitter"),
    [
        ("class", None, model_selection.RepeatedStratifiedKFold),
        ("values", None, model_selection.RepeatedKFold),
        ("class", GROUPS, model_selection.StratifiedGroupKFold),
        ("values", GROUPS, model_selection.GroupKFold),
    ],
)
def test_folds_are_those_of_scikit_learn(kind, groups, splitter):
    found = cut(TARGETS, kind, 4, seed=7, repeats=2, groups=groups)
    if groups is None:
        expected = list(splitter(n_splits=4, n_repeats=2, random_state=7).split(TARGETS, TARGETS))
    else:
        drawn = np.random.RandomState(7)
        twice = [splitter(4, shuffle=True, random_state=drawn) for _ in range(2)]
        expected = [pair for one in twice for pair in one.split(TARGETS, TARGETS, groups)]
    assert len(found) == len(expected) == 8
    for own, others in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own[0], others[0])
        np.testing.assert_array_equal(own[1], others[1])


def test_too_few_examples_groups_or_members_of_a_class_are_refused_or_told():
    with pytest.raises(ConfigError, match=r"study.kfold.folds: 70 folds of 60 examples; use 60"):
        cut(TARGETS, "values", 70, seed=0, key="study.kfold.folds")
    with pytest.raises(ConfigError, match="13 folds of 12 groups"):
        cut(TARGETS, "class", 13, seed=0, groups=GROUPS)
    with pytest.raises(ConfigError, match="folds: 30 folds, but no class has as many examples"):
        cut(TARGETS, "class", 30, seed=0)
    scarce = np.array([0] * 10 + [1] * 2)
    assert rare(scarce, "class", 3) == [1]
    assert len(cut(scarce, "class", 3, seed=0)) == 3


def test_the_validation_cut_is_back_in_its_place_and_the_sources_own_comes_behind():
    run = tiny_run()
    inputs, targets = pool_of(run).arrays()
    np.testing.assert_array_equal(inputs, blobs()["train"][0])
    np.testing.assert_array_equal(targets, blobs()["train"][1])
    assert len(pool_of(run, test=True)) == 96
    np.testing.assert_array_equal(pool_of(run, val=False).arrays()[0], run.data.train.arrays()[0])
    own = {"train": blobs()["train"], "val": blobs()["test"]}
    np.testing.assert_array_equal(
        pool_of(assemble(tiny(), data=own)).arrays()[1], np.concatenate([own["train"][1], own["val"][1]])
    )
    some = pool_of(assemble(tiny(data__examples=30), data=blobs()))
    assert len(some) == 30 + 7
    assert {tuple(row) for row in some.arrays()[0]} <= {tuple(row) for row in blobs()["train"][0]}


def test_groups_come_from_a_file_for_the_pool_or_for_what_it_was_taken_from(tmp_path):
    path = tmp_path / "groups.npy"
    np.save(path, np.arange(72) // 4)
    pool = pool_of(assemble(tiny(data__examples=30), data=blobs()))
    groups = read_groups(str(path), pool)
    places = [int(np.flatnonzero((blobs()["train"][0] == row).all(axis=1))[0]) for row in pool.arrays()[0]]
    np.testing.assert_array_equal(groups, np.array(places) // 4)
    np.save(path, np.arange(5))
    with pytest.raises(ConfigError, match=r"study.kfold.groups: .* has 5 groups for 37 examples"):
        read_groups(str(path), pool)
    with pytest.raises(DataError, match="no file"):
        read_groups(str(tmp_path / "other.npy"), pool)


def linear(total, **fields):
    """Full-batch gradient descent of a linear model until it stands still: folds of 80 examples to train on."""
    return tiny(
        total, 80, model__mlp__features=(), optimizer__name="sgd", optimizer__sgd__momentum=0.9, optimizer__lr=0.3,
        train__eval_every="100%", log__every="100%", schedule__name="constant", **fields,
    )  # fmt: skip


def test_scores_of_least_squares_equal_scikit_learns():
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(120, 4)).astype(np.float32)
    targets = (inputs @ [1.0, -2.0, 0.5, 0.0] + generator.normal(size=120)).astype(np.float32)
    study = kfold(linear("120steps", task__name="regression", study__kfold__folds=3), data=(inputs, targets))
    splits = model_selection.KFold(3, shuffle=True, random_state=0)
    expected = model_selection.cross_val_score(linear_model.LinearRegression(), inputs, targets, cv=splits)
    np.testing.assert_allclose([row["r2"] for row in study.rows[:3]], expected, atol=1e-3)
    assert study.found["mean"]["r2"] == pytest.approx(expected.mean(), abs=1e-3)
    assert study.found["sd"]["r2"] == pytest.approx(expected.std(ddof=1), abs=1e-3)


def test_scores_of_logistic_regression_equal_scikit_learns():
    generator = np.random.default_rng(1)
    targets = np.arange(100) % 3
    inputs = (generator.normal(size=(3, 4))[targets] + 1.5 * generator.normal(size=(100, 4))).astype(np.float32)
    study = kfold(linear("400steps", study__kfold__folds=5), data=(inputs, targets))
    splits = model_selection.StratifiedKFold(5, shuffle=True, random_state=0)
    model = linear_model.LogisticRegression(C=np.inf, max_iter=1000, tol=1e-8)
    for name, scoring, sign in (("accuracy", "accuracy", 1), ("loss", "neg_log_loss", -1)):
        expected = sign * model_selection.cross_val_score(model, inputs, targets, cv=splits, scoring=scoring)
        np.testing.assert_allclose([row[name] for row in study.rows[:5]], expected, atol=1e-3)


def trained_fold(spoil):
    """Weights of a fold, statistics of the data among them, when what it leaves out is changed."""
    inputs, targets = (array.copy() for array in blobs()["train"])
    rows = cut(targets, "class", 3, seed=0)[1]
    if spoil:
        inputs[rows[1]] = 1e4 * inputs[rows[1]] + 7.0
        targets[rows[1]] = 0
    run = assemble(config(), data=(inputs, targets))
    found = host(train(fold_run(run, pool_of(run), rows)).state)
    return {path: leaf for path, leaf in found.items() if path.startswith(("params/", "model_state/"))}


def test_nothing_of_what_a_fold_leaves_out_is_in_its_weights(monkeypatch):
    clean, spoiled = trained_fold(False), trained_fold(True)
    assert any("normalize" in path for path in clean)
    for path, leaf in clean.items():
        np.testing.assert_array_equal(leaf, spoiled[path], err_msg=path)

    def leaking(config, dataset):
        inputs, _ = dataset.train.base.base.arrays()  # of all examples, as scaling before the cut would be
        return inputs.mean(axis=0), inputs.std(axis=0)

    monkeypatch.setattr(assembly.pipeline, "statistics", leaking)
    clean, spoiled = trained_fold(False), trained_fold(True)
    assert any(not np.array_equal(leaf, spoiled[path]) for path, leaf in clean.items())
    assert pipeline.statistics is leaking


def test_each_example_is_predicted_by_the_model_that_never_saw_it(done):
    run, study, folder = done
    kept = np.load(folder / "out_of_fold.npz")
    pool = pool_of(run)
    cuts = cut(targets_of(pool, np.arange(72)), "class", 3, seed=run.config.seed)
    assert kept["predictions"].shape == (72, 3)
    np.testing.assert_array_equal(kept["targets"], blobs()["train"][1])
    inputs, targets = blobs()["train"]
    for number, (rows, left_out) in enumerate(cuts):
        np.testing.assert_array_equal(kept["fold"][0, left_out], number)
        # From its own arrays, with compiled steps of its own: the same bits, so folds share no state through theirs.
        parts = [ArrayExamples(inputs[some], targets[some]) for some in (rows, left_out)]
        fold = run.again(run.config, DataSet("alone", *parts, None, 3, ready=True))
        found = fold.predict(train(fold).state, "val")
        np.testing.assert_array_equal(kept["predictions"][left_out], found)
    right = kept["predictions"].argmax(axis=1) == kept["targets"]
    assert study.found["pooled"]["accuracy"] == pytest.approx(right.mean())
    alone = np.array([right[left_out].mean() for _, left_out in cuts])
    np.testing.assert_allclose([row["accuracy"] for row in study.rows[:3]], alone)
    assert study.found["mean"]["accuracy"] == pytest.approx(alone.mean())
    assert study.found["sd"]["accuracy"] == pytest.approx(alone.std(ddof=1))


def test_its_files_tell_the_curves_and_the_conclusion(done):
    _, study, folder = done
    pieces = [json.loads(line) for line in (folder / "study.jsonl").read_text().splitlines()][1:]
    assert [piece["key"] for piece in pieces] == ["fold-0", "fold-1", "fold-2"]
    for piece in pieces:
        assert [step for step, _ in piece["value"]["curves"]["val"]] == [7, 8]
    assert json.loads((folder / "study.json").read_text())["conclusion"] == study.conclusion
    assert f"accuracy {study.found['mean']['accuracy']:.4g} ± " in study.conclusion
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")


def test_after_a_kill_only_what_is_missing_is_trained(done, monkeypatch, tmp_path):
    run, study, _ = done
    trained = []

    def counting(fold, folder):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(fold)
        return train(fold, folder)

    monkeypatch.setattr(module, "train", counting)
    with pytest.raises(KeyboardInterrupt):
        kfold(run, tmp_path / "w")
    monkeypatch.setattr(module, "train", lambda *given: trained.append(None) or train(*given))
    again = kfold(run, tmp_path / "w")
    assert len(trained) == 3
    assert again.rows == study.rows
    (tmp_path / "w" / "fold-1.npy").unlink()
    with pytest.raises(DataError, match=r"fold-1.npy is lost or damaged"):
        kfold(run, tmp_path / "w")


def test_what_went_in_is_as_it_was(done):
    run, *_ = done
    before = host(run.init_state())
    text, data = str(run.config), blobs()["train"][0].copy()
    first = host(train(run).state)
    kfold(run)
    assert str(run.config) == text
    np.testing.assert_array_equal(blobs()["train"][0], data)
    for path, leaf in host(run.init_state()).items():
        np.testing.assert_array_equal(leaf, before[path])
    for path, leaf in host(train(run).state).items():
        np.testing.assert_array_equal(leaf, first[path])


def test_a_fold_that_fails_is_told_and_left_out_of_the_mean(done, monkeypatch):
    run, study, _ = done
    calls = []

    def failing(fold, folder):
        calls.append(fold)
        if len(calls) in failures:
            raise NonFiniteError("the loss of update 3 is nan")
        return train(fold, folder)

    failures = {2}
    monkeypatch.setattr(module, "train", failing)
    found = kfold(run)
    assert np.isnan(found.rows[1]["accuracy"])
    assert found.found["failed"] == 1
    assert found.found["mean"]["accuracy"] == pytest.approx(
        np.mean([study.rows[number]["accuracy"] for number in (0, 2)])
    )
    assert "fold 1 failed and is not in it: the loss of update 3 is nan" in found.conclusion
    failures, calls[:] = {1, 2, 3}, []
    none = kfold(run)
    assert not none.ok
    assert none.conclusion.startswith("no answer")


def test_divergence_is_a_result(tmp_path):
    inputs = blobs()["train"][0]
    lost = linear("60steps", task__name="regression", study__kfold__folds=2, train__batch_size=20)
    lost.optimizer.lr = 1000.0
    study = kfold(lost, tmp_path / "w", data=(inputs, inputs.sum(axis=1)))
    assert not study.ok
    assert "no fold was trained to its end" in study.conclusion
    assert (tmp_path / "w" / "study.png").is_file()


def test_out_of_fold_gives_the_mean_over_cuts_and_nan_for_what_none_leaves_out(done):
    run, *_ = done
    pool = pool_of(run)
    rows = np.arange(72)
    cuts = [(rows[24:], rows[:24]), (rows[:36], rows[36:48]), (rows[36:], rows[:12])]
    with journal.open_study("data_size", run, None) as log:
        found = out_of_fold(log, pool, cuts, prefix="part")
        assert log.has("part-2")
    assert found.dtype == np.float32
    assert np.isnan(found[24:36]).all()
    assert np.isnan(found[48:]).all()
    alone = []
    for one in (0, 2):
        fold = fold_run(run, pool, cuts[one])
        alone.append(fold.predict(train(fold).state, "val"))
    np.testing.assert_allclose(found[:12], (alone[0][:12] + alone[1]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(found[12:24], alone[0][12:])


def test_a_record_that_cannot_be_read_has_no_weight_and_no_prediction():
    data = DataSet("torn", Torn(*blobs()["train"], torn=(5,)), None, None, 3)
    with journal.open_study("kfold", config(data__broken=2), None, data=data) as log:
        pool = pool_of(log.run)
        cuts = cut(targets_of(pool, np.arange(72)), "class", 3, seed=0)
        (left_out,) = (number for number, (_, out) in enumerate(cuts) if 5 in out)
        found = module.train_folds(log, pool, cuts)
    predictions = module.mean_predictions(pool, cuts, found)
    assert np.flatnonzero(np.isnan(predictions).any(axis=1)).tolist() == [5]
    assert found[left_out][0]["totals"]["accuracy"][-1] == len(cuts[left_out][1]) - 1


@pytest.mark.parametrize(("examples", "chosen"), [(TornWhole, 0), (Torn, 64)])
def test_a_study_passes_over_what_a_run_may_pass_over(examples, chosen, tmp_path):
    torn = [0] if chosen else [0, int(tiny_run().data.val.base.rows[0])]  # one of the training part, one of the other
    data = DataSet("torn", examples(*blobs()["train"], torn), None, None, 3)
    given = tiny("8steps", study__kfold__folds=2, data__broken=1, data__examples=chosen)
    assert len(pool_of(assemble(given, data=data))) == (chosen + 7 if chosen else 72)
    assert kfold(given, tmp_path / "w", data=data).ok
    predictions = np.load(tmp_path / "w" / "out_of_fold.npz")["predictions"]
    assert np.flatnonzero(np.isnan(predictions).any(axis=1)).tolist() == torn


def test_pieces_of_other_groups_are_refused(tmp_path):
    path = str(tmp_path / "groups.npy")
    np.save(path, np.arange(72) % 9)
    given = tiny("8steps", study__kfold__folds=2, study__kfold__groups=path)
    first = kfold(given, tmp_path / "w", data=blobs())
    assert kfold(given, tmp_path / "w", data=blobs()).rows == first.rows
    np.save(path, np.random.default_rng(3).permutation(np.arange(72) % 9))
    with pytest.raises(ConfigError, match=r"fold-0 of .* the groups \(or data\) are others .* another --workdir"):
        kfold(given, tmp_path / "w", data=blobs())


def test_folds_share_compiled_steps_only_where_these_hold_nothing_of_the_data():
    run = tiny_run()
    pool, known = pool_of(run), []
    cuts = cut(targets_of(pool, np.arange(72)), "class", 3, seed=0)
    shared = [fold_run(run, pool, rows, known=known) for rows in cuts]
    assert len(known) == 1
    assert shared[2].phases is shared[0].phases
    assert shared[2].feeds["train"] is not shared[0].feeds["train"]
    longer = fold_run(run, pool, (cuts[0][0][:-1], cuts[0][1]), known=known)
    assert longer.phases is not shared[0].phases  # its epochs are others
    generator = np.random.default_rng(0)
    values = generator.normal(size=(60, 4)).astype(np.float32), generator.normal(size=60).astype(np.float32)
    numbers = assemble(tiny(task__name="regression"), data=values)
    pool, known = pool_of(numbers), []
    two = [fold_run(numbers, pool, rows, known=known) for rows in cut(values[1], "values", 3, seed=0)[:2]]
    assert two[0].phases is not two[1].phases  # the spread of the targets is in the loss


def test_a_warning_tells_what_makes_scores_other_than_they_seem():
    targets = np.array([0] * 10 + [1] * 2)
    stopping = tiny(early_stopping__metric="val/loss")
    run = dataclasses.replace(tiny_run(), config=stopping)
    lines = module._warnings(run, targets, 3)
    assert "fewer examples than folds" in lines[0]
    assert "early_stopping looks at the examples left out" in lines[1]


@pytest.mark.parametrize("task", ["autoencoding", "multilabel"])
def test_other_tasks_are_cut_too(task):
    inputs, targets = blobs()["train"]
    given = (inputs, np.eye(3, dtype=np.int32)[targets]) if task == "multilabel" else (inputs, targets)
    study = kfold(tiny("8steps", study__kfold__folds=2, task__name=task), data=given)
    assert np.isfinite(study.found["mean"][study.found["watch"]])
