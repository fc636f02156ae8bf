"""How large values and gradients are in each layer of a model, for one batch: nothing is updated."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import tree
from jtrain.gradient import DROPOUT, prepared
from jtrain.run import Run
from jtrain.state import TrainState
from jtrain.studies.traced import Event, trace

FLAT = 0.01  # of its steepest slope, below which a squashing function is saturated
HALF_SCALE = 1024.0  # of the loss in float16, in which small gradients would vanish

Batch = Mapping[str, np.ndarray]  # inputs [n, …], targets [n, …]
Plain = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Signals:
    """What one batch shows of a model in training; numbers that were not finite are None.

    Attributes:
      loss: mean over the batch.
      blank: loss of a model whose own outputs are all 0: log(classes) for a softmax, in regression the variance of the
        targets in its unit.
      layers: in the order of the model, each with `name`, `rms` of what it gives, before bias and activation, `spread`,
        the rms of what of that differs between examples, `grad_rms` of the loss's gradient with respect to it; and
        where an activation follows `dead`, the share of ReLU units that are 0 for the whole batch, and `saturated`, the
        share of values at which a squashing function (tanh, sigmoid) is flat.
      params: by path, each with `rms` and `grad_rms`.
      outputs: `rms` of all, `spread` as of layers, `probabilities`: whether they are such of classes, `flat`: the share
        at which the task's own bound of outputs is flat.
      squashed: what stands behind the last layer: "tanh", "logistic", "relu" or "".
      draws: it draws at random in training.
      loops: loops that hold layers, which are not seen.
    """

    loss: float | None
    blank: float | None
    layers: list[Plain]
    params: dict[str, Plain]
    outputs: Plain
    squashed: str
    draws: bool
    loops: int

    def plain(self) -> Plain:
        """Plain JSON; `Signals(**plain)` is the same again."""
        return dataclasses.asdict(self)


def make_probe(run: Run, batch: Batch) -> Callable[[TrainState, Batch], Signals]:
    """A compiled function of states and batches of the shapes of `run` and `batch`."""
    task, scale = run.task, HALF_SCALE if run.config.precision == "float16" else 1.0
    size = len(batch["inputs"])
    weight = np.ones(size, np.float32)

    def made(batch: Any, key: jax.Array) -> Any:
        return prepared(batch | {"weight": weight}, key, task=task, augment=None, mix=None)

    def key_of(state: TrainState) -> jax.Array:
        return jax.random.fold_in(jax.random.wrap_key_data(state.key), 0)

    whole = {name: jax.ShapeDtypeStruct(values.shape, values.dtype) for name, values in batch.items()}
    a_key = jax.eval_shape(jax.random.key, 0)
    seen = jax.eval_shape(made, whole, a_key)
    abstract = run.shapes.params, run.shapes.model_state, seen["inputs"], a_key
    traced = trace(run.model, *abstract)
    shapes = traced.shapes(*abstract)
    named: list[tuple[str, str]] = []  # (kind, layer) of the events, once traced

    @jax.jit
    def measured(params: Any, model_state: Any, batch: Any, key: jax.Array, nothing: jax.Array) -> Any:
        batch = made(batch, key)

        def loss_of(params: Any, offsets: Any) -> tuple[jax.Array, Any]:
            dropout = jax.random.fold_in(key, DROPOUT)
            outputs, events = traced.run(params, model_state, batch["inputs"], dropout, offsets)
            named[:] = [(event.kind, event.name) for event in events]
            each = task.loss(task.shown(outputs), batch["targets"])
            return scale * each.mean(), (each.mean(), outputs, [_facts(event, size) for event in events])

        offsets = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
        (_, (loss, outputs, facts)), grads = jax.value_and_grad(loss_of, (0, 1), has_aux=True)(params, offsets)
        own = jnp.broadcast_to(nothing, outputs.shape)  # 0, but not known as such: else XLA computes the loss of it
        if task.rescale is not None:
            middle = np.asarray(task.rescale[0], np.float32)
            own = own + middle.reshape((1,) * (own.ndim - middle.ndim) + middle.shape)
        blank = task.loss(task.shown(own), batch["targets"]).mean()
        flat = (_slope(task.shown, outputs) < FLAT * _slope(task.shown, own)).mean()
        of_params = jax.tree.map(lambda p, g: jnp.stack([_rms(p), _rms(g) / scale]), params, grads[0])
        of_layers = [_rms(g) / scale for g in grads[1]]
        return loss, blank, facts, of_layers, of_params, (*_of_outputs(outputs), flat)

    def probe(state: TrainState, batch: Batch) -> Signals:
        found = measured(
            state.params,
            state.model_state,
            dict(batch),
            key_of(state),
            np.zeros((), np.float32),
        )
        loss, blank, facts, of_layers, of_params, outputs = jax.device_get(found)
        layers: list[Plain] = []
        for (kind, name), fact in zip(named, facts, strict=True):
            if kind == "layer":
                rms, spread = fact
                layers.append(
                    {
                        "name": name,
                        "rms": number(rms),
                        "spread": number(spread),
                        "grad_rms": number(of_layers[len(layers)]),
                    }
                )
            else:
                word = "dead" if kind == "relu" else "saturated"
                layers[-1][word] = max(number(fact) or 0.0, layers[-1].get(word, 0.0))
        last = max((i for i, (kind, _) in enumerate(named) if kind == "layer"), default=len(named))
        squashed = next((kind for kind, _ in named[last + 1 :]), "")
        params = {path: {"rms": number(p[0]), "grad_rms": number(p[1])} for path, p in tree.flatten(of_params).items()}
        rms, spread, among, flat = outputs
        of_outputs = {
            "rms": number(rms), "spread": number(spread), "probabilities": bool(among), "flat": number(flat)
        }  # fmt: skip
        return Signals(number(loss), number(blank), layers, params, of_outputs, squashed, traced.draws, traced.loops)

    return probe


def number(value: Any) -> float | None:
    """A plain number, None for what is not finite."""
    return float(value) if math.isfinite(value) else None


def _rms(values: jax.Array) -> jax.Array:
    values = values.astype(jnp.float32)
    top = jnp.maximum(jnp.abs(values).max(initial=0.0), jnp.finfo(jnp.float32).tiny)
    return top * jnp.sqrt(jnp.square(values / top).mean())  # squares of tiny gradients are 0 in float32


def _facts(event: Event, examples: int) -> Any:
    values = jax.lax.stop_gradient(event.value.astype(jnp.float32))
    if event.kind == "layer":
        return _rms(values), _spread(values, examples)
    if event.kind == "relu":
        return (values.max(axis=tuple(range(values.ndim - 1))) <= 0).mean()
    slope = 1.0 - jnp.square(values) if event.kind == "tanh" else 4.0 * values * (1.0 - values)
    return (slope < FLAT).mean()


def _of_outputs(outputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(rms, rms of what differs between examples, whether they are probabilities of classes)."""
    values = outputs.astype(jnp.float32)
    sums = values.sum(axis=-1)
    among = (values >= 0).all() & (jnp.abs(sums - 1.0) < 1e-3).all() & (outputs.ndim > 1 and outputs.shape[-1] > 1)
    return _rms(values), _spread(values, len(values)), among


def _spread(values: jax.Array, examples: int) -> jax.Array:
    """The rms of what differs between examples: the first axis, or within the first, or the second; else of all."""
    if values.shape[0] % examples == 0:
        values = values.reshape(examples, -1)
    elif values.ndim > 1 and values.shape[1] == examples:
        values = values.swapaxes(0, 1)
    return _rms(values - values.mean(axis=0, keepdims=True))


def _slope(function: Callable[[jax.Array], jax.Array], at: jax.Array) -> jax.Array:
    return jnp.abs(jax.jvp(function, (at,), (jnp.ones_like(at),))[1])
