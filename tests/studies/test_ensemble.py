"""Ensembles: each rule against a slow plain version, members that are runs of their own, and what stays untouched."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import blobs, tiny
from sklearn import metrics as reference
from studies.torn import TornWhole

from jtrain import config_files
from jtrain.assembly import assemble
from jtrain.data.examples import ArrayExamples, DataSet
from jtrain.errors import ConfigError, DataError, NonFiniteError
from jtrain.io import weights as weight_files
from jtrain.loop import train
from jtrain.state import to_flat
from jtrain.studies import combine
from jtrain.studies import ensemble as module
from jtrain.studies.combine import Combined
from jtrain.studies.ensemble import ensemble, predict_ensemble
from jtrain.studies.ensemble.members import Predictor, Weights, peeked
from jtrain.studies.ensemble.report import judge, report
from jtrain.weights_source import evaluated, read_checkpoint

GENERATOR = np.random.default_rng(5)
P = GENERATOR.dirichlet(np.ones(3), size=(4, 2, 30)).astype(np.float32)  # 4 members, 2 views: ties occur
TARGETS = GENERATOR.integers(0, 3, size=30)


def config(**fields):
    return tiny("8steps", **({"study__ensemble__members": 3} | fields))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(run, study, its workdir) of three members by seed."""
    run, folder = assemble(config(), data=blobs()), tmp_path_factory.mktemp("ensemble") / "w"
    return run, ensemble(run, folder), folder


def host(state):
    return jax.tree.map(np.asarray, to_flat(state))


def slow_vote(ballots, likely):
    """The label with most ballots; of several the likeliest."""
    votes = collections.Counter(ballots)
    return max(range(3), key=lambda label: (votes[label], likely[label]))


def test_the_mean_rule_is_the_mean_over_members_and_views():
    found = combine.mean(P, "class")
    expected = sum(P[m, v].astype(np.float64) for m in range(4) for v in range(2)) / 8
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    np.testing.assert_array_equal(found.labels, [row.tolist().index(max(row)) for row in expected])


def test_in_a_vote_every_view_of_every_member_has_one():
    found = combine.vote(P, "class")
    for n in range(30):
        ballots = [int(np.argmax(P[m, v, n])) for m in range(4) for v in range(2)]
        assert found.labels[n] == slow_vote(ballots, P[:, :, n].mean(axis=(0, 1)))
        np.testing.assert_allclose(found.values[n], np.bincount(ballots, minlength=3) / 8)


def test_averaging_then_voting_gives_each_member_one_vote():
    found = combine.average_then_vote(P, "class")
    for n in range(30):
        ballots = [int(np.argmax((P[m, 0, n] + P[m, 1, n]) / 2)) for m in range(4)]
        assert found.labels[n] == slow_vote(ballots, P[:, :, n].mean(axis=(0, 1)))
        np.testing.assert_allclose(found.values[n], np.bincount(ballots, minlength=3) / 4)
    assert (found.labels != combine.vote(P, "class").labels).any()
    one = P[:, :1]
    np.testing.assert_array_equal(combine.average_then_vote(one, "class").labels, combine.vote(one, "class").labels)


def test_votes_of_labels_and_of_tokens_are_taken_one_by_one():
    labels = GENERATOR.uniform(size=(4, 1, 20, 5)).astype(np.float32)
    found = combine.vote(labels, "classes")
    for n, k in np.ndindex(20, 5):
        ballots = int((labels[:, 0, n, k] > 0.5).sum())
        expected = labels[:, 0, n, k].mean() > 0.5 if ballots == 2 else ballots > 2
        assert found.labels[n, k] == expected
    tokens = P[:, :, :, None].repeat(2, axis=3)  # [members, views, examples, length, tokens]
    np.testing.assert_array_equal(combine.vote(tokens, "tokens").labels[:, 1], combine.vote(P, "class").labels)


def test_numbers_are_combined_by_mean_and_median():
    values = GENERATOR.normal(size=(5, 2, 10, 3)).astype(np.float32)
    np.testing.assert_allclose(combine.mean(values, "values").values, values.mean(axis=(0, 1)), atol=1e-6)
    own = (values[:, 0] + values[:, 1]) / 2
    middle = np.sort(own, axis=0)[2]
    np.testing.assert_allclose(combine.median(values, "values").values, middle, rtol=1e-6)
    assert list(combine.rules("values")) == ["mean", "median"]
    assert list(combine.rules("class")) == ["mean", "vote", "average_then_vote"]


