"""Signs that the learning rate is wrong, or that nothing is learnt at all."""

import numpy as np

from jtrain.coach.course import Course
from jtrain.coach.robust import jitter
from jtrain.coach.told import Act, Verdict

LEARNT = 0.7  # of the loss of a guess: below it something has been learnt
BLOWN = 5.0  # times the loss of a guess; first weights begin at up to 4 times
RISEN = 0.01  # of the loss at the start by which a run that learns nothing has risen before it settled
CLEAR = 4.0  # standard deviations of the noise that a change must have
STUCK = 0.95  # of the loss of a guess: a run that ends above it has learnt nothing …
MOVED = 0.02  # … if its loss has fallen by less than this share, too
BACK = 0.1  # of the fall so far that is lost again where the loss rises in the middle of a run …
LASTING = 0.15  # … for so long a share of it
UNRECOVERED = 0.6  # of what was lost, or not gained, at a high lr: a run that ends above it did not make up for that

PEAK = 0.5  # of the highest lr: what is above it is the part of a schedule with a high lr …
HELD = 0.9  # … at whose end the training loss is more than this share of that at its beginning …
WANDERS = 0.05  # … while the log validation loss scatters by so much about its course …
ABOVE = 0.1  # … at more than this share of the loss of a guess

FLAT = 0.8  # level of the last quarter / that of the second quarter, above which nothing improves any more
RESTLESS = 0.025  # standard deviation of log validation loss from one evaluation to the next, about its course
ASTRAY = 1.12  # times its best: where the validation loss ends when the weights wander about a minimum
KNEE = 0.1  # of the fall that is left at the knee
LEAST_ROWS, LEAST_EVALUATIONS = 8, 6

HALF, MOST = 0.18, 0.5  # shares of the way travelled after which a slow run has half and 9/10 of its fall behind it
UNSEEN_HALF = 0.4  # the first of these where no validation shows that the fall is smooth
STEADY = 0.85  # of the evaluations that are better than the one before: a small lr makes no detours
QUIET = 0.01  # standard deviation of a validation loss about its course / its level
UNDONE = 0.15  # of the loss of a guess that must be left: what is nearly solved is not slow
SLOW = ((0.4, 10.0), (0.0, 3.0))  # (half of the fall is reached after this share of the way, × the lr)


def failed(course: Course) -> Verdict | None:
    """The loss or the gradient is not finite."""
    curves = course.curves
    bad = curves.step[~course.known]
    at = curves.failed_at if curves.failed_at is not None else (int(bad[-1]) if len(bad) else None)
    last = course.known[-1 if course.ended else -2 :]  # on the way, one row may be of updates that were passed over
    if at is None or (curves.failed_at is None and last.any()):
        return None
    before = f"{course.loss[-1]:.3g}" if len(course.loss) else "unknown"
    text = f"the loss or its gradient is not finite at update {at:,} (the last finite loss is {before})"
    action = "start again with a third of the lr; if it happens at once at any lr, look for bad values in the data"
    evidence = {"update": float(at)} | ({"last_loss": float(course.loss[-1])} if len(course.loss) else {})
    return Verdict("lr_too_high", text, action, evidence, ((at, "not finite"),), Act("restart", 1 / 3))


def too_high(course: Course) -> Verdict | None:
    """The loss rises and stays up, or what was learnt is lost again."""
    return _wandering(course) or (_lost(course) if len(_learnt(course)) else _risen(course))


def blown(course: Course) -> Verdict | None:
    """Far above a guess before anything is learnt, in training, or in validation while training is at a guess."""
    before = slice(0, next(iter(_learnt(course)), None))
    early, scale = course.loss[before], course.scale
    # Over a few updates the first row shows the initial weights: a bad initialisation is no rise.
    start = max(scale, course.loss[0] if course.updates[0] <= 2 and course.curves.guess is not None else scale)
    places = [(float(value), float(at)) for value, at in zip(early, course.step[before], strict=True)]
    steps, values = course.val
    at_guess = np.interp(steps, course.step, course.smooth) >= 0.8 * scale
    inside = at_guess & (steps <= (course.step[before][-1] if len(early) else 0))
    places += [(float(value), float(at)) for value, at in zip(values[inside], steps[inside], strict=True)]
    if not places:
        return None
    top, at = max(places)
    if top < BLOWN * start:
        return None
    text = f"the loss goes up to {top:.3g} at update {at:,.0f}, {top / scale:.3g} times that of a guess ({scale:.3g})"
    return _high(course, text, {"highest_loss": top, "times_a_guess": top / scale, "from_update": at}, int(at))


def _learnt(course: Course) -> np.ndarray:
    """Rows at which something has been learnt."""
    return np.flatnonzero(course.smooth < LEARNT * course.scale)


def _risen(course: Course) -> Verdict | None:
    """Nothing is learnt, and the loss had risen at first."""
    if not course.far(0.5):  # a loss may rise for a while in the warm-up of a healthy run
        return None
    first = float(course.smooth[0])
    at = int(np.argmax(course.smooth))
    top = float(course.smooth[at])
    if course.end < STUCK * course.scale or top < first * (1 + RISEN) + CLEAR * course.smooth_noise:
        return None
    text = f"the loss rises from {first:.3g} to {top:.3g} and ends at {course.end:.3g}, no better than a guess"
    return _high(
        course,
        text,
        {"first_loss": first, "highest_loss": top, "last_loss": course.end, "from_update": float(course.step[at])},
        int(course.step[at]),
    )


