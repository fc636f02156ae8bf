"""Rules on the learning rate and what goes with it: momentum, weight decay, batch size, fine-tuning."""

import math

from jtrain.coach.facts import Facts
from jtrain.coach.lint_rule import Said, info, known, warning

# Where the peak lr of each optimizer is sensible, at a batch of REFERENCE. The notes: 1e-2 to 1e-3 as a start, that of
# SGD from 1e-3 up; the others as their papers have them, beside Adam. A rung of the ladder is a factor of 3.
LR: dict[str, tuple[float, float]] = {
    "sgd": (1e-3, 1.0),
    "adam": (1e-4, 1e-2),
    "adamw": (1e-4, 1e-2),
    "lazy_adam": (1e-4, 1e-2),
    "adamax": (1e-4, 2e-2),  # its paper's default is 2e-3, twice Adam's
    "rmsprop": (1e-4, 1e-2),
    "adagrad": (1e-3, 1e-1),
    "adadelta": (1e-1, 10.0),
    "lion": (1e-5, 1e-3),  # 3 to 10 times below Adam's
    "lamb": (1e-4, 3e-2),
    "muon": (1e-4, 3e-2),
}
MUON_ORIGINAL = 20.0  # times the lr, where its steps are not scaled to Adam's
REFERENCE = 128  # the batch of the ranges, and of the default lr
FAR_HIGH, FAR_LOW = 3.2, 0.1  # × the range: a mistake, no longer a matter of taste
SCHEDULE_FREE = 10.0  # times the lr that it takes (Defazio et al. 2024, section 4)
LARGE_BATCH = 1024  # 8 times REFERENCE

ADAM_DEFAULT = 1e-3
FINE_TUNING = 1e-4  # the notes' most for weights that were trained before
# Above that, what is harmful by the family: SGD's steps are smaller at the same lr.
FINE_TUNING_FAR = {"adam": 3.2e-4, "sgd": 1e-2}

MOMENTUM = (0.5, 0.9)  # the notes'
MOMENTUM_FAR = 0.99

SHRINKING = ("rmsprop", "adagrad", "adadelta")  # adaptive, but coupled decay is what their recipes have
STRONG, FELT = 10.0, 30.0  # the notes have weight decay 2 to 3 orders below lr: here one order, and one and a half
HARMLESS_DECAY = 1e-3  # an L2 penalty up to here is no mistake at any lr
DECOUPLED_LARGE = 0.3  # AdamW takes 0.01 to 0.1, vision transformers up to 0.3
FASTEST_SHRINKING = 1e-2  # of the weights in one update; they forget within 100
UNFELT = 1e-3  # of the weights in the whole run


def _batch_factor(f: Facts) -> float:
    """By what the lr moves with the batch, as `optimizer.reference_batch` has it."""
    ratio = (f.batch_size or REFERENCE) / REFERENCE
    return ratio if f.family == "sgd" else math.sqrt(ratio)


def _range(f: Facts) -> tuple[float, float] | None:
    if f.optimizer not in LR or not known(f.lr, f.default_lr, f.batch_size, f.family, f.averaging):
        return None
    if f.optimizer == "sgd" and f.momentum is None:
        return None
    low, high = LR[f.optimizer]
    if f.muon_adjust == "original":
        low, high = low * MUON_ORIGINAL, high * MUON_ORIGINAL
    if f.averaging == "schedule_free":
        high *= SCHEDULE_FREE
    return low * min(1.0, _batch_factor(f)), high * max(1.0, _batch_factor(f))


def _in_force(f: Facts) -> str:
    """The lr that counts, and what was given for it where that is another."""
    same = not f.lr_given or f.lr is None or math.isclose(f.lr, f.lr_given, rel_tol=1e-3)
    return f"{f.lr:g}" if same else f"{f.lr:g} ({f.lr_given:g} with the factors of batch, group and lr_scale)"


