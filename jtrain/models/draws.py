"""Random values drawn on the host, from the program that would draw them on a device: nothing is compiled for them.

Compiling the draws of a ResNet-18 takes longer than a hundred of its steps. What an initializer does with random bits
is arithmetic on each number; here it is done by NumPy, so the distribution is the same, with bits from Philox. A draw
depends on its key alone, and a key on how it was made from the first one (a path, a count): as in JAX, another layer
does not change the draws of the others.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

Host = np.ndarray | np.generic
Value = Any  # an array; a Key; or OPAQUE

_PART = 1 << 15  # numbers
_INSIDE: np.ndarray = np.array([
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
], np.float32)  # fmt: skip
_OUTSIDE: np.ndarray = np.array([
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
], np.float32)  # fmt: skip

OPAQUE = object()  # what depends on more than keys, or is computed by what is not in _OPS


class Key(bytes):
    """A random key, or part of one: a digest of how it was made."""


class Same(str):
    """An input, by name, as it is."""


def draw(program: Any, root: bytes, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of each output that can be drawn on the host, one after another.

    Args:
      program: a traced function (`jax.make_jaxpr`) of a typed key, and perhaps more, on which what is drawn may not
        depend.
      root: stands for the key.
      names: of its outputs, in order; "" is not wanted.
    """
    jaxpr = program.jaxpr
    made_by = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
    given: dict[Any, Value] = dict.fromkeys(jaxpr.invars, OPAQUE)
    given[jaxpr.invars[0]] = Key(_digest(root))
    given |= zip(jaxpr.constvars, program.consts, strict=True)
    for name, out in zip(names, jaxpr.outvars, strict=True):
        value = OPAQUE if not name else _evaluated(_needed([out], made_by), given, [out])[0]
        if isinstance(value, Host):
            yield name, np.array(np.broadcast_to(value, out.aval.shape), out.aval.dtype)


def outputs(program: Any, given: Iterable[str], names: Iterable[str]) -> dict[str, Same | np.ndarray]:
    """{name: what it is} of the outputs of a traced function that are constants, or its inputs as they are.

    Args:
      program: from `jax.make_jaxpr`.
      given: names of its inputs, in order.
      names: of its outputs, in order.
    """
    jaxpr = program.jaxpr
    made_by = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
    values: dict[Any, Value] = dict(zip(jaxpr.invars, map(Same, given), strict=True))
    values |= zip(jaxpr.constvars, program.consts, strict=True)
    found: dict[str, Same | np.ndarray] = {}
    for name, out in zip(names, jaxpr.outvars, strict=True):
        value = _evaluated(_needed([out], made_by), values, [out])[0]
        if isinstance(value, Same):
            found[name] = value
        elif isinstance(value, Host):
            found[name] = np.array(np.broadcast_to(value, out.aval.shape), out.aval.dtype)
    return found


def key_data(root: bytes) -> np.ndarray:
    """Data of a key, uint32 [2], of `root` alone; what JAX makes of a seed needs a compiled program."""
    return np.frombuffer(_digest(root)[:8], "<u4").astype(np.uint32)


def _needed(outs: list[Any], made_by: Mapping[Any, Any]) -> list[Any]:
    """The equations on which outputs depend, in an order in which they can be computed."""
    order: list[Any] = []
    seen: set[int] = set()
    stack = [(made_by.get(out) if _is_variable(out) else None, False) for out in outs]
    while stack:
        equation, done = stack.pop()
        if equation is None or (not done and id(equation) in seen):
            continue
        if done:
            order.append(equation)
            continue
        seen.add(id(equation))
        stack.append((equation, True))
        stack += [(made_by.get(var), False) for var in equation.invars if _is_variable(var)]
    return order


def _evaluated(equations: Iterable[Any], given: Mapping[Any, Value], outs: list[Any]) -> list[Value]:
    """The values of `outs`, where `given` are those of variables and `equations` those that are needed."""
    values, equations = dict(given), list(equations)
    used = {var for equation in equations for var in equation.invars if _is_variable(var)}
    used |= {var for var in outs if _is_variable(var)}

    def read(var: Any) -> Value:
        return values[var] if _is_variable(var) else np.asarray(var.val)

    for equation in equations:
        wanted = [var in used for var in equation.outvars]
        results = _result(equation, [read(var) for var in equation.invars], wanted)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(var) for var in outs]


def _result(equation: Any, operands: list[Value], wanted: list[bool]) -> list[Value]:
    """The outputs of an equation; those that are not wanted may be anything."""
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        closed = params[_CALLS[name]]
        inner = getattr(closed, "jaxpr", closed)
        given = dict(zip(inner.invars, operands, strict=True))
        given |= zip(inner.constvars, getattr(closed, "consts", ()), strict=True)
        made_by = {out: each for each in inner.eqns for out in each.outvars}
        outs = [out for out, is_wanted in zip(inner.outvars, wanted, strict=True) if is_wanted]
        found = iter(_evaluated(_needed(outs, made_by), given, outs))
        return [next(found) if is_wanted else OPAQUE for is_wanted in wanted]
    if any(value is OPAQUE for value in operands):
        return [OPAQUE] * len(equation.outvars)
    if any(isinstance(value, Same) for value in operands):
        return operands if name == "copy" else [OPAQUE] * len(equation.outvars)
    if any(isinstance(value, Key) for value in operands):
        shape = equation.outvars[0].aval.shape
        if name == "random_bits" and shape == params["shape"]:  # else of many keys at once, as under `vmap`
            return [_bits(operands[0], **params)]
        if name not in _OF_KEYS:
            return [OPAQUE] * len(equation.outvars)
        made = _digest(name.encode(), repr([(key, params[key]) for key in _OF_KEYS[name]]).encode())
        return [Key(_digest(made, *map(_bytes, operands)))]
    function = _OPS.get(name)
    return [OPAQUE] * len(equation.outvars) if function is None else [function(*operands, **params)]


