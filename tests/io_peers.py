"""Several processes of a run as threads of this one, and arrays that are cut over them."""

import dataclasses
import itertools
import json
import threading
from typing import Any

import numpy as np

from jtrain.errors import HeldError
from jtrain.io.checkpoint import Checkpoints


class Room:
    """Where the peers of a run meet; who does not come within some seconds is lost."""

    def __init__(self, processes, seconds=20.0):
        self.keys = []
        self._given = [None] * processes
        self._barrier = threading.Barrier(processes, timeout=seconds)

    def meet(self, process, key, value):
        self._given[process] = (key, json.dumps(value))
        try:
            self._barrier.wait()
            found = list(self._given)
            if self._barrier.wait() == 0:
                self.keys.append(key)
        except threading.BrokenBarrierError as error:
            raise HeldError("a process did not come") from error
        assert {one[0] for one in found} == {key}
        return [json.loads(one[1]) for one in found]

    def lose(self):
        self._barrier.abort()


@dataclasses.dataclass
class PeerHere:
    process: int
    processes: int
    room: Room

    def exchange(self, key, value, *, only=None):
        found = self.room.meet(self.process, key, value)
        return found if only in (None, self.process) else []


@dataclasses.dataclass
class Shard:
    index: tuple[slice, ...]
    data: np.ndarray
    replica_id: int = 0


@dataclasses.dataclass
class Cut:
    """What one process sees of an array over several: the interface of a jax.Array as far as a save needs it."""

    shape: tuple[int, ...]
    dtype: Any
    addressable_shards: list[Shard]
    is_fully_addressable: bool = False


def cut(array, grid, process, processes):
    """The array in grid[0] × grid[1] × … equal pieces, dealt out in turn; all others hold a replica of each."""
    lengths = [length // pieces for length, pieces in zip(array.shape, grid, strict=True)]
    shards = []
    for number, place in enumerate(itertools.product(*map(range, grid))):
        bounds = ((at * length, (at + 1) * length) for at, length in zip(place, lengths, strict=True))
        # JAX leaves out the bounds of an axis that is not cut.
        index = tuple(slice(*pair) if pieces > 1 else slice(None) for pair, pieces in zip(bounds, grid, strict=True))
        shards.append(Shard(index, array[index], replica_id=(process - number) % processes))
    return Cut(array.shape, array.dtype, shards)


def together(folder, processes, work, *, keep=5, events=None, seconds=20.0, **options):
    """`work(checkpoints, process)` in every process at once; what each returned or raised, in order."""
    room = Room(processes, seconds)
    results = [None] * processes

    def run(process):
        peer = PeerHere(process, processes, room)
        checkpoints = Checkpoints(
            folder, keep=keep, event=lambda *e: events.append(e) if events is not None else None, peers=peer, **options
        )
        try:
            results[process] = work(checkpoints, process)
        except Exception as error:
            results[process] = error
            if not hasattr(error, "exit_code"):
                room.lose()
        finally:
            checkpoints._thread.shutdown()

    threads = [threading.Thread(target=run, args=(process,)) for process in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
