"""The training step: one pure function, compiled once, whatever the lr, the data's place or the device count."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jtrain import metrics, tree
from jtrain.gradient import Batch, Gradient
from jtrain.optim.schedules import Schedule
from jtrain.state import TrainState

TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, Mapping[str, jax.Array]]]
Give = Callable[[int, int], tuple[Any, Any]]  # (first update, number of updates) -> (data, rows [most, batch] or None)
Sums = list[
    tuple[int, Mapping[str, jax.Array]]
]  # of one call after the other: (its updates, their sums [most, …], on the device)
OnNan = Literal["raise", "skip", "rollback"]

IN_FLIGHT = 2  # calls handed to the device ahead of the last one known to be done

SMALL = 2**13  # elements of a leaf that is copied to be summed with others

# Dynamic loss scaling (Micikevicius et al. 2018, section 3.2; the constants are torch's GradScaler's).
FIRST_SCALE, SCALE_GROWTH, SCALE_BACKOFF, GROW_AFTER, LEAST_SCALE = 65536.0, 2.0, 0.5, 2000, 1.0


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What may be added to the plain step.

    Attributes:
      accumulate: micro-batches of one update.
      unroll: write them out one after another (CPU: a convolution in a loop is slow) instead of a loop.
      loss_scaling: multiply the loss dynamically, for float16.
      ema_decay: of the averaged parameters; 0 is none.
      schedule_free: the average is that of schedule-free training (then `ema_decay` is its β), and is trained with.
      lookahead: updates after which the parameters go back to their average, which then moves (by 1 - `ema_decay`);
        0: they never do.
      on_nan: after a gradient that is not finite: 'raise' and 'rollback' stop the state there, 'skip' passes over it.
    """

    accumulate: int = 1
    unroll: bool = True
    loss_scaling: bool = False
    ema_decay: float = 0.0
    schedule_free: bool = False
    lookahead: int = 0
    on_nan: OnNan = "raise"

    def extra(self, params: Any) -> dict[str, Any]:
        """The first `extra` of a state: the first update that failed (-1: none); loss scale, good updates since;
        the fast parameters z of schedule-free training, the sum of its weights and the largest lr so far."""
        extra: dict[str, Any] = {"failed": jnp.full((), -1, jnp.int32)}
        if self.schedule_free:
            extra |= {"z": jax.tree.map(jnp.copy, params), "weight_sum": jnp.zeros(()), "top_lr": jnp.zeros(())}
        if self.loss_scaling:
            extra |= {"loss_scale": jnp.full((), FIRST_SCALE), "good_steps": jnp.zeros((), jnp.int32)}
        return extra


def make_train_step(
    *,
    gradient: Gradient,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Schedule,
    frozen: set[str],
    options: StepOptions,
) -> Callable[[TrainState, Batch, jax.Array | None], tuple[TrainState, metrics.Sums]]:
    """`train_step(state, data, rows) -> (state, sums)`, pure; `select` explains data and rows.

    A gradient that is not finite changes nothing but the step number; its sums are 0, but for `non_finite`.

    Args:
      gradient: from `make_gradient`.
      tx: the chain over trainable parameters; its update takes `step` and `lr_scale`.
      schedule: step -> lr, by which schedule-free training weighs.
      frozen: paths of parameters that are not trained: no gradient, no optimizer state, no decay.
      options: what is added to the plain step.
    """

    def train_step(state: TrainState, data: Batch, rows: jax.Array | None) -> tuple[TrainState, metrics.Sums]:
        grads, sums, model_state = gradient(state, data, rows)
        fixed, trained = tree.split(state.params, frozen)
        norm = _norm(grads)
        known = jnp.isfinite(sums["loss"][0])
        good = jnp.isfinite(norm) & known
        updates, opt_state = tx.update(grads, state.opt_state, trained, step=state.step, lr_scale=state.lr_scale)
        new = optax.apply_updates(trained, updates)
        extra, ema = dict(state.extra), state.ema
        if options.ema_decay:
            average = tree.split(state.ema, frozen)[1]  # of frozen leaves the average stays as it is, to the bit
            if options.schedule_free:
                lr = schedule(state.step) * state.lr_scale
                new, average, extra = _schedule_free(trained, new, average, extra, lr, options.ema_decay)
            elif options.lookahead:
                new, average = _lookahead(new, average, state.step + 1, options.ema_decay, options.lookahead)
            else:
                average = _averaged(average, new, state.step, options.ema_decay)
            ema = tree.merge(average, tree.split(state.ema, frozen)[0])
        params = tree.merge(new, fixed)
        judged, apply, failed = _judged(state, good, known, options)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(apply, n, o), new, old)

        one = jnp.ones(())
        sums = sums | {"grad_norm": jnp.stack([norm, one])}
        sums = {name: jnp.where(good, pair, 0.0) for name, pair in sums.items()}
        sums["non_finite"] = jnp.stack([failed.astype(jnp.float32), one])
        if options.loss_scaling:
            sums["overflow"] = jnp.stack([(~good & ~failed).astype(jnp.float32), one])
        new_state = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            model_state=keep(model_state, state.model_state),
            opt_state=keep(opt_state, state.opt_state),
            key=state.key,
            lr_scale=state.lr_scale,
            ema=keep(ema, state.ema),
            extra=keep(extra, state.extra) | judged,
        )
        return new_state, sums

    return train_step


