import csv
import json
import math

import numpy as np
import pytest
from helpers import blobs, tiny, tiny_run
from studies.torn import TornWhole

from jtrain.assembly import assemble
from jtrain.data.examples import ArrayExamples, DataSet
from jtrain.errors import ConfigError, NonFiniteError
from jtrain.loop import train
from jtrain.state import to_flat
from jtrain.studies import data_size as module
from jtrain.studies.data_size import data_size, nested
from jtrain.studies.data_size.curve import fit
from jtrain.studies.suspects import doubt, exact_duplicates, near_duplicates

NOW = 1000
SIZES = [100, 100, 200, 200, 400, 400, 700, 700, 1000, 1000]


def config(total="20steps", **fields):
    return tiny(total, **({"study__data_size__seeds": 1, "study__data_size__folds": 0} | fields))


def errors(a, b, c, noise, seed=0):
    n = np.array(SIZES)
    return a * (n / NOW) ** -b + c + noise * np.random.default_rng(seed).normal(size=len(n))


# The curve.


def test_curve_without_noise_is_found_again():
    curve = fit(SIZES, errors(0.1, 0.5, 0.05, 0.0), NOW)
    np.testing.assert_allclose(curve.parameters, [0.1, 0.5, 0.05], rtol=1e-3)
    assert curve.at(4000.0) == pytest.approx(0.1 * 0.5 + 0.05, rel=1e-3)
    assert curve.trouble == ""
    assert curve.words() == "3.16·n^-0.50 + 0.05"


@pytest.mark.parametrize("seed", range(3))
def test_what_is_foretold_holds_the_truth_between_its_ends(seed):
    curve = fit(SIZES, errors(0.1, 0.4, 0.05, 0.002, seed), NOW)
    low, high = curve.between(2000.0)
    truth = 0.1 * 2**-0.4 + 0.05
    assert low - 0.003 < truth < high + 0.003  # 8 of 10 refits: a little beyond it may well lie
    assert low < curve.at(2000.0) < high
    assert curve.noise == pytest.approx(0.002, rel=0.9)


def test_more_data_stops_paying_where_doubling_gains_less_than_the_noise():
    curve = fit(SIZES, errors(0.01, 1.0, 0.1, 0.001), NOW)
    gain = curve.gain(curve.stops)
    assert gain == pytest.approx(max(curve.noise, 0.01 * curve.at(curve.stops)), rel=0.01)
    # Closed form, of the fitted curve: a x^-b (1 - 2^-b) is what doubling gains.
    a, b, _ = curve.parameters
    assert curve.stops == pytest.approx(NOW * (a * (1 - 2**-b) / gain) ** (1 / b), rel=0.01)


def test_curve_that_still_falls_does_not_stop():
    assert fit(SIZES, errors(0.5, 0.3, 0.0, 0.0005), NOW).stops == math.inf


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (errors(0.0, 0.5, 0.2, 0.01, 1), "does not fall"),
        ([0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.6, 0.6, 0.2, 0.2], "power law|scatter"),
        (errors(0.05, 0.5, 0.0, 0.02), "scatter|does not fall|power law"),
    ],
)
def test_curve_that_tells_nothing_says_so(values, why):
    trouble = fit(SIZES, np.abs(values), NOW).trouble
    assert any(part in trouble for part in why.split("|")), trouble


def test_too_few_sizes_tell_nothing():
    assert fit([100, 200, 400], [0.3, 0.2, 0.1], NOW).trouble.startswith("3 different sizes")


# The subsets.


def test_subsets_are_nested_and_hold_every_class_by_its_share():
    targets = np.repeat([0, 1, 2], [600, 300, 100])
    rows = nested(targets, 1000, seed=3)
    assert sorted(rows) == list(range(1000))
    for size in (10, 100, 500):
        np.testing.assert_allclose(np.bincount(targets[rows[:size]], minlength=3) / size, [0.6, 0.3, 0.1], atol=0.05)
    assert not np.array_equal(rows, nested(targets, 1000, seed=4))


