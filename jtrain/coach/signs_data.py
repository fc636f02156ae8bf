"""Signs in the data: spikes, no shuffling, wrong labels, too few examples; and a metric that is taken the wrong way."""

import numpy as np

from jtrain.coach.course import Course
from jtrain.coach.robust import agreement, around, jitter, running, spreads
from jtrain.coach.told import Level, Verdict

SPIKE, HIGHER = 2.4, 1.3  # times the usual difference of the log losses of two rows; times what is around it
BATCH = 1.0  # of the loss of a guess that one batch must add to explain a row: less is the scatter of batches …
LEAST_BATCH = 0.3  # … but so much is enough where it is far above the usual difference: what counts is their product
HUGE, NEAR, HUGE_SPIKES = 10.0, 2.0, 3  # times what is around it, near a guess: so many rows are spikes, learnt or not
LEARNT = 0.95  # of the loss of a guess, below which the loss must have been before a spike
SETTLED = 0.1  # of the updates at the start, in which the loss may do anything
SPIKES, APART = 2, 2  # a single one is no pattern; rows so near to each other are one

ROWS_AN_EPOCH = 3.0  # fewer show nothing of what happens within an epoch
EPOCHS = 3.0
ALIKE = 0.5  # correlation of the loss with itself one epoch before
SURE = 3.3  # standard deviations of that correlation under chance, 1 / √rows

ORDERED = 0.4  # of the share that chance gets right: training far below it has just seen other classes
BETTER, BETTER_R2 = 0.12, 0.3  # by which a share of right answers, or R², is better in validation than in training
BETTER_LOSS = 0.15  # of the loss of a guess by which the validation loss is below that of training
PLAIN, PLAIN_LOSS = (
    0.05,
    0.05,
)  # the same where nothing makes training harder than validation, and nothing else is wrong
CERTAIN = 3.0  # standard errors of such a difference
FORGOTTEN = 0.1  # by which a share of right answers falls from its best while training goes on
GAP, RATIO = 0.15, 3.0  # (validation − training loss) / loss of a guess; validation / training loss
RISE, RISE_OF_GUESS = 0.1, 0.04  # of the validation loss above its lowest; the same in losses of a guess
UNHARMED, BEHIND = 0.02, 0.05  # of a share of right answers: below its best, and below that of training
STILL = 1.1  # times the training loss of now: what it was at the lowest validation loss
LEAST_EVALUATIONS = 4
SHARES = ("accuracy", "f1", "exact_match")  # metrics from 0 to 1 by which answers are right


def spikes(course: Course) -> Verdict | None:
    """Single rows far above what is before and after them, again and again."""
    loss, scale = course.loss, course.scale
    if len(loss) < 10 or not (loss > 0).all():
        return None
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
    series |= {name: v[course.known] for name, v in course.curves.train.items() if _is_share(name)}
    best, what, count = 0.0, "", 0
    for name, values in series.items():
        alike, pairs = _alike(course.step - 0.5 * course.updates, values, epoch, rows)
        if alike >= ALIKE and alike * np.sqrt(pairs) >= SURE and alike > best:
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


