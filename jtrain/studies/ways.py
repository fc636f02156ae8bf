"""Ways to move several states by the step of one run: in turn, written out in one program, batched, over devices."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain.run import Run
from jtrain.state import TrainState
from jtrain.step import Give, TrainStep

Strategy = Literal["loop", "unroll", "vmap", "mesh"]

WIDTH = 2  # members written out in one program: more took longer to compile and were no faster (2 cores, small CNN)
MEMBERS = "members"


@dataclasses.dataclass(frozen=True)
class Way:
    """How groups of members are moved.

    Attributes:
      step: compiled `(group, data, rows) -> (group, sums)`; donates the group.
      width: members of a group; 0: all are one.
      copies: how many steps the program holds, about which goes the time to compile it.
      pack: states of a group -> what the step takes.
      unpack: the other way round, with the number of states.
      part: (sums of a group, place in it) -> those of one member, both on the host.
      give: feed of a group; None: the members' own.
    """

    step: TrainStep
    width: int
    copies: int
    pack: Callable[[Sequence[TrainState]], Any]
    unpack: Callable[[Any, int], list[TrainState]]
    part: Callable[[Any, int], Mapping[str, Any]]
    give: Give | None = None


def in_turn(run: Run) -> Way:
    """One after another through the step of a run alone."""
    return Way(run.train_steps, 1, 1, lambda states: states[0], lambda state, _: [state], lambda sums, _: sums)


def written_out(run: Run, own_feeds: bool) -> Way:
    """WIDTH members in one program, which may compute them side by side, and what they share once."""

    def step(states: Any, data: Any, rows: Any) -> Any:
        given = zip(data, rows, strict=True) if own_feeds else [(data, rows)] * len(states)
        moved = [run.train_steps(state, *batch) for state, batch in zip(states, given, strict=True)]
        return tuple(state for state, _ in moved), tuple(sums for _, sums in moved)

    return Way(
        jax.jit(step, donate_argnums=0), WIDTH, WIDTH, tuple, lambda states, _: list(states), lambda sums, i: sums[i]
    )


def batched(run: Run, slots: int) -> Way:
    """All as one batch of states.

    Args:
      run: whose step it is.
      slots: states in the batch; where there are fewer members the last is repeated.
    """
    step = jax.jit(jax.vmap(run.phases[0].pure_steps, in_axes=(0, None, None)), donate_argnums=0)
    return Way(step, 0, 1, lambda states: _stack(states, slots), _unstacker(run), _place)


def over_devices(run: Run, slots: int) -> Way:
    """The members dealt out to the devices; on each they are written out.

    Args:
      run: whose step it is, on any mesh: each member is alone on its device.
      slots: a multiple of the devices; where there are fewer members the last is repeated.
    """
    devices = jax.devices()
    alone = run
    if run.mesh.size > 1:
        alone = run.again(configs.changed(run.config, mesh__devices=1, mesh__fsdp=1, mesh__rules=()), run.data)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((len(devices),), (MEMBERS,), axis_types=auto, devices=devices)
    cut, whole = PartitionSpec(MEMBERS), PartitionSpec()

    def several(states: Any, data: Any, rows: Any) -> Any:
        own = slots // len(devices)
        moved = [alone.phases[0].pure_steps(jax.tree.map(lambda x: x[i], states), data, rows) for i in range(own)]  # noqa: B023
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *moved)

    # The check of varying values is off: constants within the step's own loops fail it.
    step = jax.shard_map(several, mesh=mesh, in_specs=(cut, whole, whole), out_specs=cut, check_vma=False)
    placed: dict[int, Any] = {}

    def give(first: int, count: int) -> Any:
        data, rows = alone.give(first, count)
        if rows is None:
            return jax.device_put(data, NamedSharding(mesh, whole)), None
        if id(data) not in placed:  # resident: once
            placed[id(data)] = jax.device_put(data, NamedSharding(mesh, whole))
        return placed[id(data)], jax.device_put(rows, NamedSharding(mesh, whole))

    def pack(states: Sequence[TrainState]) -> Any:
        return jax.device_put(_stack(states, slots), NamedSharding(mesh, cut))

    return Way(jax.jit(step, donate_argnums=0), 0, slots // len(devices), pack, _unstacker(run), _place, give)


def offered(run: Run, members: int, own_feeds: bool) -> dict[Strategy, Callable[[], Way]]:
    """The ways there are for so many members, in the order of trying; the loop is always one."""
    ways: dict[Strategy, Callable[[], Way]] = {"loop": lambda: in_turn(run)}
    if members < 2:
        return ways
    if run.feeds["train"].resident:  # what is streamed is made once for all
        ways["unroll"] = lambda: written_out(run, own_feeds)
    # A batch of states makes a grouped convolution of each, on CPU half as fast.
    if not own_feeds and run.mesh.size == 1 and not (run.convolves and meshes.is_cpu(run.mesh)):
        ways["vmap"] = lambda: batched(run, members)
    devices = len(jax.devices())
    if not own_feeds and devices > 1 and jax.process_count() == 1 and not run.config.mesh.shards:
        ways["mesh"] = lambda: over_devices(run, -(-members // devices) * devices)
    return ways


def _stack(states: Sequence[TrainState], slots: int) -> Any:
    padded = [*states, *[states[-1]] * (slots - len(states))]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *padded)


def _unstacker(run: Run) -> Callable[[Any, int], list[TrainState]]:
    home = run.phases[0].shardings
    return lambda group, count: [
        jax.device_put(jax.tree.map(lambda leaf: leaf[i], group), home)  # noqa: B023
        for i in range(count)
    ]


def _place(sums: Any, place: int) -> Mapping[str, Any]:
    return {name: pair[place] for name, pair in sums.items()}
