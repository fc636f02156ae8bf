import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as reference

from jtrain import metrics
from jtrain.errors import ConfigError
from jtrain.metrics import METRIC_TAKES, METRICS, Metric

CLASSES = 7
BATCH = 24
CUTS = (0, 24, 25, 41, 60)  # ragged batches of 60 examples
KINDS = {
    kind: sorted(n for n, kinds in METRIC_TAKES.items() if kind in kinds)
    for kind in ("class", "classes", "values", "tokens")
}
KINDS["class"].append("top3_accuracy")


@functools.cache
def compiled(names):
    def sums(outputs, targets, weight):
        return metrics.weighted_sums({n: metrics.named(n).values(outputs, targets) for n in names}, weight)

    return jax.jit(sums)


def padded(array, fill):
    return np.concatenate([array, np.full((BATCH - len(array), *array.shape[1:]), fill, array.dtype)])


def stacked(sums):
    return {name: np.asarray(found)[None] for name, found in sums.items()}


def measured(names, outputs, targets, weight):
    """The metrics from sums over ragged batches, each filled up with NaN outputs of weight 0."""
    totals = {}
    for start, stop in itertools.pairwise(CUTS):
        batch = padded(outputs[start:stop], np.nan), padded(targets[start:stop], 0), padded(weight[start:stop], 0.0)
        metrics.add_to(totals, stacked(compiled(tuple(names))(*batch)))
    return metrics.means(totals, {name: metrics.named(name) for name in names})


@functools.cache
def classes():
    """Outputs, targets and whole weights of 60 examples: class 5 never occurs, class 6 is never predicted either."""
    random = np.random.default_rng(1)
    outputs = random.normal(size=(60, CLASSES)).astype(np.float32)
    outputs[:, 6] = -9.0
    targets = random.integers(0, 5, size=60).astype(np.int32)
    outputs[np.arange(60), targets] += 1.0
    weight = random.integers(0, 3, size=60).astype(np.float32)
    assert 5 in outputs.argmax(-1)[weight > 0]
    return outputs, targets, weight, measured(KINDS["class"], outputs, targets, weight)


def sklearn_of_classes():
    outputs, targets, weight, _ = classes()
    kept = weight > 0
    y, x, w = targets[kept], outputs[kept], {"sample_weight": weight[kept]}
    best = x.argmax(-1)
    every = range(CLASSES)
    with np.errstate(all="ignore"):
        return {
            "accuracy": reference.accuracy_score(y, best, **w),
            "top3_accuracy": reference.top_k_accuracy_score(y, x, k=3, labels=every, **w),
            "top5_accuracy": reference.top_k_accuracy_score(y, x, k=5, labels=every, **w),
            "mean_class_accuracy": reference.recall_score(y, best, average="macro", labels=np.unique(y), **w),
            "macro_f1": reference.f1_score(y, best, average="macro", **w),
            "confusion": reference.confusion_matrix(y, best, labels=every, **w),
        }


@pytest.mark.parametrize("name", KINDS["class"])
def test_class_metrics_of_ragged_weighted_batches_equal_scikit_learn(name):
    np.testing.assert_allclose(classes()[3][name], sklearn_of_classes()[name], rtol=1e-6)


@functools.cache
def labels():
    """Label 3 never occurs and is never predicted."""
    random = np.random.default_rng(2)
    targets = (random.random(size=(60, 4)) < [0.5, 0.2, 0.8, 0.0]).astype(np.float32)
    outputs = (random.normal(size=(60, 4)) + 2.0 * targets - 1.0).astype(np.float32)
    outputs[:, 3] = -1.0
    weight = random.integers(0, 3, size=60).astype(np.float32)
    return outputs, targets, weight, measured(KINDS["classes"], outputs, targets, weight)


@pytest.mark.parametrize("name", KINDS["classes"])
def test_label_metrics_of_ragged_weighted_batches_equal_scikit_learn(name):
    outputs, targets, weight, found = labels()
    y, x, w = targets.astype(int), (outputs > 0).astype(int), {"sample_weight": weight}
    expected = {
        "label_accuracy": 1.0 - reference.hamming_loss(y, x, **w),
        "exact_match": reference.accuracy_score(y, x, **w),
        "label_f1": reference.f1_score(y, x, average="macro", zero_division=np.nan, **w),
    }
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


@functools.cache
def values():
    """Of 5 values one is far from 0, one constant and met, one constant and missed."""
    random = np.random.default_rng(3)
    targets = (random.normal(size=(60, 5)) * [1.0, 0.5, 30.0, 0.0, 0.0] + [0.0, 2000.0, -7.0, 0.1, 1e4]).astype(
        np.float32
    )
    outputs = (targets + random.normal(size=(60, 5)) * [0.5, 0.4, 40.0, 0.0, 1.0]).astype(np.float32)
    weight = random.integers(0, 2, size=60).astype(np.float32)
    return outputs, targets, weight, measured(KINDS["values"], outputs, targets, weight)