def _lost(course: Course) -> Verdict | None:
    """Something was learnt, and lost again for good."""
    lowest = np.minimum.accumulate(course.smooth)
    fall = course.scale - lowest
    up = (course.smooth - lowest > np.maximum(BACK * fall, CLEAR * course.smooth_noise)) & (fall > 0)
    if course.lr is not None:
        up &= course.lr > 0
    share = float(course.updates[up].sum() / course.updates.sum())
    if share < LASTING:
        return None
    first = int(np.flatnonzero(up)[0])
    low = float(lowest[first])
    top = float(course.smooth[up].max())
    worse = course.updates[up & (course.smooth > course.scale)].sum() >= LASTING * course.updates.sum()
    if course.end < max(UNRECOVERED * low, UNDONE * course.scale) and not worse:
        return None
    text = (
        f"the training loss had come down to {low:.3g}, rises again to {top:.3g} from update {course.step[first]:,.0f} "
        f"on and is {course.end:.3g} at the end"
    )
    evidence = {
        "lowest_loss": low,
        "highest_loss": top,
        "last_loss": course.end,
        "from_update": float(course.step[first]),
    }
    return _high(course, text, evidence, int(course.step[first]))


def _wandering(course: Course) -> Verdict | None:
    """Nothing is gained while the lr of a schedule that decays is high, and the weights wander."""
    if course.lr is None or course.stays_high is not False or not course.ended:
        return None
    high = np.flatnonzero(course.lr >= PEAK * course.lr.max())
    third, steps, values = len(high) // 3, *course.val
    if third < 2:
        return None
    first, last = float(course.step[high[0]]), float(course.step[high[-1]])
    before = float(np.median(course.loss[high[third // 2 : third // 2 + third]]))
    after = float(np.median(course.loss[high[-third:]]))
    inside = values[(steps > first + 0.15 * (last - first)) & (steps <= last)]
    if len(inside) < LEAST_EVALUATIONS - 1 or (inside <= 0).any() or after < max(HELD * before, ABOVE * course.scale):
        return None
    wanders = jitter(np.log(inside))
    if wanders < WANDERS or course.end < UNRECOVERED * after:
        return None
    text = (
        f"nothing is gained while the lr is high: the training loss is {before:.3g}, then {after:.3g}, and the "
        f"validation loss wanders by {wanders:.0%} from one evaluation to the next"
    )
    return _high(course, text, {"before": before, "after": after, "wanders": wanders, "from_update": first}, int(first))


def _high(course: Course, text: str, evidence: dict[str, float], at: int) -> Verdict:
    action = "the lr is too high: start again with a third of it, or with a longer warm-up"
    return Verdict("lr_too_high", text, action, evidence, ((at, "lr too high"),), Act("restart", 1 / 3))


def not_learning(course: Course) -> Verdict | None:
    """The loss stays where a guess is, or where it began, in training and validation."""
    if len(course.loss) < 4 or not course.far(0.5):
        return None
    first, last = course.level(0.0, 0.25), course.end
    values = course.val[1]
    moved = [1 - last / first if first else 0.0]
    if len(values) >= 2 and values[0]:
        moved.append(1 - float(values[-1]) / float(values[0]))
    if last < STUCK * min(course.scale, first) or max(moved) > MOVED:
        return None
    norm = course.curves.grad_norm
    tiny = norm is not None and np.nanmedian(norm) < 1e-6
    text = (
        f"the loss has not moved: {first:.4g} in the first quarter, {last:.4g} at the end (a guess: {course.scale:.4g})"
    )
    if norm is not None:
        text += f"; the gradient's norm is {np.nanmedian(norm):.2g}"
    action = (
        "nothing reaches the weights: look for frozen layers, dead units and the initialisation"
        if tiny
        else "look for frozen layers, dead units, an lr of nearly 0, targets that belong to other inputs; run overfit"
    )
    evidence = {"first_loss": first, "last_loss": last, "guess": course.scale, "moved": max(moved)}
    return Verdict("not_learning", text, action, evidence)


def plateau_early(course: Course) -> Verdict | None:
    """Falls fast, then flat, while the lr stays high and the weights wander."""
    if len(course.loss) < LEAST_ROWS or course.stays_high is not True or not course.far(0.5):
        return None
    knee = _knee(course)
    if knee is None or course.end > LEARNT * max(course.scale, course.loss[0]):
        return None
    steps, values = course.val
    evidence = {"level": course.end, "from_update": float(knee)}
    if len(values) >= LEAST_EVALUATIONS:
        share = steps / course.done
        flat = float(np.median(values[share > 0.75]) / np.median(values[(share > 0.25) & (share <= 0.5)]))
        restless = jitter(np.log(values[share > 0.4]))
        astray = float(values[-3:].mean() / values.min())
        if flat < FLAT or restless < RESTLESS or astray < ASTRAY or course.level(0.75) < 0.4 * course.level(0.25, 0.5):
            return None
        seen = (
            f"the validation loss wanders ({restless:.0%} from one evaluation to the next) and ends {astray - 1:.0%} "
            "above its best"
        )
        evidence |= {"flat": flat, "restless": restless, "times_its_best": astray}
    else:
        flat = course.level(0.75) / course.level(0.25, 0.5)
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
    if len(course.loss) < LEAST_ROWS or not course.far(0.6):
        return None
    top = max(course.scale, float(course.smooth[0]))
    fall = top - course.end
    if fall <= 0 or course.end < UNDONE * top:
        return None
    half, most = course.reached(0.5), course.reached(0.9)
    values = course.val[1]
    if len(values) >= LEAST_EVALUATIONS:
        half, most = min(half, course.reached(0.5, val=True)), min(most, course.reached(0.9, val=True))
        steady = float(np.mean(np.diff(values) < 0))
        quiet = jitter(values[len(values) // 2 :]) / abs(float(np.median(values[len(values) // 2 :])))
        if half < HALF or most < MOST or steady < STEADY or quiet > QUIET:
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
