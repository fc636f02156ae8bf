"""What the end of a run says of its length; worth knowing, and no alarm."""

import numpy as np

from jtrain.coach.course import TINY, Course
from jtrain.coach.told import Verdict

LEAST = 6  # evaluations, or rows
SETTLED = 0.5  # share of the run after which nothing is gained any more
GAINED = 0.01  # of the loss of a guess that is nothing, if it is
OF_ITSELF = 0.05  # of the loss, too
IMPROVING = 0.05  # of the loss by which the last quarter has lowered it


def saturated(course: Course) -> Verdict | None:
    """Flat long before the end."""
    steps, values = _judged(course)
    if len(values) < LEAST:
        return None
    last = values[steps > 0.8 * course.done]
    if not len(last):
        return None
    low = float(np.median(last))
    near = np.flatnonzero(values <= low + min(GAINED * course.scale, OF_ITSELF * abs(low)))
    at = int(steps[near[0]])
    if at > SETTLED * course.done or course.end > 0.9 * course.scale:
        return None
    text = f"from update {at:,} on ({at / course.done:.0%} of the run) nothing more is gained: {low:.3g}"
    action = "a shorter run may do as well; or spend the time on a larger model or more data"
    evidence, marks = {"from_update": float(at), "level": low}, ((at, "nothing gained from here"),)
    return Verdict("saturated", text, action, evidence, marks, None, "info")


def still_improving(course: Course) -> Verdict | None:
    """The last quarter has gained as much as matters, and the end is the best."""
    steps, values = _judged(course)
    if len(values) < LEAST:
        return None
    inside = values[(steps > 0.6 * course.done) & (steps <= 0.8 * course.done)]
    if not len(inside):
        return None
    before = float(np.median(inside))
    last = float(np.median(values[-2:]))
    gain = (before - last) / abs(before) if abs(before) > TINY else 0.0
    if gain < IMPROVING or values[-1] > values.min() + 0.1 * (before - last) or course.end < 0.02 * course.scale:
        return None
    text = f"the loss is still falling at the end: {before:.3g} at three quarters of the run, {last:.3g} now"
    action = "a longer run would be better; lengthen the schedule with it"
    return Verdict("still_improving", text, action, {"before": before, "last": last}, (), None, "info")


def _judged(course: Course) -> tuple[np.ndarray, np.ndarray]:
    """(updates done, loss) of validation, of training where there is none."""
    steps, values = course.val
    return (steps, values) if len(values) >= LEAST else (course.step, course.smooth)