@pytest.mark.parametrize("name", KINDS["values"])
def test_value_metrics_of_ragged_weighted_batches_equal_scikit_learn(name):
    outputs, targets, weight, found = values()
    kept = weight > 0
    y, x = targets[kept].astype(float), outputs[kept].astype(float)
    expected = {
        "mse": reference.mean_squared_error(y, x),
        "mae": reference.mean_absolute_error(y, x),
        "rmse": math.sqrt(reference.mean_squared_error(y, x)),
        "r2": reference.r2_score(y, x),
    }
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


@pytest.mark.parametrize("name", KINDS["tokens"])
def test_token_metrics_are_means_over_tokens_then_examples(name):
    random = np.random.default_rng(4)
    outputs = random.normal(size=(60, 6, 5)).astype(np.float32)
    targets = random.integers(0, 5, size=(60, 6)).astype(np.int32)
    weight = random.integers(0, 3, size=60).astype(np.float32)
    p = np.exp(outputs.astype(float))
    p /= p.sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, targets[..., None], axis=-1)[..., 0]
    nats = np.average(-np.log(chosen).mean(axis=1), weights=weight)
    expected = {
        "token_accuracy": np.average((outputs.argmax(-1) == targets).mean(axis=1), weights=weight),
        "perplexity": np.exp(nats),
        "bits_per_token": nats / np.log(2.0),
    }
    np.testing.assert_allclose(measured(KINDS["tokens"], outputs, targets, weight)[name], expected[name], rtol=1e-5)


def test_every_metric_has_kinds_and_is_measured_above():
    assert set(METRIC_TAKES) == set(METRICS)
    assert {name for names in KINDS.values() for name in names} == {*METRICS, "top3_accuracy"}


