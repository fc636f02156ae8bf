"""Durations: exact arithmetic, totals rounded up, boundaries rounded down."""

import pytest

from jtrain.durations import Clock, Duration


@pytest.mark.parametrize(
    ("text", "updates"),
    [
        ("500steps", 500),
        ("1step", 1),
        ("2epochs", 200),
        ("1e4examples", 1000),
        ("1.005e3examples", 101),
        ("0.005epochs", 1),
    ],
)
def test_total_is_rounded_up(text, updates):
    assert Clock.start(text, batch_size=10, epoch_examples=1000).total == updates


@pytest.mark.parametrize(
    ("text", "updates"),
    [("5%", 10), ("0.9%", 1), ("1.5epochs", 150), ("19examples", 1), ("0", 0), ("7 steps", 7), ("0.4%", 0)],
)
def test_boundary_is_rounded_down(text, updates):
    assert Clock(batch_size=10, epoch_examples=1000, total=200).boundary(text) == updates


def test_arithmetic_is_exact_where_floats_are_not():
    # 0.1 + 0.2 style: 0.7 × 10 / 0.1-like products round wrongly in binary floating point
    clock = Clock(batch_size=1, epoch_examples=100, total=1000)
    assert clock.boundary("0.29epochs") == 29  # int(0.29 * 100) is 28
    assert clock.boundary("57.3%") == 573


@pytest.mark.parametrize(
    "text", ["", "epochs", "5", "-5epochs", "5 apples", "nan", "inf%", "1e400epochs", "5epochs x", "５epochs"]
)
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match=r"duration|unit"):
        Duration.parse(text)


def test_too_long_is_refused():
    clock = Clock(batch_size=100, epoch_examples=1000, total=20)
    with pytest.raises(ValueError, match="longer than any run"):
        clock.boundary("1e50epochs")
    with pytest.raises(ValueError, match="2147483647"):
        Clock.start("1e12steps", batch_size=1, epoch_examples=10)
    with pytest.raises(ValueError, match="share of itself"):
        Clock.start("50%", batch_size=1, epoch_examples=10)


def test_a_period_is_at_least_one_update():
    clock = Clock(batch_size=100, epoch_examples=1000, total=20)
    assert [clock.period(text) for text in ("50examples", "4%", "20%", "250examples")] == [1, 1, 4, 2]
