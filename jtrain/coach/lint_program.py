"""What a model's traced program tells: what its outputs go through last, and where dropout falls.

A program is what `jax.make_jaxpr` gives (its `.jaxpr`), here only read: equations with a primitive's name, the values
that go in and come out, and parameters, among them other programs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

_CALLS = (
    "jit",
    "pjit",
    "remat",
    "remat2",
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
)
_SHAPED = ("convert_element_type", "reshape", "squeeze", "broadcast_in_dim", "copy", "stop_gradient", "transpose")
_ENDS = {"logistic": "sigmoid", "tanh": "tanh"}


def ends_in(program: Any, *, rescaled: bool = False) -> str:
    """The activation behind the last layer: 'softmax', 'sigmoid', 'tanh', 'relu', or '' for none of them.

    Args:
      program: whose first output are the outputs.
      rescaled: these were multiplied and moved once, after the model (`models.prepare`), which is passed over.
    """
    value, scope = program.outvars[0], _Scope(program)
    for name in ("add", "mul") if rescaled else ():
        equation, scope = _maker(value, scope)
        if equation is None or equation.primitive.name != name:
            return ""
        value = equation.invars[0]
    equation, scope = _maker(value, scope)
    if equation is None:
        return ""
    name = equation.primitive.name
    if name == "max":
        return "relu" if any(_is_zero(atom) for atom in equation.invars) else ""
    if name == "div":
        above, below = (_maker(atom, scope)[0] for atom in equation.invars)
        sums = below is not None and below.primitive.name == "reduce_sum"
        return "softmax" if sums and above is not None and above.primitive.name == "exp" else ""
    return _ENDS.get(name, "")


def drops_memory(program: Any, inputs: Sequence[Any]) -> bool:
    """Whether, in a loop over the inputs, a mask that is drawn anew at each step falls on what one step hands to the
    next, and so is worn away step by step. Dropout of the inputs, or one mask for all steps, is neither.

    Args:
      program: of a model in training.
      inputs: those of its invars that hold the examples.
    """
    found: list[bool] = []
    marks = {var: _Mark(data=True) for var in inputs}
    _flow(program, [marks.get(var, _Mark()) for var in program.invars], found)
    return any(found)


@dataclasses.dataclass(frozen=True)
class _Mark:
    """What a value comes from: the examples, a draw, and which of the loop's carried values, of these under a mask."""

    data: bool = False
    drawn: bool = False
    carried: frozenset[int] = frozenset()
    masked: frozenset[int] = frozenset()

    def joined(self, other: "_Mark") -> "_Mark":
        return _Mark(
            self.data or other.data, self.drawn or other.drawn, self.carried | other.carried, self.masked | other.masked
        )


def _flow(program: Any, given: Sequence[_Mark], found: list[bool]) -> list[_Mark]:
    """The marks of a program's outputs; notes in `found` what loops in it do."""
    marks = dict(zip(program.invars, given, strict=True))

    def read(atom: Any) -> _Mark:
        return _Mark() if hasattr(atom, "val") else marks.get(atom, _Mark())

    for equation in program.eqns:
        ins, name = [read(atom) for atom in equation.invars], equation.primitive.name
        inner = _inner(equation)
        if name == "scan":
            outs = _loop(equation, inner, ins, found)
        elif inner is not None and len(inner.invars) == len(ins):
            outs = _flow(inner, ins, found)
        else:
            outs = [_result(name, ins)] * len(equation.outvars)
        marks |= dict(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in program.outvars]


def _loop(equation: Any, body: Any, ins: Sequence[_Mark], found: list[bool]) -> list[_Mark]:
    consts, carry = equation.params["num_consts"], equation.params["num_carry"]
    # Over layers, not over time, where what it goes through is not the inputs: their carry may well be masked.
    over_time = any(mark.data for mark in ins[consts + carry :])
    own = [_Mark(data=True, carried=frozenset([index])) for index in range(carry)]
    kept = [
        dataclasses.replace(mark, drawn=False) for mark in ins[:consts]
    ]  # one mask for all steps is as good as data
    outs = _flow(body, [*kept, *own, *ins[consts + carry :]], found)
    if over_time:
        found.append(any(index in mark.masked for index, mark in enumerate(outs[:carry])))
    all_of_it = _Mark()
    for mark in [*ins, *outs]:
        all_of_it = all_of_it.joined(dataclasses.replace(mark, carried=frozenset(), masked=frozenset()))
    return [all_of_it] * len(equation.outvars)


def _result(name: str, ins: Sequence[_Mark]) -> _Mark:
    if name == "random_bits":
        return _Mark(drawn=True)
    mark = _Mark()
    for other in ins:
        mark = mark.joined(other)
    # A mask is drawn, and depends on no example.
    masks = [i for i, other in enumerate(ins) if other.drawn and not other.data]
    if name in ("select_n", "mul") and masks and not (name == "select_n" and 0 not in masks):
        return dataclasses.replace(mark, masked=mark.masked | mark.carried)
    return mark


class _Scope:
    """A program where it is called: one that is called twice is two scopes."""

    def __init__(self, program: Any, outer: "_Scope | None" = None, given: Sequence[Any] = ()) -> None:
        self.outer = outer
        self.given = dict(zip(program.invars, given, strict=False))
        self.made = {out: equation for equation in program.eqns for out in equation.outvars}


def _maker(value: Any, scope: _Scope) -> tuple[Any, _Scope]:
    """(the equation that computed a value, its scope), past all that only shapes or names it; None: there is none."""
    while not hasattr(value, "val"):
        equation = scope.made.get(value)
        if equation is None:
            if scope.outer is None or value not in scope.given:
                break
            value, scope = scope.given[value], scope.outer
            continue
        name, inner = equation.primitive.name, _inner(equation)
        if name in _CALLS and inner is not None and len(inner.invars) == len(equation.invars):
            value = inner.outvars[equation.outvars.index(value)]
            scope = _Scope(inner, scope, equation.invars)
        elif name in _SHAPED:
            value = equation.invars[0]
        else:
            return equation, scope
    return None, scope


def _inner(equation: Any) -> Any:
    """The one program that an equation holds, or None."""
    found = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return getattr(found, "jaxpr", found) if hasattr(found, "eqns") or hasattr(found, "jaxpr") else None


def _is_zero(atom: Any) -> bool:
    value = getattr(atom, "val", None)
    return value is not None and getattr(value, "ndim", 0) == 0 and value == 0
