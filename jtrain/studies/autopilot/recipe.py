"""What autopilot decides of itself, and what it tries: from the size and kind of the data, and from what is yours."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtrain import config as configs
from jtrain.coach.lint import lint
from jtrain.coach.told import Finding
from jtrain.durations import Clock
from jtrain.errors import ConfigError
from jtrain.facts import facts_of_run
from jtrain.run import Run
from jtrain.studies.short import FEWEST

ROUNDS = 20  # updates in an epoch, at least, where the batch may be as small as SMALLEST
SMALLEST, LARGEST = 16, 128  # examples of a batch
LEAST = 1000  # updates of a run
LOOKS = 20  # evaluations of a run
FEW = 1000  # validation examples, below which one split tells too little of small differences
SHORTEST = 100  # updates of a run that tells anything
BUDGET, BUDGET_FEW = 6, 30  # × the updates of the final run
DECAYS = {"decoupled": (1e-1, 3e-1), "coupled": (5e-4, 5e-3), "independent": (1e-4, 1e-3)}
SMOOTHING = 0.1


@dataclasses.dataclass(frozen=True)
class Decision:
    """One decision.

    Attributes:
      stage: in which it fell.
      text: what was decided.
      reason: why.
      values: options that it sets, by dotted key.
    """

    stage: str
    text: str
    reason: str
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A change of the recipe that may help.

    Attributes:
      name: in words.
      group: of those in a group one is taken at most.
      values: options, by dotted key.
      share: of the updates of the recipe, that it trains for.
    """

    name: str
    group: str
    values: dict[str, Any]
    share: float = 1.0


def is_yours(run: Run, key: str) -> bool:
    """Whether an option of the config is not at its default, or named in `study.autopilot.keep`."""
    kept = key in run.config.study.autopilot.keep
    return kept or bool(configs.flat(run.config)[key] != configs.schema()[key].default)


def check_options(run: Run, asked: int) -> None:
    """Raises ConfigError where `study.autopilot.keep` names what is no option, or where the budget is so small that
    the final run, which has half of it, could not tell anything.

    Args:
      run: as it was given.
      asked: updates of the budget; 0: none were named.
    """
    given = run.config.study.autopilot
    for key in given.keep:
        if key not in configs.schema():
            raise ConfigError(f"study.autopilot.keep: {configs.unknown_key(key)}")
    own = run.clock.total if is_yours(run, "train.total") else LEAST
    least = 2 * max(FEWEST, min(own, SHORTEST))
    if asked and asked < least:
        raise ConfigError(
            f"study.autopilot.budget: {given.budget!r} is {asked:,} updates, too few: the final run has half of them; "
            f"use {least}steps or more, or 0 for the default"
        )


def rules_of(run: Run) -> frozenset[str]:
    """The rules of lint that say something of a run."""
    return frozenset(one.rule for one in findings(run))


def scolded(run: Run, values: Mapping[str, Any], known: frozenset[str]) -> list[Finding]:
    """What lint says of a run with options set, by other rules than the known ones."""
    with contextlib.closing(run.again(put(run.config, dict(values)), run.data)) as other:
        return [one for one in findings(other) if one.rule not in known]


def findings(run: Run) -> list[Finding]:
    """What lint says of a run."""
    return lint(facts_of_run(run), tuple(run.config.lint.silence))


def few_to_judge(run: Run) -> bool:
    """Whether the validation split is too small to tell small differences."""
    return run.data.val is not None and len(run.data.val) < FEW


def plan(run: Run, budget: int) -> list[Decision]:
    """Batch size, length, warm-up and evaluations of the final run, where the config leaves them at their defaults.

    Args:
      run: as it was given.
      budget: updates in all that were asked for; 0: none were named.
    """
    found = [_batch(run)]
    size = found[0].values.get("train.batch_size", run.batch_size)
    found.append(_total(run, size, budget))
    clock = Clock.start(
        found[1].values.get("train.total", run.config.train.total), batch_size=size,
        epoch_examples=len(run.data.train),
    )  # fmt: skip
    if is_yours(run, "schedule.name") or is_yours(run, "schedule.warmup"):
        text = f"schedule: {run.config.schedule.name}, warm-up {run.config.schedule.warmup}"
        found.append(Decision("plan", text, "it is yours"))
    else:
        reason = "a cosine to 0 needs no tuning, and a short warm-up lets the first updates of a large lr do no harm"
        found.append(Decision("plan", "schedule: cosine, warm-up 5 %", reason, {"schedule.warmup": "5%"}))
    if not is_yours(run, "train.eval_every") and clock.epoch(clock.total) > LOOKS:
        reason = f"as good as one an epoch; more looks at {_judges(run)} would only find a luckier one"
        found.append(Decision("plan", f"{LOOKS} evaluations", reason, {"train.eval_every": f"{100 // LOOKS}%"}))
    return found


