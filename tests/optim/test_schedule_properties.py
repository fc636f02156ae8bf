"""Over random options: finite, never negative, exact at every boundary, the same in float32."""

import math
from typing import Literal, get_args, get_origin

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jtrain.durations import Time, Times
from jtrain.optim.schedules import SCHEDULES, hold, with_warmup
from jtrain.table import Range, options

FEW = settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
SINGLE = [name for name in SCHEDULES if name != "pieces"]


def values(opt, total):
    """Random values of an option, as the part takes them."""
    kinds = {type(c): c for c in opt.conditions}
    if Time in kinds:
        return st.integers(0 if kinds[Time].zero else 1, total)
    if Times in kinds:
        return st.lists(st.integers(1, 2 * total), min_size=1, max_size=5, unique=True).map(lambda m: tuple(sorted(m)))
    if get_origin(opt.kind) is Literal:
        return st.sampled_from(get_args(opt.kind))
    if opt.kind is bool:
        return st.booleans()
    limits = kinds[Range]
    low, high = max(limits.low, 1e-3 if limits.above else 0), min(limits.high, 1e4)
    return st.integers(int(low), 5) if opt.kind is int else st.floats(low, high)


@st.composite
def settings_of(draw, name, total):
    made = {key: draw(values(opt, total)) for key, opt in options(SCHEDULES[name]).items()}
    if name == "cyclic" and made["mode"] != "exp_range":
        made["gamma"] = 1.0
    if name == "one_cycle" and made["three_phase"]:
        made["pct_start"] /= 2
    return made


@st.composite
def cases(draw, name):
    total = draw(st.integers(1, 400))
    return draw(st.floats(1e-5, 10)), total, draw(settings_of(name, total))


def down(x):
    """From 1 at 0 to 0 at 1, half a cosine."""
    return (1 + math.cos(math.pi * x)) / 2


