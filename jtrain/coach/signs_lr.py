"""Signs that the learning rate is too high, or that nothing is learnt at all."""

import numpy as np

from jtrain.coach import signs_way
from jtrain.coach.course import TINY, Course
from jtrain.coach.robust import jitter
from jtrain.coach.told import Act, Verdict

LEARNT = 0.7  # of the loss of a guess: below it something has been learnt
BLOWN = 5.0  # times the loss of a guess; first weights begin at up to 4 times …
AT_ONCE = 0.02  # … and the first updates of some optimizers overshoot, but not for so large a share of the run
RAISED, RAISED_FOR = 1.5, 0.08  # times a guess, for such a share of the run: too high, whatever comes after …
CLIMBS = 1.3  # … if the loss has risen to there by so much: first weights may begin above a guess
RISEN = 0.01  # of the loss at the start by which a run that learns nothing has risen before it settled
CLEAR = 4.0  # standard deviations of the noise that a change must have
STUCK = 0.95  # of the loss of a guess: a run that ends above it has learnt nothing …
MOVED = 0.02  # … if its loss has fallen by less than this share, too …
NEAR = 0.88  # … or is above this share of a guess, and validation has not moved since its first evaluation
BACK = 0.1  # of the fall so far that is lost again where the loss rises in the middle of a run …
LASTING = 0.15  # … for so long a share of it
UNDONE = 0.15  # of the loss of a guess that must be left …
UNRECOVERED = 0.6  # of what was lost, or not gained, at a high lr: a run that ends above it did not make up for that

# Of a loss between STUCK and LEVEL guesses: the norm of a gradient that was alive at first, and times what it is later;
# of a guess, by which the loss is higher three times as far ahead, where weights that learn nothing move far.
LEVEL, ALIVE, DIES, MOVES = 1.2, 1e-3, 10.0, 0.15
LEAST_EVALUATIONS = 6

PEAK = 0.5  # of the highest lr: what is above it is the part of a schedule with a high lr …
HELD = 0.9  # … at whose end the training loss is more than this share of that at its beginning …
WANDERS = 0.05  # … while the log validation loss scatters by so much more than chance about its course …
ABOVE = 0.1  # … at more than this share of the loss of a guess


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
    seen = signs_way.too_high(course) if course.way is not None else _wandering(course)
    return seen or (_lost(course) if len(_learnt(course)) else _risen(course) or _died(course))


def blown(course: Course) -> Verdict | None:
    """Far above a guess before anything is learnt, in training, or in validation while training is at a guess."""
    before = slice(0, next(iter(_learnt(course)), None))
    early, scale = course.loss[before], course.scale
    if not len(early):
        return None
    # Over one update the first row shows the initial weights: a bad initialisation is no rise.
    start = max(scale, course.loss[0] if course.updates[0] <= 1 and course.curves.guess is not None else scale)
    total = course.curves.total or course.done
    lasts = course.updates[before][early > 0.4 * BLOWN * start].sum() >= AT_ONCE * total
    raised = course.updates[before][early > RAISED * start].sum() >= RAISED_FOR * total
    places = [(float(value), float(at)) for value, at in zip(early, course.step[before], strict=True)]
    if raised and course.smooth[before].max() > CLIMBS * course.smooth[0]:
        return _up(course, *max(places))
    places = places if lasts else []
    steps, values = course.val
    at_guess = np.interp(steps, course.step, course.smooth) >= 0.8 * scale
    inside = at_guess & (steps <= (course.step[before][-1] if len(early) else 0))
    places += [(float(value), float(at)) for value, at in zip(values[inside], steps[inside], strict=True)]
    if not places:
        return None
    top, at = max(places)
    return _up(course, top, at) if top >= BLOWN * start else None


def _up(course: Course, top: float, at: float) -> Verdict:
    scale = course.scale
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


