"""Rules on time: the schedule's end, length and warm-up, what waits for evaluations, durations."""

from jtrain.coach.facts import Facts
from jtrain.coach.lint_rule import Said, info, known, warning

ENDS_BELOW = 100.0  # the notes: the last lr at least that far below the peak
HIGH_END = 10.0  # a cosine to a tenth is common with language models, less of a fall is not
WARMUP, LONG_WARMUP = 0.1, 0.3  # the notes' most; what one-cycle takes (Smith and Topin 2018)
LARGE_BATCH_LR = 0.5  # of SGD, from which on Goyal et al. 2017 need a warm-up
CUT = 0.12  # share of the run by which pieces may miss its length: percents do, with a warm-up of 10 % or less
RISING = ("one_cycle", "cyclic")  # begin low by themselves
WAVES = ("cosine_annealing", "cosine_restarts", "cyclic")


def schedule_length(f: Facts) -> list[Said]:
    """The lengths that a schedule brings along do not fit the run: it never falls, or its end is never reached."""
    if f.spans is None:
        return []
    found = []
    for key, span in f.spans.items():
        option = key.rpartition(".")[2]
        if key == "schedule.every" and span >= 1:
            found.append(warning(key, "the lr is held for the whole run, and so never moves; make it shorter"))
        elif f.schedule in ("step", "exponential") and option == "every" and span >= 1:
            text = f"is {span:.3g} times what follows the warm-up: the lr never falls; take a third of the run or less"
            found.append(warning(key, text))
        elif option.startswith("milestones") and span >= 1:
            text = f"is at {span:.3g} times what follows the warm-up: this milestone is never reached; take it earlier"
            found.append(warning(key, text))
        elif f.schedule == "pieces" and option == "parts" and abs(span - 1) > CUT:
            over = "the last are cut off" if span > 1 else "the last goes on beyond its end"
            found.append(
                warning(key, f"last {span:.3g} times what follows the warm-up: {over}; let them add up to the run")
            )
        elif f.schedule in WAVES and option == "period" and span > 1 + CUT:
            text = f"is {span:.3g} times what follows the warm-up: not one is finished; make it shorter"
            found.append(warning(key, text))
    return found


def schedule_end(f: Facts) -> Said | None:
    """The schedule ends less than 100 times below its peak."""
    if not known(f.peak, f.end, f.schedule, f.averaging, f.plateau, f.stopping) or not f.peak:
        return None
    # A plateau lowers the lr; averages over weights do what a fall does; a schedule that is not reached is told apart.
    if f.averaging == "schedule_free" or f.plateau or schedule_length(f):
        return None
    end, peak = f.end or 0.0, f.peak
    if end * ENDS_BELOW <= peak * 1.001:
        return None
    key, times = "schedule.name", peak / end
    if f.schedule == "constant":
        if f.averaging or f.stopping:
            return None
        return info(key, "the lr stays at its peak to the end; 'cosine' mostly ends better, or set plateau.metric")
    wave = ", at a whole number of its periods (an odd one of cosine_annealing)" if f.schedule in WAVES else ""
    text = f"{f.schedule} ends at {end:.3g}, {times:.3g} times below the peak {peak:.3g}; end 100 times below or more"
    return warning(key, text + wave) if times < HIGH_END * 0.999 else info(key, text + wave)


def warmup_long(f: Facts) -> Said | None:
    """The warm-up takes more than 10 % of the run."""
    if f.warmup is None or f.warmup <= WARMUP + 1e-3:
        return None
    text = f"is {f.warmup:.0%} of the run; 10 % or less leave more of it at the full lr"
    return warning("schedule.warmup", text) if f.warmup > LONG_WARMUP else info("schedule.warmup", text)


def warmup_twice(f: Facts) -> Said | None:
    """A warm-up in front of a schedule that begins low by itself."""
    if not f.warmup or f.schedule not in RISING:
        return None
    return info("schedule.warmup", f"{f.schedule} rises by itself, and starts after the warm-up; set it to '0'")


