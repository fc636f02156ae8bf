"""Signs of what is fitted: wrong labels, too few examples."""

import numpy as np

from jtrain.coach.course import Course
from jtrain.coach.robust import jitter
from jtrain.coach.told import Level, Verdict

BETTER, BETTER_R2 = 0.12, 0.3  # by which a share of right answers, or R², is better in validation than in training
BETTER_LOSS = 0.15  # of the loss of a guess by which the validation loss is below that of training
# The same where nothing makes training harder than validation, and nothing else is wrong.
PLAIN, PLAIN_LOSS = 0.05, 0.05
CERTAIN = 3.0  # standard errors of such a difference
# By which validation gets more right, and has a lower loss, than the line probe's training examples; in so many probes.
CALM, CALM_LOSS, LASTING = 0.06, 0.05, 3
FORGOTTEN = 0.1  # by which a share of right answers falls from its best while training goes on
GAP, RATIO = 0.15, 3.0  # (validation − training loss) / loss of a guess; validation / training loss
RISE, RISE_OF_GUESS = 0.1, 0.04  # of the validation loss above its lowest; the same in losses of a guess
UNHARMED, BEHIND = 0.02, 0.05  # of a share of right answers: below its best, and below that of training …
MILD, MILDLY_BEHIND = 0.35, 0.15  # … by so much where the gap is smaller than that: nets that learn well have one
STILL = 1.1  # times the training loss of now: what it was at the lowest validation loss
LEAST_EVALUATIONS = 4
SHARES = ("accuracy", "f1", "exact_match")  # metrics from 0 to 1 by which answers are right


def label_noise(course: Course, *, plain: bool = False) -> Verdict | None:
    """Training stalls far below what validation shows; or what was right is unlearnt while training goes on.

    Args:
      course: of the run.
      plain: nothing else is wrong, and nothing makes training harder: a small difference says enough.
    """
    if len(course.val[1]) < LEAST_EVALUATIONS:
        return None
    calm = _calm(course)
    # Of training that is harder than validation its rows say nothing that the probes do not say better.
    if calm or course.curves.mixed or (course.curves.harder is not False and "train/loss" in course.curves.probes):
        return calm
    for name, validated in course.curves.val.items():
        trained = course.curves.train.get(name)
        if trained is None or not (is_share(name) or name == "r2"):
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


def _calm(course: Course) -> Verdict | None:
    """Training examples are got wrong that validation gets right, both seen as evaluation sees them."""
    probes = course.curves.probes
    steps = probes.get("step", np.zeros(0))
    lasting = min(LASTING, len(steps))
    if lasting < 2 or "train/loss" not in probes or "examples" not in probes:
        return None

    def lately(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.convolve(values, np.ones(lasting) / lasting, mode="valid"))

    counts = [probes[name][0] for name in ("examples", "of_val") if name in probes]
    few = sum(1 / max(1.0, float(np.nan_to_num(count))) for count in counts) * 2 / len(counts)
    losses = lately(probes["train/loss"] - np.interp(steps, *course.val)) / course.scale
    for name, validated in course.curves.val.items():
        trained = probes.get(f"train/{name}")
        if trained is None or not is_share(name):
            continue
        of_val = lately(np.interp(steps, course.curves.val_step, validated))
        of_train = lately(trained)
        right = np.clip(of_val, 0.0, 1.0)
        chance = np.sqrt(right * (1 - right) * few)  # of so few examples of each
        by = of_val - of_train
        told = (by >= np.maximum(CALM, CERTAIN * chance)) & (losses >= CALM_LOSS) & np.isfinite(by)
        if not course.ended:
            told[:-1] = False
        if not told.any():
            continue
        i = int(np.nanargmax(np.where(told, by, -np.inf)))
        at = int(steps[i + lasting - 1])
        text = (
            f"{name} of training examples, without dropout or augmentation, is {of_train[i]:.2f}, that of validation "
            f"{of_val[i]:.2f} (update {at:,}): a part of the training targets is wrong"
        )
        action = "look for mislabelled examples (data_size lists them)"
        evidence = {"training": float(of_train[i]), "validation": float(of_val[i]), "loss_above": float(losses[i])}
        return Verdict("label_noise", text, action, evidence, ((at, f"{name} of training is behind"),))
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
    harmless = _unharmed(course, MILDLY_BEHIND if gap < MILD else BEHIND)
    if harmless:
        text += f"; {course.curves.watch} is not worse for it"
    evidence = {
        "validation_loss": last, "training_loss": course.end, "lowest": low, "gap": gap, "from_update": float(at),
    }  # fmt: skip
    level: Level = "info" if harmless else "warning"
    return Verdict("overfitting", text, action, evidence, ((at, "lowest validation loss"),), None, level)


def _unharmed(course: Course, behind: float) -> bool:
    """Whether the watched share of right answers is at its best, and no further behind that of training."""
    curves = course.curves
    validated, trained = curves.val.get(curves.watch), curves.train.get(curves.watch)
    if validated is None or trained is None or not is_share(curves.watch) or not curves.higher_is_better:
        return False
    late, last = trained[curves.step > 0.85 * course.done], validated[np.isfinite(validated)]
    late = late[np.isfinite(late)]
    if not len(late) or not len(last):
        return False
    now = float(np.median(last[-max(2, len(last) // 6) :]))
    return float(last.max()) - now <= UNHARMED and float(np.median(late)) - now <= behind


def is_share(name: str) -> bool:
    """Whether a metric is a share of right answers."""
    return "/" not in name and any(part in name for part in SHARES)
