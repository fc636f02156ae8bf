"""A batch cut into virtual shards: the same answer, to the bit, on any number of devices that divides them.

Batch norm then takes the statistics of each shard, and its running averages are the mean of theirs: so the number of
shards also says over how many examples it normalises.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jtrain.mesh import DATA, FSDP, is_cpu
from jtrain.remat import branched

Each = Callable[..., tuple[Any, Any]]  # (number of the shard, its part of the batch, *whole) -> (to add, to average)
OverShards = Callable[..., tuple[Any, Any]]  # (each, batch, *whole) -> (sums over the shards, averages over them)


def check_shards(shards: Any) -> None:
    """Raises ValueError unless `shards` is 0 or a power of two."""
    if shards & (shards - 1):
        raise ValueError(f"must be 0 or a power of two, got {shards}")


def make_over_shards(mesh: Mesh, shards: int) -> OverShards:
    """`over_shards(each, batch, *whole) -> (sums, averages)` of what `each` gives for every shard of the batch.

    Each shard is computed by a program of its own size, one after another on the devices that hold several. What comes
    out is added two by two: shards 0 and 1, 2 and 3, then these sums, and so on. Devices hold whole branches of that
    tree, and a sum has the same bits whichever of two comes first; so nothing depends on their number.

    Args:
      mesh: its devices divide the shards.
      shards: a power of two that divides the batch.
    """
    axes = (DATA, FSDP)
    mine = shards // mesh.size
    wall = _branch if is_cpu(mesh) else _barrier

    def on_device(each: Each, part: Any, whole: tuple[Any, ...]) -> tuple[Any, Any]:
        first = jax.lax.axis_index(axes) * mine
        pieces = jax.tree.map(lambda x: x.reshape(mine, -1, *x.shape[1:]), part)
        branches: list[tuple[int, Any]] = []  # (shards in it, what they come to), each larger than the next
        for i in range(mine):
            piece = jax.tree.map(lambda x: x[i], pieces)  # noqa: B023
            # With what was added before, so that one shard's activations are there at a time.
            given = first + i, piece, whole, [found for _, found in branches]
            number, piece, own, done = wall(_same, part, given)
            branches = [(size, found) for (size, _), found in zip(branches, done, strict=True)]
            branch = 1, wall(_same, part, each(number, piece, *own))
            while branches and branches[-1][0] == branch[0]:
                branch = 2 * branch[0], wall(_joined, part, branches.pop()[1], branch[1])
            branches.append(branch)
        total = branches[0][1]
        for distance in _powers(mesh.size):
            pairs = [(i, i ^ distance) for i in range(mesh.size)]
            other = jax.tree.map(lambda x: jax.lax.ppermute(x, axes, pairs), total)  # noqa: B023
            total = wall(_joined, part, total, other)
        added, averaged = total
        return added, jax.tree.map(lambda x: x / shards if _is_float(x) else x, averaged)

    def over_shards(each: Each, batch: Any, *whole: Any) -> tuple[Any, Any]:
        cut, everywhere = PartitionSpec(axes), PartitionSpec()
        return jax.shard_map(
            functools.partial(on_device, each),
            mesh=mesh,
            in_specs=(cut, everywhere),
            out_specs=everywhere,
            check_vma=False,  # it cannot know that what is exchanged comes out the same everywhere
        )(batch, whole)

    return over_shards


def _joined(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    """Both sums; of what is no number to average, such as a count of calls, the larger."""
    added = jax.tree.map(jnp.add, one[0], other[0])
    return added, jax.tree.map(lambda a, b: a + b if _is_float(a) else jnp.maximum(a, b), one[1], other[1])


def _same(values: Any) -> Any:
    return values


def _barrier(function: Callable[..., Any], batch: Any, *operands: Any) -> Any:
    """function(*operands), merged by the compiler with nothing else: it would round by what stands beside."""
    del batch
    return jax.lax.optimization_barrier(function(*jax.lax.optimization_barrier(operands)))


def _branch(function: Callable[..., Any], batch: Any, *operands: Any) -> Any:
    """The same on CPU, where barriers are taken down early."""
    return branched(function, batch["weight"][0], *operands)


def _is_float(values: jax.Array) -> bool:
    return jnp.issubdtype(values.dtype, jnp.floating)


def _powers(size: int) -> list[int]:
    return [2**i for i in range(size.bit_length() - 1)]