def factor(name, k, total, o):
    """lr / peak of update k by the plain formula of each schedule, one number at a time."""
    floor = o.get("floor", 0.0)
    x = min(k / total, 1)
    if name == "step":
        return o["gamma"] ** (k // o["every"])
    if name == "multistep":
        return math.prod(o["gamma"] for m in o["milestones"] if m <= k)
    if name == "exponential":
        return o["gamma"] ** (k // o["every"] if o["staircase"] else k / o["every"])
    if name == "inverse_time":
        return 1 / (1 + o["rate"] * (k // o["every"] if o["staircase"] else k / o["every"]))
    if name == "linear":
        return o["start"] + (o["end"] - o["start"]) * x
    if name == "polynomial":
        return floor + (1 - floor) * (1 - x) ** o["power"]
    if name == "cosine":
        return floor + (1 - floor) * down(x)
    if name == "cosine_annealing":
        return floor + (1 - floor) * down(k / o["period"])
    if name == "cosine_restarts":
        length = o["period"]
        while k >= length:
            k, length = k - length, length * o["mult"]
        return floor + (1 - floor) * down(k / length)
    if name == "cyclic":
        return cyclic_factor(k, o)
    if name == "one_cycle":
        return one_cycle_factor(k, total, o)
    if name == "wsd":
        u = min(max(k - (total - o["decay"]), 0) / o["decay"], 1)
        height = {"linear": 1 - u, "cosine": down(u), "sqrt": 1 - math.sqrt(u)}[o["shape"]]
        return floor + (1 - floor) * height
    return 1.0


def cyclic_factor(k, o):
    fall = o["down"] or o["up"]
    cycle, place = divmod(k, o["up"] + fall)
    height = place / o["up"] if place <= o["up"] else 1 - (place - o["up"]) / fall
    height *= {"triangular": 1, "triangular2": 0.5**cycle, "exp_range": o["gamma"] ** k}[o["mode"]]
    return o["base"] + (1 - o["base"]) * height


def one_cycle_factor(k, total, o):
    """Straight through PyTorch's list of phases."""
    k, low = min(k, total - 1), 1 / o["div_factor"]
    peak, start, level = o["pct_start"] * total - 1, 0.0, low
    goals = [(peak, 1.0), *([(2 * peak, low)] if o["three_phase"] else []), (total - 1, low / o["final_div_factor"])]
    for index, (end, goal) in enumerate(goals):
        if end > max(start, 0) and (k <= end or index == len(goals) - 1):
            x = (k - start) / (end - start)
            return level + (goal - level) * (x if o["anneal"] == "linear" else 1 - down(x))
        if end > max(start, 0) or index < len(goals) - 1:
            start, level = end, goal
    return level if peak > 0 or total > 1 else goals[-1][1]


def marks(total, o):
    """Updates at which something may happen, and their neighbours."""
    found = {0, total - 1, total}
    for key in ("every", "up", "period"):
        found |= {o[key], 2 * o[key], 3 * o[key]} if key in o else set()
    found |= {o["up"] + (o["down"] or o["up"])} if "up" in o else set()
    found |= set(o.get("milestones", ()))
    found |= {total - o["decay"]} if "decay" in o else set()
    found |= {int(o["pct_start"] * total) - 1, int(2 * o["pct_start"] * total) - 2} if "pct_start" in o else set()
    return np.array(sorted({k + d for k in found for d in (-1, 0, 1) if k + d >= 0}))


@pytest.mark.parametrize("name", SINGLE)
def test_is_finite_not_negative_and_exact_at_every_boundary(name):
    @FEW
    @given(cases(name))
    def check(case):
        lr, total, made = case
        schedule = SCHEDULES[name](lr, total, **made)
        everywhere = schedule(np.arange(total + 10))
        assert np.all(np.isfinite(everywhere))
        assert np.all((everywhere >= 0) & (everywhere <= lr * (1 + 1e-12)))
        steps = marks(total, made)
        expected = [lr * factor(name, int(k), total, made) for k in steps]
        np.testing.assert_allclose(schedule(steps), expected, rtol=1e-9, atol=1e-12 * lr)

    check()


@pytest.mark.parametrize("name", SINGLE)
def test_float32_agrees_with_float64(name):
    @settings(FEW, max_examples=12)
    @given(cases(name))
    def check(case):
        lr, total, made = case
        schedule = SCHEDULES[name](lr, total, **made)
        steps = np.linspace(0, total + 10, 16).astype(np.int64)
        np.testing.assert_allclose(schedule(jnp.asarray(steps, jnp.int32)), schedule(steps), rtol=1e-6, atol=1e-30)

    check()


@st.composite
def rows_of_pieces(draw):
    parts = []
    for name in draw(st.lists(st.sampled_from(SINGLE), min_size=1, max_size=4)):
        length = draw(st.integers(1, 60))
        parts.append((name, length, draw(settings_of(name, length))))
    return draw(st.floats(1e-5, 10)), tuple(parts), draw(st.integers(0, 20))


@FEW
@given(rows_of_pieces())
def test_pieces_after_warmup_are_exact_at_every_start_and_at_the_end(case):
    lr, parts, warmup = case
    schedule = with_warmup(SCHEDULES["pieces"](lr, 1, parts=parts), warmup)
    start = warmup
    for name, length, made in parts:
        alone = SCHEDULES[name](lr, length, **made)
        np.testing.assert_array_equal(schedule(start + np.arange(length)), alone(np.arange(length)))
        assert float(schedule(start)) == pytest.approx(lr * factor(name, 0, length, made), rel=1e-9, abs=1e-12 * lr)
        start += length
    np.testing.assert_array_equal(schedule(start + np.arange(9)), alone(length + np.arange(9)))
    if warmup:
        rise = schedule(np.arange(warmup))
        np.testing.assert_allclose(rise, float(schedule(warmup)) * np.arange(1, warmup + 1) / warmup, rtol=1e-12)


@pytest.mark.parametrize("name", ["exponential", "one_cycle", "cyclic", "wsd"])
def test_hold_is_piecewise_constant(name):
    @FEW
    @given(cases(name), st.integers(2, 50))
    def check(case, every):
        lr, total, made = case
        schedule = SCHEDULES[name](lr, total, **made)
        blocks = hold(schedule, every)(np.arange(8 * every)).reshape(8, every)
        np.testing.assert_array_equal(blocks, np.repeat(schedule(every * np.arange(8))[:, None], every, axis=1))

    check()
