"""Part 4 of the corpus of faulty runs, by which `diagnose` is judged after it was mended with parts 1 to 3 in sight:
tasks, models and strengths of faults that those do not hold. Written after the thresholds were committed, without a
look at them or at any verdict, and before any of its runs; healthy recipes and variants were tuned by their test error
alone.

The conventions are those of parts 2 and 3, those for two right names among them.
"""

from typing import Any

from fault_cases import BOTH, HEALTHY, Case, numbered

_LEARNT = ("label_noise", "overfitting")
_BIAS_ALONE: dict[str, Any] = {"groups": (("head/bias", 1.0), (".*", None))}
_TASKS = (
    "swiss_mlp", "checker_mlp", "logic_mlp", "products_highway", "majority_gru", "brackets_lstm", "marks_cnn",
    "bars_cnn", "turned_wide", "animals_resnet", "digits_denoise", "turtle_gru",
)  # fmt: skip

# (task, fault, strength, changes of the recipe[, right names])
_ROWS: tuple[tuple[Any, ...], ...] = (
    # Healthy: the recipes with two seeds …
    *((task, HEALTHY, 0, {"seed": seed}) for task in _TASKS for seed in (7, 8)),
    # … and other optimizers, schedules, regularisers, lengths, batches and log intervals.
    ("swiss_mlp", HEALTHY, 0, {"optimizer.name": "adam", "optimizer.lr": 2e-2, "schedule.name": "cosine",
                               "log.every": "1steps"}),
    ("swiss_mlp", HEALTHY, 0, {"optimizer.lr": 7.5e-3, "schedule.name": "constant", "train.total": "1000steps",
                               "plateau.metric": "val/loss", "plateau.patience": 4, "plateau.factor": 0.5,
                               "log.every": "22steps"}),
    ("checker_mlp", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 2e-2, "schedule.name": "linear",
                                 "ema.decay": 0.95, "log.every": "1steps"}),
    ("checker_mlp", HEALTHY, 0, {"optimizer.lr": 1e-2, "schedule.name": "constant", "train.total": "1100steps",
                                 "log.every": "28steps"}),
    ("logic_mlp", HEALTHY, 0, {"model.mlp.dropout": 0.3, "schedule.name": "cosine", "loss.name": "cross_entropy",
                               "loss.cross_entropy.label_smoothing": 0.1, "train.total": "480steps"}),
    ("logic_mlp", HEALTHY, 0, {"optimizer.name": "adam", "optimizer.lr": 2e-2, "schedule.name": "one_cycle",
                               "train.batch_size": 84, "log.every": "1steps"}),
    ("logic_mlp", HEALTHY, 0, {"augment": "mixup", "train.total": "600steps", "log.every": "20steps"}),
    ("products_highway", HEALTHY, 0, {"optimizer.name": "adamax", "schedule.name": "linear", "log.every": "1steps"}),
    ("products_highway", HEALTHY, 0, {"optimizer.lr": 1e-2, "schedule.name": "constant", "ema.decay": 0.95,
                                      "train.total": "800steps", "log.every": "24steps"}),
    ("majority_gru", HEALTHY, 0, {"optimizer.name": "adamw", "schedule.name": "cosine", "model.gru.dropout": 0.1,
                                  "log.every": "1steps"}),
    ("majority_gru", HEALTHY, 0, {"optimizer.name": "adamw", "schedule.name": "polynomial",
                                  "schedule.polynomial.power": 1.5, "model.gru.dropout": 0.2,
                                  "train.total": "500steps", "log.every": "20steps"}),
    ("brackets_lstm", HEALTHY, 0, {"optimizer.name": "adam", "schedule.name": "one_cycle", "log.every": "1steps"}),
    ("brackets_lstm", HEALTHY, 0, {"optimizer.lr": 5e-3, "schedule.name": "constant", "train.total": "700steps",
                                   "log.every": "21steps"}),
    ("marks_cnn", HEALTHY, 0, {"optimizer.name": "adam", "optimizer.lr": 3e-3, "schedule.name": "cosine",
                               "augment": "pad_crop(1)", "train.total": "600steps"}),
    ("marks_cnn", HEALTHY, 0, {"optimizer.lr": 0.0125, "schedule.name": "constant", "augment": "pad_crop(1)",
                              "train.total": "900steps", "log.every": "15steps"}),
    ("bars_cnn", HEALTHY, 0, {"loss.name": "huber", "optimizer.name": "sgd", "optimizer.lr": 0.02,
                              "schedule.name": "multistep", "log.every": "1steps"}),
    ("bars_cnn", HEALTHY, 0, {"optimizer.lr": 2.5e-3, "schedule.name": "constant", "train.total": "420steps",
                              "log.every": "16steps"}),
    ("turned_wide", HEALTHY, 0, {"schedule.name": "cosine", "schedule.warmup": "5%", "ema.decay": 0.9,
                                 "train.batch_size": 64, "log.every": "1steps"}),
    ("turned_wide", HEALTHY, 0, {"optimizer.name": "adam", "optimizer.lr": 1e-2, "schedule.name": "cosine",
                                 "loss.name": "cross_entropy", "loss.cross_entropy.label_smoothing": 0.1,
                                 "log.every": "20steps"}),
    ("animals_resnet", HEALTHY, 0, {"augment": "pad_crop(1)|flip_lr", "schedule.name": "cosine",
                                    "train.total": "320steps"}),
    ("animals_resnet", HEALTHY, 0, {"optimizer.name": "sgd", "optimizer.lr": 0.05, "schedule.name": "one_cycle",
                                    "train.total": "300steps", "log.every": "12steps"}),
    ("animals_resnet", HEALTHY, 0, {"augment": "flip_lr|mixup", "schedule.name": "cosine",
                                    "train.total": "360steps", "log.every": "12steps"}),
    ("digits_denoise", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 1e-2, "schedule.name": "cosine",
                                    "log.every": "2steps"}),
    ("digits_denoise", HEALTHY, 0, {"optimizer.lr": 1e-3, "schedule.name": "constant", "train.total": "800steps",
                                    "log.every": "19steps"}),
    ("turtle_gru", HEALTHY, 0, {"optimizer.name": "adam", "schedule.name": "cosine", "schedule.warmup": "5%",
                                "log.every": "1steps"}),
    ("turtle_gru", HEALTHY, 0, {"model.gru.dropout": 0.05, "schedule.name": "linear", "train.total": "560steps"}),
    # The lr too high.
    ("swiss_mlp", "lr_high", 50, {}),
    ("checker_mlp", "lr_high", 25, {}),
    ("checker_mlp", "lr_high", 120, {"log.every": "1steps"}),
    ("logic_mlp", "lr_high", 25, {"log.every": "10steps"}),
    ("logic_mlp", "lr_high", 120, {"schedule.name": "constant", "log.every": "1steps"}, BOTH),
    ("products_highway", "lr_high", 50, {}),
    ("majority_gru", "lr_high", 25, {}),
    ("majority_gru", "lr_high", 120, {"log.every": "1steps"}),
    ("brackets_lstm", "lr_high", 50, {}),
    ("marks_cnn", "lr_high", 25, {}),
    ("bars_cnn", "lr_high", 120, {}),
    ("turned_wide", "lr_high", 50, {}),
    ("animals_resnet", "lr_high", 50, {}),
    ("animals_resnet", "lr_high", 120, {"log.every": "1steps"}),
    ("digits_denoise", "lr_high", 50, {}),
    ("turtle_gru", "lr_high", 25, {}),
    # The lr too low.
    *((task, "lr_low", factor, {}) for task, factor in (
        ("swiss_mlp", 80), ("checker_mlp", 120), ("logic_mlp", 80), ("products_highway", 250), ("majority_gru", 80),
        ("brackets_lstm", 120), ("marks_cnn", 40), ("bars_cnn", 250), ("turned_wide", 120), ("digits_denoise", 120),
    )),
    ("animals_resnet", "lr_low", 250, {"log.every": "1steps"}),
    ("turtle_gru", "lr_low", 40, {"log.every": "33steps"}),
    # The lr stays high to the end.
    ("swiss_mlp", "late_lr", 4.5, {}),
    ("checker_mlp", "late_lr", 2.7, {}),
    ("checker_mlp", "late_lr", 8, {}),
    ("logic_mlp", "late_lr", 15, {"log.every": "2steps"}),
    ("products_highway", "late_lr", 8, {}),
    ("majority_gru", "late_lr", 4.5, {}),
    ("brackets_lstm", "late_lr", 8, {}),
    ("marks_cnn", "late_lr", 4.5, {}),
    ("bars_cnn", "late_lr", 8, {}),
    ("turned_wide", "late_lr", 15, {}),
    ("animals_resnet", "late_lr", 4.5, {"log.every": "1steps"}),
    ("digits_denoise", "late_lr", 4.5, {}),
    ("turtle_gru", "late_lr", 4.5, {}),
    # Not shuffled, and sorted.
    ("swiss_mlp", "no_shuffle", 1, {}),
    ("checker_mlp", "no_shuffle", 1, {"log.every": "7steps"}),
    ("logic_mlp", "no_shuffle", 1, {}),
    ("products_highway", "no_shuffle", 1, {"log.every": "6steps"}),
    ("marks_cnn", "no_shuffle", 1, {}),
    ("bars_cnn", "no_shuffle", 1, {}),
    ("turned_wide", "no_shuffle", 1, {"log.every": "8steps"}),
    # Few examples.
    ("swiss_mlp", "tiny_data", 28, {}),
    ("checker_mlp", "tiny_data", 55, {}),
    ("logic_mlp", "tiny_data", 90, {"model.mlp.dropout": 0.0}),
    ("products_highway", "tiny_data", 65, {"log.every": "4steps"}),
    ("majority_gru", "tiny_data", 90, {}),
    ("marks_cnn", "tiny_data", 55, {}),
    ("bars_cnn", "tiny_data", 90, {"log.every": "2steps"}),
    ("turned_wide", "tiny_data", 65, {}),
    ("animals_resnet", "tiny_data", 160, {}),
    ("digits_denoise", "tiny_data", 22, {}),
    ("turtle_gru", "tiny_data", 28, {}),
    # Nothing moves: an lr of nothing, all but the last bias frozen, a network that is dead.
    ("checker_mlp", "frozen", 3e-7, {}),
    ("turned_wide", "frozen", 1e-10, {"log.every": "1steps"}),
    ("digits_denoise", "frozen", 3e-7, {}),
    ("products_highway", "frozen", 1, _BIAS_ALONE),
    ("brackets_lstm", "frozen", 1, _BIAS_ALONE),
    ("checker_mlp", "dead", 3e-6, {"model.mlp.features": (64, 64, 64), "optimizer.name": "sgd",
                                   "optimizer.lr": 0.05}),
    ("logic_mlp", "dead", 3e-5, {"model.mlp.features": (80, 40, 40), "optimizer.name": "sgd", "optimizer.lr": 0.05,
                                 "log.every": "1steps"}),
    ("marks_cnn", "dead", 3e-6, {}),
    # Wrong labels in training; those of validation are right.
    ("checker_mlp", "label_noise", 0.28, {}),
    ("checker_mlp", "label_noise", 0.28, {"model.mlp.features": (256, 256), "train.total": "1200steps"}, _LEARNT),
    ("logic_mlp", "label_noise", 0.28, {}),
    ("logic_mlp", "label_noise", 0.5, {"log.every": "1steps"}),
    ("logic_mlp", "label_noise", 0.4, {"model.mlp.features": (256, 256), "model.mlp.dropout": 0.0,
                                       "train.total": "1000steps"}, _LEARNT),
    ("majority_gru", "label_noise", 0.5, {}),
    ("brackets_lstm", "label_noise", 0.28, {}),
    ("marks_cnn", "label_noise", 0.4, {}),
    ("marks_cnn", "label_noise", 0.28, {"model.cnn.features": (24, 48, 48), "train.total": "1000steps",
                                        "train.eval_every": "50steps"}, _LEARNT),
    ("turned_wide", "label_noise", 0.5, {}),
    ("animals_resnet", "label_noise", 0.28, {}),
    # Batches of broken examples now and then: more or fewer of them, more or less of each broken.
    ("swiss_mlp", "spikes", 35, {}),
    ("logic_mlp", "spikes", 20, {"log.every": "3steps"}),
    ("products_highway", "spikes", 80, {"spikes.every": 0.12, "log.every": "4steps"}),
    ("majority_gru", "spikes", 80, {}),
    ("brackets_lstm", "spikes", 20, {"spikes.part": 2}),
    ("bars_cnn", "spikes", 35, {"spikes.every": 0.22}),
    ("turned_wide", "spikes", 20, {"log.every": "3steps"}),
    ("animals_resnet", "spikes", 80, {"spikes.part": 6}),
    # The watched metric chosen the wrong way round.
    ("swiss_mlp", "wrong_metric", 1, {}),
    ("checker_mlp", "wrong_metric", 1, {}),
    ("logic_mlp", "wrong_metric", 1, {"log.every": "1steps"}),
    ("brackets_lstm", "wrong_metric", 1, {"early_stopping.metric": "val/accuracy", "early_stopping.patience": 6}),
    ("marks_cnn", "wrong_metric", 1, {}),
    ("animals_resnet", "wrong_metric", 1, {"log.every": "12steps"}),
    ("digits_denoise", "wrong_metric", 1, {}),
)  # fmt: skip


def cases() -> list[Case]:
    """All runs of part 4, each with a name of its own."""
    return numbered(_ROWS)
