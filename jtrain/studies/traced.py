"""A model as its traced program, with its layers in sight, whatever library it was written with."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from jtrain import tree
from jtrain.models.pure import Model

Kind = Literal["layer", "relu", "tanh", "logistic"]

_CALLS = frozenset({"jit", "pjit", "remat", "remat2", "checkpoint", "closed_call", "core_call"})
_PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})


@dataclasses.dataclass(frozen=True)
class Event:
    """What was passed on the way through a model.

    Attributes:
      kind: "layer": a product of values with a parameter, or rows of one (an embedding); else an activation.
      name: of the layer: its parameter's path without the last part; of an activation, the layer before it.
      value: what it gave, [batch, …] or in the order that the model has its axes.
    """

    kind: Kind
    name: str
    value: jax.Array


@dataclasses.dataclass(frozen=True)
class Trace:
    """A model's program in training.

    Attributes:
      run: (params, model_state, inputs, key, offsets) -> (outputs, events); offset i is added to what layer i gives, so
        that a gradient with respect to it is that of the layer's values. () adds nothing.
      shapes: (params, model_state, inputs, key) -> abstract values of the layers, in order.
      draws: its outputs depend on the key: something such as dropout draws at random.
      loops: loops with products in them, into which nothing looks.
    """

    run: Callable[..., tuple[jax.Array, list[Event]]]
    shapes: Callable[..., list[jax.ShapeDtypeStruct]]
    draws: bool
    loops: int


def trace(model: Model, params: Any, model_state: Any, inputs: Any, key: Any) -> Trace:
    """The program of `model.apply` in training, for arguments of these shapes, abstract or not."""

    def apply(params: Any, model_state: Any, inputs: Any, key: Any) -> Any:
        return model.apply(params, model_state, inputs, key=key, train=True)[0]

    program = jax.make_jaxpr(apply)(params, model_state, inputs, key)
    paths = list(tree.flatten(params))
    leaves = len(jax.tree.leaves((params, model_state)))
    sources: list[_Source] = [_Source(path) for path in paths]
    sources += [_Source() for _ in range(leaves - len(paths))]
    sources += [_Source(data=True), _Source(drawn=True)]

    def run(params: Any, model_state: Any, inputs: Any, key: Any, offsets: Sequence[Any] = ()) -> Any:
        walk = _Walk(offsets)
        values = jax.tree.leaves((params, model_state, inputs, key))
        (outputs,) = walk.through(program.jaxpr, program.consts, values, sources)[0]
        return outputs, walk.events

    def shapes(*given: Any) -> list[Any]:
        return jax.eval_shape(lambda *given: [e.value for e in run(*given)[1] if e.kind == "layer"], *given)

    facts = _Walk(())
    found: list[_Source] = []

    def dry(*values: Any) -> None:
        found.extend(facts.through(program.jaxpr, program.consts, values, sources)[1])

    jax.eval_shape(dry, *jax.tree.leaves((params, model_state, inputs, key)))
    return Trace(run, shapes, found[0].drawn, facts.loops)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a value comes from: the path of a parameter ('' for none), the inputs, the random key."""

    path: str = ""
    data: bool = False
    drawn: bool = False

    def joined(self, other: "_Source") -> "_Source":
        return _Source(self.path or other.path, self.data or other.data, self.drawn or other.drawn)


