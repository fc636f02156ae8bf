"""What a run's curves say: verdicts with evidence, and what to do; nothing where all is well."""

import functools
from collections.abc import Callable, Collection

import numpy as np

from jtrain.coach import signs_data, signs_end, signs_fit, signs_lr, signs_pace
from jtrain.coach.course import Course
from jtrain.coach.curves import LEAST_ROWS, Curves
from jtrain.coach.told import Verdict

Sign = Callable[[Course], Verdict | None]

VERDICTS: dict[str, str] = {
    "lr_too_high": "the loss blows up, rises and stays up, or is not finite: start again with a smaller lr",
    "plateau_early": "falls fast, then flat at an lr that stays high: go on from the knee with a smaller lr",
    "lr_too_low": "slow all along: start again with a larger lr",
    "not_learning": "the loss stays that of a guess",
    "overfitting": "validation is far worse than training, or gets worse while training gets better",
    "label_noise": "training stalls below what validation shows, or unlearns what was right",
    "spikes": "the loss jumps up again and again, and comes back",
    "not_shuffled": "every epoch repeats the one before",
    "wrong_metric": "the watched metric is taken to improve when it becomes worse",
    "saturated": "nothing was gained long before the end (worth knowing)",
    "still_improving": "a longer run would be better (worth knowing)",
}
# In the order of importance. Of those about training the first one that is seen explains the others, so do those of
# validation.
TRAINING: tuple[Sign, ...] = (
    signs_data.not_shuffled, signs_lr.blown, signs_data.spikes, signs_lr.too_high, signs_lr.not_learning,
    signs_pace.plateau_early, signs_pace.too_low,
)  # fmt: skip
VALIDATION: tuple[Sign, ...] = (signs_fit.label_noise, signs_fit.overfitting)
AT_THE_END: tuple[Sign, ...] = (signs_end.saturated, signs_end.still_improving)
BAD_BATCHES = ("spikes", "not_shuffled")
MOST_ROWS = 300  # more are joined, so that asking takes no time
RESTLESS = 0.05  # scatter of the validation loss by which a plateau explains that it ends far above its lowest
WALL = 0.2  # the same of the wall before the weights, in losses of a guess
BEFORE = 0.85  # of the updates done: on the way, what is said must have been true then already


def diagnose(curves: Curves, *, ended: bool, silence: Collection[str] = ()) -> list[Verdict]:
    """What is wrong with a run, most important first; then what is worth knowing of its end. [] for a healthy run.

    Args:
      curves: what it has logged so far.
      ended: no row will follow. On the way only what is certain is said: it was seen BEFORE, too, and will not be
        mended by what is left of the schedule.
      silence: names of verdicts that are left out.
    """
    curves = curves.thinned(MOST_ROWS)
    found = _seen(Course(curves, ended), silence)
    if ended or not found:
        return found
    # What was not finite is certain at once.
    earlier = {v.name for v in _seen(Course(curves.until(BEFORE * curves.done), ended), silence)}
    return [v for v in found if v.name in earlier or curves.failed_at is not None]


def _seen(course: Course, silence: Collection[str]) -> list[Verdict]:
    if not len(course.loss) and not np.any(~course.known):
        return []
    failed = signs_lr.failed(course)
    if failed:
        return [] if failed.name in silence else [failed]
    if len(course.loss) < LEAST_ROWS:
        return []
    metric = _first((signs_data.wrong_metric,), course, silence)
    validation = _first(VALIDATION, course, silence)
    training = _first(TRAINING, course, silence)
    if training and training[0].name in BAD_BATCHES:  # their targets are not what is wrong
        validation = [verdict for verdict in validation if verdict.name != "label_noise"]
    if training and training[0].name == "lr_too_high":  # no metric means much then
        metric = []
        validation = validation if course.end < course.scale else []
    if course.ended and course.curves.harder is False and not training and not validation:
        validation = _first((functools.partial(signs_fit.label_noise, plain=True),), course, silence)
    found = [*metric, *sorted([*validation, *training], key=_weight)]
    if not course.ended:
        return found
    return found or _first(AT_THE_END, course, silence)


def _weight(verdict: Verdict) -> int:
    """Lower is more important."""
    order = (
        "label_noise", "spikes", "not_shuffled", "lr_too_high", "overfitting", "not_learning", "plateau_early",
        "lr_too_low",
    )  # fmt: skip
    seen = verdict.evidence
    if verdict.name == "plateau_early" and (seen.get("restless", 0.0) >= RESTLESS or seen.get("wall", 0.0) >= WALL):
        return order.index("overfitting") - 1
    return order.index(verdict.name)


def _first(signs: tuple[Sign, ...], course: Course, silence: Collection[str]) -> list[Verdict]:
    """The first verdict of several signs, unless it is silenced: then what it explains is silent, too."""
    verdict = next((v for v in (sign(course) for sign in signs) if v is not None), None)
    return [verdict] if verdict is not None and verdict.name not in silence else []
