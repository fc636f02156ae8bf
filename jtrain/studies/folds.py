"""Cuts of all examples into folds, and the run of each: what the studies that leave examples out have in common."""

import contextlib
import dataclasses
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn import model_selection

from jtrain.data.broken import Tolerant
from jtrain.data.examples import BrokenRecord, Examples, Subset, TargetKind
from jtrain.data.feed import is_resident
from jtrain.data.joined import Joined
from jtrain.durations import Clock
from jtrain.errors import ConfigError, DataError
from jtrain.evaluation import EvalStep, PredictStep
from jtrain.run import Phase, Run
from jtrain.tasks import NEEDS

Cut = tuple[np.ndarray, np.ndarray]  # (rows to train on, rows left out), numbers in the pool


def pool_of(run: Run, *, val: bool = True, test: bool = False) -> Examples:
    """All examples that a run may train on, without what makes light of broken ones.

    What was cut from the training split as validation is put back in its place: the pool is in the order of the data's
    own training split. A source's own validation split, and the test split where it is asked for, come behind it.

    Args:
      run: whose data it is; `data.examples` of it, where it takes only some.
      val: validation examples belong to it too.
      test: test examples belong to it too.

    Raises:
      ConfigError: the splits hold examples of different shapes.
    """
    parts, splits = [_origin(run.data.train)], [run.data.train]
    if val and run.data.val is not None:
        splits.append(run.data.val)
        base, rows = _origin(run.data.val)
        if base is parts[0][0]:
            parts = [(base, np.sort(np.concatenate([parts[0][1], rows])))]
        else:
            parts.append((base, rows))
    if test and run.data.test is not None:
        splits.append(run.data.test)
        parts.append(_origin(run.data.test))
    found: list[Examples] = [
        base if np.array_equal(rows, np.arange(len(base))) else Subset(base, rows) for base, rows in parts
    ]
    shapes = {(each[0].shape[1:], each[0].dtype) for each in (split.fetch(np.arange(1)) for split in splits)}
    if len(shapes) > 1:
        raise ConfigError("data: the splits hold inputs of different shapes or types; they cannot be one set of folds")
    pool = found[0] if len(found) == 1 else Joined(found)
    if isinstance(pool, Subset) and is_resident(pool, run.config.data.placement):
        with contextlib.suppress(BrokenRecord):  # which each fold passes over by itself
            pool.arrays()  # gathered once, not by every fold
    return pool


def readable(run: Run, pool: Examples, name: str = "train") -> Tolerant:
    """A pool, or some of it, with another example in the place of each that cannot be read: as many may be broken as
    in all of the run's splits together."""
    return Tolerant(pool, run.config.data.broken * len(run.feeds), name)


def cut_sum(rows: Cut) -> int:
    """A checksum of the rows that a cut leaves out."""
    return zlib.crc32(rows[1].astype("<i4").tobytes())


def check_cut(told: Mapping[str, Any], rows: Cut, what: str) -> None:
    """Raises ConfigError unless a piece is of a cut: the "cut" that it tells is `cut_sum(rows)`; `what` names it."""
    if told.get("cut") != cut_sum(rows):
        raise ConfigError(
            f"--workdir: {what} left out other examples: the groups (or data) are others than those this folder was "
            "begun with; choose another --workdir"
        )


def _origin(examples: Examples) -> tuple[Examples, np.ndarray]:
    """(split that was cut, numbers in it) of a cut of a cut."""
    rows = np.arange(len(examples))
    while isinstance(examples, Tolerant | Subset):
        if isinstance(examples, Subset):
            rows = examples.rows[rows]
        examples = examples.base
    return examples, rows