def test_scores_equal_scikit_learns():
    found = combine.mean(P, "class")
    scores = combine.scores(found, TARGETS, "class")
    assert scores["accuracy"].mean() == pytest.approx(reference.accuracy_score(TARGETS, found.labels))
    p = found.values.astype(np.float64)
    nll = reference.log_loss(TARGETS, p / p.sum(axis=1, keepdims=True), labels=[0, 1, 2])
    assert scores["nll"].mean() == pytest.approx(nll, abs=1e-6)
    values = GENERATOR.normal(size=(30, 2)).astype(np.float32)
    targets = GENERATOR.normal(size=(30, 2)).astype(np.float32)
    scores = combine.scores(Combined(values, None), targets, "values")
    assert scores["mse"].mean() == pytest.approx(reference.mean_squared_error(targets, values), rel=1e-6)
    assert scores["mae"].mean() == pytest.approx(reference.mean_absolute_error(targets, values), rel=1e-6)
    assert set(combine.scores(combine.vote(P, "class"), TARGETS, "class")) == {"accuracy"}


def test_the_calibration_error_is_that_of_a_plain_loop():
    found, total = combine.mean(P, "class"), 0.0
    for low in range(combine.BINS):
        confidence = found.values.max(axis=1)
        inside = (confidence > low / combine.BINS) & (confidence <= (low + 1) / combine.BINS)
        if inside.any():
            right = (found.labels[inside] == TARGETS[inside]).mean()
            total += inside.mean() * abs(right - confidence[inside].mean())
    assert combine.calibration_error(found, TARGETS, "class") == pytest.approx(total, rel=1e-5)
    sure = Combined(np.eye(3, dtype=np.float32)[TARGETS], TARGETS, True)
    assert combine.calibration_error(sure, TARGETS, "class") == 0.0


def test_agreement_is_the_share_of_equal_labels_and_of_numbers_the_correlation_of_errors():
    found = combine.agreement(P, TARGETS, "class")
    own = P.mean(axis=1).argmax(axis=-1)
    assert found[1, 3] == pytest.approx(np.mean([a == b for a, b in zip(own[1], own[3], strict=True)]))
    np.testing.assert_allclose(np.diag(found), 1.0)
    values, targets = GENERATOR.normal(size=(3, 1, 40)), GENERATOR.normal(size=40)
    errors = values[:, 0] - targets[None]
    expected = np.corrcoef(errors[0], errors[2])[0, 1]
    assert combine.agreement(values, targets, "values")[0, 2] == pytest.approx(expected)


def test_the_noise_of_a_gain_is_that_of_its_paired_differences():
    members = GENERATOR.normal(size=(4, 400))
    together = members.mean(axis=0) + GENERATOR.normal(0.2, 1.0, size=400)
    found = combine.gain(together, members, higher_is_better=True)
    difference = together - members.mean(axis=0)
    assert found.value == pytest.approx(difference.mean())
    assert found.examples == pytest.approx(difference.std() / 20, rel=0.1)
    assert found.members == pytest.approx(members.mean(axis=1).std(ddof=1) / 2)
    assert combine.gain(together, members, higher_is_better=False).value == pytest.approx(-difference.mean())
    nothing = combine.gain(members.mean(axis=0), members, higher_is_better=True)
    assert not nothing.sure


def test_members_are_runs_of_their_own_seed_and_predict_alike_later(done):
    run, study, folder = done
    assert [row["model"] for row in study.rows[:3]] == ["seed 0", "seed 1", "seed 2"]
    found = []
    for number in range(3):
        alone = train(run.reseed(number))
        restored = read_checkpoint(folder / f"member{number}", "latest", key="", event=lambda *told: None)
        for path, leaf in evaluated(host(alone.state))[0].items():
            np.testing.assert_array_equal(restored.state[path], leaf)
        # Its config.json has its seed, which would cut another validation split: this tells that it is another one.
        own = assemble(config_files.from_json(folder / f"member{number}" / "config.json"), data=blobs())
        assert restored.control["data"] == run.fingerprint
        assert (own.fingerprint == run.fingerprint) == (number == 0)
        found.append(run.predict(alone.state, "test"))
        assert study.rows[number]["accuracy"] == pytest.approx(alone.metrics["test"]["accuracy"])
    expected = np.mean(found, axis=0)
    kept = predict_ensemble(folder, "test", data=blobs())
    np.testing.assert_allclose(kept.values, expected, atol=1e-6)
    right = (expected.argmax(axis=1) == blobs()["test"][1]).mean()
    assert study.found["rules"]["mean"]["accuracy"] == pytest.approx(right)
    by_inputs = predict_ensemble(folder, blobs()["test"][0], "vote", data=blobs())
    np.testing.assert_array_equal(by_inputs.labels, combine.vote(np.stack(found)[:, None], "class").labels)


