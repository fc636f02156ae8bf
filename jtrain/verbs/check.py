"""`check`: builds everything and goes once through the whole path, so that a long run does not fail late."""

import contextlib
import tempfile
from pathlib import Path

import jax
import numpy as np

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain import tree
from jtrain.describe import header
from jtrain.errors import DataError, Interrupted, NonFiniteError
from jtrain.failure import culprit
from jtrain.io.checkpoint import Checkpoints
from jtrain.io.plots import schedule
from jtrain.io.progress import Screen
from jtrain.run import Run
from jtrain.signals import Signals
from jtrain.state import to_flat
from jtrain.supervise import Supervisor


def check(run: Run, *, screen: Screen | None = None, out: str | Path | None = None) -> dict[str, float]:
    """Takes one step, one evaluation batch, one save and restore, and draws the schedule.

    Args:
      run: from `jtrain.assemble`; not to be used afterwards.
      screen: where to show what the config comes to.
      out: folder for schedule.png; None writes nothing that stays.

    Returns:
      The first batch's metrics, before any update.

    Raises:
      NonFiniteError: the first loss or gradient is not finite.
      DataError: a checkpoint does not come back as it was, or the picture cannot be written.
    """
    screen = screen or Screen.quiet()
    with contextlib.closing(run):
        found = _check(run, screen)
        if out is not None:
            screen.line(f"schedule       {draw_schedule(run, Path(out))}")
    return found


def draw_schedule(run: Run, folder: Path, points: int = 2000) -> Path:
    """Draws the lr of every group over the run's updates as `folder`/schedule.png."""
    steps = np.unique(np.linspace(0, run.clock.total - 1, points).astype(np.int64))
    lrs = {
        name: (steps.tolist(), (np.asarray(lr(steps)) * run.config.lr_scale).tolist())
        for name, lr in run.optimizer.schedules.items()
        if name != "lr" or len(run.optimizer.schedules) == 1
    }
    path = folder / "schedule.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out: {folder} cannot be made: {error.strerror}") from error
    warmup = run.clock.boundary(run.config.schedule.warmup)
    schedule(lrs, path, title=f"{run.config.schedule.name}, {run.clock.total} updates", warmup=warmup)
    return path


def _check(run: Run, screen: Screen) -> dict[str, float]:
    Supervisor.of(run)  # refuses metrics that the run does not have
    for line in header(run):
        screen.line(line)
    for line in (*options(run), *parameters(run)):
        screen.line(line)
    state = run.init_state()
    state, sums = run.train_step(state, *run.feeds["train"].train_batch(run.order, 0))
    sums = jax.device_get(sums)
    if sums.pop("non_finite")[0]:
        raise NonFiniteError(f"the first update: {culprit(run, state, 0)}; look at the data, or try clip.name=norm")
    found = {name: float(pair[0] / pair[1]) for name, pair in sums.items()}
    guess = np.log(run.data.num_outputs)
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


def options(run: Run) -> list[str]:
    """One line for every part, with the options that are in force."""
    lines = ["parts"]
    for section in configs.CHOICES:
        _, given = configs.choice(run.config, section)
        words = ", ".join(f"{key}={value!r}" for key, value in given.items())
        lines.append(f"  {section:<10}{run.config[section].name}({words})")
    return lines


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