def test_run_sees_its_own_examples_alone(monkeypatch):
    seen = []

    def look(run, folder):
        seen.append((len(run.order._among), np.unique(np.concatenate([run.order.rows(step) for step in range(20)]))))
        return train(run, folder)

    monkeypatch.setattr(module, "train", look)
    data_size(config(study__data_size__shares=(0.5, 1.0)), data=blobs())
    (half, some), (whole, every) = seen
    assert (half, whole) == (32, 65)
    assert len(some) == 32
    assert set(some) < set(every)


# The suspects.


def probabilities(targets, classes, sure=0.9):
    p = np.full((len(targets), classes), (1 - sure) / (classes - 1))
    p[np.arange(len(targets)), targets] = sure
    return p


def test_flags_are_those_of_the_confident_joint_counted_one_by_one():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4) * 0.5, size=200)
    given = np.array([rng.choice(4, p=row) for row in p]).astype(np.int32)
    found = doubt(given, p, "class")
    threshold = [p[given == label, label].mean() for label in range(4)]
    for i in range(200):  # Northcutt et al. 2021, equations 1 and 2, example by example
        reached = [label for label in range(4) if p[i, label] >= threshold[label]]
        best = max(reached, key=lambda label: p[i, label], default=None)
        assert found.flagged[i] == (best is not None and best != given[i])
        if found.flagged[i]:
            assert found.suggested[i] == best
        margin = p[i, given[i]] - max(p[i, label] for label in range(4) if label != given[i])
        assert found.score[i] == pytest.approx(margin)


def test_unjudged_examples_are_neither_flagged_nor_listed():
    p = probabilities(np.array([0, 1, 2, 0]), 3)
    p[3] = np.nan
    found = doubt(np.array([0, 1, 1, 0], np.int32), p, "class")
    assert found.flagged.tolist() == [False, False, False, False]  # no example says what class 2 takes
    assert found.worst_first().tolist()[0] == 2
    assert 3 not in found.worst_first()


def test_wrong_one_of_several_labels_is_suggested_the_other_way_round():
    truth = np.random.default_rng(1).integers(0, 2, (100, 3))
    p = np.where(truth > 0, 0.95, 0.05)
    p[7] = np.where(truth[7] > 0, 0.99, 0.01)
    given = truth.copy()
    given[7, 2] = 1 - given[7, 2]
    found = doubt(given, p, "classes")
    assert np.flatnonzero(found.flagged).tolist() == [7]
    assert found.worst_first()[0] == 7
    np.testing.assert_array_equal(found.suggested[7], truth[7])


def test_numbers_are_judged_by_the_modified_z_score():
    rng = np.random.default_rng(2)
    predicted = rng.normal(size=300).astype(np.float32)
    given = (predicted + 0.1 * rng.normal(size=300)).astype(np.float32)
    given[11] += 3.0
    found = doubt(given, predicted, "values")
    residual = given.astype(np.float64) - predicted
    z = 0.6745 * (residual - np.median(residual)) / np.median(np.abs(residual - np.median(residual)))
    np.testing.assert_allclose(found.score, -np.abs(z), rtol=1e-6)
    assert found.worst_first()[0] == 11
    assert found.suggested[11] == predicted[11]


def test_duplicates_are_found_exact_and_near():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (1500, 20, 20, 1)).astype(np.uint8)  # two blocks, and sketched
    images[1200] = images[5]
    images[1300] = np.clip(images[8] + rng.integers(-4, 5, images[8].shape), 0, 255)
    examples = ArrayExamples(images, np.zeros(1500, np.int32))
    first = exact_duplicates(examples)
    assert np.flatnonzero(first != np.arange(1500)).tolist() == [1200]
    assert first[1200] == 5
    near = near_duplicates(examples, np.flatnonzero(first == np.arange(1500)))
    assert [(row, before) for row, before, _ in near] == [(1300, 8)]
    mean = np.delete(images, 1200, axis=0).reshape(1499, -1).mean(axis=0)
    a, b = images[1300].ravel() - mean, images[8].ravel() - mean
    assert near[0][2] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# The study.