class _Walk:
    """One way through a program, equation by equation."""

    def __init__(self, offsets: Sequence[Any]) -> None:
        self.events: list[Event] = []
        self.loops = 0
        self._offsets = list(offsets)

    def through(
        self, jaxpr: jex.Jaxpr, consts: Sequence[Any], values: Sequence[Any], sources: Sequence[_Source]
    ) -> tuple[list[Any], list[_Source]]:
        """(values, sources) of what the program gives."""
        env: dict[Any, tuple[Any, _Source]] = {v: (c, _Source()) for v, c in zip(jaxpr.constvars, consts, strict=True)}
        env |= {v: pair for v, *pair in zip(jaxpr.invars, values, sources, strict=True)}  # type: ignore[misc]

        def read(atom: Any) -> tuple[Any, _Source]:
            return (atom.val, _Source()) if isinstance(atom, jex.Literal) else env[atom]

        for equation in jaxpr.eqns:
            given = [read(atom) for atom in equation.invars]
            env |= dict(zip(equation.outvars, self._done(jaxpr, equation, given), strict=True))
        pairs = [read(atom) for atom in jaxpr.outvars]
        return [value for value, _ in pairs], [source for _, source in pairs]

    def _done(self, jaxpr: jex.Jaxpr, equation: Any, given: list[tuple[Any, _Source]]) -> list[tuple[Any, _Source]]:
        """(value, source) of each output of an equation; notes what of interest it was."""
        name, values, sources = equation.primitive.name, [v for v, _ in given], [s for _, s in given]
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if name in _CALLS and inner is not None:
            closed = isinstance(inner, jex.ClosedJaxpr)
            program, consts = (inner.jaxpr, inner.consts) if closed else (inner, ())
            return list(zip(*self.through(program, consts, values, sources), strict=True))
        outputs = _evaluated(jaxpr, equation, values)
        source = _Source()
        for other in sources:
            source = source.joined(other)
        if source.data:
            source = dataclasses.replace(source, path="")
        if layer := _layer(name, sources):
            if self._offsets:
                outputs = [outputs[0] + self._offsets.pop(0)]
            self.events.append(Event("layer", layer, outputs[0]))
        elif self.events and source.data and (kind := _activation(equation)):
            last, value = next(e for e in reversed(self.events) if e.kind == "layer"), outputs[0]
            # A norm, too, takes the larger of 0 and something: of its variance, which has fewer axes.
            if value.ndim > 1 and (kind != "relu" or value.shape[-1] == last.value.shape[-1]):
                self.events.append(Event(kind, last.name, value))
        elif source.data and any(map(_multiplies, _programs(equation.params))):
            self.loops += 1
        return [(value, source) for value in outputs]


def _evaluated(jaxpr: jex.Jaxpr, equation: Any, values: Sequence[Any]) -> list[Any]:
    """What one equation gives, its own derivative rule kept: as a program of that equation alone."""
    env = {a: v for a, v in zip(equation.invars, values, strict=True) if not isinstance(a, jex.Literal)}
    # A value that nothing reads has no name of its own, and may not be asked for.
    wanted = [v for v in equation.outvars if not isinstance(v, jex.DropVar)]
    alone = jaxpr.replace(constvars=[], invars=list(env), outvars=wanted, eqns=[equation])
    found = dict(zip(wanted, jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, []))(*env.values()), strict=True))
    return [found.get(v) for v in equation.outvars]


def _layer(name: str, sources: Sequence[_Source]) -> str:
    """The name of the layer that an equation is the product of, '' if of none."""
    if name in _PRODUCTS and sources[0].data != sources[1].data:
        path = sources[1 if sources[0].data else 0].path
    elif name == "gather" and not sources[0].data and sources[1].data:
        path = sources[0].path
    else:
        return ""
    return path.rpartition("/")[0] or path


def _activation(equation: Any) -> Kind | None:
    name = equation.primitive.name
    if name in ("tanh", "logistic"):
        return name
    if name == "max":
        return (
            "relu"
            if any(isinstance(a, jex.Literal) and jnp.ndim(a.val) == 0 and a.val == 0 for a in equation.invars)
            else None
        )
    if name == "custom_jvp_call":
        inner = list(_programs(equation.params))
        while len(inner) == 1 and len(inner[0].eqns) == 1:
            (only,) = inner[0].eqns
            if only.primitive.name == "max":
                return _activation(only)
            inner = list(_programs(only.params))
    return None


def _programs(params: Mapping[str, Any]) -> list[Any]:
    """The programs that an equation holds."""
    found = jax.tree.leaves(list(params.values()), is_leaf=lambda v: hasattr(v, "eqns"))
    return [getattr(v, "jaxpr", v) for v in found if hasattr(v, "eqns")]


def _multiplies(jaxpr: jex.Jaxpr) -> bool:
    """Whether there is a product of arrays in a program, or in one that it calls."""
    return any(e.primitive.name in _PRODUCTS or any(map(_multiplies, _programs(e.params))) for e in jaxpr.eqns)