def _norm(grads: Any) -> jax.Array:
    """The global norm of gradients. Biases, scales and small kernels are many: together they are one sum to compile."""
    leaves = jax.tree.leaves(grads)
    small = [leaf.reshape(-1) for leaf in leaves if leaf.size <= SMALL]
    large = [leaf for leaf in leaves if leaf.size > SMALL]
    return optax.tree.norm([*large, jnp.concatenate(small)] if small else large)


def _averaged(average: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """Moving average of the parameters; early on it forgets faster: decay min(d, (1 + t) / (10 + t))."""
    t = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1.0 + t) / (10.0 + t))
    return jax.tree.map(lambda a, p: d * a + (1.0 - d) * p, average, params)


def _lookahead(params: Any, slow: Any, done: jax.Array, decay: float, every: int) -> tuple[Any, Any]:
    """Lookahead (Zhang et al. 2019, algorithm 1): after every k updates φ += α (θ - φ); θ = φ, with α = 1 - decay.

    The slow parameters φ are what is evaluated; the optimizer of the fast ones θ keeps its state.
    """
    due = done % every == 0
    slow = jax.tree.map(lambda s, p: jnp.where(due, decay * s + (1.0 - decay) * p, s), slow, params)
    return jax.tree.map(lambda p, s: jnp.where(due, s, p), params, slow), slow


def _schedule_free(
    params: Any, moved: Any, average: Any, extra: dict[str, Any], lr: jax.Array, beta: float
) -> tuple[Any, Any, dict[str, Any]]:
    """Schedule-free training (Defazio et al. 2024, algorithm 1), around any optimizer without momentum.

    The gradient is taken at `params` y; the optimizer's step moves z; x, the average of z weighed by the square of the
    largest lr so far, is what is evaluated: z += moved - y; x += c (z - x); y = (1 - β) z + β x.
    """
    z = jax.tree.map(lambda z, new, y: z + (new - y), extra["z"], moved, params)
    top = jnp.maximum(extra["top_lr"], lr)
    total = extra["weight_sum"] + top**2
    c = jnp.where(total > 0, top**2 / jnp.maximum(total, jnp.finfo(jnp.float32).tiny), 0.0)
    average = jax.tree.map(lambda x, z: (1.0 - c) * x + c * z, average, z)
    params = jax.tree.map(lambda x, z: (1.0 - beta) * z + beta * x, average, z)
    return params, average, extra | {"z": z, "weight_sum": total, "top_lr": top}


