"""Part 1 of the corpus of faulty runs, by which the thresholds of `diagnose` were set: what is done to which task, and
which names are right for it. Written before the runs were made.

Two names are right where both are so by construction: a net that is large enough to learn wrong labels by heart
overfits them (label_noise, overfitting); an lr that is several times (above 3) that of the recipe and never falls is
too high and stays so (lr_too_high, plateau_early). A verdict is right when its name is one of them.
"""

import dataclasses
from typing import Any

HEALTHY = "healthy"


@dataclasses.dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
      name: of its file.
      task: in `fault_tasks.TASKS`.
      fault: 'healthy', or what is injected, see `fault_corpus.INJECT`.
      strength: of the fault.
      names: the right ones; () for a healthy run.
      changes: of the recipe, for this run alone.
    """

    name: str
    task: str
    fault: str
    strength: float
    names: tuple[str, ...]
    changes: dict[str, Any]


# fault -> the names that are right for it, unless a case says otherwise
RIGHT: dict[str, tuple[str, ...]] = {
    HEALTHY: (),
    "lr_high": ("lr_too_high",),
    "lr_low": ("lr_too_low",),
    "late_lr": ("plateau_early",),
    "no_shuffle": ("not_shuffled",),
    "tiny_data": ("overfitting",),
    "frozen": ("not_learning",),
    "dead": ("not_learning",),
    "label_noise": ("label_noise",),
    "spikes": ("spikes",),
    "wrong_metric": ("wrong_metric",),
}
_SMALL: dict[str, Any] = {"model.mlp.features": (16,)}
_WIDE: dict[str, Any] = {"model.mlp.features": (256, 256), "model.mlp.dropout": 0.0}
_LEARNT = ("label_noise", "overfitting")
BOTH = ("lr_too_high", "plateau_early")

# (task, fault, strength, changes of the recipe[, right names])
_ROWS: tuple[tuple[Any, ...], ...] = (
    # Healthy: the recipes with three seeds …
    *((task, HEALTHY, 0, {"seed": seed}) for task in (
        "digits_cnn", "digits_mlp", "diabetes", "shapes", "clusters", "spirals", "teacher", "waves", "charlm",
        "autoencoder",
    ) for seed in (0, 1, 2)),
    # … and other optimizers, schedules, regularisers and log intervals.
    ("digits_cnn", HEALTHY, 0, {"log.every": "1steps", "schedule.name": "one_cycle", "schedule.warmup": "0"}),
    ("digits_cnn", HEALTHY, 0, {"optimizer.name": "sgd", "optimizer.lr": 0.1, "log.every": "20steps"}),
    ("digits_cnn", HEALTHY, 0, {"augment": "pad_crop(1)", "model.cnn.dropout": 0.3, "train.total": "400steps"}),
    ("digits_cnn", HEALTHY, 0, {"augment": "mixup", "train.total": "300steps"}),
    ("digits_cnn", HEALTHY, 0, {"ema.decay": 0.9, "loss.name": "cross_entropy",
                                "loss.cross_entropy.label_smoothing": 0.1}),
    ("digits_mlp", HEALTHY, 0, {"model.mlp.dropout": 0.5, "log.every": "1steps"}),
    ("digits_mlp", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 1e-3, "schedule.name": "constant",
                                "train.total": "600steps", "log.every": "60steps"}),
    ("digits_mlp", HEALTHY, 0, {"optimizer.name": "rmsprop", "optimizer.lr": 1e-3, "schedule.name": "exponential"}),
    ("diabetes", HEALTHY, 0, {"log.every": "1steps", "schedule.name": "linear"}),
    ("diabetes", HEALTHY, 0, {"loss.name": "huber", "optimizer.name": "adam", "log.every": "40steps"}),
    ("shapes", HEALTHY, 0, {"schedule.name": "wsd", "optimizer.lr": 2e-2, "log.every": "5steps"}),
    ("clusters", HEALTHY, 0, {"model.mlp.dropout": 0.3, "log.every": "30steps"}),
    ("clusters", HEALTHY, 0, {"optimizer.lr": 0.01, "schedule.name": "constant", "log.every": "1steps"}),
    ("clusters", HEALTHY, 0, {"optimizer.name": "lion", "optimizer.lr": 3e-3, "schedule.name": "cosine"}),
    ("spirals", HEALTHY, 0, {"optimizer.name": "adam", "schedule.name": "step", "train.batch_size": 16}),
    ("spirals", HEALTHY, 0, {"schedule.name": "cosine_restarts", "log.every": "5steps"}),
    ("teacher", HEALTHY, 0, {"optimizer.name": "sgd", "optimizer.lr": 0.05, "log.every": "1steps"}),
    ("teacher", HEALTHY, 0, {"optimizer.lr": 1e-2, "schedule.name": "constant", "log.every": "40steps"}),
    ("waves", HEALTHY, 0, {"log.every": "50steps", "schedule.name": "one_cycle", "schedule.warmup": "0"}),
    ("charlm", HEALTHY, 0, {"schedule.name": "linear", "log.every": "1steps", "train.total": "300steps"}),
    ("autoencoder", HEALTHY, 0, {"schedule.name": "constant", "optimizer.lr": 5e-3, "log.every": "40steps"}),
    # The lr thirty times too high, ten times and a hundred times.
    *((task, "lr_high", 30, {}) for task in (
        "digits_cnn", "digits_mlp", "diabetes", "shapes", "clusters", "spirals", "teacher", "waves", "charlm",
        "autoencoder",
    )),
    ("digits_cnn", "lr_high", 100, {"log.every": "1steps"}),
    ("digits_mlp", "lr_high", 10, {"log.every": "1steps"}),
    ("clusters", "lr_high", 100, {}),
    ("spirals", "lr_high", 100, {"log.every": "50steps"}),
    ("teacher", "lr_high", 100, {"log.every": "1steps"}),
    ("charlm", "lr_high", 10, {"log.every": "1steps"}),
    ("digits_mlp", "lr_high", 30, {"schedule.name": "constant"}, BOTH),
    # The lr a hundred times too low.
    *((task, "lr_low", 100, {}) for task in (
        "digits_cnn", "digits_mlp", "diabetes", "shapes", "clusters", "spirals", "teacher", "waves", "charlm",
        "autoencoder",
    )),
    ("digits_cnn", "lr_low", 30, {"log.every": "1steps"}),
    ("clusters", "lr_low", 100, {"log.every": "30steps", "schedule.name": "constant"}),
    ("teacher", "lr_low", 30, {"log.every": "1steps"}),
    ("spirals", "lr_low", 100, {"schedule.name": "constant", "log.every": "50steps"}),
    # The lr stays high to the end.
    ("digits_cnn", "late_lr", 6, {"train.total": "300steps"}),
    ("digits_mlp", "late_lr", 4, {"model.mlp.dropout": 0.0}),
    ("diabetes", "late_lr", 10, {"train.total": "600steps"}),
    ("shapes", "late_lr", 3, {}),
    ("clusters", "late_lr", 4, {}),
    ("clusters", "late_lr", 8, {"log.every": "1steps"}),
    ("spirals", "late_lr", 4, {}),
    ("spirals", "late_lr", 8, {"log.every": "50steps"}),
    ("teacher", "late_lr", 4, {}),
    ("teacher", "late_lr", 8, {"log.every": "5steps"}),
    ("waves", "late_lr", 3, {}),
    ("waves", "late_lr", 6, {"log.every": "25steps"}),
    ("charlm", "late_lr", 3, {}),
    ("autoencoder", "late_lr", 4, {}),
    ("autoencoder", "late_lr", 8, {}),
    # Not shuffled, and sorted.
    ("digits_cnn", "no_shuffle", 1, {}),
    ("digits_mlp", "no_shuffle", 1, {"log.every": "2steps"}),
    ("diabetes", "no_shuffle", 1, {"log.every": "1steps"}),
    ("shapes", "no_shuffle", 1, {"log.every": "5steps"}),
    ("clusters", "no_shuffle", 1, {}),
    ("spirals", "no_shuffle", 1, {"log.every": "3steps"}),
    ("teacher", "no_shuffle", 1, {"log.every": "4steps"}),
    ("waves", "no_shuffle", 1, {}),
    # Few examples.
    ("digits_cnn", "tiny_data", 40, {"train.total": "400steps"}),
    ("digits_mlp", "tiny_data", 60, {"model.mlp.dropout": 0.0}),
    ("diabetes", "tiny_data", 30, {"model.mlp.dropout": 0.0}),
    ("diabetes", "tiny_data", 60, _WIDE),
    ("shapes", "tiny_data", 100, {}),
    ("clusters", "tiny_data", 40, {"model.mlp.features": (128,), "log.every": "1steps"}),
    ("spirals", "tiny_data", 40, {}),
    ("teacher", "tiny_data", 60, {"log.every": "1steps"}),
    ("waves", "tiny_data", 16, {}),
    ("charlm", "tiny_data", 40, {}),
    # Nothing moves: an lr of nothing, a network that is dead, all but one bias frozen.
    ("digits_mlp", "frozen", 1e-7, {}),
    ("shapes", "frozen", 1e-7, {"log.every": "1steps"}),
    ("teacher", "frozen", 1e-7, {}),
    ("charlm", "frozen", 1e-7, {"train.total": "200steps"}),
    ("autoencoder", "frozen", 1e-7, {"log.every": "40steps"}),
    ("digits_mlp", "dead", 1e-6, {"log.every": "1steps"}),
    ("clusters", "dead", 1e-6, {"model.mlp.features": (32, 32, 32)}),
    ("waves", "dead", 1e-6, {"model.mlp.features": (32, 32, 32, 32)}),
    # Wrong labels, learnt by heart or not; those of validation right, or as wrong.
    ("digits_cnn", "label_noise", 0.4, {"train.total": "300steps"}),
    ("digits_mlp", "label_noise", 0.3, {}),
    ("digits_mlp", "label_noise", 0.5, {"log.every": "1steps"}),
    ("digits_mlp", "label_noise", 0.4, _WIDE | {"train.total": "900steps"}, _LEARNT),
    ("shapes", "label_noise", 0.4, {}),
    ("clusters", "label_noise", 0.3, {}),
    ("clusters", "label_noise", 0.5, _WIDE | {"train.total": "800steps"}, _LEARNT),
    ("spirals", "label_noise", 0.4, {}),
    ("spirals", "label_noise", 0.3, _SMALL),
    # Batches of broken examples now and then.
    ("digits_cnn", "spikes", 30, {}),
    ("digits_mlp", "spikes", 30, {"log.every": "5steps"}),
    ("diabetes", "spikes", 20, {"log.every": "4steps"}),
    ("shapes", "spikes", 30, {"log.every": "7steps"}),
    ("clusters", "spikes", 20, {"log.every": "1steps"}),
    ("spirals", "spikes", 30, {}),
    ("teacher", "spikes", 20, {"log.every": "10steps"}),
    ("waves", "spikes", 20, {}),
    # The watched metric chosen the wrong way round.
    ("digits_cnn", "wrong_metric", 1, {}),
    ("digits_mlp", "wrong_metric", 1, {}),
    ("diabetes", "wrong_metric", 1, {}),
    ("clusters", "wrong_metric", 1, {"early_stopping.metric": "val/accuracy", "early_stopping.patience": 4}),
    ("spirals", "wrong_metric", 1, {}),
    ("teacher", "wrong_metric", 1, {"log.every": "40steps"}),
    ("autoencoder", "wrong_metric", 1, {}),
    # Healthy, added with the line probe, before a threshold was set on it: nets with batch norm and an lr that stays.
    ("digits_cnn", HEALTHY, 0, {"optimizer.lr": 5e-3, "schedule.name": "constant"}),
    ("digits_cnn", HEALTHY, 0, {"optimizer.name": "sgd", "optimizer.lr": 0.02, "schedule.name": "constant"}),
    ("shapes", HEALTHY, 0, {"optimizer.lr": 1e-2, "schedule.name": "constant"}),
    ("shapes", HEALTHY, 0, {"optimizer.name": "sgd", "optimizer.lr": 0.02, "schedule.name": "constant",
                            "log.every": "7steps"}),
    ("charlm", HEALTHY, 0, {"optimizer.lr": 5e-3, "schedule.name": "constant"}),
    ("clusters", HEALTHY, 0, {"optimizer.lr": 0.0125, "schedule.name": "constant", "train.batch_size": 16}),
)  # fmt: skip


def numbered(rows: tuple[tuple[Any, ...], ...]) -> list[Case]:
    """The cases of a table, each with a name of its own. Of a row without right names the usual ones are right; both of
    an lr that stays high and is above 3 times that of the recipe."""
    found = []
    for number, (task, fault, strength, changes, *names) in enumerate(rows):
        right = names[0] if names else BOTH if fault == "late_lr" and strength > 3 else RIGHT[fault]
        found.append(Case(f"{number:03d}-{task}-{fault}", task, fault, float(strength), right, changes))
    return found


def cases() -> list[Case]:
    """All runs of part 1, each with a name of its own."""
    return numbered(_ROWS)
