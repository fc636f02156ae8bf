"""`lr_find`: a range test of the learning rate, with several seeds, that may have no answer."""

import contextlib
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from jtrain.errors import ConfigError
from jtrain.io.progress import Screen
from jtrain.run import Run
from jtrain.studies.journal import open_study
from jtrain.studies.lr_find.curve import Suggestion, suggest
from jtrain.studies.lr_find.sweep import growing, seeded, sweep, sweeping
from jtrain.studies.short import check_one_phase, typed, updates_of
from jtrain.studies.study import Study

_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "black", "linestyle": "-"}, {"color": "#1f4e9c", "linestyle": "--"},
    {"color": "#b03a2e", "linestyle": "-."}, {"color": "#5b7f2b", "linestyle": ":"},
)  # fmt: skip
_CURVES_NAMED = 4  # in the legend


def lr_find(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """A range of learning rates from short sweeps in which the lr grows at every update, and a suggestion in it.

    Each seed has its own first weights and batches. The loss is smoothed and differentiated in log lr; the suggestion
    lies between the steepest descent and the blow-up, see `jtrain.studies.lr_find.curve.suggest`. `found` is
    {"lr", "low", "high", "blow_up", "confidence", …}; where there is no answer, lr is None and `ok` False.

    Args:
      given: a config or a run; nothing of it changes. Its `study.lr_find` holds the options.
      workdir: folder for study.json and study.png, from which the same command goes on after a kill; None writes none.
      model: with a config: your own, as `assemble` takes it.
      data: with a config: your own.
      screen: None shows nothing.

    Raises:
      ConfigError: the run is too short, has phases, or the options make no sense together.
    """
    with open_study("lr_find", given, workdir, model=model, data=data, screen=screen) as journal:
        run, options = journal.run, journal.options
        check_one_phase(run)
        if options.high <= options.low:
            raise ConfigError(f"study.lr_find.high: {options.high:g} must be above study.lr_find.low ({options.low:g})")
        total, note = updates_of(run, options.total, "study.lr_find.total", at_most=False)
        if note:
            journal.told(note)
        journal.told(f"lr_find: {options.seeds} sweeps of {total} updates, lr {options.low:g} to {options.high:g}")
        with contextlib.closing(sweeping(run, total, options.low, options.high)) as swept:
            losses = [journal.piece(f"sweep {i}", functools.partial(_one, swept, i)) for i in range(options.seeds)]
        lrs = growing(0.0, total, options.low, options.high)(np.arange(total))
        known = np.array([[math.nan if loss is None else loss for loss in each] for each in losses])
        found = suggest(lrs, known)
        return journal.finish(_report(run, lrs, known, found))


def _one(run: Run, number: int) -> list[float]:
    """The losses of one seed's sweep."""
    with seeded(run, number) as own:
        return sweep(own)


def _report(run: Run, lrs: np.ndarray, losses: np.ndarray, found: Suggestion) -> Study:
    """The study of sweeps.

    Args:
      run: that it is about.
      lrs: of every update, in force.
      losses: [seeds, updates].
      found: what they come to.
    """

    def shown(lr: float | None) -> float | None:
        return None if lr is None or math.isnan(lr) else float(f"{typed(run, lr):.3g}")

    rows = [
        {
            "seed": run.config.seed + i, "steepest": shown(curve.steepest),
            "blow-up": shown(curve.blow_up), "lr": shown(curve.lr), "fall": curve.fall, "noise left": curve.noise,
            "why": curve.why,
        }
        for i, curve in enumerate(found.curves)
    ]  # fmt: skip
    told: dict[str, Any] = {"lr": shown(found.lr), "low": shown(found.low), "high": shown(found.high)}
    told |= {"blow_up": shown(found.blow_up), "why": found.why, "updates": len(lrs), "seeds": len(losses)}
    agreement = None if math.isnan(found.agreement) else found.agreement
    told |= {"confidence": found.confidence, "agreement": agreement}
    if found.lr is None:
        options = run.config.study.lr_find
        typed_in = {
            "lower the lowest lr": f"--config.study.lr_find.low={options.low / 100:g}",
            "raise the highest lr": f"--config.study.lr_find.high={options.high * 100:g}",
        }
        hint = next((f" ({key}, in a new --workdir)" for words, key in typed_in.items() if words in found.why), "")
        text = f"no answer: {found.why}{hint}; a ladder tells more (jtrain ladder --config=…)"
    else:
        answers, seeds = sum(not curve.why for curve in found.curves), len(losses)
        several = f"{seeds} seeds" if answers == seeds else f"{answers} of {seeds} seeds"
        agree = "from one seed" if agreement is None else f"{several} agree within ×{agreement:.2g}"
        text = (
            f"lr {told['lr']:g}, from the range {told['low']:g} to {told['high']:g} (confidence {found.confidence}: "
            f"{agree}); the loss blows up at {told['blow_up']:g}; type --config.optimizer.lr={told['lr']:g}"
        )
    scale = typed(run, 1.0)
    draw = functools.partial(_draw, lrs=lrs * scale, losses=losses, found=found, scale=scale)
    return Study("lr_find", text, rows, told, draw, found.lr is not None)


def _draw(figure: Any, *, lrs: np.ndarray, losses: np.ndarray, found: Suggestion, scale: float) -> None:
    axis = figure.subplots()
    lowest, highest = _span(found, losses)
    for i, (each, curve) in enumerate(zip(losses, found.curves, strict=True)):
        look = _LOOKS[i % len(_LOOKS)]
        axis.plot(lrs, each, color=look["color"], linewidth=0.5, alpha=0.35)
        name = f"seed {i}, smoothed" if i < _CURVES_NAMED else None
        axis.plot(lrs, curve.smooth, linewidth=1.8, label=name, **look)
    if found.lr is not None:
        low, high, lr, blow_up = ((value or 0.0) * scale for value in (found.low, found.high, found.lr, found.blow_up))
        axis.axvspan(low, high, hatch="//", facecolor="none", edgecolor="#aaaaaa", zorder=0, label="range")
        axis.axvline(lr, color="black", linewidth=2.2, label=f"suggested: {lr:.3g}")
        axis.axvline(blow_up, color="black", linewidth=1.2, linestyle=(0, (1, 3)), label=f"blows up: {blow_up:.3g}")
    axis.set_xscale("log")
    axis.set_ylim(lowest, highest)
    answer = f"confidence {found.confidence}" if found.lr is not None else "no answer"
    axis.set_title(f"Learning rate range test: {_lines(answer, found.why)}", fontsize="medium")
    axis.set_xlabel("learning rate (optimizer.lr)")
    axis.set_ylabel("training loss")
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize="small", loc="best")


def _lines(answer: str, why: str) -> str:
    return f"{answer}\n{why}" if why else answer


def _span(found: Suggestion, losses: np.ndarray) -> tuple[float, float]:
    """(lowest, highest) loss of the picture: a blow-up goes out of it."""
    smooth: Sequence[float] = [x for curve in found.curves for x in curve.smooth if math.isfinite(x)]
    known = list(smooth) or [float(x) for x in losses.ravel() if math.isfinite(x)] or [0.0, 1.0]
    start, lowest = float(np.median(known[: max(1, len(known) // 5)])), min(known)
    margin = max(start - lowest, 0.1 * abs(start), 1e-12)
    return lowest - 0.15 * margin, start + 0.6 * margin