def label_noise(course: Course, *, plain: bool = False) -> Verdict | None:
    """Training stalls far below what validation shows; or what was right is unlearnt while training goes on.

    Args:
      course: of the run.
      plain: nothing else is wrong, and nothing makes training harder: a small difference says enough.
    """
    if len(course.val[1]) < LEAST_EVALUATIONS or course.curves.mixed:
        return None
    for name, validated in course.curves.val.items():
        trained = course.curves.train.get(name)
        if trained is None or not (_is_share(name) or name == "r2"):
            continue
        late = trained[course.curves.step > 0.85 * course.done]
        late, last = late[np.isfinite(late)], validated[np.isfinite(validated)]
        if not len(late) or not len(last):
            continue
        now, then = float(np.median(late)), float(np.median(last[-max(2, len(last) // 6) :]))
        best = float(np.nanmax(validated))
        below = (course.end - course.val_end) / course.scale
        better, of_loss = (BETTER_R2 if name == "r2" else BETTER), BETTER_LOSS
        if plain and name != "r2":
            error = np.hypot(jitter(late) / np.sqrt(len(late)), jitter(last) / np.sqrt(2))
            better, of_loss = max(PLAIN, CERTAIN * float(error)), PLAIN_LOSS
        if then - now >= better and below >= of_loss:
            text = (
                f"{name} is {now:.2f} in training and {then:.2f} in validation: a part of the training targets is wrong"
            )
            action = "look for mislabelled examples (data_size lists them); or what augments them changes what they are"
            return Verdict("label_noise", text, action, {"training": now, "validation": then, "loss_below": below})
        drop = max(FORGOTTEN, 4 * jitter(last))
        if name == "r2" or best - then < drop or now < best or course.end > 0.5 * course.scale:
            continue
        at = int(course.curves.val_step[np.nanargmax(validated)])
        text = (
            f"{name} in validation falls from {best:.2f} (update {at:,}) to {then:.2f}, while it rises to {now:.2f} in "
            "training: wrong labels are learnt by heart"
        )
        action = "look for mislabelled examples (data_size lists them); till then stop early, and smooth the labels"
        evidence = {"best": best, "last": then, "training": now, "from_update": float(at)}
        return Verdict("label_noise", text, action, evidence, ((at, f"best {name}"),))
    return None


def overfitting(course: Course) -> Verdict | None:
    """The validation loss is far above that of training, or rises while that falls."""
    steps, values = course.val
    if len(values) < LEAST_EVALUATIONS or len(course.loss) < 4:
        return None
    lowest = int(np.argmin(values))
    low, last = float(values[lowest]), course.val_end
    gap = (last - course.end) / course.scale
    rise = last - low
    then = float(np.interp(steps[lowest], course.step, course.smooth))
    wide = gap >= GAP and last >= RATIO * course.end and min(values[-2:]) >= 0.8 * last
    rising = (
        rise >= max(RISE * low, RISE_OF_GUESS * course.scale, 4 * jitter(values))
        and then >= STILL * course.end
        and last > course.end
        and len(values) - lowest > max(3, len(values) // 4)
    )
    if not wide and not rising:
        return None
    at = int(steps[lowest])
    text = f"the validation loss is {last:.3g}, the training loss {course.end:.3g}"
    if rise > RISE * low:
        text += f"; the lowest validation loss was {low:.3g} at update {at:,}"
    action = (
        "more data, augmentation, dropout or weight decay, or a smaller model; keep the best checkpoint and stop early"
    )
    harmless = _unharmed(course)
    if harmless:
        text += f"; {course.curves.watch} is not worse for it"
    evidence = {
        "validation_loss": last, "training_loss": course.end, "lowest": low, "gap": gap, "from_update": float(at),
    }  # fmt: skip
    level: Level = "info" if harmless else "warning"
    return Verdict("overfitting", text, action, evidence, ((at, "lowest validation loss"),), None, level)


def _unharmed(course: Course) -> bool:
    """Whether the watched share of right answers is at its best, and nearly that of training."""
    curves = course.curves
    validated, trained = curves.val.get(curves.watch), curves.train.get(curves.watch)
    if validated is None or trained is None or not _is_share(curves.watch) or not curves.higher_is_better:
        return False
    late, last = trained[curves.step > 0.85 * course.done], validated[np.isfinite(validated)]
    late = late[np.isfinite(late)]
    if not len(late) or not len(last):
        return False
    now = float(np.median(last[-max(2, len(last) // 6) :]))
    return float(last.max()) - now <= UNHARMED and float(np.median(late)) - now <= BEHIND


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


def _is_share(name: str) -> bool:
    return "/" not in name and any(part in name for part in SHARES)