def _batch(run: Run) -> Decision:
    default = configs.schema()["train.batch_size"].default
    # Of fewer examples than the default the smallest batch was taken, to begin with.
    if is_yours(run, "train.batch_size") and (run.batch_size != SMALLEST or len(run.data.train) >= default):
        return Decision("plan", f"batch of {run.batch_size}", "it is yours")
    examples, unit = len(run.data.train), run.config.train.accumulate * max(run.mesh.size, run.config.mesh.shards, 1)
    power = 2 ** round(math.log2(max(examples / ROUNDS, 1)))
    size = min(max(power, SMALLEST), LARGEST, examples)
    size = max(1, size // unit) * unit
    reason = f"{examples:,} examples are {examples // size} updates of it an epoch; {SMALLEST} to {LARGEST} are tried"
    return Decision("plan", f"batch of {size}", reason, {"train.batch_size": size} if size != default else {})


def _total(run: Run, size: int, budget: int) -> Decision:
    text, yours = run.config.train.total, is_yours(run, "train.total")
    updates = Clock.start(text, batch_size=size, epoch_examples=len(run.data.train)).total
    reason = "it is yours" if yours else f"20 epochs are {updates:,} updates, {LEAST:,} or more"
    if not yours and updates < LEAST:
        reason = f"20 epochs are only {updates:,} updates of so few examples"
        text, updates = f"{LEAST}steps", LEAST
    if budget and updates > budget // 2:
        reason = f"half of the budget of {budget:,} updates; {text} would be {updates:,}"
        updates = max(1, budget // 2)
        text = f"{updates}steps"
    values = {"train.total": text} if text != run.config.train.total else {}
    if values and not yours:
        own = run.config.train.total
        reason += f"; {own} is also the default: to keep it, --config.study.autopilot.keep='(\"train.total\",)'"
    return Decision("plan", f"{updates:,} updates ({text})", reason, values)


def _judges(run: Run) -> str:
    return f"{len(run.data.val):,} examples" if run.data.val is not None else "the data"


def candidates(run: Run, *, lr_is_yours: bool, length_is_yours: bool) -> list[Candidate]:
    """Changes that are tried beside a recipe, the likeliest to matter first; nothing that is yours is touched.

    Args:
      run: with the recipe so far.
      lr_is_yours: leave it.
      length_is_yours: likewise.
    """
    found: list[Candidate] = []
    config = run.config
    decay, own = f"optimizer.{config.optimizer.name}.weight_decay", config.optimizer.get(config.optimizer.name, {})
    if "weight_decay" in own and not is_yours(run, decay):
        now = own["weight_decay"]
        found += [
            Candidate(f"weight decay {value:g}", "weight decay", {decay: value})
            for value in DECAYS[run.optimizer.core.decay]
            if value != now
        ]
    few = few_to_judge(run)
    for factor in () if lr_is_yours else (3, 10) if few else (3,):  # a short run favours a large lr
        lr = float(f"{config.optimizer.lr / factor:.3g}")
        found.append(Candidate(f"lr {lr:g}", "lr", {"optimizer.lr": lr}))
    if few and not length_is_yours:
        half = -(-run.clock.total // 2)
        found.append(Candidate(f"{half:,} updates", "length", {"train.total": f"{half}steps"}, 0.5))
    inputs, _ = run.data.train.fetch(np.arange(1))
    if inputs.ndim == 4 and inputs.shape[-1] in (1, 3) and not config.augment and run.task.pretext is None:
        pad = max(1, inputs.shape[1] // 8)
        words = {"shifted images": f"pad_crop({pad})", "shifted and mirrored images": f"pad_crop({pad})|flip_lr"}
        found += [Candidate(name, "augmentation", {"augment": text}) for name, text in words.items()]
    if config.task.name == "classification" and config.loss.name == "auto":
        values = {"loss.name": "cross_entropy", "loss.cross_entropy.label_smoothing": SMOOTHING}
        found.append(Candidate(f"label smoothing {SMOOTHING:g}", "label smoothing", values))
    return found


def put(config: Any, values: dict[str, Any]) -> Any:
    """A copy of a config with options set by their dotted keys."""
    return configs.changed(config, **{key.replace(".", "__"): value for key, value in values.items()})


def values_of(told: Sequence[Decision]) -> dict[str, Any]:
    """All that decisions set."""
    return {key: value for one in told for key, value in one.values.items()}
