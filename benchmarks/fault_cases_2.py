"""Part 2 of the corpus of faulty runs, by which `diagnose` is judged: tasks, models and strengths of faults that part 1
does not hold. Written after the thresholds were committed, without a look at them, and before any of its runs.

The conventions are those of part 1. Both names are right where both are so by construction: an lr above 3 times that of
the recipe that never falls is too high and stays so; a net with more than 5 parameters for each training example and 30
epochs learns wrong labels by heart. What docs/diagnose.md says cannot be seen is not asked for: runs that are not
shuffled log three or more rows an epoch. The recipe with a constant lr has a quarter of its lr, or less.
"""

from typing import Any

from fault_cases import BOTH, HEALTHY, Case, numbered

_LEARNT = ("label_noise", "overfitting")
_BIAS_ALONE: dict[str, Any] = {"groups": (("head/bias", 1.0), (".*", None))}
_TASKS = (
    "wine_mlp", "breast_mlp", "iris_mlp", "friedman_mlp", "arm_mlp", "informative_mlp", "rows_gru", "highway",
    "shapes_wide", "cifar_cnn", "denoise", "bytes_gru",
)  # fmt: skip

# (task, fault, strength, changes of the recipe[, right names])
_ROWS: tuple[tuple[Any, ...], ...] = (
    # Healthy: the recipes with two seeds …
    *((task, HEALTHY, 0, {"seed": seed}) for task in _TASKS for seed in (3, 4)),
    # … and other optimizers, schedules, regularisers, lengths, batches and log intervals.
    ("wine_mlp", HEALTHY, 0, {"optimizer.name": "sgd", "optimizer.lr": 0.05, "schedule.name": "linear",
                              "log.every": "1steps"}),
    ("wine_mlp", HEALTHY, 0, {"optimizer.lr": 2e-3, "schedule.name": "constant", "model.mlp.dropout": 0.3,
                              "train.total": "350steps"}),
    ("breast_mlp", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 3e-3, "schedule.name": "wsd",
                                "train.batch_size": 64, "log.every": "20steps"}),
    ("breast_mlp", HEALTHY, 0, {"schedule.name": "constant", "optimizer.lr": 0.01, "plateau.metric": "val/loss",
                                "plateau.patience": 3, "plateau.factor": 0.5}),
    ("iris_mlp", HEALTHY, 0, {"optimizer.name": "adamax", "log.every": "2steps"}),
    ("iris_mlp", HEALTHY, 0, {"optimizer.lr": 5e-3, "schedule.name": "constant", "train.total": "480steps",
                              "log.every": "1steps"}),
    ("friedman_mlp", HEALTHY, 0, {"optimizer.name": "rmsprop", "optimizer.lr": 5e-3, "schedule.name": "exponential",
                                  "log.every": "1steps"}),
    ("friedman_mlp", HEALTHY, 0, {"loss.name": "huber", "train.batch_size": 128, "schedule.name": "polynomial",
                                  "schedule.polynomial.power": 2.0}),
    ("arm_mlp", HEALTHY, 0, {"schedule.name": "constant", "optimizer.lr": 1e-2, "ema.decay": 0.95}),
    ("arm_mlp", HEALTHY, 0, {"optimizer.name": "lion", "optimizer.lr": 3e-3, "schedule.name": "wsd",
                             "log.every": "40steps"}),
    ("informative_mlp", HEALTHY, 0, {"augment": "mixup", "train.total": "600steps"}),
    ("informative_mlp", HEALTHY, 0, {"model.mlp.dropout": 0.3, "ema.decay": 0.9, "schedule.name": "cosine",
                                     "loss.name": "cross_entropy", "loss.cross_entropy.label_smoothing": 0.1}),
    ("informative_mlp", HEALTHY, 0, {"optimizer.name": "adam", "optimizer.lr": 2e-3, "schedule.name": "constant",
                                     "train.batch_size": 16, "train.total": "800steps", "log.every": "40steps"}),
    ("rows_gru", HEALTHY, 0, {"schedule.name": "one_cycle", "schedule.warmup": "0", "log.every": "1steps"}),
    ("highway", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 5e-3, "schedule.name": "cosine",
                             "train.batch_size": 128, "log.every": "20steps"}),
    ("shapes_wide", HEALTHY, 0, {"augment": "pad_crop(1)|flip_lr", "train.total": "480steps"}),
    ("shapes_wide", HEALTHY, 0, {"schedule.name": "multistep", "schedule.multistep.milestones": ("60%", "85%"),
                                 "log.every": "4steps"}),
    ("cifar_cnn", HEALTHY, 0, {"augment": "pad_crop(2)|flip_lr", "model.cnn.dropout": 0.2, "train.total": "480steps"}),
    ("cifar_cnn", HEALTHY, 0, {"optimizer.name": "sgd", "optimizer.lr": 0.1, "augment": "flip_lr|mixup",
                               "log.every": "20steps"}),
    ("denoise", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 3e-3, "schedule.name": "constant",
                             "log.every": "25steps"}),
    ("bytes_gru", HEALTHY, 0, {"model.gru.dropout": 0.1, "schedule.name": "linear", "log.every": "1steps"}),
    ("bytes_gru", HEALTHY, 0, {"schedule.name": "constant", "optimizer.lr": 5e-3, "train.total": "700steps"}),
    # The lr too high.
    ("wine_mlp", "lr_high", 60, {}),
    ("breast_mlp", "lr_high", 20, {}),
    ("iris_mlp", "lr_high", 60, {}),
    ("friedman_mlp", "lr_high", 20, {}),
    ("friedman_mlp", "lr_high", 200, {"log.every": "1steps"}),
    ("arm_mlp", "lr_high", 20, {}),
    ("informative_mlp", "lr_high", 20, {}),
    ("informative_mlp", "lr_high", 60, {"schedule.name": "constant", "log.every": "1steps"}, BOTH),
    ("rows_gru", "lr_high", 20, {}),
    ("rows_gru", "lr_high", 60, {"log.every": "1steps"}),
    ("highway", "lr_high", 20, {"log.every": "25steps"}),
    ("shapes_wide", "lr_high", 60, {}),
    ("cifar_cnn", "lr_high", 60, {}),
    ("cifar_cnn", "lr_high", 200, {"log.every": "1steps"}),
    ("denoise", "lr_high", 60, {}),
    ("bytes_gru", "lr_high", 20, {}),
    # The lr too low.
    *((task, "lr_low", factor, {}) for task, factor in (
        ("wine_mlp", 50), ("breast_mlp", 200), ("iris_mlp", 50), ("friedman_mlp", 50), ("arm_mlp", 200),
        ("informative_mlp", 50), ("rows_gru", 200), ("highway", 50), ("shapes_wide", 50), ("denoise", 200),
    )),
    ("cifar_cnn", "lr_low", 50, {"log.every": "1steps"}),
    ("bytes_gru", "lr_low", 50, {"log.every": "30steps"}),
    # The lr stays high to the end.
    ("wine_mlp", "late_lr", 12, {}),
    ("friedman_mlp", "late_lr", 5, {}),
    ("friedman_mlp", "late_lr", 12, {"log.every": "3steps"}),
    ("arm_mlp", "late_lr", 5, {}),
    ("informative_mlp", "late_lr", 2.5, {}),
    ("informative_mlp", "late_lr", 7, {}),
    ("rows_gru", "late_lr", 5, {}),
    ("highway", "late_lr", 7, {}),
    ("shapes_wide", "late_lr", 5, {}),
    ("cifar_cnn", "late_lr", 5, {}),
    ("cifar_cnn", "late_lr", 12, {"log.every": "1steps"}),
    ("denoise", "late_lr", 12, {}),
    ("bytes_gru", "late_lr", 5, {}),
    # Not shuffled, and sorted.
    ("wine_mlp", "no_shuffle", 1, {"log.every": "1steps"}),
    ("breast_mlp", "no_shuffle", 1, {"log.every": "2steps"}),
    ("friedman_mlp", "no_shuffle", 1, {"log.every": "5steps"}),
    ("arm_mlp", "no_shuffle", 1, {"log.every": "3steps"}),
    ("informative_mlp", "no_shuffle", 1, {"log.every": "5steps"}),
    ("rows_gru", "no_shuffle", 1, {"log.every": "5steps"}),
    ("shapes_wide", "no_shuffle", 1, {}),
    ("cifar_cnn", "no_shuffle", 1, {}),
    # Few examples.
    ("friedman_mlp", "tiny_data", 25, {}),
    ("friedman_mlp", "tiny_data", 50, {"log.every": "3steps"}),
    ("arm_mlp", "tiny_data", 50, {"log.every": "1steps"}),
    ("informative_mlp", "tiny_data", 25, {}),
    ("informative_mlp", "tiny_data", 80, {"model.mlp.dropout": 0.0}),
    ("rows_gru", "tiny_data", 50, {}),
    ("highway", "tiny_data", 80, {}),
    ("shapes_wide", "tiny_data", 80, {}),
    ("cifar_cnn", "tiny_data", 150, {}),
    ("denoise", "tiny_data", 20, {}),
    ("bytes_gru", "tiny_data", 20, {}),
    # Nothing moves: an lr of nothing, all but the last bias frozen, a network that is dead.
    ("informative_mlp", "frozen", 1e-9, {}),
    ("cifar_cnn", "frozen", 1e-6, {"log.every": "1steps"}),
    ("bytes_gru", "frozen", 1e-9, {}),
    ("friedman_mlp", "frozen", 1, _BIAS_ALONE),
    ("rows_gru", "frozen", 1, _BIAS_ALONE),
    ("wine_mlp", "dead", 1e-8, {"model.mlp.features": (32, 32, 32), "log.every": "1steps"}),
    ("arm_mlp", "dead", 1e-5, {"model.mlp.features": (64, 64, 64)}),
    ("informative_mlp", "dead", 1e-5, {"model.mlp.features": (48, 48, 48)}),
    # Wrong labels in training; those of validation are right.
    ("wine_mlp", "label_noise", 0.35, {}, _LEARNT),
    ("breast_mlp", "label_noise", 0.25, {}, _LEARNT),
    ("iris_mlp", "label_noise", 0.35, {}),
    ("informative_mlp", "label_noise", 0.25, {}),
    ("informative_mlp", "label_noise", 0.6, {"log.every": "1steps"}),
    ("informative_mlp", "label_noise", 0.35, {"model.mlp.features": (192, 192), "model.mlp.dropout": 0.0,
                                              "train.total": "900steps", "schedule.step.every": "180steps"}, _LEARNT),
    ("rows_gru", "label_noise", 0.6, {}),
    ("rows_gru", "label_noise", 0.25, {"train.total": "900steps", "train.eval_every": "60steps"}, _LEARNT),
    ("highway", "label_noise", 0.25, {"log.every": "5steps"}),
    ("shapes_wide", "label_noise", 0.6, {}),
    ("cifar_cnn", "label_noise", 0.6, {}),
    # Batches of broken examples now and then: more or fewer of them, more or less of each broken.
    ("wine_mlp", "spikes", 15, {"log.every": "2steps"}),
    ("breast_mlp", "spikes", 40, {}),
    ("friedman_mlp", "spikes", 50, {"spikes.every": 0.08}),
    ("arm_mlp", "spikes", 15, {"spikes.part": 2}),
    ("informative_mlp", "spikes", 12, {"log.every": "5steps", "spikes.every": 0.1}),
    ("rows_gru", "spikes", 50, {}),
    ("highway", "spikes", 60, {"spikes.every": 0.3, "log.every": "4steps"}),
    ("cifar_cnn", "spikes", 60, {"spikes.part": 8, "log.every": "4steps"}),
    # The watched metric chosen the wrong way round.
    ("wine_mlp", "wrong_metric", 1, {}),
    ("breast_mlp", "wrong_metric", 1, {"log.every": "1steps"}),
    ("friedman_mlp", "wrong_metric", 1, {}),
    ("rows_gru", "wrong_metric", 1, {"early_stopping.metric": "val/accuracy", "early_stopping.patience": 5}),
    ("shapes_wide", "wrong_metric", 1, {}),
    ("cifar_cnn", "wrong_metric", 1, {"log.every": "16steps"}),
    ("denoise", "wrong_metric", 1, {}),
)  # fmt: skip


def cases() -> list[Case]:
    """All runs of part 2, each with a name of its own."""
    return numbered(_ROWS)