@pytest.mark.parametrize("offset", [0.0, 3e4])
def test_r2_of_a_batch_of_thousands_far_from_zero_keeps_its_digits(offset):
    random = np.random.default_rng(5)
    targets = (offset + random.normal(size=4000)).astype(np.float32)
    outputs = (targets + random.normal(size=4000) / 2).astype(np.float32)
    found = {"r2": METRICS["r2"].values(jnp.asarray(outputs), jnp.asarray(targets))}
    totals = {}
    metrics.add_to(totals, stacked(metrics.weighted_sums(found, jnp.ones(4000))))
    expected = reference.r2_score(targets.astype(float), outputs.astype(float))
    assert metrics.means(totals, METRICS)["r2"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("met", [True, False])
@pytest.mark.parametrize("constant", [0.0, 0.1, 0.7, -3e4])
def test_r2_of_a_constant_target_is_that_of_scikit_learn(met, constant):
    targets = np.full(3000, constant, np.float32)
    outputs = targets if met else targets + 1
    found = {"r2": METRICS["r2"].values(jnp.asarray(outputs), jnp.asarray(targets))}
    totals = {}
    for _ in range(5):
        metrics.add_to(totals, stacked(metrics.weighted_sums(found, jnp.ones(3000))))
    assert metrics.means(totals, METRICS)["r2"] == float(met)
    assert reference.r2_score(targets[:2], outputs[:2]) == float(met)  # of more, its mean of 0.1 is not 0.1


def test_r2_of_one_example_is_nan():
    assert math.isnan(METRICS["r2"].result(np.ones(15), 1.0))


@pytest.mark.parametrize("name", KINDS["class"])
def test_mixed_targets_count_as_their_largest_class(name):
    outputs, targets, _, _ = classes()
    mixed = 0.6 * jax.nn.one_hot(targets, CLASSES) + 0.4 * jax.nn.one_hot((targets + 1) % CLASSES, CLASSES)
    values = metrics.named(name).values
    np.testing.assert_array_equal(
        values(jnp.asarray(outputs), mixed), values(jnp.asarray(outputs), jnp.asarray(targets))
    )


@pytest.mark.parametrize("name", KINDS["values"] + KINDS["classes"])
def test_one_output_is_compared_with_its_own_target_alone(name):
    outputs, targets = jnp.float32([1, -2, 3, -4, 5]), jnp.float32([1, 1, 0, 0, 1])
    values = METRICS[name].values
    for x, y in ((outputs[:, None], targets), (outputs, targets[:, None]), (outputs, targets)):
        np.testing.assert_array_equal(values(x, y), values(outputs[:, None], targets[:, None]))
    with pytest.raises(ConfigError, match=r"^model: outputs of shape"):
        values(jnp.zeros((4, 4)), jnp.zeros(4))


@pytest.mark.parametrize("name", KINDS["class"])
def test_class_targets_of_another_shape_are_an_error_and_never_broadcast(name):
    with pytest.raises(ConfigError, match=r"^model: outputs of shape"):
        metrics.named(name).values(jnp.zeros((4, 3)), jnp.zeros((4, 1), jnp.int32))


def test_top_accuracy_breaks_ties_as_accuracy_does_and_is_one_for_all_classes():
    outputs = jnp.zeros((4, 3)).at[3, 2].set(1.0)
    targets = jnp.int32([0, 1, 2, 2])
    np.testing.assert_array_equal(metrics.named("top1_accuracy").values(outputs, targets), [1, 0, 0, 1])
    np.testing.assert_array_equal(METRICS["accuracy"].values(outputs, targets), [1, 0, 0, 1])
    np.testing.assert_array_equal(metrics.named("top2_accuracy").values(outputs, targets), [1, 1, 0, 1])
    np.testing.assert_array_equal(metrics.named("top9_accuracy").values(outputs, targets), [1, 1, 1, 1])


def test_label_outputs_that_are_nan_are_never_right():
    outputs, targets = jnp.full((1, 2), jnp.nan), jnp.float32([[0, 1]])
    assert METRICS["label_accuracy"].values(outputs, targets) == 0


def test_confusion_of_many_classes_takes_small_integers():
    targets = jnp.uint8([0, 19, 18])
    found = METRICS["confusion"].values(jax.nn.one_hot(jnp.array([1, 19, 0]), 20), targets)
    counts = METRICS["confusion"].result(np.asarray(found).sum(axis=0), 3.0)
    assert counts.sum() == 3
    assert counts[0, 1] == counts[19, 19] == counts[18, 0] == 1


def test_confusion_of_too_many_classes_is_an_error():
    with pytest.raises(ConfigError, match=r"^metrics: confusion is for at most 256 classes, here are 257"):
        METRICS["confusion"].values(jnp.zeros((1, 257)), jnp.zeros(1, jnp.int32))


def test_sums_are_those_of_a_plain_loop():
    random = np.random.default_rng(6)
    one, many = random.normal(size=5).astype(np.float32), random.normal(size=(5, 3)).astype(np.float32)
    weight = np.float32([1, 0, 2, 0.5, 0])
    one[1], many[4, 1] = np.nan, np.inf
    found = metrics.weighted_sums({"one": jnp.asarray(one), "many": jnp.asarray(many)}, jnp.asarray(weight))
    kept = [0, 2, 3]
    np.testing.assert_allclose(found["one"], [sum(weight[i] * one[i] for i in kept), 3.5], rtol=1e-6)
    np.testing.assert_allclose(found["many"], [*sum(weight[i] * many[i] for i in kept), 3.5], rtol=1e-6)


def test_slope_of_an_example_of_weight_zero_is_zero():
    def loss(values):
        return metrics.weighted_sums({"loss": values}, jnp.float32([1, 0, 2]))["loss"][0]

    np.testing.assert_array_equal(jax.grad(loss)(jnp.float32([1, jnp.nan, 3])), [1, 0, 2])


def test_totals_are_added_in_double_precision_and_can_be_saved():
    totals = {}
    metrics.add_to(totals, {"n": np.float32([[2**24, 0.1, 1], [1, 0.1, 1]])})
    metrics.add_to(totals, {"n": np.float32([[1, 0.1, 1]] * 2)})
    assert totals == {"n": [2**24 + 3, pytest.approx(4 * float(np.float32(0.1)), rel=1e-15), 4]}
    assert all(type(value) is float for value in totals["n"])


def test_means_are_in_order_and_use_the_results_of_the_metrics_that_are_given():
    totals = {"rmse": [8.0, 2.0], "loss": [3.0, 2.0], "grad_norm": [5.0, 1.0], "ema/rmse": [18.0, 2.0]}
    found = metrics.means(totals, {"rmse": METRICS["rmse"], "ema/rmse": METRICS["rmse"]})
    assert list(found.items()) == [("loss", 1.5), ("ema/rmse", 3.0), ("grad_norm", 5.0), ("rmse", 2.0)]
    assert metrics.means(totals)["rmse"] == 4.0


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"confusion"}))
def test_metric_of_nothing_is_nan(name):
    columns = {"r2": 15, "mean_class_accuracy": 6, "macro_f1": 9, "label_f1": 9}.get(name, 1)
    assert math.isnan(metrics.means({name: [0.0] * (columns + 1)}, METRICS)[name])


def test_perplexity_that_overflows_is_infinite():
    assert METRICS["perplexity"].result(np.array([1e4]), 1.0) == math.inf


def test_metric_by_name():
    assert metrics.named("accuracy") is METRICS["accuracy"]
    assert metrics.takes("top3_accuracy") == metrics.takes("accuracy") == {"class"}
    assert not METRICS["confusion"].in_training
    assert Metric(METRICS["mse"].values).result(np.array([6.0]), 4.0) == 1.5
    with pytest.raises(ConfigError, match=r"^metrics: no such metric 'acuracy'; did you mean 'accuracy'\?$"):
        metrics.named("acuracy")
    for wrong in ("top0_accuracy", "top-1_accuracy", "top_accuracy", ""):
        with pytest.raises(ConfigError, match=r"^metrics: no such metric"):
            metrics.takes(wrong)


def test_direction_of_improvement():
    lower = {"confusion", "mse", "mae", "rmse", "perplexity", "bits_per_token"}
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == lower
    assert metrics.named("top3_accuracy").higher_is_better