def _died(course: Course) -> Verdict | None:
    """Nothing is learnt by weights that move far, or that had a gradient before the first updates killed the units."""
    if not course.far(0.5) or course.end < STUCK * course.scale or course.end > LEVEL * course.scale:
        return None
    norm = course.curves.grad_norm if course.curves.grad_norm is not None else np.zeros(0)
    norm = norm[np.isfinite(norm)]
    late = float(np.median(norm[len(norm) // 2 :])) if len(norm) >= 4 else 0.0
    far = float(np.median(course.way.far)) if course.way is not None else 0.0
    died = len(norm) >= 4 and norm[0] > max(ALIVE, DIES * late)
    if not died and far < MOVES:
        return None
    how = (
        f"the gradient's norm falls from {norm[0]:.2g} to {late:.2g}: the first updates killed the units"
        if died
        else f"the weights move far: three times as far ahead the loss is {far:.2g} times a guess higher"
    )
    text = f"nothing is learnt, the loss is that of a guess ({course.end:.4g}), and {how}"
    return _high(course, text, {"last_loss": course.end, "norm": late, "far": far, "from_update": 1.0}, 1)


def _lost(course: Course) -> Verdict | None:
    """Something was learnt, and lost again for good."""
    if course.averaged and course.end < LEARNT * course.scale:  # what single weights lose again, their average need not
        return None
    lowest = np.minimum.accumulate(course.smooth)
    fall = course.scale - lowest
    up = (course.smooth - lowest > np.maximum(BACK * fall, CLEAR * course.smooth_noise)) & (fall > 0)
    if course.lr is not None:
        up &= course.lr > 0
    share = float(course.updates[up].sum() / course.updates.sum())
    if share < LASTING:
        return _forgotten(course, float(lowest[-1]), int(np.argmin(course.smooth)))
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


def _forgotten(course: Course, low: float, at: int) -> Verdict | None:
    """Something was learnt, and the end is that of a guess."""
    if not course.far(0.5) or course.end < STUCK * course.scale or course.end - low < 2 * CLEAR * course.noise:
        return None
    step = float(course.step[at])
    text = f"the training loss had come down to {low:.3g} (update {step:,.0f}) and ends at {course.end:.3g}, a guess"
    evidence = {"lowest_loss": low, "last_loss": course.end, "from_update": step}
    return _high(course, text, evidence, int(step))


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
    # The standard error of a scatter that is the median of so few differences; two of them.
    if wanders < WANDERS * (1 + 2 * 0.9 / np.sqrt(len(inside) - 2)) or course.end < UNRECOVERED * after:
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
    moved = 1 - last / first if first > TINY else 0.0
    still = last >= STUCK * min(course.scale, first) and moved <= MOVED
    if len(values) >= LEAST_EVALUATIONS and values[0] > TINY:
        # Its scatter is that of the weights alone.
        fallen = 1 - float(values.min()) / float(values[0])
        near = min(course.val_end, last) >= NEAR * course.scale
        chance = 2 * course.noise / (course.scale * np.sqrt(0.25 * len(course.loss)))
        still, moved = fallen <= MOVED and moved <= MOVED + chance and near, max(moved, fallen)
    elif len(values) >= 2 and values[0] > TINY:
        moved = max(moved, 1 - float(values[-1]) / float(values[0]))
        still = still and moved <= MOVED
    if not still:
        return None
    norm = course.curves.grad_norm
    norm = norm[np.isfinite(norm)] if norm is not None else None
    norm = norm if norm is not None and len(norm) else None
    tiny = norm is not None and np.median(norm) < 1e-6
    text = (
        f"the loss has not moved: {first:.4g} in the first quarter, {last:.4g} at the end (a guess: {course.scale:.4g})"
    )
    if norm is not None:
        text += f"; the gradient's norm is {np.median(norm):.2g}"
    action = (
        "nothing reaches the weights: look for frozen layers, dead units and the initialisation"
        if tiny
        else "look for frozen layers, dead units, an lr of nearly 0, targets that belong to other inputs; run overfit"
    )
    evidence = {"first_loss": first, "last_loss": last, "guess": course.scale, "moved": moved}
    return Verdict("not_learning", text, action, evidence)
