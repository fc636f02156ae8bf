"""One visible optax chain: clip → per group ([decay →] core → [decay →] [scaling →] −lr [→ decay])."""

import re
from collections.abc import Set
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtrain.errors import ConfigError
from jtrain.optim.clip import CLIPS as CLIPS
from jtrain.optim.core import Core
from jtrain.optim.groups import Groups
from jtrain.optim.schedules import Schedule
from jtrain.tree import map_with_path


def scale_by_lr(schedule: Schedule, multiplier: float) -> optax.GradientTransformationExtraArgs:
    """updates → −schedule(step) · multiplier · lr_scale · updates; no state.

    Its update takes `step` (int32 scalar, from 0) and `lr_scale` (float32 scalar) as arrays, so that
    another lr needs no other program.
    """

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, *, step: Any, lr_scale: Any,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:  # fmt: skip
        del params, extra
        lr = schedule(jnp.asarray(step)) * multiplier * lr_scale
        return jax.tree.map(lambda u: -lr * u, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def build(
    core: Core, schedule: Schedule, groups: Groups, decays: Set[str], clip: optax.GradientTransformation
) -> tuple[optax.GradientTransformationExtraArgs, dict[str, Schedule]]:
    """The whole optimizer over the trainable parameters, and the lr of each group for the log.

    Frozen parameters never reach it: take gradients of the trainable ones, and initialise it on them, alone.
    Then they have no state and no decay, and stay out of the norm that is clipped.

        opt_state = tx.init(trained)
        updates, opt_state = tx.update(grads, opt_state, trained, step=step, lr_scale=lr_scale)
        trained = optax.apply_updates(trained, updates)

    Args:
      core: direction of descent, and weight decay.
      schedule: step -> lr.
      groups: rule of each trainable path, and its multiplier of the lr.
      decays: paths with weight decay.
      clip: one of CLIPS, before everything else.

    Returns:
      (tx, {pattern: step -> lr of its group, without lr_scale}); frozen groups have no lr.

    Raises:
      ConfigError: for a pattern in an option of the optimizer that matches no parameter.
    """
    _check_patterns(core, groups)

    def labels(tree: Any) -> Any:
        return map_with_path(lambda path, _: groups.cohort(path), tree)

    cohorts = {groups.cohort(path): label for path, label in sorted(groups.labels.items())}
    multipliers = {label: float(groups.multipliers[label] or 0.0) for label in sorted(set(groups.labels.values()))}
    per_group = {cohort: _group(core, schedule, multipliers[label], decays) for cohort, label in cohorts.items()}
    schedules = {groups.patterns[label]: _times(schedule, multiplier) for label, multiplier in multipliers.items()}
    return optax.chain(clip, optax.partition(per_group, labels)), schedules


def _group(core: Core, schedule: Schedule, multiplier: float, decays: Set[str]) -> optax.GradientTransformation:
    """The chain of one group. Independent decay comes last: neither lr, multiplier nor lr_scale reaches it."""

    def decaying(tree: Any) -> Any:
        return map_with_path(lambda path, _: path in decays, tree)

    place = core.decay if core.weight_decay else None
    factor = -core.weight_decay if place == "independent" else core.weight_decay
    decay = optax.add_decayed_weights(factor, mask=decaying)
    return optax.chain(
        *([decay] if place == "coupled" else []),
        core.transform,
        *([decay] if place == "decoupled" else []),
        *([core.after_decay] if core.after_decay else []),
        scale_by_lr(schedule, multiplier),
        *([decay] if place == "independent" else []),
    )


def _check_patterns(core: Core, groups: Groups) -> None:
    paths = sorted({*groups.labels, *groups.frozen})
    for key, patterns in core.patterns.items():
        for pattern in patterns:
            if not any(re.fullmatch(pattern, path) for path in paths):
                raise ConfigError(
                    f"{key}: pattern {pattern!r} matches no parameter; it must match a whole path such as {paths[0]!r}"
                )


def _times(schedule: Schedule, multiplier: float) -> Schedule:
    return lambda step: schedule(step) * multiplier
