"""Signs in the data: spikes, no shuffling; and a metric that is taken the wrong way."""

import numpy as np

from jtrain.coach.course import Course
from jtrain.coach.robust import agreement, around, running, spreads
from jtrain.coach.signs_fit import is_share
from jtrain.coach.told import Verdict

SPIKE, HIGHER = 2.4, 1.3  # times the usual difference of the log losses of two rows; times what is around it
BATCH = 1.0  # of the loss of a guess that one batch must add to explain a row: less is the scatter of batches …
LEAST_BATCH = 0.3  # … but so much is enough where it is far above the usual difference: what counts is their product
HUGE, NEAR, HUGE_SPIKES = 10.0, 2.0, 3  # times what is around it, near a guess: so many rows are spikes, learnt or not
LEARNT = 0.95  # of the loss of a guess, below which the loss must have been before a spike
SETTLED = 0.1  # of the updates at the start, in which the loss may do anything
# Of a guess, by which training examples at large cost more than the rows of an epoch show, after this share of the run.
HIDDEN, SETTLED_PROBES = 0.1, 0.2
SPIKES, APART = 2, 2  # a single one is no pattern; rows so near to each other are one

ROWS_AN_EPOCH = 3.0  # fewer show nothing of what happens within an epoch
EPOCHS = 3.0
ALIKE = 0.5  # correlation of the loss with itself one epoch before
SURE, EARLY_SURE = 3.3, 4.5  # standard deviations of that correlation under chance, 1 / √rows; on the way, asked often

ORDERED = 0.4  # of the share that chance gets right: training far below it has just seen other classes
LEAST_EVALUATIONS = 4


def spikes(course: Course) -> Verdict | None:
    """Single rows far above what is before and after them, again and again."""
    loss, scale = course.loss, course.scale
    hidden = _hidden(course)
    if hidden is not None or len(loss) < 10 or not (loss > 0).all():
        return hidden
    found = _jumps(course)
    far = [i for i in found if loss[i] > 10 * scale]
    if len(found) < SPIKES and not (far and _learnt_before(course, far[0])):
        return None
    worst = max(found, key=lambda i: loss[i])
    where = ", ".join(f"{course.step[i]:,.0f}" for i in found[:5]) + (", …" if len(found) > 5 else "")
    text = f"the loss jumps {len(found)} times (at updates {where}), up to {loss[worst]:.3g}, and comes back"
    action = (
        "look at the batches there for broken examples; clip the gradient (clip.name=norm), or lower the lr a little"
    )
    marks = tuple((int(course.step[i]), "spike") for i in found[:8])
    evidence = {"spikes": float(len(found)), "highest_loss": float(loss[worst])}
    return Verdict("spikes", text, action, evidence, marks)


def _hidden(course: Course) -> Verdict | None:
    """Examples that hardly a batch shows cost far more than the rows tell: those of broken batches."""
    probes, curves = course.curves.probes, course.curves
    steps = probes.get("step", np.zeros(0))
    late = steps > SETTLED_PROBES * course.done
    if late.sum() < 2 or "train/loss" not in probes or course.end >= course.scale:
        return None
    epoch = max(curves.updates_per_epoch or 1.0, float(course.updates.max(initial=1.0)))
    above = []
    for step, cost in zip(steps[late], probes["train/loss"][late], strict=True):
        shown = course.loss[(course.step <= step) & (course.step > step - epoch)]
        # What is high in validation, too, is so by what training does otherwise, such as normalising by the batch.
        validated = float(np.interp(step, *course.val)) if len(course.val[1]) else np.nan
        above.append(float(cost) - float(np.fmax(np.mean(shown) if len(shown) else np.nan, validated)))
    known = [value for value in above if np.isfinite(value)]
    hidden = float(np.median(known)) / course.scale if known else 0.0
    if not hidden >= HIDDEN:
        return None
    text = (
        f"training examples cost {hidden:.3g} times a guess more, all together, than the batches of an epoch show: a "
        "few that come seldom are far off"
    )
    action = "look for broken examples among the training data; clip the gradient (clip.name=norm)"
    return Verdict("spikes", text, action, {"hidden": hidden, "training": course.end})


def _jumps(course: Course) -> list[int]:
    """Rows that stand out; of several near to each other the highest."""
    loss, scale, logs = course.loss, course.scale, np.log(course.loss)
    inner = np.arange(2, len(loss) - 1)
    before = np.nanmedian(around(loss, 4, 0)[inner, :-1], axis=1)
    # Of the five rows that follow the last four; at the end of fewer.
    after = [*np.median(np.lib.stride_tricks.sliding_window_view(loss, 4)[4:], axis=1)]
    after += [np.median(loss[i + 1 :][-4:]) for i in inner[len(after) :]]
    level = np.maximum(before, np.array(after))
    usual = spreads(around(np.diff(logs, prepend=np.nan), 11, 12)[inner])
    height, batch = logs[inner] - np.log(level), (loss[inner] - level) * course.updates[inner] / scale
    clear = np.minimum(height / np.maximum(usual, 1e-9) / SPIKE, 100.0)
    jumps = (course.time[inner] > SETTLED) & (height >= np.log(HIGHER)) & (clear >= 1)
    jumps &= (batch >= LEAST_BATCH) & (batch * np.maximum(1.0, clear) ** 2 >= BATCH)
    huge = jumps & (loss[inner] >= HUGE * level) & (level < NEAR * scale)
    learnt = jumps & (before < LEARNT * scale)
    found = list[int]()
    for i in inner[learnt | huge if huge.sum() >= HUGE_SPIKES else learnt]:
        if found and i - found[-1] <= APART:
            found[-1] = max(found[-1], int(i), key=lambda row: float(loss[row]))
        else:
            found.append(int(i))
    return found