def read_groups(path: str, pool: Examples, key: str = "study.kfold.groups") -> np.ndarray:
    """The group of every example of a pool, from a .npy file of one number or text each.

    Args:
      path: of the file: one for each example of the pool, or of the training split that the pool is taken from.
      pool: of `pool_of`.
      key: of the option, with which messages begin.

    Raises:
      DataError: there is no such file, or it holds something else. ConfigError: they are more or fewer.
    """
    try:
        groups = np.load(Path(path).expanduser(), allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{key}: no file {path}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{key}: {path} is no .npy file of numbers or texts ({error})") from error
    if not isinstance(groups, np.ndarray) or groups.ndim != 1:
        raise DataError(f"{key}: {path} must hold an array [examples], one number or text each")
    base, rows = _origin(pool)
    if len(groups) not in (len(pool), len(base)):
        raise ConfigError(f"{key}: {path} has {len(groups)} groups for {len(pool)} examples; give one for each")
    return groups if len(groups) == len(pool) else groups[rows]


def cut(
    targets: np.ndarray, kind: TargetKind, folds: int, *, seed: int, repeats: int = 1,
    groups: np.ndarray | None = None, key: str = "folds",
) -> list[Cut]:  # fmt: skip
    """(rows to train on, rows left out) of every fold, by scikit-learn's splitters, shuffled.

    Class numbers are cut so that each fold has its share of each class (StratifiedKFold, StratifiedGroupKFold), other
    targets without regard to them (KFold, GroupKFold). Repeats draw on from the same generator, as in scikit-learn's
    RepeatedStratifiedKFold and RepeatedKFold with `random_state=seed`.

    Args:
      targets: [n, …], of all examples.
      kind: what they are.
      folds: of one repeat, 2 at least.
      seed: by which examples are shuffled.
      repeats: other cuts into as many folds.
      groups: [n]; examples of one group are never on both sides. None: each stands for itself.
      key: of the option that holds `folds`, with which messages begin.

    Returns:
      folds × repeats pairs, those of one repeat one after another; rows rise.

    Raises:
      ConfigError: there are fewer examples, or groups, than folds; or a class has too few for any fold to hold it.
    """
    most, what = (len(targets), "examples") if groups is None else (len(np.unique(groups)), "groups")
    if folds > most:
        raise ConfigError(f"{key}: {folds} folds of {most} {what}; use {most} at most")
    generator = np.random.RandomState(seed % 2**32)
    by_class = kind == "class"
    splitters: dict[tuple[bool, bool], Any] = {
        (True, False): model_selection.StratifiedKFold, (False, False): model_selection.KFold,
        (True, True): model_selection.StratifiedGroupKFold, (False, True): model_selection.GroupKFold,
    }  # fmt: skip
    splitter = splitters[by_class, groups is not None](folds, shuffle=True, random_state=generator)
    found: list[Cut] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # `rare` tells it
        for _ in range(repeats):
            try:
                found += splitter.split(np.zeros(len(targets)), targets if by_class else None, groups)
            except ValueError as error:  # of the stratified ones: no class has as many
                raise ConfigError(
                    f"{key}: {folds} folds, but no class has as many examples (or groups); use fewer"
                ) from error
    for number, (train, left_out) in enumerate(found):
        if not len(train) or not len(left_out):
            raise ConfigError(f"{key}: fold {number} is empty: the groups cannot be cut into {folds} folds; use fewer")
    return found


def rare(targets: np.ndarray, kind: TargetKind, folds: int) -> list[int]:
    """Classes with fewer examples than folds: some folds are without them."""
    if kind != "class":
        return []
    classes, counts = np.unique(targets, return_counts=True)
    return [int(number) for number in classes[counts < folds]]


@dataclasses.dataclass(frozen=True)
class Steps:
    """Compiled steps of a run, and what they hold beside its data and state, which are arguments."""

    clock: Clock
    mesh: jax.sharding.Mesh
    per_call: int
    phases: tuple[Phase, ...]
    eval_step: EvalStep
    line_step: EvalStep
    predict_step: PredictStep

    @classmethod
    def of(cls, run: Run) -> "Steps":
        """Of a run; none of its data is held by them."""
        return cls(**{field.name: getattr(run, field.name) for field in dataclasses.fields(cls)})

    def fit(self, run: Run) -> bool:
        """Whether those of another fold would come out the same: as long, of as many examples.

        Normalising and whitening are part of the state. But mean and spread of targets that are numbers are in the
        loss: each fold has its own.
        """
        alike = (run.clock, run.mesh, run.per_call) == (self.clock, self.mesh, self.per_call)
        return alike and NEEDS.get(run.config.task.name) in ("class", "classes", "tokens")


def fold_run(run: Run, pool: Examples, rows: Cut, *, test: bool = False, known: list[Steps] | None = None) -> Run:
    """The run of one fold: trained on its part of the pool alone, what is measured of its data (normalising, whitening)
    included, and evaluated on the part that is left out, as its validation split.

    Args:
      run: whose config it is.
      pool: of `pool_of`.
      rows: of the fold.
      test: keep the test split.
      known: steps of other folds of this run, which are taken where they fit; else the fold's own are added.
    """
    train, left_out = (Subset(pool, some) for some in rows)
    data = dataclasses.replace(
        run.data, train=readable(run, train), val=readable(run, left_out, "val"),
        test=run.data.test if test else None, ready=True,
    )  # fmt: skip
    fold = run.again(run.config, data)
    if known is None:
        return fold
    for steps in known:
        if steps.fit(fold):
            return dataclasses.replace(
                fold,
                phases=steps.phases,
                eval_step=steps.eval_step,
                line_step=steps.line_step,
                predict_step=steps.predict_step,
            )
    known.append(Steps.of(fold))
    return fold


def folds_of(cuts: Sequence[Cut], examples: int, folds: int) -> np.ndarray:
    """[repeats, examples] int32: the fold of each repeat that leaves an example out."""
    found = np.full((len(cuts) // folds, examples), -1, np.int32)
    for number, (_, left_out) in enumerate(cuts):
        found[number // folds, left_out] = number % folds
    return found
