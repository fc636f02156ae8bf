"""Signatures become options; wrong values and names are explained."""

from typing import Annotated, Any, Literal

import pytest

from jtrain.errors import ConfigError
from jtrain.table import Count, Fraction, Range, Time, lookup, nearest, option, options


def part(lr, total, *, momentum: Fraction = 0.9, kind: Literal["a", "b"] = "a", every: Annotated[int, Time("3epochs")]):
    return lr, total, momentum, kind, every


def test_options_are_the_keyword_only_parameters():
    found = options(part)
    assert {name: opt.default for name, opt in found.items()} == {"momentum": 0.9, "kind": "a", "every": "3epochs"}


@pytest.mark.parametrize(
    ("annotation", "bad", "words"),
    [
        (Count, 0, "at least 1"), (Count, True, "whole number"), (Count, 1.0, "whole number"),
        (Count, "1", "whole number"),
        (Fraction, 1.0, "below 1"), (Fraction, float("nan"), "finite"), (Fraction, None, "a number"),
        (Annotated[float, Range(0, 1, above=True)], 0.0, "above 0"), (bool, 1, "True or False"),
        (Literal["relu", "gelu"], "rely", "did you mean 'relu'"), (tuple[Count, ...], [1], "tuple"),
        (tuple[Count, ...], (1, 0), "at least 1"), (Annotated[str, Time("1epochs")], "1", "unit"),
        (Annotated[str, Time("1epochs")], 5, "5steps"), (Annotated[str, Time("1epochs")], "0steps", "longer than zero"),
    ],
)  # fmt: skip
def test_wrong_values_are_explained(annotation, bad, words):
    with pytest.raises(ValueError, match=words):
        option(annotation, None).check(bad)


def test_an_int_serves_where_a_float_is_asked_for():
    assert option(Annotated[float, Range(0, 2)], 1.0).check(1) == 1.0
    assert option(Annotated[str, Time("0", zero=True)], "0").check("0") == "0"
    assert option(Any, None).check([1]) == [1]


def test_nearest_finds_typos_of_every_kind():
    names = ["momentum", "nesterov", "lr", "label_smoothing"]
    for typo, right in [
        ("momentun", "momentum"),
        ("nestreov", "nesterov"),
        ("lt", "lr"),
        ("labelsmoothing", "label_smoothing"),
    ]:
        assert nearest(typo, names) == right
    assert nearest("zzzzzz", names) is None


def test_lookup_of_your_own_part():
    import math

    assert lookup({}, "math:sqrt", "model.name") is math.sqrt
    for name, words in [
        ("math:sqrtt", "did you mean 'sqrt'"),
        ("nowhere_at_all:f", "cannot import"),
        ("x", "no such choice"),
    ]:
        with pytest.raises(ConfigError, match=words):
            lookup({}, name, "model.name")