def test_what_cannot_be_predicted_is_told(done, tmp_path):
    *_, folder = done
    with pytest.raises(ConfigError, match=r"no such rule 'votes' .*use one of .*vote"):
        predict_ensemble(folder, rule="votes", data=blobs())
    with pytest.raises(ConfigError, match="no such split"):
        predict_ensemble(folder, "tset", data=blobs())
    with pytest.raises(ConfigError, match=r"must be \[n, 6\] float32"):
        predict_ensemble(folder, np.zeros((2, 5), np.float32), data=blobs())
    with pytest.raises(ConfigError, match="arrays of a program"):
        predict_ensemble(folder)
    with pytest.raises(DataError, match="no finished ensemble"):
        predict_ensemble(tmp_path)


def test_after_a_kill_only_what_is_missing_is_trained(done, monkeypatch, tmp_path):
    run, study, _ = done
    trained = []

    def counting(member, folder):
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(member)
        return train(member, folder)

    monkeypatch.setattr(module, "train", counting)
    with pytest.raises(KeyboardInterrupt):
        ensemble(run, tmp_path / "w")
    monkeypatch.setattr(module, "train", lambda *given: trained.append(None) or train(*given))
    assert ensemble(run, tmp_path / "w").rows == study.rows
    assert len(trained) == 3
    (tmp_path / "w" / "predictions-1.npy").unlink()
    with pytest.raises(DataError, match=r"predictions-1.npy is lost or damaged"):
        ensemble(run, tmp_path / "w")


def test_what_went_in_is_as_it_was(done):
    run, *_ = done
    before, text = host(run.init_state()), str(run.config)
    first = host(train(run).state)
    ensemble(run)
    assert str(run.config) == text
    for path, leaf in host(run.init_state()).items():
        np.testing.assert_array_equal(leaf, before[path])
    for path, leaf in host(train(run).state).items():
        np.testing.assert_array_equal(leaf, first[path])


def test_trained_workdirs_are_members_whatever_their_models(done, tmp_path):
    _, study, folder = done
    other = config(model__mlp__features=(5,), seed=3)
    train(assemble(other, data=blobs()), tmp_path / "other")
    paths = (str(folder / "member1"), str(folder / "member2@8"), str(tmp_path / "other"))
    found = ensemble(config(study__ensemble__workdirs=paths), tmp_path / "w", data=blobs())
    assert [row["accuracy"] for row in found.rows[:2]] == [row["accuracy"] for row in study.rows[1:3]]
    alone = assemble(other, data=blobs())
    p = alone.predict(train(alone).state, "test")
    assert found.rows[2]["accuracy"] == pytest.approx((p.argmax(axis=1) == blobs()["test"][1]).mean())
    assert "start from different" in found.found["soup"]
    together = predict_ensemble(tmp_path / "w", data=blobs())
    assert (together.labels == blobs()["test"][1]).mean() == pytest.approx(found.found["rules"]["mean"]["accuracy"])


def test_workdirs_that_do_not_belong_together_are_refused(done, tmp_path):
    *_, folder = done
    one = str(folder / "member1")

    def refused(*paths, data=None, **fields):
        with pytest.raises((ConfigError, DataError)) as error:
            ensemble(config(study__ensemble__workdirs=paths, **fields), data=data or blobs())
        return str(error.value)

    assert "names one run" in refused(one)
    assert "holds no run" in refused(one, str(tmp_path))
    inputs, targets = blobs()["train"]
    fewer = {"train": (inputs, targets), "test": tuple(part[:20] for part in blobs()["test"])}
    assert "was trained on other data (test 24, here 20)" in refused(one, one, data=fewer)
    labels = {name: (x, np.eye(3, dtype=np.int32)[t]) for name, (x, t) in blobs().items()}
    assert "has task.name 'classification'" in refused(one, one, data=labels, task__name="multilabel")
    no_test = {"train": blobs()["train"]}
    assert "may be among these" in refused(one, one, data=no_test)  # it has another seed, so another validation cut


