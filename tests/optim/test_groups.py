import re

import pytest

from jtrain.errors import ConfigError
from jtrain.optim.groups import NO_DECAY, build_groups, check_rules, decay_mask, layerwise

PATHS = ["head/bias", "head/kernel", "stem/conv/kernel", "stem/norm/bias", "stem/norm/scale"]


def test_first_matching_rule_takes_a_parameter():
    groups = build_groups((("head/.*", 2.0), (".*/kernel", None), (".*", 0.5)), PATHS)
    assert groups.labels == {"head/bias": 0, "head/kernel": 0, "stem/norm/bias": 2, "stem/norm/scale": 2}
    assert groups.frozen == {"stem/conv/kernel"}
    assert groups.multipliers == (2.0, None, 0.5)
    assert groups.patterns == ("head/.*", ".*/kernel", ".*")


def test_pattern_must_match_the_whole_path():
    with pytest.raises(ConfigError, match=r"^groups: pattern 'head' matches no parameter"):
        build_groups((("head", 1.0), (".*", 1.0)), PATHS)


@pytest.mark.parametrize(
    "wrong",
    [(), "all", ((".*",),), ((".*", 1.0, 2.0),), ((1.0, ".*"),), ((".*", "1"),), ((".*", True),), ((".*", -0.1),),
     ((".*", float("nan")),), ((".*", float("inf")),), (("(", 1.0),), ("ab",)],
)  # fmt: skip
def test_malformed_rules_are_refused(wrong):
    with pytest.raises(ValueError):  # noqa: PT011
        check_rules(wrong)
    with pytest.raises(ConfigError, match=r"^groups: .+") as caught:
        build_groups(wrong, PATHS)
    assert "\n" not in str(caught.value)


def test_good_rules_pass():
    check_rules((("head/.*", 1), (".*/kernel", None), (".*", 0.0)))


def test_nothing_left_to_train_is_an_error():
    with pytest.raises(ConfigError, match=r"^groups: every parameter is frozen"):
        build_groups((("head/.*", None), (".*", None)), PATHS)


def test_biases_and_scales_do_not_decay_by_default():
    assert decay_mask(PATHS) == {"head/kernel", "stem/conv/kernel"}
    assert decay_mask(["bias", "scale", "bias_net/kernel", "upscale"]) == {"bias_net/kernel", "upscale"}


def test_empty_list_lets_everything_decay():
    assert decay_mask(PATHS, ()) == set(PATHS)


def test_default_pattern_may_match_nothing():
    assert decay_mask(["kernel"], NO_DECAY) == {"kernel"}


def test_pattern_of_the_user_must_match():
    with pytest.raises(ConfigError, match=re.escape("optimizer.no_decay: pattern 'haed/.*' matches no parameter")):
        decay_mask(PATHS, (*NO_DECAY, "haed/.*"))


def test_broken_pattern_is_named():
    with pytest.raises(ConfigError, match=r"^optimizer\.no_decay: '\(' is not a regular expression"):
        decay_mask(PATHS, ("(",))


def test_layerwise_gives_the_head_all_of_the_lr_and_each_layer_before_it_a_share():
    rules = layerwise(("stem/.*", "block1/.*", "block2/.*", "head/.*"), 0.5)
    assert rules == (("stem/.*", 0.125), ("block1/.*", 0.25), ("block2/.*", 0.5), ("head/.*", 1.0))
    groups = build_groups(layerwise(["stem/.*", "head/.*"], 0.1), PATHS)
    assert {path: groups.multipliers[label] for path, label in groups.labels.items()} == {
        "head/bias": 1.0, "head/kernel": 1.0, "stem/conv/kernel": 0.1, "stem/norm/bias": 0.1, "stem/norm/scale": 0.1,
    }  # fmt: skip


def test_layerwise_without_decay_gives_all_layers_the_same():
    assert layerwise(("a", "b"), 1) == (("a", 1.0), ("b", 1.0))


@pytest.mark.parametrize(
    ("patterns", "decay"),
    [((), 0.5), ("head/.*", 0.5), (("a",), 0.0), (("a",), 1.1), (("a",), float("nan")), (("a",), True), (("a",), "1")],
)
def test_layerwise_refuses_what_makes_no_ladder(patterns, decay):
    with pytest.raises(ConfigError, match=r"^groups: .*layerwise"):
        layerwise(patterns, decay)
