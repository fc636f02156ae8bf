"""The options of every study, `c.study.<name>.<option>`: one class each, whose fields are the options."""

import dataclasses
import inspect
import math
import typing
from typing import Annotated, Any, Literal

from jtrain.durations import Time
from jtrain.table import Count, Natural, NonNegative, Positive, Range, Share

Few = Annotated[int, Range(1, 64)]


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Options of `ladder`.

    Attributes:
      total: updates of each rung, with the whole schedule in them; of the run's own total where in percent.
      start: the lr of the middle rung; 0: 1e-3 and the rungs about it.
      rungs: of the first round.
      factor: between two rungs.
      most: rungs there may be in all.
      refine: rungs between the best and its neighbours at the end.
      seeds: runs of each of the best rungs, by which a tie is told.
    """

    total: Annotated[str, Time("25%")] = "25%"
    start: NonNegative = 0.0
    rungs: Annotated[int, Range(3, 32)] = 5
    factor: Annotated[float, Range(1, 100, above=True)] = 3.0
    most: Annotated[int, Range(3, 64)] = 16
    refine: bool = True
    seeds: Few = 2


@dataclasses.dataclass(frozen=True)
class LrFind:
    """Options of `lr_find`.

    Attributes:
      total: updates of one sweep.
      low, high: lr of its first and last update.
      seeds: sweeps, each with other weights and batches.
    """

    total: Annotated[str, Time("200steps")] = "200steps"
    low: Positive = 1e-6
    high: Positive = 10.0
    seeds: Few = 3


@dataclasses.dataclass(frozen=True)
class Inits:
    """Options of `inits`.

    Attributes:
      names: initializers to compare, "model" is the model's own.
      total: updates of each.
      seeds: runs of each.
    """

    names: tuple[str, ...] = ("model", "kaiming_normal", "xavier_normal", "lecun_normal", "orthogonal")
    total: Annotated[str, Time("10%")] = "10%"
    seeds: Few = 3


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """Options of `batch_size`.

    Attributes:
      most: examples at most; 0: as many as there are for training.
      memory: GiB that may be used on a device; 0: what the device has.
      updates: in each stretch that is timed, at least.
    """

    most: Natural = 0
    memory: NonNegative = 0.0
    updates: Annotated[int, Range(1, 1000)] = 5


@dataclasses.dataclass(frozen=True)
class Overfit:
    """Options of `overfit`.

    Attributes:
      examples: to learn by heart.
      total: updates, at most.
      neighbours: training examples by whose nearest neighbours is told whether targets have to do with inputs; 0: that
        is not asked.
    """

    examples: Annotated[int, Range(1, 4096)] = 32
    total: Annotated[str, Time("1000steps")] = "1000steps"
    neighbours: Annotated[int, Range(0, 10_000)] = 1000


@dataclasses.dataclass(frozen=True)
class KFold:
    """Options of `kfold`.

    Attributes:
      folds: parts of the training examples.
      repeats: other cuts into as many folds.
      groups: a .npy file of a number or text for each training example: examples of one are in one fold.
      test: the test split belongs to the examples too.
    """

    folds: Annotated[int, Range(2, 1000)] = 5
    repeats: Few = 1
    groups: str = ""
    test: bool = False


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Options of `ensemble`.

    Attributes:
      members: runs to train.
      by: what sets them apart: a seed each, or the fold that each leaves out.
      workdirs: trained runs to take instead.
    """

    members: Annotated[int, Range(2, 64)] = 5
    by: Literal["seed", "fold"] = "seed"
    workdirs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataSize:
    """Options of `data_size`.

    Attributes:
      shares: of the training examples, runs of each; none draw no curve.
      seeds: runs of each share.
      folds: by whose left-out predictions examples are judged; 0: none are.
      worst: examples that are shown.
    """

    shares: tuple[Share, ...] = (0.1, 0.2, 0.4, 0.7, 1.0)
    seeds: Few = 2
    folds: Annotated[int, Range(0, 1000)] = 5
    worst: Count = 48


def check_space(space: Any) -> None:
    """Raises ValueError unless every entry is (key, low, high), (key, low, high, "log") or (key, (choice, …)); what
    the keys take is not known here."""
    seen = set()
    for index, entry in enumerate(space):
        if not isinstance(entry, tuple) or not entry or not isinstance(entry[0], str):
            raise ValueError(
                f"[{index}]: must be a tuple such as ('optimizer.lr', 1e-4, 1e-1, 'log') or "
                f"('train.batch_size', (32, 64)), got {entry!r}; one alone needs a comma behind it: ((…),)"
            )
        key, *given = entry
        if key in seen:
            raise ValueError(f"[{index}]: {key} is there twice")
        seen.add(key)
        try:
            _check_choices(given[0]) if len(given) == 1 else _check_bounds(given)
        except ValueError as error:
            raise ValueError(f"[{index}]: {key}: {error}") from error