def _judged(
    state: TrainState, good: jax.Array, known: jax.Array, options: StepOptions
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """(what the next `extra` says of failures and of the loss scale, whether the update is applied, whether it failed).

    An overflow of the scaled loss is what scaling is for: no failure, unless the loss itself is not finite.
    """
    extra, bad = {"failed": state.extra["failed"]}, ~good
    if options.loss_scaling:
        scale, count = state.extra["loss_scale"], jnp.where(good, state.extra["good_steps"] + 1, 0)
        bad = bad & (~known | (scale <= LEAST_SCALE))
        grown = jnp.where(count >= GROW_AFTER, scale * SCALE_GROWTH, scale)
        smaller = jnp.where(bad, scale, jnp.maximum(scale * SCALE_BACKOFF, LEAST_SCALE))
        extra["loss_scale"] = jnp.where(good, grown, smaller)
        extra["good_steps"] = jnp.where(count >= GROW_AFTER, 0, count)
    if options.on_nan == "skip":
        return extra, good, bad
    before = state.extra["failed"] >= 0  # the state stands still since
    extra = {name: jnp.where(before, state.extra[name], value) for name, value in extra.items()}
    extra["failed"] = jnp.where(~before & bad, state.step, extra["failed"])
    return extra, good & (extra["failed"] < 0), bad


def make_train_steps(train_step: TrainStep, *, loop: bool) -> TrainStep:
    """`train_steps(state, data, rows) -> (state, sums)`, pure: several updates in one call.

    Resident data come with rows [most, batch], an update each, one after another; rows of -1 at the end are none. A
    placed batch, with rows None, is one update. The sums by name are [most, …], or [1, …]. How many updates they are
    is data: calls of any number run through one program, and give the same bits however the updates are cut into calls.

    Args:
      train_step: from `make_train_step`.
      loop: compile a loop; without it a call is one update, and the program holds the step as it is.
    """

    def train_steps(state: TrainState, data: Batch, rows: Any) -> tuple[TrainState, metrics.Packed]:
        first = None if rows is None else rows[0]
        if not loop:
            state, found = train_step(state, data, first)
            packed = metrics.Packed.of(found)
            return state, dataclasses.replace(packed, array=packed.array[None])
        shape = jax.eval_shape(lambda *given: metrics.Packed.of(train_step(*given)[1]), state, data, first)
        size = 1 if rows is None else len(rows)

        def more(carry: Any) -> jax.Array:
            i, state, _ = carry
            # The second half is always true of a placed batch; but knew the compiler that the number of updates is 1,
            # it would unroll the loop, and round otherwise.
            due = state.step >= 0 if rows is None else jax.lax.dynamic_index_in_dim(rows, i, keepdims=False)[0] >= 0
            return (i < size) & due

        def update(carry: Any) -> Any:
            i, state, array = carry
            batch = None if rows is None else jax.lax.dynamic_index_in_dim(rows, i, keepdims=False)
            state, found = train_step(state, data, batch)
            return i + 1, state, jax.lax.dynamic_update_index_in_dim(array, metrics.Packed.of(found).array, i, 0)

        start = jnp.zeros((), jnp.uint32), state, jnp.zeros((size, *shape.array.shape), shape.array.dtype)
        _, state, array = jax.lax.while_loop(more, update, start)
        return state, dataclasses.replace(shape, array=array)

    return train_steps


def advance(
    train_steps: TrainStep,
    states: Sequence[TrainState],
    feeds: Sequence[Give],
    start: int,
    stop: int,
    *,
    most: int = 1,
    block: bool = False,
    may: Callable[[int], bool] = lambda step: True,
    on_step: Callable[[int, Mapping[str, jax.Array]], bool] | None = None,
) -> tuple[list[TrainState], list[Sums], int]:
    """Moves every state from update `start` to update `stop`.

    Args:
      train_steps: compiled, from `make_train_steps`, such as `run.train_steps`; donates its state.
      states: one a member; not to be used afterwards.
      feeds: (first update, number) -> (data, rows), such as `run.give`; one for all members, or one each.
      start: updates that every state has done.
      stop: updates that it shall have done.
      most: updates a call, at most; that many the rows of the feeds hold, and calls are about equally long.
      block: wait for every call (simulated devices).
      may: asked before each call; when it returns False, no further one is begun.
      on_step: called with the updates done and the first member's sums once a call is on its way;
        when it returns True, no further one is begun.

    Returns:
      The new states, the sums of every call (on the device) by member, and the updates done.
    """
    states = list(states)
    sums: list[Sums] = [[] for _ in states]
    if most < 1:
        raise ValueError(f"most: {most} updates a call; at least 1, and at most what the feeds' rows hold")
    if len(feeds) not in (1, len(states)):
        raise ValueError(f"{len(feeds)} feeds for {len(states)} states; give one, or one each")
    step = start
    while step < stop and may(step):
        calls = -(-(stop - step) // most)
        count = -(-(stop - step) // calls)
        given = [feed(step, count) for feed in feeds]
        for i, state in enumerate(states):
            states[i], found = train_steps(state, *given[i % len(given)])
            sums[i].append((count, found))
        if block:
            jax.block_until_ready(states)
        elif len(sums[-1]) >= IN_FLIGHT:
            jax.block_until_ready(sums[-1][-IN_FLIGHT][1])
        step += count
        if on_step is not None and on_step(step, sums[0][-1][1]):
            break
    return states, sums, step
