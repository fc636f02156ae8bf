"""Signs on the way of the weights (`jtrain.line`): an lr that is too low, too high, or stays too high.

Along the line on which the weights came the loss is known as far again ahead. Weights that an lr too low moves go
straight, and the loss falls on; weights that wander about a minimum, or between the walls of a valley, meet a wall.
"""

import numpy as np

from jtrain.coach.course import TINY, Course
from jtrain.coach.told import Act, Verdict
from jtrain.coach.way import LEAST, Way

BEGUN = 0.15  # of the run, after which straight on is slow: every run begins so
STRAIGHT, EARLY_STRAIGHT = 0.5, 0.6  # of the probes, from which a run went straight on; the same on the way
CERTAIN = 0.75  # of the probes, from which chance does not make them straight; below, so large a part of all that
GAINED = 0.8  # the loss changes as far again ahead must be falls
BEFORE, RISES = 0.85, 1.02  # of the updates done; times the lr of then: it is still rising
EARLY = 0.2  # of the run, from which that is told
UNDONE, EARLY_UNDONE = 0.15, 0.3  # of a guess that must be left at the end, and on the way: what is solved is not slow
# × the lr: FAR where half of the fall is reached after so much of the way, or the last probes see it go on so evenly.
HALF, EVENLY = 0.4, 2.0
NEAR, FAR = 3.0, 10.0

# A wall as far again ahead, in losses of a guess, at an lr that stays high, over the last part of the run, where the
# training loss is flat: at its end so large a share of what it was when that part began; on the way. Higher where it
# still falls. With batch norm walls are as wide as the weights are long: a net that learns well has them, too.
LATE, EARLY_LATE = 0.4, 0.3
FLAT, EARLY_FLAT = 0.75, 0.85
YET = 1.6  # times the former on the way: walls go down while a run settles
WALL, NORMED_WALL = (0.045, 0.15), (0.09, 0.35)  # flat, and not
NOTHING = 0.8  # of a guess that is left: the lr was too high from the start
# The same while the lr of a schedule that decays is above half its peak, if so much of a guess is left at the end.
STEEP, LEFT = 0.42, 0.3
NORMED_STEEP, NORMED_LEFT = 0.12, 0.78
PEAK, PROBES = 0.5, 3


def too_low(course: Course) -> Verdict | None:
    """The weights go straight on, the loss falls on ahead of them, and has far to go."""
    assert course.way is not None
    seen = course.way.between(BEGUN, 1.0)
    if len(seen) < LEAST or not course.far(EARLY) or not len(course.loss) or (not course.ended and _rising(course)):
        return None
    top = max(course.scale, float(course.smooth[0]))
    share = float(np.mean(seen.straight))
    undone = UNDONE if course.ended else EARLY_UNDONE
    if share < (STRAIGHT if course.ended else EARLY_STRAIGHT) or not undone * top <= course.end < top:
        return None
    if share < CERTAIN and _gained(seen) < GAINED:  # some are straight by chance where what is left is noise
        return None
    half = course.reached(0.5)
    factor = FAR if half >= HALF or float(np.median(seen.on[-LEAST:])) >= EVENLY else NEAR
    text = (
        f"the weights go straight on and slowly: at {share:.0%} of the probes the loss still falls three times as far "
        f"ahead on their line; it has come from {top:.3g} to {course.end:.3g}, half of that after {half:.0%} of the "
        "way that the lr allows"
    )
    action = f"start again with {factor:g} times the lr; the ladder finds the best"
    evidence = {"first_loss": top, "last_loss": course.end, "straight": share, "half": half}
    return Verdict("lr_too_low", text, action, evidence, (), Act("restart", factor))


def _gained(seen: Way) -> float:
    """Which part of all changes as far again ahead are falls."""
    falls = float(np.maximum(-seen.ahead, 0.0).sum())
    every = float(np.abs(seen.ahead).sum())
    return falls / every if every > TINY else 0.0


def _rising(course: Course) -> bool:
    """Whether the lr is still being warmed up: that a run goes straight on then says nothing of its peak."""
    if course.lr is None:
        return False
    before = float(np.interp(BEFORE * course.done, course.step, course.lr))
    return bool(course.lr[-1] > RISES * before)


def stays_high(course: Course, knee: int | None) -> Verdict | None:
    """At an lr that does not decay the weights stand between walls.

    Args:
      course: of the run.
      knee: updates after which the fall was done.
    """
    assert course.way is not None
    if course.stays_high is not True or course.averaged:
        return None
    seen = course.way.between(LATE if course.ended else EARLY_LATE, 1.0)
    if len(seen) < (LEAST if course.ended else PROBES):
        return None
    wall = float(np.median(seen.steep))
    flat = course.end / max(course.level(LATE, LATE + 0.15), TINY)
    flat_wall, falling_wall = NORMED_WALL if course.curves.normed else WALL
    flat_wall *= 1.0 if course.ended else YET
    if wall < (flat_wall if flat >= (FLAT if course.ended else EARLY_FLAT) else falling_wall):
        return None
    began = int(seen.step[0])
    text = (
        f"the lr stays high and the weights wander between walls: as far again ahead as from one probe to the next the "
        f"validation loss is {wall:.2g} times a guess higher (updates {began:,} on)"
    )
    evidence = {"wall": wall, "level": course.end, "from_update": float(knee if knee is not None else began)}
    if course.end > NOTHING * course.scale:
        action = "the lr is too high: start again with a third of it, or with a longer warm-up"
        marks = ((began, "lr too high"),)
        return Verdict("lr_too_high", text, action, evidence, marks, Act("restart", 1 / 3))
    at = knee if knee is not None else began
    action = f"go on from update {at:,} with a third of the lr, or let the schedule decay"
    return Verdict("plateau_early", text, action, evidence, ((at, "knee"),), Act("tail", 1 / 3, at))


def too_high(course: Course) -> Verdict | None:
    """While the lr of a schedule that decays is high the weights meet walls, and much is left to be learnt."""
    assert course.way is not None
    if course.lr is None or course.stays_high is True:
        return None
    seen = course.way.between(BEGUN, 1.0)
    high = np.interp(seen.step, course.step, course.lr) >= PEAK * course.lr.max()
    if high.sum() < (LEAST if course.ended else PROBES):
        return None
    wall = float(np.median(seen.steep[high]))
    normed = course.curves.normed is True
    steep, left = (NORMED_STEEP, NORMED_LEFT) if normed else (STEEP, LEFT)
    if wall < steep or course.end < left * course.scale:
        return None
    at = int(seen.step[high][0])
    text = (
        f"while the lr is high the weights stand between walls: as far again ahead the validation loss is {wall:.2g} "
        f"times a guess higher; {course.end / course.scale:.0%} of a guess is left"
    )
    action = "the lr is too high: start again with a third of it, or with a longer warm-up"
    evidence = {"wall": wall, "last_loss": course.end, "from_update": float(at)}
    return Verdict("lr_too_high", text, action, evidence, ((at, "lr too high"),), Act("restart", 1 / 3))
