"""Signs that the learning rate stays too high for the end, or is too low all along."""

import numpy as np

from jtrain.coach import signs_way
from jtrain.coach.course import TINY, Course
from jtrain.coach.robust import jitter, roughness
from jtrain.coach.told import Act, Verdict

LEARNT = 0.7  # of the loss of a guess: below it something has been learnt
FLAT = 0.8  # level of the last quarter / that of the second quarter, above which nothing improves any more
RESTLESS = 0.02  # standard deviation of log validation loss from one evaluation to the next, about its course
ASTRAY = 1.05  # times its best: where the validation loss ends when the weights wander about a minimum
ASTRAY_YET = 1.12  # the same on the way
BOTH = 0.003  # of one times what the other is above 1, at least: much of one makes up for little of the other
KNEE = 0.1  # of the fall that is left at the knee
LEAST_ROWS, LEAST_EVALUATIONS = 8, 6

# (way to half of the fall) · √(way to 9/10), shares of the way travelled, above which it is slow; the same on the way.
PACE, EARLY_PACE = 0.085, 0.16
ROUGH = 0.0055  # scatter of the log validation loss; where it is larger, the pace must be so by its square
EARLY, EARLY_UNDONE = 0.3, 0.3  # of the run, from which slow is told on the way; of a guess that must be left then
UNSEEN_HALF, MOST = 0.4, 0.5  # ways to half and to 9/10 where no validation shows that the fall is smooth
STEADY = 0.85  # of the evaluations that are not clearly worse than the one before: a small lr makes no detours
UNDONE = 0.15  # of the loss of a guess that must be left: what is nearly solved is not slow
SLOW = ((0.4, 10.0), (0.0, 3.0))  # (half of the fall is reached after this share of the way, × the lr)
CLEAR = 4.0  # standard deviations of the noise that the fall must have
BACK = 0.1  # of the whole fall that evaluations may take back


def plateau_early(course: Course) -> Verdict | None:
    """Falls fast, then flat, while the lr stays high and the weights wander."""
    if len(course.loss) < LEAST_ROWS or course.stays_high is not True:
        return None
    knee = _knee(course)
    if course.way is not None:
        return signs_way.stays_high(course, knee)
    if not course.far(0.5):
        return None
    if knee is None or course.end > LEARNT * max(course.scale, course.loss[0]):
        return None
    steps, values = course.val
    evidence = {"level": course.end, "from_update": float(knee)}
    share = steps / max(course.done, 1.0)
    before = values[(share > 0.25) & (share <= 0.5)]
    if len(values) >= LEAST_EVALUATIONS and len(before) and (share > 0.75).any():
        if (values <= TINY).any():
            return None
        flat = float(np.median(values[share > 0.75]) / np.median(before))
        restless = jitter(np.log(values[share > 0.4]))
        astray = float(values[-3:].mean() / values.min())
        wanders = restless >= RESTLESS and astray >= ASTRAY and restless * (astray - 1) >= BOTH
        if not course.ended:
            wanders = wanders and astray >= ASTRAY_YET
        if flat < FLAT or not wanders or course.level(0.75) < 0.4 * course.level(0.25, 0.5):
            return None
        seen = (
            f"the validation loss wanders ({restless:.0%} from one evaluation to the next) and ends {astray - 1:.0%} "
            "above its best"
        )
        evidence |= {"flat": flat, "restless": restless, "times_its_best": astray}
    else:
        second = course.level(0.25, 0.5)
        flat = course.level(0.75) / second if second > TINY else 0.0
        if flat < 0.97 or knee > 0.25 * course.done:
            return None
        seen = f"the training loss has not improved since ({flat:.3g} of what it was in the second quarter)"
        evidence |= {"flat": flat}
    text = f"the loss falls fast until update {knee:,} and is flat from there on, at an lr that stays high; {seen}"
    action = f"go on from update {knee:,} with a third of the lr, or let the schedule decay"
    act = Act("tail", 1 / 3, knee)
    return Verdict("plateau_early", text, action, evidence, ((knee, "knee"),), act)


def _knee(course: Course) -> int | None:
    """Updates after which all but KNEE of the fall is done."""
    floor = min(course.level(0.5), float(course.smooth.min()) if len(course.smooth) > 20 else course.level(0.5))
    top = max(course.scale, float(course.smooth[0]))
    below = np.flatnonzero(course.smooth <= floor + KNEE * (top - floor))
    return int(course.step[below[0]]) if len(below) and top > floor else None


def too_low(course: Course) -> Verdict | None:
    """Slow all along: over the way travelled the loss falls nearly straight, smoothly, and has far to go."""
    if course.way is not None:
        return signs_way.too_low(course)
    seen = len(course.val[1]) >= LEAST_EVALUATIONS - 2
    if len(course.loss) < (LEAST_ROWS if course.ended else 4) or not course.far(EARLY * 0.85 if seen else 0.6):
        return None
    top = max(course.scale, float(course.smooth[0]))
    fall = top - course.end
    if fall <= 0 or course.end < (UNDONE if course.ended or not seen else EARLY_UNDONE) * top:
        return None
    half, most = course.reached(0.5), course.reached(0.9)
    values = course.val[1]
    if seen:
        half, most = min(half, course.reached(0.5, val=True)), min(most, course.reached(0.9, val=True))
        if not _slow(values, half * most**0.5, PACE if course.ended else EARLY_PACE):
            return None
    elif half < UNSEEN_HALF or most < MOST or fall <= CLEAR * course.noise:
        return None
    factor = next(factor for share, factor in SLOW if half >= share)
    text = (
        f"the loss falls slowly and evenly from {top:.3g} to {course.end:.3g}: half of it takes {half:.0%} of the "
        f"way that the lr allows, nine tenths {most:.0%}"
    )
    action = f"start again with {factor:g} times the lr; the ladder finds the best"
    evidence = {"first_loss": top, "last_loss": course.end, "half": half, "nine_tenths": most}
    return Verdict("lr_too_low", text, action, evidence, (), Act("restart", factor))


def _slow(values: np.ndarray, pace: float, least: float) -> bool:
    """Whether validation falls so slowly and evenly that the lr must be too low."""
    if (values <= TINY).any():
        return False
    logs = np.log(values)
    changes = np.diff(logs)
    back = float(changes[changes > 0].sum()) / max(float(logs[0] - logs.min()), TINY)
    steady = float(np.mean(changes <= 2 * jitter(logs)))
    return steady >= STEADY and back <= BACK and pace >= least * max(1.0, roughness(logs) / ROUGH) ** 2