def test_members_by_fold_share_first_weights_and_so_have_a_mean(tmp_path):
    study = ensemble(config(study__ensemble__by="fold", tta="", ema__decay=0.9), tmp_path / "w", data=blobs())
    assert study.found["soup"]["why"] == "mean of weights: all share their first weights"
    mean = weight_files.read(tmp_path / "w" / "soup.safetensors")
    restored = [
        read_checkpoint(tmp_path / "w" / f"member{number}", "latest", key="", event=lambda *told: None)
        for number in range(3)
    ]
    assert [each.control["data"]["train"] for each in restored] == [48] * 3
    states = [each.state for each in restored]
    path = "head/kernel"
    np.testing.assert_allclose(
        mean[f"params/{path}"], np.mean([state[f"ema/{path}"] for state in states], axis=0), rtol=1e-6
    )
    row = next(row for row in study.rows if row["model"] == "mean member, no EMA")
    run = assemble(config(ema__decay=0.9), data=blobs())
    batches = list(run.feeds["test"].eval_batches(run.batch_size))
    predictor = Predictor(run, pretext=True)
    last = []
    for state in states:
        found = Weights.of(state)
        p = predictor(dict(found.arrays) | dict(found.last), batches)[0, :24]
        last.append((p.argmax(axis=1) == blobs()["test"][1]).mean())
    assert row["accuracy"] == pytest.approx(np.mean(last))


def test_without_a_test_split_the_validation_split_judges_and_no_fold_has_it():
    data = blobs()["train"]
    study = ensemble(config(study__ensemble__by="fold", early_stopping__metric="val/loss"), data=data)
    assert study.found["split"] == "val"
    assert "looked at" not in study.conclusion  # members stop by folds of their own
    with pytest.raises(ConfigError, match=r"data.validation"):
        ensemble(config(data__validation=0.0), data=data)


def test_what_looked_at_the_split_that_judges_is_told(done):
    stopping = config(early_stopping__metric="val/loss", study__ensemble__members=2)
    assert "looked at" not in ensemble(stopping, data=blobs()).conclusion
    study = ensemble(stopping, data=blobs()["train"])
    assert study.conclusion.endswith(
        "; early_stopping looked at val: these scores are a little too good; a test split is fair"
    )
    run, _, folder = done
    assert peeked(run, ()) == ""
    assert peeked(run, (str(folder / "member0"), str(folder / "member1@best"))) == "@best"
    assert peeked(dataclasses.replace(run, config=config(plateau__metric="val/loss")), ()) == "plateau"


def test_workdirs_of_one_start_have_a_mean_of_weights_without_a_folder(done, tmp_path):
    run, _, folder = done
    tuned = {"transfer__init_from": str(folder / "member0")}
    paths, states = (str(tmp_path / "1"), str(tmp_path / "2")), []
    for seed, path in enumerate(paths, 1):
        states.append(host(train(assemble(config(seed=seed, **tuned), data=blobs()), path).state))
    study = ensemble(config(study__ensemble__workdirs=paths, **tuned), data=blobs())
    mean = {path: (leaf + states[1][path]) / 2 for path, leaf in states[0].items() if path.startswith("params/")}
    arrays = dict(Weights.of(states[0]).arrays) | mean
    p = Predictor(run, pretext=True)(arrays, run.feeds["test"].eval_batches(run.batch_size))[0, :24]
    nll = -np.log(p[np.arange(24), blobs()["test"][1]]).mean()
    assert study.found["soup"]["nll"] == pytest.approx(nll, rel=1e-5)
    kept = ensemble(config(study__ensemble__workdirs=paths, **tuned), tmp_path / "w", data=blobs())
    assert kept.found["soup"] == study.found["soup"]


def test_workdirs_of_other_views_see_those_of_the_study(tmp_path):
    generator = np.random.default_rng(0)
    images, targets = generator.integers(0, 255, size=(40, 4, 4, 1)).astype(np.uint8), np.arange(40) % 3
    given, found = {"train": (images, targets), "test": (images[:12], targets[:12])}, []
    for name, views in (("a", ""), ("b", "flip_lr")):
        run = assemble(config(tta=views), data=given)
        state = train(run, tmp_path / name).state
        found.append(assemble(config(), data=given).predict(state, "test"))
    paths = (str(tmp_path / "a"), str(tmp_path / "b"))
    study = ensemble(config(study__ensemble__workdirs=paths), tmp_path / "w", data=given)
    assert study.found["views"] == 1
    np.testing.assert_allclose(predict_ensemble(tmp_path / "w", data=given).values, np.mean(found, axis=0), atol=1e-6)
    both = ensemble(config(study__ensemble__workdirs=paths, tta="flip_lr"), data=given)
    assert both.found["views"] == 2


