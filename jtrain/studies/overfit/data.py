"""Whether targets have to do with inputs: what the data alone shows."""

from typing import Any

import numpy as np

from jtrain.run import Run
from jtrain.studies.overfit.plain import candidates

NEIGHBOURS = 5
FEWEST = 50  # examples from which neighbours tell anything
PERMUTATIONS = 200
SIDE, FEATURES, BUCKETS = 16, 4096, 1024  # images are shrunk to this side; features, and counts of tokens, kept at most


def look(run: Run, rows: np.ndarray, neighbours: int) -> dict[str, Any]:
    """What the examples `rows`, and `neighbours` others, show; plain JSON.

    Returns:
      `examples`, `targets` (numbers in them), `classes` (of class numbers: how many there are among them), `alike`,
      `one_target` (all inputs, or targets, are equal), `retargeted` and `reread` (shares whose targets or inputs differ
      when they are fetched again), `conflicts` (share that has the inputs of another, but other targets), `related`:
      None where it is not asked, else `examples`, `share` of the targets' variance that neighbours have in common,
      `chance` of so much where targets have nothing to do with inputs.
    """
    train = run.data.train
    inputs, targets = train.fetch(rows)
    again = train.fetch(rows)
    found: dict[str, Any] = {
        "examples": len(rows),
        "targets": int(np.size(targets)),
        "classes": len(np.unique(targets)) if run.data.targets == "class" else None,
        "one_target": run.task.pretext is None and _alike(targets),
        "alike": _alike(inputs),
        "reread": _share_differing(inputs, again[0]),
        "retargeted": _share_differing(targets, again[1]),
        "conflicts": conflicts(inputs, targets),
        "related": None,
    }
    labelled = run.task.pretext is None and run.data.targets != "tokens"
    if neighbours and labelled and not found["alike"]:
        among = candidates(run, neighbours)
        if len(among) >= FEWEST:
            inputs, targets = train.fetch(among)
            share, chance = relation(features(inputs), _spread_out(run, targets), run.config.seed)
            found["related"] = {"examples": len(among), "share": share, "chance": chance}
    return found


def conflicts(inputs: np.ndarray, targets: np.ndarray) -> float:
    """The share of examples whose inputs another has too, with other targets."""
    by_inputs: dict[bytes, list[int]] = {}
    for i, one in enumerate(inputs):
        by_inputs.setdefault(one.tobytes(), []).append(i)
    differing = [rows for rows in by_inputs.values() if len({np.asarray(targets[i]).tobytes() for i in rows}) > 1]
    return sum(map(len, differing)) / len(inputs)


def features(inputs: np.ndarray) -> np.ndarray:
    """float32 [n, features] of equal weight: images shrunk by averaging, tokens as counts."""
    if inputs.dtype.kind in "iu" and inputs.dtype != np.uint8 and inputs.ndim == 2:
        values = np.zeros((len(inputs), BUCKETS), np.float32)
        for row, tokens in zip(values, inputs, strict=True):
            np.add.at(row, tokens % BUCKETS, 1.0)
    else:
        values = np.asarray(inputs, np.float32)
        for axis in (1, 2) if values.ndim == 4 else ():
            block = max(1, values.shape[axis] // SIDE)
            kept = values.shape[axis] // block
            values = np.moveaxis(np.moveaxis(values, axis, -1)[..., : kept * block], -1, axis)
            shape = (*values.shape[:axis], kept, block, *values.shape[axis + 1 :])
            values = values.reshape(shape).mean(axis=axis + 1)
        values = values.reshape(len(values), -1)
    values = values[:, :: -(-values.shape[1] // FEATURES)]
    std = values.std(axis=0, keepdims=True)
    return (values - values.mean(axis=0, keepdims=True)) / np.where(std > 0, std, 1.0)


def relation(values: np.ndarray, targets: np.ndarray, seed: int) -> tuple[float, float]:
    """(share of the targets' variance that each has in common with its nearest neighbours, chance of so much).

    Nearest are the NEIGHBOURS by the features' squared distance. The chance is that of a normal distribution with the
    mean and spread of the share when targets are dealt out anew, PERMUTATIONS times.

    Args:
      values: features [n, …].
      targets: [n, k].
      seed: of the permutations.
    """
    from scipy import stats

    squares = np.square(values).sum(axis=1)
    distance = squares[:, None] + squares[None, :] - 2.0 * values @ values.T
    np.fill_diagonal(distance, np.inf)
    near = np.argpartition(distance, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    centred = targets - targets.mean(axis=0, keepdims=True)
    total = float(np.square(centred).sum())
    if total == 0:
        return 0.0, 0.0  # all targets are equal: no relation is missed
    generator = np.random.default_rng(seed)

    def share(targets: np.ndarray) -> float:
        return float((targets * targets[near].mean(axis=1)).sum()) / total

    dealt = [share(generator.permutation(centred)) for _ in range(PERMUTATIONS)]
    found, spread = share(centred), float(np.std(dealt))
    return found, float(stats.norm.sf(found, np.mean(dealt), max(spread, 1e-12)))


def _spread_out(run: Run, targets: np.ndarray) -> np.ndarray:
    """Targets [n, k]: a column for each class, or of values, of equal weight."""
    if run.data.targets == "class":
        return np.eye(run.data.num_outputs, dtype=np.float32)[targets]
    wide = np.asarray(targets, np.float32).reshape(len(targets), -1)
    std = wide.std(axis=0, keepdims=True)
    return wide / np.where(std > 0, std, 1.0)


def _alike(values: np.ndarray) -> bool:
    return len(values) > 1 and len({one.tobytes() for one in values}) == 1


def _share_differing(one: np.ndarray, other: np.ndarray) -> float:
    return sum(a.tobytes() != b.tobytes() for a, b in zip(one, other, strict=True)) / len(one)