def _bits(key: Key, *, bit_width: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform random bits, of the key alone."""
    philox = np.random.Philox(key=int.from_bytes(key[:16], "little"))
    size = int(np.prod(shape)) * bit_width // 8
    # Philox gives words of 64 bits, the same on every machine in little-endian order.
    words = philox.random_raw(-(-size // 8)).astype("<u8", copy=False)
    return words.view(f"<u{bit_width // 8}")[: int(np.prod(shape))].reshape(shape)


def _digest(*parts: bytes) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()


def _bytes(value: Any) -> bytes:
    if isinstance(value, Key):
        return bytes(value)
    array = np.asarray(value)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def _is_variable(var: Any) -> bool:
    return not hasattr(var, "val")


def _cast(x: Host, *, new_dtype: Any, **_: Any) -> Any:
    return np.asarray(x).astype(new_dtype)


def _wide(x: Host, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...], **_: Any) -> Any:
    x = np.asarray(x)
    own = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
        own[axis] = size
    return np.broadcast_to(x.reshape(own), shape)


def _same_bits(x: Host, *, new_dtype: Any, **_: Any) -> Any:
    dtype = np.dtype(new_dtype)
    return np.asarray(x).view(dtype) if np.asarray(x).dtype.itemsize == dtype.itemsize else OPAQUE


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays that keeps their dtype; the parameters say nothing more."""

    def apply(*operands: Any, **_: Any) -> Any:
        dtype = np.asarray(operands[0]).dtype
        return np.asarray(function(*operands), dtype)

    return apply


def _erf_inv(x: Host, **_: Any) -> Any:
    """The inverse error function in float32, by the polynomials of Giles 2012 (GPU Computing Gems, chapter 10), which
    XLA uses too; in parts that stay in the processor's cache."""
    x = np.asarray(x, np.float32)
    flat, found = x.reshape(-1), np.empty(x.size, np.float32)
    for start in range(0, x.size, _PART):
        part = flat[start : start + _PART]
        # In double precision, whose last bits, unlike those of float32, do not depend on the processor once rounded.
        w = -np.log1p(-np.square(part, dtype=np.float64)).astype(np.float32)
        middle, tail = w - np.float32(2.5), np.sqrt(np.maximum(w, 5)) - np.float32(3)
        inside = np.full_like(part, _INSIDE[0])
        for weight in _INSIDE[1:]:
            inside *= middle
            inside += weight
        outer = w >= 5
        if outer.any():
            inside[outer] = np.polyval(_OUTSIDE, tail[outer])
        found[start : start + _PART] = inside * part
    return found.reshape(x.shape)


def _quotient(x: Host, y: Host, **_: Any) -> Any:
    return np.divide(x, y) if np.issubdtype(np.asarray(x).dtype, np.floating) else OPAQUE


# What is done to random bits by the initializers of JAX and Flax; an output that needs more is compiled.
_OPS: dict[str, Callable[..., Any]] = {
    "add": _plain(np.add),
    "sub": _plain(np.subtract),
    "mul": _plain(np.multiply),
    "div": _quotient,
    "neg": _plain(np.negative),
    "max": _plain(np.maximum),
    "min": _plain(np.minimum),
    "sqrt": _plain(np.sqrt),
    "exp": _plain(lambda x: np.exp(np.float64(x))),
    "log": _plain(lambda x: np.log(np.float64(x))),
    "erf": _plain(np.vectorize(math.erf)),
    "erf_inv": _erf_inv,
    "nextafter": _plain(np.nextafter),
    "or": _plain(np.bitwise_or),
    "shift_right_logical": _plain(np.right_shift),
    "stop_gradient": lambda x, **_: x,
    "convert_element_type": _cast,
    "bitcast_convert_type": _same_bits,
    "broadcast_in_dim": _wide,
    "reshape": lambda x, *, new_sizes, **_: np.asarray(x).reshape(new_sizes),
    "squeeze": lambda x, *, dimensions, **_: np.squeeze(x, dimensions),
    "copy": lambda x, **_: x,
}
# What runs a program as it is, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# What makes keys of a key, or takes one out of many, with the parameters that say which; all have one output.
_OF_KEYS: dict[str, tuple[str, ...]] = {
    "random_split": ("shape",),
    "random_fold_in": (),
    "slice": ("start_indices", "limit_indices", "strides"),
    "squeeze": ("dimensions",),
    "reshape": ("new_sizes",),
}