def _learnt_before(course: Course, row: int) -> bool:
    return float(np.median(course.loss[max(0, row - 4) : row])) < 0.5 * course.scale


def not_shuffled(course: Course) -> Verdict | None:
    """What happens within an epoch happens in the next one again."""
    epoch = course.curves.updates_per_epoch
    if epoch is None or len(course.loss) < 12:
        return None
    rows = epoch / float(np.median(course.updates))
    if rows < ROWS_AN_EPOCH or course.done / epoch < EPOCHS:
        return None
    series = {"loss": np.log(course.loss)} if (course.loss > 0).all() else {"loss": course.loss}
    series |= {name: v[course.known] for name, v in course.curves.train.items() if is_share(name)}
    best, what, count = 0.0, "", 0
    for name, values in series.items():
        alike, pairs = _alike(course.step - 0.5 * course.updates, values, epoch, rows)
        if alike >= ALIKE and alike * np.sqrt(pairs) >= (SURE if course.ended else EARLY_SURE) and alike > best:
            best, what, count = alike, name, pairs
    if not what:
        return _ordered(course)
    text = (
        f"the training {what} repeats itself every epoch of {epoch:.0f} updates (correlation {best:.2f}, {count} rows)"
    )
    action = "the examples come in the same order, sorted perhaps: shuffle them every epoch"
    return Verdict(
        "not_shuffled", text, action, {"correlation": best, "updates_per_epoch": epoch, "rows": float(count)}
    )


def _ordered(course: Course) -> Verdict | None:
    """Training gets far fewer answers right than chance: what comes is not what came just before."""
    right, guess = course.curves.train.get("accuracy"), course.curves.guess
    if right is None or not guess:
        return None
    right, chance = right[course.curves.step > SETTLED * course.done], float(np.exp(-abs(guess)))
    right = right[np.isfinite(right)]
    if len(right) < 8 or chance < 0.01 or float(right.mean()) >= ORDERED * chance:
        return None
    text = f"accuracy in training is {right.mean():.2f}, far below the {chance:.2f} of chance"
    action = "the examples come sorted, so that what was learnt last is never asked: shuffle them every epoch"
    return Verdict("not_shuffled", text, action, {"training": float(right.mean()), "chance": chance})


def _alike(at: np.ndarray, values: np.ndarray, epoch: float, rows: float) -> tuple[float, int]:
    """(correlation of what is left of a curve without its course with itself an epoch before, pairs)."""
    known = np.isfinite(values)
    at, values = at[known], values[known]
    reach = max(2, int(np.ceil(rows / 2)))
    left = values - running(values, reach)
    local = spreads(around(left, 3 * reach, 3 * reach))
    left = np.clip(left / np.maximum(local, 1e-9), -3, 3)
    before = np.interp(at - epoch, at, left, left=np.nan)
    pairs = np.isfinite(before)
    if pairs.sum() < 8 or np.ptp(left[pairs]) == 0 or np.ptp(before[pairs]) == 0:
        return 0.0, 0
    return float(np.corrcoef(left[pairs], before[pairs])[0, 1]), int(pairs.sum())


def wrong_metric(course: Course) -> Verdict | None:
    """The watched metric is taken to improve when it becomes worse."""
    curves = course.curves
    name, higher = curves.watch, curves.higher_is_better
    validated = curves.val.get(name)
    if validated is None or higher is None or np.isfinite(validated).sum() < LEAST_EVALUATIONS:
        return None
    right = _direction(course, name)
    if right is None or right == higher:
        return None
    kept = int(curves.best_step) if curves.best_step is not None else None
    found = curves.val_step[np.nanargmax(validated) if right else np.nanargmin(validated)]
    taken = "higher" if higher else "lower"
    text = f"{name} is taken to be better the {taken} it is, but it {'rises' if right else 'falls'} as the loss falls"
    if kept is not None:
        text += f": the checkpoint of update {kept:,} is kept, the best is that of {found:,.0f}"
    action = f"turn the direction of {name} round, where it is defined or where it is watched"
    marks = ((int(found), f"best {name}"),) + (((kept, "kept as the best"),) if kept is not None else ())
    return Verdict("wrong_metric", text, action, {"best_update": float(found)}, marks)


def _direction(course: Course, name: str) -> bool | None:
    """Whether a metric is better the higher it is, by its agreement with the loss; None: unknown."""
    if name.removeprefix("ema/") == "loss":
        return False
    trained = course.curves.train.get(name.removeprefix("ema/"))
    if trained is not None and len(course.loss) >= 6:
        values = trained[course.known]
        known = np.isfinite(values)
        found = agreement(values[known], course.loss[known])
    else:
        # Later on a metric may go its own way, when the validation loss rises.
        validated, loss = course.curves.val[name], course.curves.val.get("loss")
        if loss is None:
            return None
        known = np.isfinite(validated) & np.isfinite(loss)
        falling = slice(0, int(np.argmin(loss[known])) + 1)
        if len(loss[known][falling]) < LEAST_EVALUATIONS:
            return None
        found = agreement(validated[known][falling], loss[known][falling])
    return None if abs(found) < 0.6 else found < 0
