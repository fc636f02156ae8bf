"""Which initializer: short runs of several, with seeds, and what one batch shows of each before any update."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain.errors import ConfigError, NonFiniteError
from jtrain.io.progress import Screen
from jtrain.loop import train
from jtrain.models.initializers import INITIALIZERS
from jtrain.run import Run
from jtrain.studies.inits.picture import draw
from jtrain.studies.inits.verdict import Values, Verdict, judged
from jtrain.studies.journal import Journal, open_study
from jtrain.studies.probe import Signals, make_probe, number
from jtrain.studies.short import is_higher_better, updates_of
from jtrain.studies.study import Study
from jtrain.table import did_you_mean

LEARNED = 0.01  # share by which the training loss must come below that of a guess for any verdict
PARTS = 10  # of a run; the last one's training loss is what a run without validation is judged by
PROBED = 128  # examples, at most, of the check before the first update


def inits(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """Compares initializers by the first part of the run, with several seeds each; the answer may be "no difference".

    All see the batches of their seed, and are moved by one compiled step. They differ where Welch's t-tests of all
    pairs, corrected by Holm (1979), leave a chance below 5 %; no spread counts as less than the median of all
    (but for those whose values are ten times the pair's), nor as less than one example of the validation split.

    Args:
      given: a config, or a run of `jtrain.assemble`; it is not changed.
      workdir: folder for study.json, study.png and what is done so far; None writes nothing.
      model: with a config: as `assemble` takes it.
      data: with a config: as `assemble` takes it.
      screen: None shows nothing.

    Returns:
      The study; `found["recommended"]` is the initializer to set, "" where the config's is as good as any.

    Raises:
      ConfigError: no such initializer, or one that cannot draw the parameters of `init.params`; see `open_study`.
    """
    with open_study("inits", given, workdir, model=model, data=data, screen=screen) as journal:
        run, options = journal.run, journal.options
        own = run.config.init.name
        named = {name: _with_init(run.config, name) for name in dict.fromkeys((own, *options.names))}
        total, note = updates_of(run, options.total, "study.inits.total")
        if note:
            journal.told(note)
        variant = functools.cache(lambda name: run.again(named[name], run.data))
        signals = _signals(journal, named, variant)
        seeds = [run.config.seed + i for i in range(options.seeds)]

        def trained(name: str, seed: int) -> Any:
            return journal.piece(f"{name} seed {seed}", lambda: _trained(run, variant(name), seed, total))

        found = {name: [trained(name, seed) for seed in seeds] for name in named}
        metric = run.watch if "val" in run.feeds else "training loss"
        values = {name: [one["value"] for one in each] for name, each in found.items()}
        least = 1.0 / (len(run.data.val) if run.data.val is not None else run.batch_size)
        higher = is_higher_better(run, metric)
        verdict = judged(values, own, higher=higher, least=least)
        pairs = [(one["train_loss"], signals[name]) for name, each in found.items() for one in each]
        if len(verdict.diverged) < len(values) and not any(_has_learned(*pair) for pair in pairs):
            verdict = dataclasses.replace(verdict, recommended="")
            words = (
                f"no answer: within {total:,} updates no run has brought the training loss below that of having "
                "learned nothing; find an lr first (jtrain ladder --config=…), or raise --config.study.inits.total"
            )
        else:
            words = _conclusion(run, verdict, values, metric, total)
        rows = [_row(name, values[name], verdict, metric, signals[name]) for name in named]
        summary = {
            "metric": metric, "higher_is_better": higher, "updates": total, "own": own, "best": verdict.best,
            "recommended": verdict.recommended, "differ": bool(verdict.worse or verdict.diverged),
            "tied": verdict.tied, "diverged": verdict.diverged, "values": values, "chances": verdict.chances,
            "signals": {name: one.plain() for name, one in signals.items()},
        }  # fmt: skip
        title = f"{run.model_name}: initializers after {total:,} updates, {options.seeds} seeds each" + (
            "" if verdict.worse or verdict.diverged or not verdict.best else ": no difference"
        )
        picture = functools.partial(
            draw, values=values, signals=signals, metric=metric, own=own, verdict=verdict, title=title
        )
        return journal.finish(Study("inits", words, rows, summary, picture, not words.startswith("no answer")))


def _with_init(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """The config with another initializer: options of the one before go back to their defaults, for it is not there."""
    if name not in INITIALIZERS and ":" not in name:
        raise ConfigError(f"study.inits.names: no such initializer {name!r}{did_you_mean(name, INITIALIZERS)}")
    if name == config.init.name:
        return config
    params = config.init.params
    config = configs.changed(config)
    with config.unlocked():
        config.init = configs.base().init
    config.init.name = name
    if name != "model":
        config.init.params = params
    configs.validate(config)
    return config


def _signals(journal: Journal, names: Mapping[str, Any], variant: Callable[[str], Run]) -> dict[str, Signals]:
    """What the first batch shows of each initializer, before any update."""
    run = journal.run

    @functools.cache
    def probe() -> tuple[Any, Any]:
        rows = run.order.rows(0)[:PROBED]
        inputs, targets = run.data.train.fetch(rows)
        batch = {"inputs": inputs, "targets": targets}
        return make_probe(run, batch), batch

    def measured(name: str) -> Any:
        measure, batch = probe()
        return measure(variant(name).init_state(), batch).plain()

    def piece(name: str) -> Signals:
        return Signals(**journal.piece(f"{name} at the start", lambda: measured(name)))

    found = {name: piece(name) for name in names}
    if any(one.loops for one in found.values()):
        journal.told("layers inside loops, such as those over time, are not among the layers shown")
    return found


def _trained(run: Run, variant: Run, seed: int, total: int) -> dict[str, Any]:
    """{"value", "train_loss", "why"} of the first `total` updates, drawn as by `variant`, moved as by `run`."""
    same, fresh = run.reseed(seed), variant.reseed(seed)
    short = dataclasses.replace(
        same, init=fresh.init, make=fresh.make, clock=dataclasses.replace(same.clock, total=total),
        feeds={name: feed for name, feed in same.feeds.items() if name != "test"},
        eval_every=total, save_every=total, log_every=max(1, total // PARTS),
    )  # fmt: skip
    try:
        result = train(short)
    except NonFiniteError as error:
        return {"value": None, "train_loss": None, "why": error.what}
    finally:
        same.close()
    losses = [row["loss"] for row in result.history if row["split"] == "train"]
    if run.options.on_nan != "skip":  # then it has not failed: a loss that is not finite was scaled too high
        losses = [loss for loss in losses if math.isfinite(loss)]
    loss = losses[-1] if losses else math.nan
    value = result.metrics["val"][run.watch] if "val" in run.feeds else loss
    return {"value": number(value), "train_loss": number(loss), "why": ""}


def _has_learned(loss: float | None, start: Signals) -> bool:
    """Whether a training loss is below that at the start, and that of a guess."""
    bars = [bar for bar in (start.loss, start.blank) if bar is not None]
    return loss is not None and loss < min(bars, default=math.inf) - LEARNED * abs(min(bars, default=0.0))


def _row(name: str, values: Sequence[float | None], verdict: Verdict, metric: str, signals: Signals) -> dict[str, Any]:
    steady = [v for v in values if v is not None]
    dead = [layer["dead"] for layer in signals.layers if "dead" in layer]
    return {
        "init": name,
        metric: float(np.mean(steady)) if steady else None,
        "sd": float(np.std(steady, ddof=1)) if len(steady) > 1 else None,
        "diverged": len(values) - len(steady) or None,
        "p to best": verdict.chance(name),
        "loss at start": signals.loss,
        "of a guess": signals.blank,
        "rms last/first": _ratio([layer["rms"] for layer in signals.layers]),
        "gradient first/last": _ratio([layer["grad_rms"] for layer in signals.layers][::-1]),
        "dead units": max(dead) if dead else None,
    }


def _ratio(numbers: Sequence[float | None]) -> float | None:
    """The last by the first."""
    if len(numbers) < 2 or not numbers[0] or numbers[-1] is None:
        return None
    return numbers[-1] / numbers[0]


def _conclusion(run: Run, verdict: Verdict, values: Values, metric: str, total: int) -> str:
    own = run.config.init.name
    after = f"after {total:,} updates"
    lost = f"; diverged: {', '.join(verdict.diverged)}" if verdict.diverged else ""
    given = " (of what transfer.init_from leaves to be drawn)" if run.config.transfer.init_from else ""
    if len(verdict.diverged) == len(values):
        return (
            f"no answer{given}: a run of every initializer diverged {after}; find an lr first: jtrain ladder --config=…"
        )
    if not verdict.best:
        return f"no answer{given}: one seed shows no spread; set --config.study.inits.seeds=3 or more"

    def told(name: str) -> str:
        return f"{name} {np.mean(values[name]):.4g} ± {np.std(values[name], ddof=1):.2g}"  # type: ignore[arg-type]

    if not verdict.worse and not verdict.diverged:
        worst = max(verdict.tied, key=lambda name: abs(np.mean(values[name]) - np.mean(values[verdict.best])))  # type: ignore[arg-type]
        least = min(verdict.chances.values(), default=1.0)
        return (
            f"no difference{given}: {metric} {after} is {told(verdict.best)} at best and {told(worst)} at worst, "
            f"within the spread of the seeds (smallest corrected p {least:.2g}); keep {own}"
        )
    others = [name for name in verdict.tied if name not in (verdict.best, own)]
    same = f", and by these seeds not told apart from {', '.join(others)}" if others else ""
    worse = ", ".join(map(told, verdict.worse))
    if not verdict.recommended:
        best = "" if own == verdict.best else f", within the spread of the best, {told(verdict.best)}"
        less = f"; worse: {worse}" if worse else ""
        return f"keep {own}{given}: {metric} {after} is {told(own)}{best}{less}{lost}"
    if own in verdict.diverged:
        count = f"{sum(v is None for v in values[own])} of {len(values[own])}"
        lost = lost if len(verdict.diverged) > 1 else ""
        return (
            f"{own} diverged with {count} seeds{given}: {metric} {after} is {told(verdict.best)}{same}{lost}; set"
            f" --config.init.name={verdict.best}"
        )
    chance = verdict.chance(own)
    p = f" (corrected p {chance:.2g})" if chance is not None and not math.isnan(chance) else ""
    return (
        f"{verdict.best} is better than {own}{given}: {metric} {after} is {told(verdict.best)} against {told(own)}{p}"
        f"{same}{lost}; set --config.init.name={verdict.best}"
    )
