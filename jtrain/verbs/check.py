"""`check`: builds everything and goes once through the whole path, so that a long run does not fail late."""

import contextlib
import tempfile
from pathlib import Path

import jax
import numpy as np

from jtrain import mesh as meshes
from jtrain import tree
from jtrain.describe import header
from jtrain.errors import Interrupted, NonFiniteError
from jtrain.io.checkpoint import Checkpoints
from jtrain.io.progress import Screen
from jtrain.run import Run
from jtrain.session import Signals
from jtrain.state import to_flat


def check(run: Run, *, screen: Screen | None = None) -> dict[str, float]:
    """Takes one step, one evaluation batch, one save and restore; writes nothing that stays.

    Returns:
      The first batch's metrics, before any update.

    Raises:
      NonFiniteError: the first loss or gradient is not finite.
      DataError: a checkpoint does not come back as it was.
    """
    with contextlib.closing(run):
        return _check(run, screen or Screen.quiet())


def _check(run: Run, screen: Screen) -> dict[str, float]:
    for line in header(run):
        screen.line(line)
    for line in parameters(run):
        screen.line(line)
    state = run.init_state()
    state, sums = run.train_step(state, *run.feeds["train"].train_batch(run.order, 0))
    found = {name: float(pair[0] / pair[1]) for name, pair in jax.device_get(sums).items()}
    if not all(np.isfinite(value) for value in found.values()):
        raise NonFiniteError(f"the first step gives {found}; look at the data, or try a smaller optimizer.lr")
    guess = np.log(run.data.num_classes)
    screen.line(
        f"one step       loss {found['loss']:.4f} (guessing gives {guess:.4f}), gradient norm {found['grad_norm']:.3g}"
    )
    split = "val" if "val" in run.feeds else "train"
    data, rows = next(iter(run.feeds[split].eval_batches(run.batch_size)))
    sums, outputs = run.eval_step(state.params, state.model_state, data, rows)
    jax.block_until_ready(outputs)
    screen.line(f"one evaluation of a batch of {split}: outputs {list(outputs.shape)} {outputs.dtype}")
    with Signals(active=True) as signals, tempfile.TemporaryDirectory() as folder:  # which must not be left behind
        saved = _save_and_restore(run, to_flat(state), Path(folder))
    if signals.received:
        raise Interrupted(f"check was interrupted by signal {signals.received}", signals.received)
    screen.line(f"one checkpoint {saved / 2**20:,.1f} MiB, saved, restored, equal")
    return found


def parameters(run: Run) -> list[str]:
    """One line for every parameter array: path, shape, lr multiplier, decay."""
    lines = ["parameters"]
    for path, leaf in tree.flatten(run.shapes.params).items():
        label = run.optimizer.groups.labels.get(path)
        multiplier = None if label is None else run.optimizer.groups.multipliers[label]
        how = (
            "frozen"
            if multiplier is None
            else f"lr ×{multiplier:g}" + (", decays" if path in run.optimizer.decayed else "")
        )
        shape = "×".join(map(str, leaf.shape)) or "scalar"
        lines.append(f"  {path:<36} {shape:>16}  {how}")
    return lines


def _save_and_restore(run: Run, flat: dict[str, jax.Array], folder: Path) -> int:
    checkpoints = Checkpoints(folder, keep=1, event=lambda kind, text: None)
    checkpoints.save(1, flat, {}, best_step=None, block=True)
    restored = checkpoints.restore(1, to_flat(run.shapes))
    checkpoints.close()
    assert restored is not None
    for path, leaf in flat.items():
        np.testing.assert_array_equal(restored.state[path], np.asarray(leaf), err_msg=path)
    meshes.place(restored.state, meshes.replicated(run.mesh))
    return sum(leaf.nbytes for leaf in restored.state.values())
