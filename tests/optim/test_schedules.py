import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrain.durations import Clock
from jtrain.errors import ConfigError
from jtrain.optim.schedules import SCHEDULES, with_warmup
from jtrain.table import options

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "optim.json").read_text())
TOTAL = 240
CLOCK = Clock(batch_size=100, epoch_examples=700, total=TOTAL)


def by_default(name, lr=0.1):
    made = {k: CLOCK.boundary(o.default) if o.time else o.default for k, o in options(SCHEDULES[name]).items()}
    return SCHEDULES[name](lr, TOTAL, **made)


def label(case):
    return "-".join([case["name"], *(f"{k}={v}" for k, v in case["options"].items())])


@pytest.mark.parametrize("case", GOLDEN["schedules"], ids=label)
def test_equals_pytorch_at_every_step(case):
    schedule = SCHEDULES[case["name"]](case["lr"], case["total"], **case["options"])
    steps = np.arange(len(case["rates"]))
    np.testing.assert_allclose(schedule(steps), case["rates"], rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(steps)), case["rates"], rtol=1e-6, atol=1e-15)


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
    np.testing.assert_array_equal(one_by_one, with_numpy)


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
