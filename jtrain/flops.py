"""Arithmetic of an update, counted in the model's traced program, and the share of the devices' peak it reaches."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jtrain import tree
from jtrain.data import augment
from jtrain.data.ops.alternate import Visit
from jtrain.gradient import prepared
from jtrain.peaks import peak_of
from jtrain.run import Run

_OPAQUE = frozenset({"pallas_call", "shard_map", "ffi_call"})  # kernels, and programs of one device among several


def make_mfu(run: Run) -> Callable[[int, float | None], float | None] | None:
    """(update from 0, examples a second) -> model FLOPs utilization (Chowdhery et al. 2022, appendix B), 0 to 1.

    The FLOPs that the model asks for, × updates a second, ÷ what all devices could do at best. None where their peak
    is not known; the function gives None where the arithmetic is not known, or no time was measured. The model is
    traced once more, when the function is first called.
    """
    best = peak(run)
    if best is None:
        return None
    counted: dict[int, float | None] = {}

    def mfu(step: int, rate: float | None) -> float | None:
        start = run.phase(step).start
        if start not in counted:
            try:
                counted[start] = per_update(run, step)
            except Exception:  # a model of somebody's, traced otherwise than in training: no number is worth a run
                counted[start] = None
        flops = counted[start]
        if rate is None or flops is None:
            return None
        return flops * rate / run.batch_size / (best * run.mesh.size)

    return mfu


def peak(run: Run) -> float | None:
    """FLOP/s of one of the run's devices at best: `log.peak_flops`, else by its name; None where it is not known."""
    if run.config.log.peak_flops:
        return float(run.config.log.peak_flops)
    single = run.config.precision == "float32"
    if single and getattr(jax.config, "jax_default_matmul_precision", None) not in (None, "default"):
        return None  # slower units then, or several passes
    return peak_of(run.mesh.devices.flat[0].device_kind, run.config.precision)


def per_update(run: Run, step: int = 0) -> float | None:
    """FLOPs that the model asks for in update `step` (from 0), on all devices together; None where that is unknown.

    Those of matrix products and convolutions, two for a multiplication with its addition: forward once, and backward
    once for each of the two factors that a gradient goes to. So the first layer's backward pass counts half, frozen
    layers' less, and what `train.remat` computes again not at all. Padding at the edges of a convolution counts.

    Not the compiler's count: XLA takes the body of a loop for one round, whatever their number (a recurrent layer,
    micro-batches), adds what is computed again, and compiled for several devices counts for one of them.
    """
    sample, targets = run.data.train.fetch(np.arange(1))
    phase, frozen = run.phase(step), run.phase(step).optimizer.groups.frozen
    size = run.batch_size

    def batch_of(inputs: Any, targets: Any, key: Any) -> Any:
        rows = jnp.zeros(size, jnp.int32)
        key = jax.random.wrap_key_data(key)
        batch = {"inputs": inputs, "targets": targets, "weight": jnp.ones(size)}
        ops = augment.build(run.config.augment) if run.config.augment else None
        mix = augment.build_mix(run.config.augment)
        return prepared(batch, key, task=run.task, augment=ops, mix=mix, visit=Visit(key, rows, rows))

    def forward(trained: Any, fixed: Any, model_state: Any, key: Any, batch: Any) -> Any:
        params, key = tree.merge(trained, fixed), jax.random.wrap_key_data(key)
        outputs, _ = run.model.apply(params, model_state, batch["inputs"], key=key, train=True)
        return run.task.loss(run.task.shown(outputs), batch["targets"])

    shapes = phase.shapes
    whole = (jax.ShapeDtypeStruct((size, *part.shape[1:]), part.dtype) for part in (sample, targets))
    batch = jax.eval_shape(batch_of, *whole, shapes.key)
    fixed, trained = tree.split(shapes.params, frozen)
    given = (trained, fixed, shapes.model_state, shapes.key, batch)
    program = jax.make_jaxpr(forward)(*given)
    begins = len(jax.tree.leaves(trained))
    follows = [i < begins for i in range(len(program.jaxpr.invars))]
    try:
        return _count(program.jaxpr, follows).flops
    except _Unknown:
        return None