def warmup_missing(f: Facts) -> Said | None:
    """SGD at a large lr for a large batch, without a warm-up."""
    if not known(f.warmup, f.lr, f.batch_size, f.schedule) or f.optimizer != "sgd" or f.schedule in RISING:
        return None
    if f.warmup or (f.batch_size or 0) < 1024 or (f.lr or 0) < LARGE_BATCH_LR:
        return None
    return info("schedule.warmup", f"lr {f.lr:g} at batch {f.batch_size} from the first update on; set it to '5%'")


def plateau_idle(f: Facts) -> Said | None:
    """The plateau's patience is longer than the run has evaluations."""
    if not f.plateau or not known(f.plateau_patience, f.evaluations):
        return None
    patience, evaluations = f.plateau_patience or 0, f.evaluations or 0
    # The first evaluation is the best so far; patience + 1 worse ones lower the lr, which the rest of the run feels.
    if evaluations > patience + 2:
        return None
    return warning(
        "plateau.patience",
        f"{patience} evaluations without improvement are borne, but the run has {evaluations} in all: the lr is never "
        f"lowered; set it to {max(0, evaluations // 5)}, or a smaller train.eval_every",
    )


def stopping_idle(f: Facts) -> Said | None:
    """The patience of early stopping is longer than the run has evaluations."""
    if not f.stopping or not known(f.stopping_patience, f.evaluations):
        return None
    patience, evaluations = f.stopping_patience or 0, f.evaluations or 0
    if evaluations > patience + 1:
        return None
    return warning(
        "early_stopping.patience",
        f"{patience} evaluations without improvement stop the run, which has {evaluations} in all: it never stops "
        f"early; set it to {max(1, evaluations // 4)}, or a smaller train.eval_every",
    )


def stops_before_plateau(f: Facts) -> Said | None:
    """Early stopping ends the run before the plateau can lower the lr."""
    if not f.plateau or f.plateau != f.stopping or not known(f.plateau_patience, f.stopping_patience):
        return None
    patience, stopping = f.plateau_patience or 0, f.stopping_patience or 0
    if stopping > patience + 1:
        return None
    return warning(
        "early_stopping.patience",
        f"stops after {stopping} evaluations without improvement, before the plateau lowers the lr after "
        f"{patience + 1}; set it to {2 * (patience + 1)} or more",
    )


def evaluated_once(f: Facts) -> Said | None:
    """The run ends before the first evaluation, or the first log, is due."""
    if not known(f.total, f.eval_every, f.log_every):
        return None
    total = f.total or 0
    for key, every in (("train.eval_every", f.eval_every or 0), ("log.every", f.log_every or 0)):
        if every > total:
            what = "evaluation" if key == "train.eval_every" else "row"
            return info(key, f"is {every:,} updates, the run has {total:,}: the only {what} is at the end; make it 10%")
    return None


def rounds_to_zero(f: Facts) -> list[Said]:
    """A duration comes to less than one update."""
    found = []
    for key, text, updates in f.rounded or ():
        off = key in ("schedule.warmup", "schedule.every")
        means = "it is left out" if off else "one update is taken"
        said = f"{text!r} is {updates:.2g} updates, and {means}; give it in steps, or leave it at '0'"
        found.append(warning(key, said) if key.startswith("schedule.") else info(key, said.partition(", or leave")[0]))
    return found


def average_long(f: Facts) -> Said | None:
    """A moving average of weights over more updates than the run has."""
    if f.averaging != "moving" or not known(f.ema_decay, f.total) or not f.ema_decay:
        return None
    horizon = 1 / (1 - f.ema_decay)
    if horizon <= (f.total or 0):
        return None
    return info(
        "ema.decay",
        f"{f.ema_decay:g} averages over {horizon:,.0f} updates, the run has {f.total:,}: what is in force comes to "
        f"about the last ninth of the run at most; {1 - 9 / ((f.total or 0) + 10):.3g} says so",
    )
