"""Ordered (pattern, multiplier) rules: which parameters are trained at which lr, and which decay."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from jtrain.durations import check_time
from jtrain.errors import ConfigError
from jtrain.tree import first_match

Rules = tuple[tuple[str, float | None], ...]

# Biases and the scales of norms do not decay: it does not make a network simpler to shrink them.
NO_DECAY = (r"(.*/)?bias", r"(.*/)?scale")


@dataclasses.dataclass(frozen=True)
class Groups:
    """Parameters by the rule that they follow.

    Attributes:
      patterns: of the rules, in their order.
      multipliers: of the lr, one for each pattern; None freezes.
      labels: number of the rule of each trainable path.
      frozen: paths that are not trained.
      entered: number of the phase since which each trainable path is trained; {}: all from the start. Parameters that
        come later get an optimizer state of their own, with its own count of updates.
    """

    patterns: tuple[str, ...]
    multipliers: tuple[float | None, ...]
    labels: dict[str, int]
    frozen: set[str]
    entered: dict[str, int] = dataclasses.field(default_factory=dict)

    def cohort(self, path: str) -> str:
        """The name of the part of the optimizer that a path belongs to: its rule, and its phase unless the first."""
        phase = self.entered.get(path, 0)
        return f"{self.labels[path]}.{phase}" if phase else str(self.labels[path])


def check_rules(rules: Any) -> None:
    """Raises ValueError unless `rules` is a tuple of (pattern, multiplier of 0 or more, or None)."""
    if not isinstance(rules, tuple | list) or not rules:
        raise ValueError(f"must be pairs such as (('head/.*', 1.0), ('.*', 0.1)), got {rules!r}")
    for rule in rules:
        if not isinstance(rule, tuple | list) or len(rule) != 2 or not isinstance(rule[0], str):
            raise ValueError(f"{rule!r} is not a pair of pattern and multiplier, such as ('head/.*', 0.1)")
        pattern, multiplier = rule
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        if multiplier is None:
            continue
        if isinstance(multiplier, bool) or not isinstance(multiplier, int | float):
            raise ValueError(f"{pattern!r} needs a number, or None to freeze, got {multiplier!r}")
        if not math.isfinite(multiplier) or multiplier < 0:
            raise ValueError(f"{pattern!r} needs a finite multiplier of at least 0, got {multiplier!r}")


def layerwise(patterns: Sequence[str], decay: float) -> Rules:
    """Rules whose multipliers of the lr fall from the head towards the input, for `c.groups`.

    The last pattern gets 1, the one before it `decay`, the next `decay`², and so on; a fine-tuned network keeps
    more of its early, general layers (Howard and Ruder, Universal Language Model Fine-tuning, 2018, section 3.2).

        c.groups = layerwise(("stem.*", "stage1_.*", "stage2_.*", "head/.*"), 0.5)      # 0.125, 0.25, 0.5, 1.0

    Every parameter must match one; the first that matches counts, as in any rules.

    Args:
      patterns: of the layers' parameters, from the input to the head.
      decay: factor from one layer to the one before it, above 0 and at most 1.

    Raises:
      ConfigError: for no patterns, a single text, or a decay out of range.
    """
    if isinstance(patterns, str) or not patterns:
        raise ConfigError(f"groups: layerwise needs patterns from the input to the head, got {patterns!r}")
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise ConfigError(f"groups: the decay of layerwise must be above 0 and at most 1, got {decay!r}")
    last = len(patterns) - 1
    return tuple((pattern, float(decay) ** (last - i)) for i, pattern in enumerate(patterns))


def check_phases(phases: Any) -> None:
    """Raises ValueError unless `phases` is a tuple of (start, pattern of what is trained from then on)."""
    for index, phase in enumerate(phases):
        if not isinstance(phase, tuple) or len(phase) != 2 or not all(isinstance(part, str) for part in phase):
            raise ValueError(
                f"[{index}]: must be a pair of start and pattern, such as ('5epochs', '.*'), got {phase!r}"
            )
        try:
            check_time(phase[0], zero=True)
            re.compile(phase[1])
        except re.error as error:
            raise ValueError(f"[{index}]: {phase[1]!r} is not a regular expression: {error}") from error
        except ValueError as error:
            raise ValueError(f"[{index}]: {error}") from error


def build_groups(rules: Rules, paths: Sequence[str]) -> Groups:
    """The groups of the parameters at `paths`; a path follows the first rule whose pattern matches all of it.

    Args:
      rules: (pattern, multiplier of the lr) pairs; a multiplier None freezes.
      paths: of all parameters.

    Raises:
      ConfigError: for a malformed rule, a path without a rule, a rule without a path, or nothing to train.
    """
    try:
        check_rules(rules)
    except ValueError as error:
        raise ConfigError(f"groups: {error}") from error
    labels = first_match(rules, paths, key="groups")
    patterns, multipliers = zip(*rules, strict=True)
    frozen = {path for path, label in labels.items() if multipliers[label] is None}
    if len(frozen) == len(labels):
        raise ConfigError("groups: every parameter is frozen; give at least one pattern a number")
    trained = {path: label for path, label in labels.items() if path not in frozen}
    return Groups(patterns, multipliers, trained, frozen)


def decay_mask(paths: Sequence[str], no_decay: Sequence[str] = NO_DECAY) -> set[str]:
    """The paths that decay: those that no pattern matches in full.

    Args:
      paths: of all parameters.
      no_decay: patterns of parameters without weight decay.

    Raises:
      ConfigError: for a pattern that is not a regular expression, or that matches no path (one of
        NO_DECAY may: not every model has a norm).
    """
    decaying = set(paths)
    for pattern in no_decay:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"optimizer.no_decay: {pattern!r} is not a regular expression: {error}") from error
        matched = {path for path in paths if compiled.fullmatch(path)}
        if not matched and pattern not in NO_DECAY:
            raise ConfigError(
                f"optimizer.no_decay: pattern {pattern!r} matches no parameter; "
                f"it must match a whole path such as {paths[0]!r}"
            )
        decaying -= matched
    return decaying
