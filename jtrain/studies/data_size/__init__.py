"""What more training data would bring, and which examples look mislabelled or are there twice."""

import contextlib
import dataclasses
import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from jtrain.data.broken import Tolerant
from jtrain.data.examples import targets_of
from jtrain.data.order import Order
from jtrain.errors import ConfigError, NonFiniteError
from jtrain.io.progress import Screen
from jtrain.loop import train
from jtrain.metrics import METRICS
from jtrain.run import Run
from jtrain.studies.data_size.curve import Curve, fit
from jtrain.studies.data_size.told import Found, Judged, error_of
from jtrain.studies.folds import cut, pool_of, readable
from jtrain.studies.journal import Journal, open_study
from jtrain.studies.kfold import out_of_fold
from jtrain.studies.study import Study
from jtrain.studies.suspects import NEAR_MOST, doubt, exact_duplicates, near_duplicates


def data_size(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """The learning curve over shares of the training examples, and the examples that are most to be doubted.

    Every run has the same recipe to the update: as many, of the same batch size, with the same lr at each; only the
    number of different examples differs. It counts with its best evaluation on the one validation split.

    Args:
      given: a config or a run.
      workdir: for study.json, study.png, suspects.csv and, of images, suspects.png, and to go on from after a kill;
        None writes nothing.
      model: as `jtrain.assemble` takes it.
      data: as `jtrain.assemble` takes it.
      screen: None shows nothing.

    Returns:
      `found`: "error" of the whole set (of the fitted curve), "twice" and "ten_times" what is foretold, "stops" the
      number of examples beyond which more do not pay (null: beyond ten times what there is), each null where it cannot
      be told; "mislabelled", "duplicates", "near_duplicates" and "contradictions" count examples, and "suspects" are
      the numbers of the worst.

    Raises:
      ConfigError: see `jtrain.assemble`; or there is no validation split, or too few examples, or others than those
        that the workdir was begun with.
    """
    with open_study("data_size", given, workdir, model=model, data=data, screen=screen) as journal:
        found = Found(journal.run, *_measured(journal), _judged(journal))
        if journal.folder is not None:
            found.save(journal.folder, journal.options.worst)
        return journal.finish(found.study(journal.options.worst))


class _Among(Order):
    """Batches of some examples alone, whose numbers are those in the whole split."""

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__(len(rows), batch_size, seed)
        self._among = np.asarray(rows, np.int32)

    def rows_of(self, step: int, count: int) -> np.ndarray:
        return self._among[super().rows_of(step, count)]


def nested(targets: np.ndarray | None, examples: int, seed: int) -> np.ndarray:
    """All numbers of examples in an order of which any beginning has about the share of each class that all have.

    Args:
      targets: [n] class numbers; None: drawn without regard to them.
      examples: n.
      seed: by which they are drawn.
    """
    rows = np.random.default_rng((seed, 20240)).permutation(examples)
    if targets is None:
        return rows
    drawn = np.asarray(targets)[rows]
    place = np.empty(examples)
    for label in np.unique(drawn):
        own = np.flatnonzero(drawn == label)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return rows[np.argsort(place, kind="stable")]


def _measured(journal: Journal) -> tuple[str, list[Mapping[str, Any]], Curve | None]:
    """(what the error is, a row for each run, the curve)."""
    run, options = journal.run, journal.options
    if not options.shares:
        return "", [], None
    if "val" not in run.feeds:
        raise ConfigError("data.validation: data_size judges by a validation split; set a share such as 0.1")
    error, loss = _error(run)
    examples = len(run.data.train)
    sizes = sorted({max(1, round(share * examples)) for share in options.shares})
    small = [size for size in sizes if size < run.batch_size]
    if small:
        journal.told(f"data_size: {small} examples are fewer than a batch of {run.batch_size}: left out")
    sizes = [size for size in sizes if size >= run.batch_size]
    if not sizes:
        raise ConfigError(
            f"study.data_size.shares: each is fewer than a batch of {run.batch_size} of {examples} examples; "
            "give larger shares"
        )
    runs = len(sizes) * options.seeds
    journal.told(f"data_size: {runs} runs of {run.clock.total} updates each, on {sizes[0]:,} to {sizes[-1]:,} examples")
    rows: list[Mapping[str, Any]] = []
    for size in sizes:
        for number in range(options.seeds):
            compute = functools.partial(_trained, run, size, number, loss)
            rows.append(journal.piece(f"run/{size}/{number}", compute))
            told = rows[-1]["failed"] or f"{run.watch} {_shown(rows[-1]['value'])}, loss {_shown(rows[-1]['loss'])}"
            journal.told(f"  {size:>7,} examples, seed {number}: {told}")
    points = _points(rows, error)
    if points and all(value <= 0 for n, value in points if n == points[-1][0]):
        journal.told(f"data_size: {error} is 0 on the validation split, which is too small for it: the loss is judged")
        error, points = loss, _points(rows, loss)
    return error, rows, fit([n for n, _ in points], [value for _, value in points], examples)


def _points(rows: Sequence[Mapping[str, Any]], error: str) -> list[tuple[int, float]]:
    """(examples, error) of the runs that have one."""
    found = [(row["examples"], error_of(row, error)) for row in rows if not row["failed"]]
    return [(n, value) for n, value in found if math.isfinite(value)]


def _error(run: Run) -> tuple[str, str]:
    """(what is called the error: 0 is perfect, the name of the loss) of the metric that is watched."""
    prefix, name = ("ema/", run.watch[4:]) if run.watch.startswith("ema/") else ("", run.watch)
    metric = run.task.metrics.get(name)
    if metric is None or (metric.higher_is_better and name not in METRICS and not name.startswith("top")):
        return f"{prefix}loss", f"{prefix}loss"  # of a metric of yours the best value is not known
    return (f"1 − {run.watch}" if metric.higher_is_better else run.watch), f"{prefix}loss"


def _trained(run: Run, size: int, number: int, loss: str) -> dict[str, Any]:
    """The best of a run on `size` examples: its metric and its loss, each where it is best."""
    seed = run.config.seed + number
    targets = None
    if run.data.targets == "class":
        targets = targets_of(run.data.train, np.arange(len(run.data.train)))
    rows = np.sort(nested(targets, len(run.data.train), seed)[:size])
    own = dataclasses.replace(run.reseed(seed), order=_Among(rows, run.batch_size, seed))
    told: dict[str, Any] = {"examples": size, "seed": seed, "value": None, "loss": None, "failed": ""}
    with contextlib.ExitStack() as stack:
        stack.callback(own.close)
        # Going back needs checkpoints, which nobody needs later.
        keep = run.config.train.on_nan == "rollback"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run" if keep else None
        try:
            history = train(own, folder).history
        except NonFiniteError as error:
            return told | {"failed": error.what}
    metric = run.task.metrics.get(run.watch.removeprefix("ema/"))
    values, losses = (_column(history, name) for name in (run.watch, loss))
    if values:
        told["value"] = max(values) if metric is not None and metric.higher_is_better else min(values)
    return told | {"loss": min(losses, default=None)}


def _column(history: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    found = [row.get(name) for row in history if row["split"] == "val"]
    return [value for value in found if isinstance(value, float) and math.isfinite(value)]


def _judged(journal: Journal) -> Judged | None:
    """Every example of the pool that can be judged, and those that are there more than once."""
    run, options = journal.run, journal.options
    if not options.folds:
        return None
    if options.folds < 2:
        raise ConfigError("study.data_size.folds: must be 0 (examples are not judged) or at least 2, got 1")
    pool = pool_of(run)
    examples, every = readable(run, pool), np.arange(len(pool))
    given = targets_of(examples, every)
    twice = journal.piece("duplicates", lambda: _duplicates(journal, examples))
    first = every.copy()
    for row, before in twice["exact"]:
        first[row] = before
    found = None
    kind = run.data.targets
    if run.task.predictions == kind and run.task.pretext is None and kind in ("class", "classes", "values"):
        # Both of a pair are left out together: a model that saw one would know the other's label by heart.
        groups = first if twice["exact"] else None
        cuts = cut(given, kind, options.folds, seed=run.config.seed, groups=groups, key="study.data_size.folds")
        journal.told(f"data_size: {len(cuts)} runs, each without the examples that it judges")
        predictions = out_of_fold(journal, pool, cuts)
        if np.isfinite(predictions).any():  # else every run has failed
            found = doubt(given, predictions, kind)
    return Judged(pool, given, found, first, [(int(a), int(b), float(c)) for a, b, c in twice["near"]])


def _duplicates(journal: Journal, examples: Tolerant) -> dict[str, Any]:
    """{"exact": [[example, the first alike]], "near": [[example, the most alike before, cosine]]}."""
    first = exact_duplicates(examples)
    every = np.arange(len(examples))
    good = examples.weights(every) > 0  # in the place of a broken one stands another
    first = np.where(good, first, every)
    alone = every[good & (first == every)]
    near: list[tuple[int, int, float]] = []
    sample, _ = examples.fetch(alone[:1])
    if journal.run.data.targets == "tokens" or sample.ndim < 2 or sample[0].size < 2:
        journal.told("data_size: these inputs have no angle between them: near duplicates are not looked for")
    elif len(alone) > NEAR_MOST:
        journal.told(f"data_size: near duplicates are looked for among {NEAR_MOST:,} examples at most: not here")
    else:
        near = near_duplicates(examples, alone)
    return {"exact": [[int(row), int(first[row])] for row in every[first != every]], "near": [list(p) for p in near]}


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