def lr_high(f: Facts) -> Said | None:
    """The peak lr is above the sensible range of its optimizer."""
    bounds = _range(f)
    if bounds is None or f.lr is None:
        return None
    low, high = bounds
    # What counts is how far a gradient moves weights in all: lr / (1 − momentum), here beside a momentum of 0.9.
    felt = f.lr * 0.1 / (1 - f.momentum) if f.momentum is not None else f.lr
    if felt <= high * 1.0001:
        return None
    at = f" at momentum {f.momentum:g}" if f.momentum is not None else ""
    text = (
        f"{_in_force(f)}{at} is above what {f.optimizer} takes at batch {f.batch_size}, {low:.2g} to {high:.2g}; "
        f"lower it to {f.default_lr:g} or run `jtrain ladder`"
    )
    return warning("optimizer.lr", text) if felt > high * FAR_HIGH else info("optimizer.lr", text)


def lr_low(f: Facts) -> Said | None:
    """The peak lr is below the sensible range of its optimizer, in training from scratch."""
    bounds = _range(f)
    if bounds is None or f.lr is None or f.starts is not False:
        return None
    low, high = bounds
    felt = max(f.lr, f.lr * 0.1 / (1 - f.momentum)) if f.momentum is not None else f.lr
    if felt >= low * 0.9999:
        return None
    text = (
        f"{_in_force(f)} is below what {f.optimizer} takes at batch {f.batch_size}, {low:.2g} to {high:.2g}; "
        f"raise it to {f.default_lr:g} or run `jtrain ladder`"
    )
    return warning("optimizer.lr", text) if felt < low * FAR_LOW else info("optimizer.lr", text)


def lr_of_adam(f: Facts) -> Said | None:
    """The lr is 1e-3, Adam's default, under an optimizer whose own is another by 10 times or more."""
    if f.optimizer not in LR or f.starts is not False or f.default_lr is None or f.lr_given != ADAM_DEFAULT:
        return None
    if 0.11 < f.default_lr / ADAM_DEFAULT < 9.9:
        return None
    return info(
        "optimizer.lr",
        f"1e-3 is the default of Adam, that of {f.optimizer} is {f.default_lr:g}; --config.optimizer.lr=0 takes it",
    )


def batch_without_lr(f: Facts) -> Said | None:
    """A large batch with the lr left at the optimizer's default, which is for small ones."""
    if not known(f.lr_given, f.reference_batch, f.batch_size, f.default_lr) or f.starts is not False:
        return None
    if f.lr_given or f.reference_batch or (f.batch_size or 0) < LARGE_BATCH:
        return None
    text = (
        f"the default lr {f.default_lr:g} is for batches of about {REFERENCE}, this one has {f.batch_size} examples; "
        f"set optimizer.reference_batch to {REFERENCE} (lr × {_batch_factor(f):.2g}), or run `jtrain ladder`"
    )
    return warning("optimizer.lr", text) if f.family == "sgd" else info("optimizer.lr", text)


def fine_tuning_lr(f: Facts) -> Said | None:
    """Weights that were trained before are trained on at more than 1e-4."""
    if f.loaded_lr is None or f.family is None or f.loaded_lr <= FINE_TUNING * 1.0001:
        return None
    text = (
        f"layers that come trained get {f.loaded_lr:g}, fine-tuning takes {FINE_TUNING:g} or less; lower it "
        "(0 is 1e-4), or give these layers a smaller multiplier in `groups`, None to freeze them"
    )
    far = f.loaded_lr > FINE_TUNING_FAR[f.family]
    return warning("optimizer.lr", text) if far else info("optimizer.lr", text)


def momentum(f: Facts) -> Said | None:
    """The momentum of SGD is outside 0.5 to 0.9."""
    if f.momentum is None or f.averaging in (None, "schedule_free"):
        return None
    low, high = MOMENTUM
    key = "optimizer.sgd.momentum"
    if f.momentum > MOMENTUM_FAR + 1e-9:
        memory = 1 / (1 - f.momentum)
        return warning(key, f"{f.momentum:g} averages over {memory:,.0f} updates and overshoots; set it to {high:g}")
    if f.momentum > high + 1e-9:
        return info(key, f"{f.momentum:g} is above the usual {low:g} to {high:g}; it wants a smaller lr")
    if f.momentum < low - 1e-9:
        return info(key, f"{f.momentum:g} is below the usual {low:g} to {high:g}; {high:g} mostly trains faster")
    return None