class _Unknown(Exception):
    """A program whose arithmetic cannot be read off."""


@dataclasses.dataclass(frozen=True)
class _Counted:
    """Of a program: its FLOPs forward and backward, and which results a gradient comes back through."""

    flops: float
    follows: list[bool]


def _count(jaxpr: jex.Jaxpr, follows: Sequence[bool]) -> _Counted:
    """Counts a program; `follows` says which of its arguments depend on trained parameters."""
    known = dict(zip(jaxpr.invars, follows, strict=True))
    flops, equations = 0.0, list[Any](jaxpr.eqns)
    for equation in equations:
        given = [not isinstance(atom, jex.Literal) and known.get(atom, False) for atom in equation.invars]
        found = _counted(equation, given)
        flops += found.flops
        for variable, depends in zip(equation.outvars, found.follows, strict=True):
            known[variable] = depends and jnp.issubdtype(variable.aval.dtype, jnp.inexact)
    return _Counted(flops, [not isinstance(atom, jex.Literal) and known.get(atom, False) for atom in jaxpr.outvars])


def _counted(equation: Any, given: list[bool]) -> _Counted:
    name, params = equation.primitive.name, equation.params
    through = [any(given)] * len(equation.outvars)
    if name in _OPAQUE:
        raise _Unknown
    if name == "dot_general":
        return _Counted(_of_product(equation) * (1 + sum(given[:2])), through)
    if name == "conv_general_dilated":
        return _Counted(_of_convolution(equation) * (1 + sum(given[:2])), through)
    if name == "stop_gradient":
        return _Counted(0.0, [False] * len(equation.outvars))
    if name == "scan":
        return _of_scan(params, given)
    if name == "cond":
        branches = [_count(_bare(branch), given[1:]) for branch in params["branches"]]
        follows = [any(each) for each in zip(*(branch.follows for branch in branches), strict=True)]
        return _Counted(max(branch.flops for branch in branches), follows)
    programs = list(_programs(params))
    if len(programs) == 1 and len(programs[0].invars) == len(given) and name != "while":
        inner = _count(programs[0], given)
        if len(inner.follows) == len(equation.outvars):
            return inner
    if any(_count(program, [False] * len(program.invars)).flops for program in programs):
        raise _Unknown  # so often as the data say, or by a rule of its own
    return _Counted(0.0, through)


def _of_product(equation: Any) -> float:
    """2 × elements of the result × elements summed over for each."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: Any) -> float:
    """2 × elements of the result × those of the kernel for each; a transposed convolution's zeros are left out."""
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    each = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    spread = math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * each / spread


def _of_scan(params: Mapping[str, Any], given: list[bool]) -> _Counted:
    """A loop of known length. What its carry depends on is found round by round, until nothing is added."""
    consts, carries, program = params["num_consts"], params["num_carry"], _bare(params["jaxpr"])
    while True:
        found = _count(program, given)
        carry = [a or b for a, b in zip(given[consts : consts + carries], found.follows[:carries], strict=True)]
        if carry == given[consts : consts + carries]:
            return _Counted(found.flops * params["length"], found.follows)
        given = [*given[:consts], *carry, *given[consts + carries :]]


def _programs(params: Mapping[str, Any]) -> Iterable[jex.Jaxpr]:
    """The programs that an equation holds."""
    leaves = jax.tree.leaves(list(params.values()), is_leaf=lambda value: hasattr(value, "eqns"))
    return (_bare(value) for value in leaves if hasattr(value, "eqns"))


def _bare(program: Any) -> jex.Jaxpr:
    return getattr(program, "jaxpr", program)