def mistaken():
    """(three clouds far from one another, 15 labels of 300 wrong, and two inputs twice, one of them with another
    label; numbers of the wrong ones)."""
    rng = np.random.default_rng(5)
    targets = (np.arange(300) % 3).astype(np.int32)
    inputs = (4 * np.eye(6)[targets] + rng.normal(size=(300, 6))).astype(np.float32)
    wrong = rng.choice(280, 15, replace=False)
    targets[wrong] = (targets[wrong] + 1) % 3
    inputs[298], targets[298] = inputs[290], targets[290]
    inputs[299], targets[299] = inputs[291], (targets[291] + 1) % 3
    return {"train": (inputs, targets)}, wrong


def test_planted_wrong_labels_and_duplicates_are_found(tmp_path):
    data, wrong = mistaken()
    options = {"study__data_size__shares": (), "study__data_size__folds": 3, "study__data_size__worst": 15}
    study = data_size(config("60steps", optimizer__lr=0.05, **options), tmp_path, data=data)
    worst = study.found["suspects"]
    assert len(worst) == 15
    assert np.isin(worst, [*wrong, 299]).mean() >= 0.8
    assert study.found["duplicates"] == 2
    assert study.found["contradictions"] >= 1
    with (tmp_path / "suspects.csv").open() as file:
        rows = {int(row["row"]): row for row in csv.DictReader(file)}
    assert rows[298]["duplicate_of"] == "290"
    assert (rows[298]["duplicate"], rows[298]["same_target"]) == ("exact", "yes")
    assert (rows[299]["duplicate_of"], rows[299]["same_target"]) == ("291", "no")
    assert rows[worst[0]]["given"] != rows[worst[0]]["suggested"]
    assert "look mislabelled" in study.conclusion
    assert not (tmp_path / "suspects.png").exists()  # these are no images


def test_models_that_have_learned_nothing_judge_nothing():
    options = {"study__data_size__shares": (), "study__data_size__folds": 2}
    study = data_size(config("5steps", **options), data=blobs())
    assert study.found["mislabelled"] > 0.3 * 72
    assert study.conclusion.startswith("labels cannot be judged: the models contradict")


def test_images_have_a_sheet(tmp_path):
    inputs, targets = blobs()["train"]
    images = np.repeat(inputs[:, :, None, None], 6, axis=2).astype(np.float32)
    options = {"study__data_size__shares": (), "study__data_size__folds": 2, "study__data_size__worst": 5}
    data_size(config("5steps", **options), tmp_path, data={"train": (images, targets)})
    assert (tmp_path / "suspects.png").stat().st_size > 3_000


def test_study_measures_every_share_and_seed(tmp_path):
    options = {"study__data_size__shares": (0.2, 0.4, 0.7, 1.0, 0.05), "study__data_size__seeds": 2}
    study = data_size(config(**options), tmp_path, data=blobs())
    assert [row["examples"] for row in study.rows][:4] == [13, 26, 46, 65]  # 3 are fewer than a batch of 10
    told = json.loads((tmp_path / "study.json").read_text())
    assert told["conclusion"] == study.conclusion
    assert (tmp_path / "study.png").stat().st_size > 10_000


def test_whole_share_is_the_run_alone():
    run = tiny_run(study__data_size__shares=(1.0,), study__data_size__seeds=1, study__data_size__folds=0)
    study = data_size(run)
    rows = [row for row in train(tiny_run()).history if row["split"] == "val"]
    assert study.rows[0]["loss"] == min(row["loss"] for row in rows)
    assert study.rows[0]["1 − accuracy"] == 1 - max(row["accuracy"] for row in rows)


def test_run_is_left_as_it_was():
    options = {"study__data_size__shares": (0.5, 1.0), "study__data_size__folds": 2, "study__data_size__seeds": 1}
    run, control = tiny_run(**options), tiny_run(**options)
    before, inputs = run.config.to_json_best_effort(), run.data.train.arrays()[0].copy()
    data_size(run)
    assert run.config.to_json_best_effort() == before
    np.testing.assert_array_equal(run.data.train.arrays()[0], inputs)
    after, alone = (to_flat(train(each).state) for each in (run, control))
    for path, leaf in alone.items():
        np.testing.assert_array_equal(np.asarray(after[path]), np.asarray(leaf), err_msg=path)


