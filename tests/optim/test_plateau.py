"""Reduce on plateau equals torch's on recorded series, also when its memory goes through JSON in the middle."""

import json
import math
from pathlib import Path

import pytest

from jtrain.optim.plateau import EarlyStopping, Plateau

CASES = json.loads((Path(__file__).parents[1] / "golden/plateau.json").read_text())


@pytest.mark.parametrize("resumed_at", [None, 0, 17, 41])
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_equal_to_torch_also_when_resumed_in_the_middle(case, resumed_at):
    rule, memory, scale = Plateau(**case["options"]), {}, 1.0
    for i, (value, lr) in enumerate(zip(case["values"], case["lrs"], strict=True)):
        if i == resumed_at:
            memory, scale = json.loads(json.dumps([memory, scale]))
        memory, scale = rule.step(memory, value, scale, case["lr"])
        assert scale * case["lr"] == pytest.approx(lr, rel=1e-9)


def test_the_golden_series_reduce_the_lr():
    assert sum(case["lrs"][-1] < case["lr"] for case in CASES) > 10


def test_nan_is_no_improvement():
    rule, memory, scale = Plateau(patience=1, factor=0.5), {}, 1.0
    for _ in range(2):
        memory, scale = rule.step(memory, math.nan, scale, 0.1)
    assert scale == 0.5
    json.dumps(memory, allow_nan=False)


def test_early_stopping_counts_evaluations_in_a_row():
    rule, memory = EarlyStopping(mode="max", patience=2, min_delta=0.1), {}
    stops = []
    for value in (0.5, 0.55, 0.7, 0.7, 0.75, 0.9):
        memory, stop = rule.step(memory, value)
        stops.append(stop)
    assert stops == [False, False, False, False, True, False]
