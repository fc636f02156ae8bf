import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

from jtrain.coach import noise_scale
from jtrain.coach.noise_scale import Estimate, Noise, add, estimate, interval, suggest

CHUNKS = 4


def probes(count, *, scale, batch=32, width=200, seed=0):
    """(chunk_sq, whole_sq, chunk, whole) of gradients with |G|² = 1 and S = scale, normal in `width` directions."""
    rng = np.random.default_rng(seed)
    chunk = batch // CHUNKS
    for _ in range(count):
        gradients = rng.normal(size=(CHUNKS, width)) * math.sqrt(scale / width / chunk)
        gradients[:, 0] += 1.0
        yield (gradients**2).sum(axis=1).mean(), (gradients.mean(axis=0) ** 2).sum(), chunk, batch


def after(found, noise=None):
    noise = noise or Noise()
    for probe in found:
        noise = add(noise, *probe)
    return noise


def test_one_probe_solves_the_two_equations_for_gradient_and_noise():
    g, s = 3.0, 40.0
    noise = add(Noise(), g + s / 8, g + s / 32, 8, 32)
    assert (noise.s, noise.g) == (pytest.approx(s), pytest.approx(g))
    whole_data = add(Noise(), g + s / 8, g, 8, math.inf)
    assert (whole_data.s, whole_data.g) == (pytest.approx(s), pytest.approx(g))


def test_averages_and_their_spread_are_those_of_the_weighed_probes():
    found = list(probes(30, scale=50))
    noise = after(found)
    s = np.array([(c - w) / (1 / b - 1 / n) for c, w, b, n in found])
    g = np.array([w for _, w, _, _ in found]) - s / 32
    weights = np.array([k * (k + 1) for k in range(1, 31)], float)  # shares of 3 / (3 + t): t², but for a half
    weights /= weights.sum()
    assert noise.s == pytest.approx(weights @ s)
    assert noise.g == pytest.approx(weights @ g)
    assert noise.ss == pytest.approx(weights @ (s - weights @ s) ** 2)
    assert noise.sg == pytest.approx(weights @ ((s - weights @ s) * (g - weights @ g)))
    assert noise.gg == pytest.approx(weights @ (g - weights @ g) ** 2)
    assert noise.concentration == pytest.approx((weights**2).sum())


def test_old_probes_are_forgotten():
    alike, other = (10.0, 9.0, 8, 32), (2.0, 1.0, 8, 32)
    half = after([other] * 50, after([alike] * 50))
    assert half.g == pytest.approx(add(Noise(), *other).g + 8 * 50**3 / 100**3, rel=0.03)  # of t², 1/8 is old
    many = after([other] * 1000, after([alike] * 1000))
    assert 1 / many.concentration == pytest.approx(399, rel=0.01)
    assert many.g == pytest.approx(add(Noise(), *other).g + 8 * 0.995**1000, rel=0.03)


@pytest.mark.parametrize("scale", [10, 300])
def test_the_interval_holds_the_true_value_and_is_within_a_fifth_when_it_first_speaks(scale):
    held, near = [], []
    for seed in range(40):
        noise, found = Noise(), None
        for probe in probes(300, scale=scale, seed=seed):
            noise = add(noise, *probe)
            found = estimate(noise)
            if found is not None:
                break
        assert found is not None
        held.append(found.low <= scale <= found.high)
        near.append(abs(found.noise_scale / scale - 1) < 0.2)
    assert np.mean(held) >= 0.95
    assert np.mean(near) >= 0.8


def test_an_interval_is_told_only_when_it_is_narrow():
    noise = after(probes(10, scale=300))
    wide = interval(noise)
    assert wide is None or wide.high > 2 * wide.low
    assert estimate(noise) is None
    found = estimate(after(probes(200, scale=300)))
    assert found.low < found.noise_scale < found.high <= 2 * found.low


def test_where_the_gradient_drowns_in_noise_there_is_no_answer():
    spoke = 0
    for seed in range(5):
        noise = Noise()
        for probe in probes(150, scale=32 * 200, seed=seed):
            noise = add(noise, *probe)
            spoke += estimate(noise) is not None
    assert spoke == 0


def test_few_probes_are_silent_however_alike_they_are():
    alike = (1.0, 0.9, 8, 32)
    assert estimate(after([alike] * (noise_scale.LEAST_PROBES - 1))) is None
    found = estimate(after([alike] * noise_scale.LEAST_PROBES))
    assert found.low == pytest.approx(found.noise_scale) == pytest.approx(found.high)


@pytest.mark.parametrize(
    "probe", [(math.nan, 1.0, 8, 32), (1.0, math.inf, 8, 32), (2.0, 1.0, 32, 32), (2.0, 1.0, 0, 32), (2.0, 1.0, 8, 4)]
)
def test_a_probe_that_says_nothing_is_passed_over(probe):
    noise = after(probes(3, scale=10))
    assert add(noise, *probe) == noise


def test_the_state_survives_json():
    noise = after(probes(20, scale=10))
    assert Noise(**json.loads(json.dumps(dataclasses.asdict(noise)))) == noise


@pytest.mark.parametrize("freedom", [4.0, 5.6, 9, 30, 98])
def test_the_quantile_is_that_of_students_t(freedom):
    assert noise_scale._t_quantile(freedom) == pytest.approx(stats.t.ppf(0.995, freedom), rel=0.015)


def test_the_ends_of_the_interval_are_where_the_difference_is_t_standard_errors_from_0():
    noise = after(probes(60, scale=100))
    found = interval(noise)
    effective = 1 / noise.concentration
    for end in (found.low, found.high):
        variance = (noise.ss - 2 * end * noise.sg + end**2 * noise.gg) / (effective - 1)
        t = abs(noise.s - end * noise.g) / math.sqrt(variance)
        assert t == pytest.approx(stats.t.ppf(0.995, effective - 1), rel=1e-3)


def test_a_batch_near_the_noise_scale_is_left():
    found = suggest(Estimate(100, 80, 130), 64, 0.1, "sgd")
    assert (found.batch, found.lr) == (64, 0.1)
    assert found.text == "noise scale 100 examples (80 to 130): the batch of 64 suits it, leave it"


def test_a_batch_far_from_it_is_moved_and_the_lr_with_it():
    larger = suggest(Estimate(1000, 800, 1300), 64, 0.1, "sgd")
    assert (larger.batch, larger.lr) == (1024, pytest.approx(1.6))
    assert "the gradient of 64 examples is mostly noise" in larger.text
    # 1 + 1000/1024 = 1.977 against 1 + 1000/64 = 16.6; 1 + 1024/1000 = 2.024 against 1 + 64/1000 = 1.064
    assert "needs about 0.12× the updates and 1.9× the examples, with lr 0.1 → 1.6 (linear, for SGD)" in larger.text
    smaller = suggest(Estimate(30, 25, 40), 512, 0.001, "adam")
    assert (smaller.batch, smaller.lr) == (32, pytest.approx(0.00025))
    assert "square root, for the Adam family" in smaller.text
    assert suggest(Estimate(0.3, 0.2, 0.4), 64, 0.1, "sgd").batch == 1