def test_killed_study_goes_on_where_it_was(tmp_path, monkeypatch):
    original, done = module._trained, []

    def kill(run, size, *given):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(size)
        return original(run, size, *given)

    given = config(study__data_size__shares=(0.3, 0.5, 0.8, 1.0))
    monkeypatch.setattr(module, "_trained", kill)
    with pytest.raises(KeyboardInterrupt):
        data_size(given, tmp_path, data=blobs())
    again = []
    monkeypatch.setattr(module, "_trained", lambda run, size, *g: again.append(size) or original(run, size, *g))
    study = data_size(given, tmp_path, data=blobs())
    assert (done, again) == ([20, 32], [52, 65])
    assert [row["examples"] for row in study.rows if row["share"] <= 1] == [20, 32, 52, 65]


def test_run_that_fails_is_told_and_the_others_count(monkeypatch):
    def fail(run, folder):
        if run.order.examples == 32:
            raise NonFiniteError("loss is not finite at update 3")
        return train(run, folder)

    monkeypatch.setattr(module, "train", fail)
    study = data_size(config(study__data_size__shares=(0.5, 1.0)), data=blobs())
    assert [row.get("failed") for row in study.rows] == [1, None]


def test_study_whose_runs_all_fail_has_no_answer_and_does_not_crash():
    options = {"study__data_size__shares": (0.5, 1.0), "study__data_size__folds": 2, "optimizer__name": "sgd"}
    study = data_size(config(optimizer__lr=1000.0, **options), data=blobs())
    assert all(row["failed"] for row in study.rows)
    assert study.conclusion.startswith("what more data would bring cannot be told: 0 different sizes")
    assert "labels are not judged" in study.conclusion


def test_all_shares_and_seeds_share_one_compiled_step():
    run = assemble(config(study__data_size__shares=(0.4, 0.6, 1.0), study__data_size__seeds=2), data=blobs())
    data_size(run)
    assert run.train_steps._cache_size() == 1


def test_regression_is_judged_by_its_own_metric_and_residuals():
    rng = np.random.default_rng(6)
    inputs = rng.normal(size=(120, 6)).astype(np.float32)
    values = (inputs @ rng.normal(size=6)).astype(np.float32)
    values[17] += 40.0
    options = {"study__data_size__shares": (1.0,), "study__data_size__folds": 2, "task__name": "regression"}
    study = data_size(config("60steps", **options), data={"train": (inputs, values)})
    assert study.found["of"] == "1 − r2"
    assert study.found["suspects"][0] == 17


def test_data_without_a_validation_split_is_refused():
    with pytest.raises(ConfigError, match=r"data\.validation: data_size judges by a validation split"):
        data_size(config(data__validation=0.0), data=blobs())


def test_suspects_of_other_targets_are_refused(tmp_path):
    options = {"study__data_size__shares": (), "study__data_size__folds": 2}
    inputs, targets = blobs()["train"]
    data_size(config("5steps", **options), tmp_path, data={"train": (inputs, targets)})
    others, own = targets.copy(), tiny_run().data.val.base.rows
    others[own] = (others[own] + 1) % 3  # which a fingerprint of the training examples does not show
    with pytest.raises(ConfigError, match=r"fold-0 of .* left out other examples"):
        data_size(config("5steps", **options), tmp_path, data={"train": (inputs, others)})


def test_suspects_are_looked_for_beside_records_that_cannot_be_read():
    options = {"study__data_size__shares": (), "study__data_size__folds": 2, "data__broken": 1}
    data = DataSet("torn", TornWhole(*blobs()["train"], torn=(0,)), None, None, 3)
    study = data_size(config("5steps", **options), data=data)
    assert len(study.found["suspects"]) == 48
    assert 0 not in study.found["suspects"]


def test_one_fold_is_refused():
    with pytest.raises(ConfigError, match=r"study\.data_size\.folds: must be 0 .* or at least 2"):
        data_size(config(study__data_size__shares=(), study__data_size__folds=1), data=blobs())


def test_shares_smaller_than_a_batch_are_refused():
    with pytest.raises(ConfigError, match=r"study\.data_size\.shares: each is fewer than a batch of 10"):
        data_size(config(study__data_size__shares=(0.01,)), data=blobs())
