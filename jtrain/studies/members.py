"""Members of a study: several states of one run, moved together in the way that is fastest here."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import mesh as meshes
from jtrain.errors import ConfigError
from jtrain.io.progress import duration_words
from jtrain.run import Run
from jtrain.state import TrainState
from jtrain.step import Give, Sums, advance
from jtrain.studies.ways import Strategy, Way, offered

Found = dict[str, np.ndarray]  # by name the sums [updates, k + 1] of one member

TIMED = 3  # calls by which a way is judged
FASTER = 0.9  # of the time of the loop: what another way must come under
WORDS = {"loop": "in turn", "unroll": "in pairs", "vmap": "as one batch", "mesh": "one device each"}
HOPED = 0.5  # share of the time left that another way may save: it is tried where that is more than its compilation
MEMORY_SHARE = 0.8  # of a device's memory that members may fill


def with_lr_scale(run: Run, state: TrainState, scale: float) -> TrainState:
    """The state with another `lr_scale`; its other arrays are the same, not copies."""
    return dataclasses.replace(
        state, lr_scale=meshes.place(np.float32(scale), run.phases[0].shardings.lr_scale, copy=True)
    )


def copied(state: TrainState) -> TrainState:
    """A copy, that a step may use up."""
    return jax.tree.map(jnp.copy, state)


def fitting(run: Run, count: int) -> int:
    """How many members of `count` go into a device's memory at a time; all where it does not tell, as on CPU."""
    stats = run.mesh.devices.flat[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return count
    left = MEMORY_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.shapes))
    return max(1, min(count, int(left // (3 * each))))  # beside each a copy while ways are timed, and its gradients


class Members:
    """States that move together, on the same batches unless each has a feed of its own.

    In the ways 'loop' and 'unroll' each has, on CPU, the bits of a run alone with the same state; in 'vmap' and 'mesh'
    it agrees with that to about 1e-5.

    Attributes:
      states: by number of the member; those that were dropped are gone.
      strategy: the way; None until it is chosen.
      why: how it was chosen, in words.
    """

    def __init__(
        self, run: Run, states: Sequence[TrainState], *, feeds: Sequence[Give] = (), strategy: Strategy | None = None,
        told: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        """Args:
        run: whose step moves them.
        states: are used up: give copies of what shall stay, none of which share an array.
        feeds: one a member, such as `run.reseed(1).give`; none: all see `run`'s batches.
        strategy: None: chosen by time when they first move.
        told: hears how it was chosen.

        Raises:
          ConfigError: the run has phases, whose states differ in form; or there is no such way here.
        """
        if len(run.phases) > 1:
            raise ConfigError("phases: the members of a study train in one phase; set phases to ()")
        if feeds and len(feeds) != len(states):
            raise ValueError(f"{len(feeds)} feeds for {len(states)} states; give one each, or none")
        self.states: dict[int, TrainState] = dict(enumerate(states))
        self.strategy: Strategy | None = None
        self.why = "as asked"
        self._run = run
        self._feeds: dict[int, Give] = dict(enumerate(feeds))
        self._offered = offered(run, len(states), bool(feeds))
        self._ways: dict[Strategy, Way] = {"loop": self._offered["loop"]()}
        self._told = told
        self._compiling = 0.0  # seconds that the first call of all took
        self._slots = len(states)
        if strategy is not None:
            if strategy not in self._offered:
                raise ConfigError(f"{strategy}: no way for these members here; use one of {', '.join(self._offered)}")
            self._ways[strategy] = self._offered[strategy]()
            self.strategy = strategy

    def __len__(self) -> int:
        return len(self.states)

    def drop(self, number: int) -> TrainState:
        """Takes a member out: nothing is computed for it any more. Its last state."""
        self._feeds.pop(number, None)
        return self.states.pop(number)

    def advance(self, start: int, stop: int, *, until: int = 0) -> dict[int, Found]:
        """Moves all from update `start` to update `stop`.

        Args:
          start: updates that they have done.
          stop: updates that they shall have done.
          until: updates that they will have done in the end, by which is judged what a compilation is worth.

        Returns:
          By member the sums of its updates, such as found[0]["loss"] [updates, 2]: loss × weight, weight.
        """
        found: dict[int, Sums] = {number: [] for number in self.states}
        if self.strategy is None:
            start = self._choose(start, stop, max(stop, until), found)
        if (
            self.strategy in ("vmap", "mesh") and 2 * len(self) <= self._slots
        ):  # else what was dropped is still computed
            self._slots = len(self)
            ways = offered(self._run, self._slots, bool(self._feeds))
            self.strategy = self.strategy if self.strategy in ways else "loop"
            self._ways[self.strategy] = ways[self.strategy]()
        if start < stop and self.states:
            self._move(self.strategy or "loop", self.states, start, stop, found)
        return {number: _joined(sums) for number, sums in found.items() if sums}

    def _move(
        self, strategy: Strategy, states: dict[int, TrainState], start: int, stop: int, found: dict[int, Sums]
    ) -> None:
        """Moves `states`, in place; adds to `found`."""
        way, numbers = self._ways[strategy], list(states)
        width = way.width or len(numbers)
        rest = len(numbers) % width
        if rest:  # through the program of the loop: none of its own is compiled
            alone = {number: states.pop(number) for number in numbers[-rest:]}
            self._move("loop", alone, start, stop, found)
            numbers = numbers[:-rest]
        groups = [numbers[i : i + width] for i in range(0, len(numbers), width)]
        packed = [way.pack([states.pop(number) for number in group]) for group in groups]
        feeds = [self._feed(way, group) for group in (groups if self._feeds else groups[:1])]
        block = meshes.must_block(self._run.mesh) or strategy == "mesh"
        packed, sums, _ = advance(way.step, packed, feeds, start, stop, most=self._run.per_call, block=block)
        for group, after, told in zip(groups, packed, sums, strict=True):
            states |= dict(zip(group, way.unpack(after, len(group)), strict=True))
            for place, number in enumerate(group):
                found[number] += [(count, way.part(jax.device_get(each), place)) for count, each in told]
        if rest:
            states |= alone

    def _feed(self, way: Way, group: Sequence[int]) -> Give:
        if way.give is not None:
            return way.give
        if not self._feeds:
            return self._run.give
        own = [self._feeds[number] for number in group]
        if way.width == 1:
            return own[0]
        return lambda step, count: tuple(zip(*(feed(step, count) for feed in own), strict=True))  # type: ignore[return-value]

    def _choose(self, start: int, stop: int, until: int, found: dict[int, Sums]) -> int:
        """Takes the first updates in a loop, by whose time other ways are judged; returns the updates done."""
        per_call = self._run.per_call
        first, then = min(start + per_call, stop), min(start + (1 + TIMED) * per_call, stop)
        begun = time.perf_counter()
        self._move("loop", self.states, start, first, found)
        jax.block_until_ready(list(self.states.values()))
        self._compiling = max(self._compiling, time.perf_counter() - begun)
        if then == first:  # too short for a choice: the next call makes it
            return first
        begun = time.perf_counter()
        self._move("loop", self.states, first, then, found)
        jax.block_until_ready(list(self.states.values()))
        each = (time.perf_counter() - begun) / (then - first)
        compiling = max(self._compiling - each * (first - start), 0.0)
        left, best = each * (until - then), each
        self.strategy, self.why = "loop", f"{each * 1e3:.3g} ms an update of all"
        for name in [name for name in self._offered if name != "loop"]:
            way = self._offered[name]()
            if HOPED * left < way.copies * compiling:
                self.why += f"; {WORDS[name]}: not worth compiling for the {duration_words(left)} that are left"
                continue
            self._ways[name] = way
            taken = self._timed(name, then, per_call)
            self.why += f"; {WORDS[name]}: {taken * 1e3:.3g} ms"
            if taken < FASTER * best:
                best, self.strategy = taken, name
            else:
                del self._ways[name]
        self._told(f"{len(self.states)} members are moved {WORDS[self.strategy]} ({self.why})")
        return then

    def _timed(self, name: Strategy, start: int, per_call: int) -> float:
        """Seconds an update of all takes in a way, on copies."""
        copies = {number: copied(state) for number, state in self.states.items()}
        scrap: dict[int, Sums] = {number: [] for number in copies}
        self._move(name, copies, start, start + per_call, scrap)
        jax.block_until_ready(list(copies.values()))
        begun = time.perf_counter()
        self._move(name, copies, start + per_call, start + (1 + TIMED) * per_call, scrap)
        jax.block_until_ready(list(copies.values()))
        return (time.perf_counter() - begun) / (TIMED * per_call)


def _joined(sums: Sums) -> Found:
    return {
        name: np.concatenate([np.asarray(found[name])[:count] for count, found in sums]) for name in dict(sums[0][1])
    }