def _check_choices(choices: Any) -> None:
    if not isinstance(choices, tuple) or len(choices) < 2:
        raise ValueError(f"needs low and high, or a tuple of two choices or more, got {choices!r}")
    for place, choice in enumerate(choices):
        if choice in choices[:place]:
            raise ValueError(f"the choice {choice!r} is there twice")


def _check_bounds(given: list[Any]) -> None:
    if len(given) not in (2, 3) or given[2:] not in ([], ["log"]):
        raise ValueError(f"needs low, high and perhaps 'log', or a tuple of choices, got {tuple(given)!r}")
    low, high = given[:2]
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise ValueError(f"low and high must be numbers, got {bound!r}; anything else is a tuple of choices")
    if low >= high:
        raise ValueError(f"low must be below high, got {low!r} and {high!r}")
    if given[2:] and low <= 0:
        raise ValueError(f"a range in log must begin above 0, got {low!r}")


@dataclasses.dataclass(frozen=True)
class Search:
    """Options of `search`.

    Attributes:
      space: what is searched: (key, low, high) for a number, (key, low, high, "log"), or (key, (choice, …)); () is the
        lr alone where trials are few, else also weight decay and momentum.
      sampler: "grid", "random", "quasi" (points that fill the space evenly), "bayes" (what did well draws the next
        ones on), or "auto": quasi in the first half, then bayes.
      trials: of all workers together.
      prune: give trials up whose validation metric lags behind the median of the others.
      storage: a file or database URL that workers share; "" is a file in the workdir.
      seed: of the sampler.
    """

    space: Annotated[tuple, check_space] = ()
    sampler: Literal["auto", "grid", "random", "quasi", "bayes"] = "auto"
    trials: Count = 20
    prune: bool = True
    storage: str = ""
    seed: Natural = 0


@dataclasses.dataclass(frozen=True)
class Act:
    """Options of `act`; what is silenced, and how often is acted, `c.diagnose` says.

    Attributes:
      keep: newest checkpoints, one for each evaluation, that a run keeps until its end, to go on from.
    """

    keep: Annotated[int, Range(1, 1000)] = 20


@dataclasses.dataclass(frozen=True)
class Autopilot:
    """Options of `autopilot`.

    Attributes:
      budget: updates in all, as "3000steps" or "60epochs"; "0", which needs no unit, is the default: 6 times
        those of the run, 30 times where fewer than 1,000 examples judge it.
      minutes: that it may take, about; 0: as long as it needs.
      candidates: recipes that are compared by short runs before the last one.
      keep: keys such as "train.total" that stay as they are although they are at their defaults.
    """

    budget: Annotated[str, Time("0", zero=True)] = "0"
    minutes: NonNegative = 0.0
    candidates: bool = True
    keep: tuple[str, ...] = ()


STUDY_OPTIONS: dict[str, type] = {
    "ladder": Ladder,
    "lr_find": LrFind,
    "inits": Inits,
    "batch_size": BatchSize,
    "overfit": Overfit,
    "kfold": KFold,
    "ensemble": Ensemble,
    "data_size": DataSize,
    "search": Search,
    "act": Act,
    "autopilot": Autopilot,
}


def study_fields() -> dict[str, tuple[Any, Any]]:
    """(type, default) of every option, by its dotted key."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, options in STUDY_OPTIONS.items():
        hints = typing.get_type_hints(options, include_extras=True)
        found |= {f"study.{name}.{f.name}": (hints[f.name], f.default) for f in dataclasses.fields(options)}
    return found


def told_options(name: str) -> list[tuple[str, Any, str]]:
    """(option, default, what it is) of every option of a study, in order."""
    options = STUDY_OPTIONS[name]
    told: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(options.__doc__ or "").partition("Attributes:")[2].splitlines():
        head, colon, text = line.strip().partition(": ")
        if colon and line.startswith("  ") and not line.startswith("    "):
            names = head.split(", ")
            told |= dict.fromkeys(names, text)
        elif line.strip():
            told |= {each: f"{told[each]} {line.strip()}" for each in names}
    return [(f.name, f.default, told.get(f.name, "")) for f in dataclasses.fields(options)]