def test_a_fold_of_an_ensemble_may_hold_records_that_cannot_be_read():
    data = DataSet("torn", TornWhole(*blobs()["train"], torn=(0,)), None, ArrayExamples(*blobs()["test"]), 3)
    given = config(study__ensemble__by="fold", study__ensemble__members=2, data__broken=1)
    assert ensemble(given, data=data).ok


def test_members_of_other_folds_are_refused(tmp_path):
    given = config(study__ensemble__by="fold", study__ensemble__members=2)
    ensemble(given, tmp_path / "w", data=blobs())
    others, own = blobs()["train"][1].copy(), assemble(given, data=blobs()).data.val.base.rows
    others[own] = (others[own] + 1) % 3  # which a fingerprint of the training examples does not show
    with pytest.raises(ConfigError, match=r"member 0 of .* left out other examples"):
        ensemble(given, tmp_path / "w", data=blobs() | {"train": (blobs()["train"][0], others)})


def test_views_are_predicted_one_by_one():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, size=(40, 4, 4, 1)).astype(np.uint8)
    given = {"train": (images, np.arange(40) % 3), "test": (images[:12], np.arange(12) % 3)}
    run = assemble(config(tta="flip_lr"), data=given)
    state = run.init_state()
    arrays = Weights.of_state(state).arrays
    found = Predictor(run, pretext=False)(arrays, run.feeds["test"].eval_batches(run.batch_size))[:, :12]
    plain = assemble(config(), data=given)
    for view, inputs in enumerate((images[:12], images[:12, :, ::-1])):
        np.testing.assert_allclose(found[view], plain.predict_inputs(state, inputs), atol=1e-6)
    np.testing.assert_allclose(found.mean(axis=0), run.predict(state, "test"), atol=1e-6)


def test_numbers_are_judged_by_their_errors_and_drawn(tmp_path):
    inputs = blobs()["train"][0]
    data = {"train": (inputs, inputs[:, 0].copy()), "test": (blobs()["test"][0], blobs()["test"][0][:, 0].copy())}
    study = ensemble(config(task__name="regression", study__ensemble__members=2), tmp_path / "w", data=data)
    assert set(study.found["rules"]) == {"mean", "median"}
    assert study.found["rules"]["mean"]["gain"] > 0  # the square of a mean error is below the mean of squares
    assert (tmp_path / "w" / "study.png").read_bytes().startswith(b"\x89PNG")


def test_a_member_that_fails_is_told_and_one_alone_is_no_answer(done, monkeypatch):
    run, *_ = done
    failing = {1}

    def sometimes(member, folder):
        if member.config.seed in failing:
            raise NonFiniteError("the loss of update 3 is nan")
        return train(member, folder)

    monkeypatch.setattr(module, "train", sometimes)
    found = ensemble(run)
    assert found.ok
    assert "1 failed and are not in it: the loss of update 3 is nan" in found.conclusion
    assert found.found["failed"] == ["seed 1"]
    failing.add(2)
    none = ensemble(run)
    assert not none.ok
    assert none.conclusion.startswith("no answer: 1 of 3 members")


def test_the_conclusion_says_whether_the_gain_is_more_than_noise(done):
    _, study, folder = done
    told = json.loads((folder / "study.json").read_text())
    assert told["conclusion"] == study.conclusion
    members = np.zeros((3, 1, 200, 2), np.float32)
    members[..., 1] = 0.4
    members[..., 0] = 0.6
    for number in range(3):  # each is wrong on its own third of the examples alone
        members[number, 0, number * 60 : (number + 1) * 60] = (0.4, 0.6)
    names = [{"member": f"m{number}", "failed": "", "last": {}, "workdir": None, "step": 1} for number in range(3)]
    judged = judge("class", members, np.zeros(200, np.int64))
    sure = report(None, "test", names, judged, "class", "")
    assert "accuracy 1 on test, the mean member 0.7" in sure.conclusion
    assert ", more than twice its noise" in sure.conclusion
    same = judge("class", members[:1].repeat(3, axis=0), np.zeros(200, np.int64))
    nothing = report(None, "test", names, same, "class", "")
    assert "less than twice its noise" in nothing.conclusion
