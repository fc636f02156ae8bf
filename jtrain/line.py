"""The line probe of a run: how the loss goes on along the line through the weights of two evaluations."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jtrain import mesh as meshes
from jtrain.evaluation import EvalStep, evaluate
from jtrain.run import Run
from jtrain.state import TrainState, Tree

EVERY = 0.07  # of the run, between two probes at least
# Passes over its examples that a probe makes: where the weights are, at two places ahead, and over training examples.
# Of a training example that costs about a third.
PASSES = 4
COST = 0.03  # of the run's training that all probes may cost, where LEAST examples are not more than that
LEAST, MOST = 256, 1024  # examples of a pass
LIMIT = 64_000_000  # parameters, above which there is no room asked for two further copies of them

# Places on the line in units of the stride: 0 is now, -1 the weights of the probe before.
PLACES = {"ahead": 1.0, "far": 3.0}


class LineProbe:
    """Probes of a run at its evaluations; nothing of them enters what is trained.

    Along the line from the weights θ' of the probe before through those of now, θ, the validation loss is measured at
    θ, and as far again and three times as far ahead: θ + t (θ − θ'). Where the lr is too low the weights go straight,
    and the loss falls on and on ahead; where it is high they wander between the walls of a valley, and the loss ahead
    rises steeply (Xing et al. 2018, "A walk with SGD"). Beside it stand the metrics of training examples as evaluation
    has them: without dropout and augmentation.

    Args:
      run: assembled.

    Attributes:
      on: whether there is anything to probe: a validation split, and parameters that are not too large.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.on = run.config.diagnose.line_probe and "val" in run.feeds and run.parameter_count <= LIMIT
        trained, probes = run.clock.total * run.batch_size, 1 / EVERY
        self._most = min(MOST, max(LEAST, int(3 * COST * trained / (PASSES * probes))))
        self._before: tuple[int, Tree, float] | None = None

    def drop(self) -> None:
        """Forgets the weights of the probe before: those of now are not a part of the same way."""
        self._before = None

    def due(self, step: int) -> bool:
        """Whether a probe after `step` updates is worth while."""
        return self.on and (self._before is None or step - self._before[0] >= EVERY * self._run.clock.total)

    def measure(self, state: TrainState, step: int) -> dict[str, float] | None:
        """Losses at the places of the line, or None where this is the first place of it.

        Args:
          state: after `step` updates.
          step: updates done.

        Returns:
          'step'; 'before' (at the probe before), 'now', 'ahead', 'far': validation losses (by `Run.line_step`);
          'train/…': metrics of 'examples' training examples; 'of_val': examples of the validation split.
        """
        now = self._metrics(self._run.line_step, state.params, state, "val")["loss"]
        before, self._before = self._before, (step, jax.tree.map(jnp.copy, state.params), now)
        if before is None:
            return None
        _, there, loss = before
        found = {"step": float(step), "before": loss, "now": now}
        for name, place in PLACES.items():
            params = _along(there, state.params, place)
            found[name] = self._metrics(self._run.line_step, params, state, "val")["loss"]
        trained = self._metrics(self._run.eval_step, state.params, state, "train")
        found |= {"examples": float(self._batches("train")[1]), "of_val": float(len(self._run.feeds["val"].examples))}
        return found | {f"train/{name}": value for name, value in trained.items()}

    def _batches(self, split: str) -> tuple[int, int]:
        """(batch size, examples) of a pass over a split: whole batches, as batch statistics see what fills one up. Only
        for these is a smaller batch, a program of its own, worth while."""
        run = self._run
        some, size = min(self._most, len(run.feeds[split].examples)), run.batch_size
        if some < size and run.line_step is not run.eval_step:
            cut = run.mesh.size * max(1, run.config.mesh.shards)
            size = some // cut * cut or size
        return size, some // size * size or some

    def _metrics(self, step: EvalStep, params: Tree, state: TrainState, split: str) -> dict[str, float]:
        run = self._run
        size, most = self._batches(split)
        batches, block = run.feeds[split].eval_batches(size, most), meshes.must_block(run.mesh)
        found = evaluate(step, run.task, params, state.model_state, batches, block=block)
        return {name: float(value) if value is not None else math.nan for name, value in found.items() if _plain(value)}


@functools.partial(jax.jit, static_argnums=2)
def _along(there: Tree, here: Tree, place: float) -> Tree:
    """here + place · (here − there), float32 within."""

    def move(a: Any, b: Any) -> Any:
        if not jnp.issubdtype(b.dtype, jnp.floating):
            return b
        wide = b.astype(jnp.float32)
        return (wide + place * (wide - a.astype(jnp.float32))).astype(b.dtype)

    return jax.tree.map(move, there, here)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float)
