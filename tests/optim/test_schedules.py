import doctest
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrain.durations import Clock
from jtrain.errors import ConfigError
from jtrain.optim import schedules
from jtrain.optim.schedules import SCHEDULES, hold, with_warmup
from jtrain.table import options

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "schedules.json").read_text())
TOTAL = 240
CLOCK = Clock(batch_size=100, epoch_examples=700, total=TOTAL)


def updates(text, key, *, zero=False):
    return CLOCK.boundary(text) if zero else CLOCK.period(text)


def by_default(name, lr=0.1):
    made = {k: o.in_updates(o.default, k, updates) for k, o in options(SCHEDULES[name]).items()}
    return SCHEDULES[name](lr, TOTAL, **made)


def label(case):
    return "-".join([case["name"], *(f"{k}={v}" for k, v in case["options"].items()), f"held={case['every']}"])


@pytest.mark.parametrize("case", GOLDEN["schedules"], ids=label)
def test_equals_pytorch_at_every_step(case):
    schedule = hold(SCHEDULES[case["name"]](case["lr"], case["total"], **case["options"]), case["every"])
    steps = np.arange(len(case["rates"]))
    np.testing.assert_allclose(schedule(steps), case["rates"], rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(steps)), case["rates"], rtol=1e-6, atol=1e-15)


def test_every_schedule_of_pytorch_was_compared_with_two_settings():
    without = {"constant", "inverse_time", "wsd", "pieces"}
    for name in SCHEDULES.keys() - without:
        assert sum(case["name"] == name for case in GOLDEN["schedules"]) >= 2, name


def test_the_examples_in_the_docstring_are_right():
    result = doctest.testmod(schedules)
    assert result.failed == 0
    assert result.attempted >= 5


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_is_the_same_inside_jit_and_with_numpy(name, warmup):
    schedule = with_warmup(by_default(name), warmup)
    steps = np.arange(2 * TOTAL)
    with_numpy = schedule(steps)
    inside = jax.jit(schedule)(jnp.asarray(steps, jnp.int32))
    assert with_numpy.dtype == np.float64
    assert inside.dtype == jnp.float32
    np.testing.assert_allclose(inside, with_numpy, rtol=1e-6, atol=1e-15)
    one_by_one = [float(schedule(int(k))) for k in steps]
    np.testing.assert_allclose(one_by_one, with_numpy, rtol=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_lr_scales_the_whole_curve_and_is_its_peak(name):
    steps = np.arange(TOTAL)
    rates = by_default(name, lr=0.1)(steps)
    np.testing.assert_allclose(by_default(name, lr=0.3)(steps), 3 * rates, rtol=1e-12)
    assert rates.max() == pytest.approx(0.1, rel=1e-12)
    assert rates.min() >= 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_step_may_be_traced_as_a_scalar(name):
    schedule = by_default(name)
    assert float(jax.jit(schedule)(jnp.int32(17))) == pytest.approx(float(schedule(17)), rel=1e-6)


def test_constant_stays():
    np.testing.assert_array_equal(SCHEDULES["constant"](0.3, 10)(np.arange(20)), np.full(20, 0.3))


def test_default_step_halves():
    rates = SCHEDULES["step"](0.8, 100, every=10)(np.array([0, 9, 10, 19, 20, 30]))
    np.testing.assert_allclose(rates, [0.8, 0.8, 0.4, 0.4, 0.2, 0.1], rtol=1e-15)


def test_step_inside_jit_is_exact_after_thousands_of_cuts():
    schedule = SCHEDULES["step"](1.0, 100_000, every=1, gamma=0.9999)
    steps = np.array([1, 255, 256, 4097, 65_536, 99_999])
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(steps)), 0.9999**steps, rtol=1e-6)


def test_cosine_inside_jit_keeps_its_digits_to_the_last_update():
    total = 100_000
    last = jax.jit(SCHEDULES["cosine"](1.0, total))(jnp.int32(total - 1))
    assert float(last) == pytest.approx((np.pi / (2 * total)) ** 2, rel=1e-6)


