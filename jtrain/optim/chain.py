"""One visible optax chain: clip → per group ([decay →] core → [decay →] −lr [→ decay])."""

from collections.abc import Callable, Set
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtrain.optim.groups import Groups
from jtrain.optim.optimizers import Core
from jtrain.optim.schedules import Schedule
from jtrain.table import Positive
from jtrain.tree import map_with_path


def none() -> optax.GradientTransformation:
    """Gradients as they are."""
    return optax.identity()


def norm(*, max_norm: Positive = 1.0) -> optax.GradientTransformation:
    """Gradients scaled down to a norm of `max_norm` over all trainable parameters, where theirs is larger.

    As `torch.nn.utils.clip_grad_norm_`, but without the 1e-6 that torch adds to the norm.
    Source: Pascanu et al., On the difficulty of training recurrent neural networks (2013), algorithm 1.
    """
    return optax.clip_by_global_norm(max_norm)


CLIPS: dict[str, Callable[..., optax.GradientTransformation]] = {"none": none, "norm": norm}


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
    """

    def labels(tree: Any) -> Any:
        return map_with_path(lambda path, _: groups.labels[path], tree)

    used = {label: groups.multipliers[label] for label in sorted(set(groups.labels.values()))}
    multipliers = {label: float(multiplier) for label, multiplier in used.items() if multiplier is not None}
    per_group = {label: _group(core, schedule, multiplier, decays) for label, multiplier in multipliers.items()}
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
        scale_by_lr(schedule, multiplier),
        *([decay] if place == "independent" else []),
    )


def _times(schedule: Schedule, multiplier: float) -> Schedule:
    return lambda step: schedule(step) * multiplier
