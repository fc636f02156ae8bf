"""The noise probe of a run: how much the gradients of parts of a batch differ, beside training and without a trace."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jtrain import mesh as meshes
from jtrain.data.feed import Given
from jtrain.run import Phase, Run
from jtrain.state import TrainState

# A probe does the work of about one update. More chunks tell more of the noise and are smaller: the norm of the
# gradient comes out with 4, 2.7 and 2.3 times the least variance from 2, 4 and 8.
CHUNKS = 4
STREAM = 2**31 + 1  # chunk i draws dropout and augmentation by fold_in(fold_in(key, STREAM), i), as no update does

Probe = Callable[[TrainState, Any, Any], jax.Array]


class Probed(NamedTuple):
    """What a probe found, as `jtrain.coach.noise_scale.add` takes it.

    Attributes:
      chunk_sq: squared norm of a chunk's mean gradient, averaged over the chunks.
      whole_sq: that of all chunks together.
      chunk, whole: examples that these are means of; a few more where they are a large part of all that there are.
    """

    chunk_sq: float
    whole_sq: float
    chunk: float
    whole: float


def chunks_of(run: Run) -> int:
    """Into how many chunks a probe cuts a batch: 4 or 2; 0 where the batch is too small for that.

    Each holds a whole number of examples for every micro-batch (of every virtual shard).
    """
    step = _multiple(run)
    return next((chunks for chunks in (CHUNKS, 2) if run.batch_size >= chunks * step), 0)


def make_noise_probe(run: Run, phase: Phase) -> Probe:
    """`probe(state, data, rows) -> [4]` float32, compiled when it is first called; donates and changes nothing.

    Data and rows are what `run.give(step, 1)` gives. What comes out: the squared norm of a chunk's gradient, averaged
    over the chunks by their weight; that of all chunks' mean; the weight of all; the number of chunks of any weight.

    Chunk i holds every n-th example from i on, so that each device keeps those that it has; up to n · (micro-batches) -
    1 examples at the end of the batch are left out. The gradients are those of the trained parameters, before clipping
    and decay; batch statistics are those of a chunk.

    Args:
      run: assembled, with a batch that can be cut (`chunks_of`).
      phase: whose parameters are trained.
    """
    chunks, multiple = chunks_of(run), _multiple(run)
    if not chunks:
        raise ValueError(f"a batch of {run.batch_size} cannot be cut into chunks that are multiples of {multiple}")
    used = run.batch_size // (chunks * multiple) * chunks * multiple
    # On CPU a convolution in a loop is 4 to 47 times slower.
    unroll = chunks if run.convolves and meshes.is_cpu(run.mesh) else 1

    def cut(values: jax.Array) -> jax.Array:
        return values[:used].reshape(-1, chunks, *values.shape[1:]).swapaxes(0, 1)

    def probe(state: TrainState, data: Any, rows: Any) -> jax.Array:
        parts = jax.tree.map(cut, data if rows is None else rows[0])
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), STREAM)

        def gradient(i: jax.Array, part: Any) -> tuple[Any, jax.Array]:
            own = dataclasses.replace(state, key=jax.random.key_data(jax.random.fold_in(key, i)))
            grads, sums, _ = phase.gradient(own, *((part, None) if rows is None else (data, part)))
            return grads, sums["loss"][1]

        def body(carry: Any, chunk: Any) -> tuple[Any, None]:
            total, squares, weight, count = carry
            grads, own = gradient(*chunk)
            total = jax.tree.map(lambda sofar, g: sofar + own * g, total, grads)
            return (total, squares + own * _square(grads), weight + own, count + (own > 0)), None

        numbers = jnp.arange(chunks, dtype=jnp.uint32)
        shapes, _ = jax.eval_shape(gradient, numbers[0], jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        start = zeros, jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
        (total, squares, weight, count), _ = jax.lax.scan(body, start, (numbers, parts), unroll=unroll)
        return jnp.stack([squares / weight, _square(total) / weight**2, weight, count])

    return jax.jit(probe, out_shardings=meshes.replicated(run.mesh))


class NoiseProbe:
    """Probes of a run, one on its way at a time.

    Args:
      run: assembled.

    Attributes:
      chunks: see `chunks_of`; at 0 nothing is ever put.
    """

    def __init__(self, run: Run) -> None:
        self.chunks = chunks_of(run)
        self._run = run
        self._put: jax.Array | None = None
        self._probes: dict[int, Probe] = {}  # by the start of their phase

    def put(self, state: TrainState, step: int, given: Given) -> None:
        """Starts a probe, in the place of one that was not read.

        Args:
          state: after `step` updates; may be donated as soon as this returns.
          step: updates done.
          given: what `run.give(step, 1)` gives.
        """
        if self.chunks:
            phase = self._run.phase(step)
            if phase.start not in self._probes:
                self._probes[phase.start] = make_noise_probe(self._run, phase)
            self._put = self._probes[phase.start](state, *given)
            if meshes.must_block(self._run.mesh):
                jax.block_until_ready(self._put)

    def drop(self) -> None:
        """Forgets what was put and not read."""
        self._put = None

    def read(self) -> Probed | None:
        """What the probe found that was put last, waiting for it if need be; None if there is none left to read, or
        too few of its examples could be read."""
        if self._put is None:
            return None
        found, self._put = np.asarray(self._put, np.float64), None
        chunk_sq, whole_sq, weight, count = found.tolist()
        if count < 2:
            return None
        return Probed(chunk_sq, whole_sq, self._effective(weight / count), self._effective(weight))

    def _effective(self, examples: float) -> float:
        """Of how many examples, drawn anew each, the mean gradient would vary as much.

        A batch holds no example twice. Means of b of N examples have the variance S (1/b - 1/N). Augmented examples are
        as good as new: then nothing is taken off.
        """
        if self._run.config.augment:
            return examples
        left = 1.0 / examples - 1.0 / self._run.clock.epoch_examples
        return 1.0 / left if left > 0.0 else math.inf


def _multiple(run: Run) -> int:
    return run.options.accumulate * max(1, run.config.mesh.shards)


def _square(grads: Any) -> jax.Array:
    """The squared global norm, in float32."""
    squares = jax.tree.map(lambda g: jnp.sum(jnp.square(g.astype(jnp.float32))), grads)
    return jax.tree.reduce(jnp.add, squares, jnp.zeros(()))