def test_exponential_without_stairs_is_smooth_and_meets_the_stairs():
    smooth = SCHEDULES["exponential"](1.0, 100_000, every=1000, gamma=0.5, staircase=False)
    stairs = SCHEDULES["exponential"](1.0, 100_000, every=1000, gamma=0.5)
    steps = np.array([0, 1, 500, 999, 1000, 10_001, 20_000])
    np.testing.assert_allclose(smooth(steps), 0.5 ** (steps / 1000), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(smooth)(jnp.asarray(steps)), 0.5 ** (steps / 1000), rtol=1e-6)
    np.testing.assert_allclose(stairs(steps), [1, 1, 1, 1, 0.5, 2.0**-10, 2.0**-20], rtol=1e-12)


def test_inverse_time_is_its_closed_form():
    schedule = SCHEDULES["inverse_time"](0.6, 100, every=10, rate=2.0)
    np.testing.assert_allclose(schedule(np.array([0, 5, 10, 25, 1000])), [0.6, 0.3, 0.2, 0.1, 0.6 / 201], rtol=1e-12)
    stairs = SCHEDULES["inverse_time"](0.6, 100, every=10, rate=2.0, staircase=True)
    np.testing.assert_allclose(stairs(np.array([0, 9, 10, 19, 25])), [0.6, 0.6, 0.2, 0.2, 0.12], rtol=1e-12)


@pytest.mark.parametrize(("shape", "half"), [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - np.sqrt(0.5))])
def test_wsd_is_flat_and_falls_at_the_end(shape, half):
    schedule = SCHEDULES["wsd"](0.2, 100, decay=40, shape=shape, floor=0.1)
    steps = np.array([0, 59, 60, 80, 100, 1000])
    np.testing.assert_allclose(schedule(steps), [0.2, 0.2, 0.2, 0.2 * (0.1 + 0.9 * half), 0.02, 0.02], rtol=1e-12)
    assert schedule(61) < 0.2


def test_wsd_with_roots_keeps_its_digits_to_the_last_update():
    total = 100_000
    last = jax.jit(SCHEDULES["wsd"](1.0, total, decay=total, shape="sqrt"))(jnp.int32(total - 1))
    assert float(last) == pytest.approx(-np.expm1(0.5 * np.log1p(-1 / total)), rel=1e-6)


def test_wsd_refuses_a_decay_longer_than_itself():
    with pytest.raises(ConfigError, match=r"schedule\.wsd\.decay: is 11 updates"):
        SCHEDULES["wsd"](0.1, 10, decay=11)


def test_multistep_refuses_milestones_that_are_out_of_order():
    with pytest.raises(ConfigError, match=r"schedule\.multistep\.milestones: must increase"):
        SCHEDULES["multistep"](0.1, 10, milestones=(5, 3))


def test_polynomial_stays_at_its_floor():
    schedule = SCHEDULES["polynomial"](0.2, 10, power=2.0, floor=0.2)
    np.testing.assert_allclose(schedule(np.array([0, 5, 10, 1000])), [0.2, 0.08, 0.04, 0.04], rtol=1e-12)


def test_restarts_near_the_end_of_the_counter_stay_exact():
    schedule = SCHEDULES["cosine_restarts"](1.0, 100, period=1000, mult=1000)
    for step in (999, 1000, 1_000_999, 1_001_000, 2**31 - 2):
        start, length = next((s, n) for s, n in ((1_001_000, 10**9), (1000, 10**6), (0, 1000)) if step >= s)
        while step >= start + length:
            start, length = start + length, length * 1000
        expected = np.cos(0.5 * np.pi * (step - start) / length) ** 2
        assert float(jax.jit(schedule)(jnp.int32(step))) == pytest.approx(expected, rel=1e-6)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-9)


def test_annealing_longer_than_any_run_only_falls():
    schedule = SCHEDULES["cosine_annealing"](1.0, 100, period=2**31 - 1)
    assert float(jax.jit(schedule)(jnp.int32(2**30))) == pytest.approx(0.5, rel=1e-6)