def betas(f: Facts) -> Said | None:
    """The mean of gradients remembers longer than that of their squares: b1 above b2."""
    if f.betas is None or f.betas[0] <= f.betas[1]:
        return None
    b1, b2 = f.betas
    return warning(f"optimizer.{f.optimizer}.b1", f"b1 {b1:g} is above b2 {b2:g}; usual are 0.9 and 0.99 to 0.999")


def coupled_decay(f: Facts) -> Said | None:
    """Coupled weight decay (an L2 penalty) with an optimizer that divides by the size of the gradient."""
    if f.decay != "coupled" or f.family != "adam" or not f.weight_decay:
        return None
    key = f"optimizer.{f.optimizer}.decay"
    text = (
        f"weight decay {f.weight_decay:g} is added to the gradient, which {f.optimizer} then scales away; set "
        f"{key}='decoupled'" + (" (or optimizer.name='adamw')" if f.optimizer == "adam" else "")
    )
    return info(key, text) if f.optimizer in SHRINKING else warning(key, text)


def decay_strong(f: Facts) -> Said | None:
    """Weight decay is not well below the lr, by what its kind shrinks weights in one update."""
    if not known(f.weight_decay, f.lr, f.decay) or not f.weight_decay or not f.lr or f.starts is not False:
        return None
    wd, lr = f.weight_decay, f.lr
    key = f"optimizer.{f.optimizer}.weight_decay"
    if f.decay == "coupled":
        # An L2 penalty: the notes' 2 to 3 orders below lr. Adam scales it away, which is another rule's.
        if f.family != "sgd" or wd <= lr / FELT or wd <= HARMLESS_DECAY / 10:
            return None
        text = f"{wd:g} (coupled) is only {lr / wd:.2g} times below the lr {lr:g}; take 2 to 3 orders: {lr / 300:.1g}"
        return warning(key, text) if wd > lr / STRONG and wd > HARMLESS_DECAY else info(key, text)
    if f.decay == "independent":
        # Per update wd itself, whatever the lr; AdamW's 0.01 to 0.1 × lr is 1 to 2 orders below the lr.
        if wd <= lr / STRONG * 1.0001:
            return None
        text = f"{wd:g} (independent of lr) shrinks weights by that in each update, at lr {lr:g}; take {lr / 100:.1g}"
        return warning(key, text) if wd > lr / 3 else info(key, text)
    shrinks = lr * wd
    if shrinks <= FASTEST_SHRINKING and (wd <= DECOUPLED_LARGE or f.optimizer == "lion"):
        return None
    text = f"{wd:g} (decoupled, × lr {lr:g}) forgets weights within {1 / shrinks:,.0f} updates; take 0.01 to 0.1"
    return warning(key, text) if shrinks > FASTEST_SHRINKING else info(key, text)


def decay_unfelt(f: Facts) -> Said | None:
    """A weight decay that was set shrinks weights by less than 0.1 % in the whole run."""
    if not known(f.weight_decay, f.decay, f.total, f.family) or not f.decay_set or not f.weight_decay:
        return None
    if f.decay == "independent":
        shrinks: float | None = f.weight_decay * (f.total or 0)
    else:
        faster = 1 / (1 - f.momentum) if f.decay == "coupled" and f.momentum is not None else 1.0
        shrinks = f.summed_lr * f.weight_decay * faster if f.summed_lr is not None else None
    if shrinks is None or shrinks >= UNFELT or (f.decay == "coupled" and f.family == "adam"):
        return None
    return info(
        f"optimizer.{f.optimizer}.weight_decay",
        f"{f.weight_decay:g} ({f.decay}{', × lr' if f.decay != 'independent' else ''}) shrinks weights by "
        f"{shrinks:.2%} in all {f.total:,} updates: that is none; raise it"
        + (" to 0.01 or 0.1" if f.decay == "decoupled" else "")
        + ", or set it to 0",
    )
