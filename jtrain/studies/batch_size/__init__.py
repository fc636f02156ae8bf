"""The largest batch that fits, the smallest that is as fast as any, and how the lr moves when one goes there."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections

from jtrain import mesh as meshes
from jtrain.errors import ConfigError
from jtrain.io.progress import Screen
from jtrain.run import Run
from jtrain.state import TrainState
from jtrain.step import advance
from jtrain.studies.batch_size.memory import MIB, Limit, compiled, limit_of, needed, unit_of, with_batch
from jtrain.studies.batch_size.told import KNEE, Sizes
from jtrain.studies.journal import Journal, open_study
from jtrain.studies.study import Study

SMALLEST = 8  # examples: sizes begin about here
PAST = 2  # sizes beyond which throughput is not measured once it has stopped to rise
CLOSE = 1.10  # between the largest size that fits and the smallest that does not
ROUNDS = 3  # in which all sizes are timed in turn: what else the machine does at one moment falls on few
STRETCHES = 3  # of updates that are timed of a size in a round, at least
TIMED = 0.3  # seconds that are timed of a size in a round, at least; but
MOST_STRETCHES = 25
CALL_SECONDS = 0.1  # of a call of several updates, as in the loop
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


def batch_size(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """The largest batch that fits, the knee of the throughput, and the lr there.

    A size is first compiled from shapes alone; only where the compiler's own analysis says that it fits is it run.

    Args:
      given: a config or a run.
      workdir: for study.json and study.png, and to go on from after a kill; None writes nothing.
      model: as `jtrain.assemble` takes it.
      data: as `jtrain.assemble` takes it.
      screen: None shows nothing.

    Returns:
      `found`: "largest" (examples; the first that does not fit is "too_large", null where all examples fit), "knee",
      "lr" there by the rule of the optimizer's family, "lr_linear" and "lr_sqrt". `ok` is False where nothing fits.

    Raises:
      ConfigError: see `jtrain.assemble`; or the device does not tell its memory and `study.batch_size.memory` is 0.
    """
    with open_study("batch_size", given, workdir, model=model, data=data, screen=screen) as journal:
        return journal.finish(_Search(journal).study())


class _Search:
    """The sizes that were looked at, in this process or before."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.run, self.updates = journal, journal.run, journal.options.updates
        self.unit = unit_of(self.run)
        examples = len(self.run.data.train)
        most = min(journal.options.most or examples, examples)
        self.most = most // self.unit * self.unit
        if not self.most:
            raise ConfigError(
                f"study.batch_size.most: {most} examples do not divide among the parts of a batch; give {self.unit} "
                "(train.accumulate × devices, or mesh.shards) or more"
            )
        asked = journal.options.memory
        self.limit = Limit(**journal.piece("limit", lambda: dataclasses.asdict(limit_of(self.run, asked))))
        self.parts: dict[int, dict[str, int]] = {}
        self.rates: dict[int, list[float]] = {}
        self.failed: set[int] = set()
        self._kept: dict[int, tuple[Run, jax.stages.Compiled]] = {}
        self._state: TrainState | None = None

    @property
    def sizes(self) -> Sizes:
        """What is known by now."""
        return Sizes(self.run, self.limit, self.parts, self.rates, frozenset(self.failed))

    def study(self) -> Study:
        """Looks at sizes until limit and knee are known."""
        self.journal.told(f"batch_size: at most {self.limit.words}; each size is compiled once")
        self._time()
        for number in range(1, ROUNDS):
            for size in sorted(self.rates):
                if size not in self.failed:
                    self._rate(size, number)
        low, high = self._bracket()
        self._state, self._kept = None, {}
        found, sizes = {"largest": low, "too_large": high, "limit": self.limit.bytes}, self.sizes
        found |= {"sizes": len(self.parts), "knee": sizes.knee}
        if sizes.knee is not None:
            found |= {"examples_per_second": sizes.speed[sizes.knee], **sizes.lrs(sizes.knee)}
        words, picture = sizes.conclusion(low, high), sizes.picture(low, high)
        return Study("batch_size", words, sizes.rows(), found, picture, ok=low is not None)

    def _time(self) -> None:
        """Times sizes that double until they do not fit, or throughput has stopped to rise."""
        size = self._start()
        while not self._fits(size, timed=True):
            if size == self.unit:
                return
            size = max(self.unit, size // 2 // self.unit * self.unit)
        while size < self.most and not (size >= self.run.batch_size and self._flat()):
            size = min(self._next(size), self.most)
            if not self._fits(size, timed=True):
                return

    def _start(self) -> int:
        """A first size from which doubling comes by the config's own."""
        size = min(self.run.batch_size, self.most)
        while size >= 2 * SMALLEST:
            size //= 2
        return min(max(-(-size // self.unit) * self.unit, self.unit), self.most)

    def _next(self, size: int) -> int:
        own, twice = self.run.batch_size, 2 * size
        # Halving rounds down: the config's own is passed by otherwise.
        near = own if own % self.unit == 0 and size < own <= twice + max(size // 4, self.unit) else twice
        return near // self.unit * self.unit

    def _flat(self) -> bool:
        rates = list(self.sizes.speed.values())
        return len(rates) > PAST and (1 - KNEE) * max(rates) <= max(rates[:-PAST])

    def _bracket(self) -> tuple[int | None, int | None]:
        """(largest size that fits, smallest known that does not), within CLOSE of each other or with nothing between;
        the largest has done a real update."""
        proved = set(self.rates)
        while True:
            fits = self.sizes.fits
            high = min((size for size in self.parts if not fits(size)), default=None)
            low = max((size for size in self.parts if fits(size) and (high is None or size < high)), default=None)
            if low is None:
                return None, high
            if low != self.most if high is None else high > CLOSE * low and high - low > self.unit:
                size = self._guess(low, high)
                if self._fits(size) and self.failed:  # once the analysis was wrong, only a real update counts
                    proved |= {size} if self._steps(size) else set()
            elif low in proved or self._steps(low):
                return low, high

    def _guess(self, low: int, high: int | None) -> int:
        """The next size to look at: where the line through the two nearest reaches the limit, but between the two."""
        known = {size: parts["all"] for size, parts in self.parts.items() if parts}
        near = sorted(known, key=lambda size: abs(math.log(known[size] / self.limit.bytes)))[:2]
        guess = 2.0 * low
        if len(near) == 2 and known[near[0]] != known[near[1]]:
            each = (near[0] - near[1]) / (known[near[0]] - known[near[1]])
            guess = near[0] + (self.limit.bytes - known[near[0]]) * each if each > 0 else guess
        if high is None:  # a little too large, if the line is right
            guess, top = max(guess * 1.02, low * CLOSE), self.most
        else:  # a little too small, and never so near to an end that the other stays far away
            guess = min(max(guess * 0.97, low * (high / low) ** 0.25), low * (high / low) ** 0.75)
            top = high - self.unit
        return max(low + self.unit, min(round(min(guess, top) / self.unit) * self.unit, top))

    def _fits(self, size: int, *, timed: bool = False) -> bool:
        """Whether a size fits; with `timed` it is run as well, where the analysis says so."""
        if size not in self.parts:
            found = self.journal.piece(f"memory/{size}", lambda: self._caught(lambda: needed(*self._program(size))))
            self.parts[size] = {} if "failed" in found else found
            needs = f"needs {found['all'] / MIB:,.4g} MiB" if self.parts[size] else "runs out of memory in compiling"
            self.journal.told(f"  {size:>7} examples: {needs}, {'fits' if self.sizes.fits(size) else 'does not fit'}")
        if not self.sizes.fits(size):
            return False
        return size in self.rates or not timed or self._rate(size, 0)

    def _rate(self, size: int, number: int) -> bool:
        """Times a size in a round; False where the device runs out of memory."""
        found = self.journal.piece(f"speed/{size}/{number}", lambda: self._caught(lambda: self._timed(size)))
        if "failed" in found:
            return self._out_of_memory(size)
        self.rates.setdefault(size, []).append(size * found["updates"] / statistics.median(found["seconds"]))
        if not number:
            self.journal.told(f"  {size:>7} examples: {self.rates[size][0]:,.4g} a second")
        return True

    def _steps(self, size: int) -> bool:
        """Whether a real update of this size goes through."""
        found = self.journal.piece(f"step/{size}", lambda: self._caught(lambda: {"seconds": self._updated(size, 1)}))
        return True if "failed" not in found else self._out_of_memory(size)

    def _out_of_memory(self, size: int) -> bool:
        self.failed.add(size)
        self.journal.told(f"  {size:>7} examples: the device ran out of memory, whatever the analysis said")
        return False

    def _program(self, size: int) -> tuple[Run, jax.stages.Compiled]:
        """The run and the compiled step of a size."""
        if size not in self._kept:
            run = with_batch(self.run, size)
            self._kept[size] = run, compiled(run)
        return self._kept[size]

    def _timed(self, size: int) -> dict[str, Any]:
        """Seconds of stretches of updates, after a first one."""
        self._updated(size, 1)
        first = self._updated(size, 1, start=1)
        per_call = self._program(size)[0].per_call
        updates = max(self.updates, min(per_call, int(CALL_SECONDS / first)))
        seconds: list[float] = []
        while len(seconds) < STRETCHES or (sum(seconds) < TIMED and len(seconds) < MOST_STRETCHES):
            seconds.append(self._updated(size, updates, start=2 + len(seconds) * updates))
        return {"updates": updates, "seconds": seconds}

    def _updated(self, size: int, updates: int, *, start: int = 0) -> float:
        """Seconds of some updates."""
        run, program = self._program(size)
        state, self._state = self._state or self._fresh(), None  # is lost where the device fails
        begun = time.perf_counter()
        states, _, _ = advance(
            program, [state], [run.give], start, start + updates, most=run.per_call, block=meshes.must_block(run.mesh)
        )
        jax.block_until_ready(states)
        self._state = states[0]
        return time.perf_counter() - begun

    def _fresh(self) -> TrainState:
        """A state in the form of the last phase."""
        state = self.run.init_state()
        for phase in self.run.phases[1:]:
            state = phase.begin(state)
        return jax.block_until_ready(state)

    def _caught(self, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What it gives; where the device runs out of memory, that."""
        try:
            return compute()
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            self._state = None
            return {"failed": str(error).splitlines()[0][:300]}