def test_one_cycle_keeps_its_last_lr():
    schedule = SCHEDULES["one_cycle"](1.0, 100)
    np.testing.assert_allclose(schedule(np.array([99, 100, 10_000])), 1 / 25e4, rtol=1e-12)


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("pct_start", [0.0, 0.3, 0.5, 1.0])
def test_one_cycle_of_a_few_updates_is_finite(total, pct_start):
    rates = SCHEDULES["one_cycle"](1.0, total, pct_start=pct_start)(np.arange(10))
    assert np.all(np.isfinite(rates))
    assert np.all((rates > 0) & (rates <= 1))


def test_one_cycle_refuses_three_phases_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"schedule\.one_cycle\.pct_start: must be at most 0\.5"):
        SCHEDULES["one_cycle"](0.1, 100, pct_start=0.6, three_phase=True)


def test_pieces_each_count_from_their_own_start_and_the_last_goes_on():
    parts = (("linear", 10, {"start": 0.1, "end": 1.0}), ("constant", 5, {}), ("cosine", 20, {"floor": 0.5}))
    schedule = SCHEDULES["pieces"](0.2, 100, parts=parts)
    steps = np.array([0, 5, 9, 10, 14, 15, 25, 35, 1000])
    expected = [0.02, 0.11, 0.182, 0.2, 0.2, 0.2, 0.15, 0.1, 0.1]
    np.testing.assert_allclose(schedule(steps), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(steps)), expected, rtol=1e-6)


def test_pieces_that_never_begin_are_harmless():
    parts = (("constant", 2**31 - 1), ("linear", 2**31 - 1), ("cosine", 10))
    schedule = SCHEDULES["pieces"](0.2, 100, parts=parts)
    assert float(jax.jit(schedule)(jnp.int32(2**31 - 2))) == pytest.approx(0.2)


def test_hold_looks_at_the_schedule_once_in_every_n_updates():
    schedule = SCHEDULES["linear"](1.0, 100)
    np.testing.assert_allclose(hold(schedule, 10)(np.array([0, 9, 10, 19, 95])), [1.0, 1.0, 0.9, 0.9, 0.1], rtol=1e-12)
    assert hold(schedule, 0) is schedule
    assert hold(schedule, 1) is schedule


def test_cosine_stays_at_its_floor():
    schedule = SCHEDULES["cosine"](0.2, 100, floor=0.1)
    np.testing.assert_allclose(schedule(np.array([0, 50, 100, 101, 10_000])), [0.2, 0.11, 0.02, 0.02, 0.02], rtol=1e-12)


def test_linear_stays_at_its_end():
    schedule = SCHEDULES["linear"](0.2, 10, start=0.5, end=0.25)
    np.testing.assert_allclose(schedule(np.array([0, 5, 10, 11, 1000])), [0.1, 0.075, 0.05, 0.05, 0.05], rtol=1e-12)


def test_cycle_longer_than_any_run_only_rises():
    schedule = SCHEDULES["cyclic"](1.0, 100, base=0.0, up=2**31 - 1, down=2**31 - 1)
    steps = np.array([0, 2**30, 2**31 - 2])
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(steps, jnp.int32)), steps / (2**31 - 1), rtol=1e-6)


def test_gamma_without_exp_range_is_an_error():
    with pytest.raises(ConfigError, match=r"schedule\.cyclic\.gamma: .*exp_range"):
        SCHEDULES["cyclic"](0.1, 100, up=5, down=0, gamma=0.9)


def test_warmup_is_a_straight_line_and_then_the_schedule_from_its_start():
    schedule = SCHEDULES["cosine"](0.4, 100)
    warmed = with_warmup(schedule, 4)
    np.testing.assert_allclose(warmed(np.arange(4)), [0.1, 0.2, 0.3, 0.4], rtol=1e-15)
    np.testing.assert_array_equal(warmed(np.arange(4, 120)), schedule(np.arange(116)))


def test_warmup_may_start_above_zero():
    warmed = with_warmup(SCHEDULES["constant"](1.0, 100), 5, start=0.5)
    np.testing.assert_allclose(warmed(np.arange(7)), [0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0], rtol=1e-15)


def test_no_warmup_is_the_schedule_itself():
    schedule = SCHEDULES["linear"](0.1, 10)
    assert with_warmup(schedule, 0) is schedule
