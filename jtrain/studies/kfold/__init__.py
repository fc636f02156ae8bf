"""`kfold`: how good a config is, and how sure that is, from models that never saw the examples they are judged by."""

import contextlib
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from jtrain import metrics
from jtrain.data.broken import Tolerant
from jtrain.data.examples import Examples, targets_of
from jtrain.errors import DataError, NonFiniteError
from jtrain.io.progress import Screen, duration_words
from jtrain.io.workdir import write_atomic
from jtrain.loop import train
from jtrain.result import Result
from jtrain.run import Run
from jtrain.state import TrainState, eval_params
from jtrain.studies.folds import (
    Cut,
    Steps,
    check_cut,
    cut,
    cut_sum,
    fold_run,
    folds_of,
    pool_of,
    rare,
    read_groups,
    readable,
)
from jtrain.studies.journal import Journal, open_study
from jtrain.studies.kfold.picture import draw
from jtrain.studies.study import Study

FILE = "out_of_fold.npz"

Fold = tuple[dict[str, Any], np.ndarray | None]  # what its piece tells, predictions of what it leaves out


def kfold(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """Cross-validation: one training per fold, each judged by the fold that it leaves out.

    Every metric as mean ± standard deviation over the folds, and of all left-out examples together; with a workdir the
    predictions of every example by the model that never saw it, in out_of_fold.npz (predictions [examples, …], targets,
    fold [repeats, examples]), in the order of the pool (see `jtrain.studies.folds.pool_of`).

    Args:
      given: a config or a run; it stays as it is.
      workdir: for the files; the same command goes on there. None writes nothing.
      model: with a config: as `assemble` takes it.
      data: with a config: as `assemble` takes it.
      screen: None shows nothing.

    Raises:
      ConfigError: the examples or groups cannot be cut into so many folds, or are others than those that the workdir
        was begun with; or see `open_study`.
      DataError: the file of groups, or of a fold's predictions, is missing or damaged.
    """
    with open_study("kfold", given, workdir, model=model, data=data, screen=screen) as journal:
        run, options = journal.run, journal.options
        pool = pool_of(run, test=options.test)
        targets = targets_of(readable(run, pool), np.arange(len(pool)))
        groups = read_groups(options.groups, pool) if options.groups else None
        cuts = cut(
            targets, run.data.targets, options.folds, seed=run.config.seed, repeats=options.repeats, groups=groups,
            key="study.kfold.folds",
        )  # fmt: skip
        for line in _warnings(run, targets, options.folds):
            journal.told(f"kfold: {line}")
        folds = train_folds(journal, pool, cuts)
        if journal.folder is not None:
            arrays: dict[str, Any] = {"predictions": mean_predictions(pool, cuts, folds)}
            arrays |= {} if run.task.pretext else {"targets": targets}
            arrays["fold"] = folds_of(cuts, len(pool), options.folds)
            write_atomic(journal.folder / FILE, lambda file: np.savez(file, **arrays))
        return journal.finish(_study(journal, cuts, [told for told, _ in folds]))


def _warnings(run: Run, targets: np.ndarray, folds: int) -> list[str]:
    """What makes the scores other than they seem."""
    found = []
    scarce = rare(targets, run.data.targets, folds)
    if scarce:
        names = [run.data.class_names[number] if run.data.class_names else str(number) for number in scarce]
        found.append(f"{', '.join(names[:8])}: fewer examples than folds, so some folds are without them")
    for key in ("early_stopping", "plateau"):
        if run.config[key].metric:
            found.append(f"{key} looks at the examples left out: the scores are a little too good; it is fair without")
    return found


def out_of_fold(journal: Journal, pool: Examples, cuts: Sequence[Cut], *, prefix: str = "fold") -> np.ndarray:
    """Predictions [len(pool), …] float32 of examples by models that were trained without them; one piece a cut.

    What several cuts leave out has their mean. NaN is what none leaves out, what cannot be read, and what a run that
    failed would have predicted.

    Args:
      journal: of the study; with a workdir predictions are kept in its files `<prefix>-<number>.npy`.
      pool: of `jtrain.studies.folds.pool_of`.
      cuts: (rows to train on, rows left out) of each run.
      prefix: of the pieces' keys and files.

    Raises:
      ConfigError: what is in the workdir is of other cuts. DataError: a file of predictions is lost.
    """
    return mean_predictions(pool, cuts, train_folds(journal, pool, cuts, prefix=prefix))


def train_folds(journal: Journal, pool: Examples, cuts: Sequence[Cut], *, prefix: str = "fold") -> list[Fold]:
    """What every cut came to: metrics, totals, curves, and predictions [left out, …] (None of a run that failed).

    The arguments are those of `out_of_fold`.
    """
    known: list[Steps] = []
    found = []
    for number, rows in enumerate(cuts):
        key = f"{prefix}-{number}"
        held: list[np.ndarray | None] = []

        def compute(number: int = number, rows: Cut = rows, key: str = key, held: list[Any] = held) -> dict[str, Any]:
            begun = time.perf_counter()
            told, predictions = _train_fold(journal.run, pool, rows, known)
            if predictions is not None and journal.folder is not None:
                write_atomic(journal.folder / f"{key}.npy", lambda file: np.save(file, predictions))
            held.append(predictions)
            words = told["failed"] or ", ".join(f"{name} {value:.4g}" for name, value in told["metrics"].items())
            spent = duration_words(time.perf_counter() - begun)
            journal.told(f"{prefix} {number} ({number + 1} of {len(cuts)}): {words} ({spent})")
            return told

        told = journal.piece(key, compute)
        check_cut(told, rows, f"{key} of {journal.folder}")
        found.append((told, held[0] if held else _read(journal, told, key)))
    return found


def _read(journal: Journal, told: Mapping[str, Any], key: str) -> np.ndarray | None:
    if told["failed"] or journal.folder is None:
        return None
    path = journal.folder / f"{key}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"--workdir: {path} is lost or damaged ({error}); choose a new folder") from error


def _train_fold(run: Run, pool: Examples, rows: Cut, known: list[Steps]) -> tuple[dict[str, Any], np.ndarray | None]:
    """One fold, from first weights of its own; nothing of it is left but what is given back."""
    fold = fold_run(run, pool, rows, known=known)
    told: dict[str, Any] = {"examples": len(rows[0]), "left_out": len(rows[1]), "cut": cut_sum(rows)}
    with contextlib.ExitStack() as stack:
        stack.callback(fold.close)
        # Going back needs checkpoints, which nobody needs later.
        keep = fold.config.train.on_nan == "rollback"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "fold" if keep else None
        try:
            result = train(fold, folder)
        except NonFiniteError as error:
            return told | {"failed": error.what, "metrics": {}, "totals": {}, "curves": {}}, None
        totals = _totals(fold, result.state)
        predictions = fold.predict(result.state, "val").astype(np.float32)
        left_out = fold.data.val
        if isinstance(left_out, Tolerant):
            predictions[left_out.weights(np.arange(len(left_out))) == 0] = np.nan
    found = _scalars(metrics.means(totals, run.task.metrics))
    return told | {"failed": "", "metrics": found, "totals": totals, "curves": _curves(run, result)}, predictions


def _totals(run: Run, state: TrainState) -> metrics.Totals:
    """Sums and counts of every metric over the validation split, of the parameters that predictions are made with."""
    totals: metrics.Totals = {}
    for data, rows in run.feeds["val"].eval_batches(run.batch_size):
        sums = jax.device_get(run.eval_step(eval_params(state), state.model_state, data, rows))
        metrics.add_to(totals, {name: values[None] for name, values in sums.items()})
    return totals


def _scalars(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _curves(run: Run, result: Result) -> dict[str, list[list[float]]]:
    """{split: [[update, value], …]} of the metric that is watched."""
    name = run.watch
    return {
        split: [[row["step"], row[name]] for row in result.history if row["split"] == split and name in row]
        for split in ("train", "val")
    }


def mean_predictions(pool: Examples, cuts: Sequence[Cut], folds: Sequence[Fold]) -> np.ndarray:
    """[len(pool), …] float32, as `out_of_fold` gives them."""
    shapes = [predictions.shape[1:] for _, predictions in folds if predictions is not None]
    shape = shapes[0] if shapes else ()
    total, count = np.zeros((len(pool), *shape), np.float64), np.zeros(len(pool), np.int64)
    for (_, left_out), (_, predictions) in zip(cuts, folds, strict=True):
        if predictions is not None:
            total[left_out] += predictions
            count[left_out] += 1
    wide = count.reshape(-1, *(1 for _ in shape))
    with np.errstate(invalid="ignore"):
        return np.where(wide > 0, total / wide, np.nan).astype(np.float32)


def _study(journal: Journal, cuts: Sequence[Cut], folds: Sequence[Mapping[str, Any]]) -> Study:
    run, options = journal.run, journal.options
    good = [fold for fold in folds if not fold["failed"]]
    watch = run.task.watch if run.task.watch in run.task.metrics else "loss"
    names = sorted(good[0]["metrics"], key=lambda name: (name != watch, name)) if good else [watch]
    values = {name: np.array([_number(fold["metrics"].get(name)) for fold in folds]) for name in names}
    rows: list[dict[str, Any]] = [
        _named(number, options) | {"train": fold["examples"], "left out": fold["left_out"]}
        | {name: float(values[name][number]) for name in names}
        for number, fold in enumerate(folds)
    ]  # fmt: skip
    pooled = _pooled(run, good)
    mean = {name: float(np.nanmean(of)) if good else math.nan for name, of in values.items()}
    sd = {name: float(np.nanstd(of, ddof=1)) if len(good) > 1 else math.nan for name, of in values.items()}
    rows += [{"fold": "mean", **mean}, {"fold": "sd", **sd}]
    rows += [{"fold": "pooled", **{name: pooled[name] for name in names if name in pooled}}] if pooled else []
    found = {"watch": watch, "mean": mean, "sd": sd, "pooled": pooled, "failed": len(folds) - len(good)}
    return Study(
        "kfold", _conclusion(journal, watch, mean, sd, pooled, folds), rows, found,
        lambda figure: draw(figure, watch, folds, values[watch], mean[watch], sd[watch]), ok=bool(good),
    )  # fmt: skip


def _named(number: int, options: Any) -> dict[str, Any]:
    repeat, fold = divmod(number, options.folds)
    return ({"repeat": str(repeat)} if options.repeats > 1 else {}) | {"fold": str(fold)}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _pooled(run: Run, folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every metric of all left-out examples together, as if one model had predicted them."""
    totals: metrics.Totals = {}
    for fold in folds:
        metrics.add_to(
            totals, {name: np.array([[_number(v) for v in values]]) for name, values in fold["totals"].items()}
        )
    found = metrics.means(totals, run.task.metrics)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}


def _conclusion(
    journal: Journal, watch: str, mean: Mapping[str, float], sd: Mapping[str, float], pooled: Mapping[str, Any],
    folds: Sequence[Mapping[str, Any]],
) -> str:  # fmt: skip
    failed = [number for number, fold in enumerate(folds) if fold["failed"]]
    if len(failed) == len(folds):
        return f"no answer: no fold was trained to its end; the first: {folds[0]['failed']}"
    text = (
        f"{watch} {mean[watch]:.4g} ± {sd[watch]:.2g} over {len(folds) - len(failed)} folds ({pooled[watch]:.4g} of "
        "all left-out examples together)"
    )
    if len(folds) - len(failed) > 1:
        least = _chance(watch, mean[watch], min(fold["left_out"] for fold in folds))
        text += (
            f": one split of this size tells two configs apart only from about "
            f"{2 * math.sqrt(2) * max(sd[watch], least):.2g} on; to compare finer, run kfold on the other config too: "
            "its folds are the same, so compare fold by fold"
        )
    if failed:
        text += f"; fold {', '.join(map(str, failed))} failed and is not in it: {folds[failed[0]]['failed']}"
    return text


def _chance(watch: str, mean: float, examples: int) -> float:
    """The least standard deviation that a share of so many examples has: few folds may lie closer by luck."""
    return math.sqrt(max(0.0, mean * (1.0 - mean)) / examples) if watch == "accuracy" else 0.0
