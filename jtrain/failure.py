"""After a gradient that is not finite: which parameter it is, what is needed to look at it again, the way back."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtrain import mesh as meshes
from jtrain import metrics, session, tree
from jtrain.control import Control
from jtrain.errors import NonFiniteError
from jtrain.io.checkpoint import Checkpoints
from jtrain.io.record import Record
from jtrain.io.workdir import write_atomic
from jtrain.peers import ALONE, Peers
from jtrain.run import Run
from jtrain.state import TrainState, to_flat


def explain(
    run: Run, state: TrainState, update: int, *, record: Record, control: Control, peers: Peers = ALONE
) -> NonFiniteError:
    """The error for a gradient that is not finite: where, what, what to go on from; leaves a replay in `folder`.

    Args:
      run: of the state.
      state: as it was before that update, but for its step number.
      update: that failed (from 0).
      record: gets it as an event.
      control: of the run.
      peers: the processes of the run, which all call this.
    """
    lr = run.lrs(update, control.lr_factors)["lr"]
    what = f"update {update + 1} of {run.clock.total} (lr {lr:.3g}): {culprit(run, state, update)}"
    kept = ""
    saved = record.newest_step()
    if record.folder is not None:
        kept = f"; state and batch are in {save_replay(run, state, update, record.folder / 'failures', peers)}"
    there = f"the checkpoint of update {saved} is whole" if saved else "no checkpoint was saved before"
    advice = "try optimizer.lr a third as large (it may change when the run is resumed), or clip.name=norm"
    error = NonFiniteError(f"{what}{kept}; {there}; {advice}", what)
    record.event("non_finite", str(error), update)
    return error


def culprit(run: Run, state: TrainState, update: int) -> str:
    """Words for what is not finite at `update` (from 0): the first parameter path, or the loss.

    Args:
      run: of the state.
      state: as it was before that update, but for its step number.
      update: whose batch is taken again.
    """
    state = _before(run, state, update)
    gradient = run.phase(update).gradient

    def of_one(state: TrainState, data: Any, rows: Any) -> tuple[Any, metrics.Sums]:
        return gradient(state, data, None if rows is None else rows[0])[:2]

    grads, sums = jax.jit(of_one)(state, *run.give(update))
    finite = jax.device_get(jax.tree.map(lambda g: jnp.isfinite(g).all(), grads))
    bad = [path for path, good in tree.flatten(finite).items() if not good]
    loss = float(sums["loss"][0])
    what = "the loss is finite" if np.isfinite(loss) else f"the loss is {loss}"
    if not bad and np.isfinite(loss) and np.isfinite(float(optax.tree.norm(grads))):
        return "what was not finite is, on a second look: suspect the data or the machine"
    if not bad:
        return f"{what}, every gradient is finite, their norm is not"
    return f"{what}, the gradient of {bad[0]} is not" + (f" (and of {len(bad) - 1} more)" if len(bad) > 1 else "")


def _before(run: Run, state: TrainState, update: int) -> TrainState:
    return dataclasses.replace(state, step=meshes.place(np.int32(update), meshes.replicated(run.mesh)))


def save_replay(run: Run, state: TrainState, update: int, folder: Path, peers: Peers = ALONE) -> Path:
    """Saves the state before `update` as checkpoint `folder`/<update>, and its batch as `folder`/<update>-batch.npz."""
    if peers.leads:
        shutil.rmtree(folder / str(update), ignore_errors=True)  # of an earlier failure at the same update
    checkpoints = Checkpoints(folder, keep=1000, event=lambda kind, text: None, peers=peers, finite=False)
    state = _before(run, state, update)
    checkpoints.save(update, to_flat(state), {}, block=True)
    checkpoints.close()
    batch = folder / f"{update}-batch.npz"
    if not peers.leads:
        return batch
    rows = run.order.rows(update)
    inputs, targets = run.data.train.fetch(rows)
    write_atomic(batch, lambda file: np.savez(file, inputs=inputs, targets=targets, rows=rows))
    return batch


def roll_back(run: Run, record: Record, control: Control, update: int) -> tuple[TrainState, Control]:
    """The last good checkpoint (or the start) and its control state, with a smaller lr; told as an event.

    Args:
      run: whose update failed.
      record: its files.
      control: of it until now.
      update: whose gradient is not finite, from 0.
    """
    before, rollbacks = control.lr_factors, control.rollbacks + 1
    old = before.get("rollback", 1.0)
    own = {"user": before["user"], "rollback": old * run.config.train.rollback_scale}
    state, control = session.restore_again(run, record)
    factors = control.lr_factors | own  # the plateau's factor goes back with its memory
    control = dataclasses.replace(control, lr_factors=factors, rollbacks=rollbacks)
    step = int(state.step)
    why = f"the gradient of update {update + 1} is not finite"
    text = f"lr factor {old:g} → {factors['rollback']:g}, back to update {step}, because {why}"
    record.event("rollback", text, step)
    return session.with_lr_scale(run, state, control), control
