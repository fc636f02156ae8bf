"""Part 3 of the corpus of faulty runs, by which `diagnose` is judged after it was given the line probe: tasks, models
and strengths of faults that parts 1 and 2 do not hold. Written after the thresholds were committed, without a look at
them or at any verdict, and before any of its runs; healthy recipes and variants were tuned by their test error alone.

The conventions are those of part 2, those for two right names among them. A net that is dead from its start is trained
by sgd, since optimizers that divide a gradient by its own size can bring one back to life; a run of adagrad, whose
steps shrink by themselves, is not taken for one whose lr stays high.
"""

from typing import Any

from fault_cases import BOTH, HEALTHY, Case, numbered

_LEARNT = ("label_noise", "overfitting")
_BIAS_ALONE: dict[str, Any] = {"groups": (("head/bias", 1.0), (".*", None))}
_TASKS = (
    "moons_mlp", "quantiles_mlp", "many_mlp", "impedance_mlp", "outliers_mlp", "tones_lstm", "adding_gru",
    "stripes_cnn", "blobs_resnet", "cifar_fast", "curves_coder", "topics_lstm",
)  # fmt: skip

# (task, fault, strength, changes of the recipe[, right names])
_ROWS: tuple[tuple[Any, ...], ...] = (
    # Healthy: the recipes with two seeds …
    *((task, HEALTHY, 0, {"seed": seed}) for task in _TASKS for seed in (5, 6)),
    # … and other optimizers, schedules, regularisers, lengths, batches and log intervals.
    ("moons_mlp", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 2e-2, "schedule.name": "one_cycle",
                               "schedule.warmup": "0", "log.every": "1steps"}),
    ("moons_mlp", HEALTHY, 0, {"optimizer.lr": 0.025, "optimizer.sgd.nesterov": True, "schedule.name": "constant",
                               "train.total": "900steps", "log.every": "15steps"}),
    ("quantiles_mlp", HEALTHY, 0, {"optimizer.name": "adam", "schedule.name": "cosine", "ema.decay": 0.95,
                                   "log.every": "1steps"}),
    ("quantiles_mlp", HEALTHY, 0, {"optimizer.name": "adam", "optimizer.lr": 3.5e-3, "schedule.name": "constant",
                                   "train.total": "1100steps", "log.every": "26steps"}),
    ("many_mlp", HEALTHY, 0, {"augment": "mixup", "train.total": "600steps"}),
    ("many_mlp", HEALTHY, 0, {"model.mlp.dropout": 0.25, "schedule.name": "cosine", "loss.name": "cross_entropy",
                              "loss.cross_entropy.label_smoothing": 0.1, "train.total": "480steps"}),
    ("many_mlp", HEALTHY, 0, {"optimizer.lr": 0.03, "schedule.name": "constant", "train.batch_size": 32,
                              "train.total": "700steps", "log.every": "1steps"}),
    ("impedance_mlp", HEALTHY, 0, {"optimizer.name": "adam", "optimizer.lr": 1e-2, "schedule.name": "linear",
                                   "log.every": "1steps"}),
    ("impedance_mlp", HEALTHY, 0, {"loss.name": "huber", "optimizer.name": "sgd", "optimizer.lr": 0.06,
                                   "schedule.name": "multistep", "log.every": "42steps"}),
    ("outliers_mlp", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 2e-2, "schedule.name": "exponential",
                                  "schedule.exponential.gamma": 0.8, "log.every": "20steps"}),
    ("outliers_mlp", HEALTHY, 0, {"optimizer.lr": 1e-3, "schedule.name": "constant", "train.total": "600steps",
                                  "train.batch_size": 96}),
    ("tones_lstm", HEALTHY, 0, {"model.lstm.dropout": 0.1, "schedule.name": "cosine", "schedule.warmup": "5%",
                                "train.total": "480steps", "log.every": "1steps"}),
    ("tones_lstm", HEALTHY, 0, {"optimizer.lr": 5e-3, "schedule.name": "constant", "train.total": "800steps",
                                "plateau.metric": "val/loss", "plateau.patience": 4, "plateau.factor": 0.5}),
    ("adding_gru", HEALTHY, 0, {"optimizer.name": "rmsprop", "optimizer.lr": 5e-3, "schedule.name": "cosine",
                                "log.every": "1steps"}),
    ("adding_gru", HEALTHY, 0, {"optimizer.lr": 2.5e-3, "schedule.name": "constant", "ema.decay": 0.95,
                                "train.total": "900steps", "log.every": "30steps"}),
    ("stripes_cnn", HEALTHY, 0, {"augment": "pad_crop(1)", "model.cnn.dropout": 0.2, "train.total": "480steps"}),
    ("stripes_cnn", HEALTHY, 0, {"optimizer.name": "adam", "optimizer.lr": 1.5e-3, "schedule.name": "constant",
                                 "train.total": "400steps", "log.every": "16steps"}),
    ("blobs_resnet", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 1e-2, "schedule.name": "cosine",
                                  "log.every": "20steps"}),
    ("blobs_resnet", HEALTHY, 0, {"augment": "flip_lr|flip_ud", "optimizer.lr": 0.02, "schedule.name": "constant",
                                  "train.total": "400steps", "ema.decay": 0.95, "log.every": "4steps"}),
    ("cifar_fast", HEALTHY, 0, {"augment": "pad_crop(1)|flip_lr", "schedule.name": "one_cycle",
                                "schedule.warmup": "0", "train.total": "480steps"}),
    ("cifar_fast", HEALTHY, 0, {"optimizer.name": "sgd", "optimizer.lr": 0.2, "augment": "flip_lr|mixup",
                                "train.total": "480steps", "log.every": "1steps"}),
    ("curves_coder", HEALTHY, 0, {"optimizer.lr": 1e-2, "schedule.name": "constant", "train.total": "900steps",
                                  "log.every": "25steps"}),
    ("curves_coder", HEALTHY, 0, {"train.batch_size": 128, "schedule.name": "polynomial",
                                  "schedule.polynomial.power": 2.0, "log.every": "2steps"}),
    ("topics_lstm", HEALTHY, 0, {"optimizer.name": "adamw", "optimizer.lr": 1e-2, "schedule.name": "cosine",
                                 "schedule.warmup": "5%", "log.every": "1steps"}),
    ("topics_lstm", HEALTHY, 0, {"model.lstm.dropout": 0.05, "schedule.name": "wsd", "train.total": "600steps"}),
    # The lr too high.
    ("moons_mlp", "lr_high", 40, {}),
    ("quantiles_mlp", "lr_high", 15, {}),
    ("quantiles_mlp", "lr_high", 80, {"log.every": "1steps"}),
    ("many_mlp", "lr_high", 15, {"log.every": "12steps"}),
    ("many_mlp", "lr_high", 80, {"schedule.name": "constant", "log.every": "1steps"}, BOTH),
    ("impedance_mlp", "lr_high", 40, {}),
    ("outliers_mlp", "lr_high", 40, {}),
    ("tones_lstm", "lr_high", 15, {}),
    ("tones_lstm", "lr_high", 80, {"log.every": "1steps"}),
    ("adding_gru", "lr_high", 40, {}),
    ("stripes_cnn", "lr_high", 150, {}),
    ("blobs_resnet", "lr_high", 40, {}),
    ("cifar_fast", "lr_high", 40, {}),
    ("cifar_fast", "lr_high", 150, {"log.every": "1steps"}),
    ("curves_coder", "lr_high", 40, {}),
    ("topics_lstm", "lr_high", 15, {}),
    # The lr too low.
    *((task, "lr_low", factor, {}) for task, factor in (
        ("moons_mlp", 70), ("quantiles_mlp", 35), ("many_mlp", 150), ("impedance_mlp", 300), ("outliers_mlp", 70),
        ("tones_lstm", 70), ("adding_gru", 70), ("stripes_cnn", 150), ("blobs_resnet", 300), ("curves_coder", 150),
    )),
    ("cifar_fast", "lr_low", 70, {"log.every": "1steps"}),
    ("topics_lstm", "lr_low", 35, {"log.every": "30steps"}),
    # The lr stays high to the end.
    ("moons_mlp", "late_lr", 10, {}),
    ("quantiles_mlp", "late_lr", 2.2, {}),
    ("quantiles_mlp", "late_lr", 6, {}),
    ("many_mlp", "late_lr", 3.5, {}),
    ("many_mlp", "late_lr", 10, {"log.every": "2steps"}),
    ("outliers_mlp", "late_lr", 6, {}),
    ("tones_lstm", "late_lr", 6, {}),
    ("adding_gru", "late_lr", 10, {}),
    ("stripes_cnn", "late_lr", 10, {}),
    ("blobs_resnet", "late_lr", 3.5, {}),
    ("cifar_fast", "late_lr", 6, {"log.every": "1steps"}),
    ("curves_coder", "late_lr", 6, {}),
    ("topics_lstm", "late_lr", 3.5, {}),
    # Not shuffled, and sorted.
    ("moons_mlp", "no_shuffle", 1, {"log.every": "4steps"}),
    ("quantiles_mlp", "no_shuffle", 1, {}),
    ("many_mlp", "no_shuffle", 1, {}),
    ("impedance_mlp", "no_shuffle", 1, {"log.every": "3steps"}),
    ("outliers_mlp", "no_shuffle", 1, {"log.every": "4steps"}),
    ("stripes_cnn", "no_shuffle", 1, {}),
    ("blobs_resnet", "no_shuffle", 1, {"log.every": "5steps"}),
    # Few examples.
    ("quantiles_mlp", "tiny_data", 35, {}),
    ("many_mlp", "tiny_data", 70, {"model.mlp.dropout": 0.0, "log.every": "3steps"}),
    ("many_mlp", "tiny_data", 120, {}),
    ("impedance_mlp", "tiny_data", 35, {}),
    ("outliers_mlp", "tiny_data", 45, {}),
    ("adding_gru", "tiny_data", 45, {"log.every": "5steps"}),
    ("stripes_cnn", "tiny_data", 45, {}),
    ("blobs_resnet", "tiny_data", 120, {}),
    ("cifar_fast", "tiny_data", 200, {}),
    ("curves_coder", "tiny_data", 24, {}),
    ("topics_lstm", "tiny_data", 35, {}),
    # Nothing moves: an lr of nothing, all but the last bias frozen, a network that is dead.
    ("moons_mlp", "frozen", 1e-8, {"log.every": "1steps"}),
    ("blobs_resnet", "frozen", 3e-8, {}),
    ("topics_lstm", "frozen", 1e-8, {}),
    ("many_mlp", "frozen", 1, _BIAS_ALONE),
    ("tones_lstm", "frozen", 1, _BIAS_ALONE),
    ("moons_mlp", "dead", 1e-4, {"model.mlp.features": (24, 24, 24, 24)}),
    ("quantiles_mlp", "dead", 1e-4, {"model.mlp.features": (64, 64, 64), "optimizer.name": "sgd",
                                     "optimizer.lr": 0.05}),
    ("many_mlp", "dead", 1e-7, {"model.mlp.features": (96, 96, 96), "log.every": "1steps"}),
    # Wrong labels in training; those of validation are right.
    ("moons_mlp", "label_noise", 0.3, {}),
    ("moons_mlp", "label_noise", 0.2, {"model.mlp.features": (256, 256), "train.total": "1200steps"}, _LEARNT),
    ("quantiles_mlp", "label_noise", 0.3, {}),
    ("many_mlp", "label_noise", 0.2, {"log.every": "1steps"}),
    ("many_mlp", "label_noise", 0.45, {}),
    ("many_mlp", "label_noise", 0.3, {"model.mlp.features": (256, 256), "model.mlp.dropout": 0.0,
                                      "train.total": "1000steps"}, _LEARNT),
    ("tones_lstm", "label_noise", 0.45, {}),
    ("stripes_cnn", "label_noise", 0.3, {}),
    ("stripes_cnn", "label_noise", 0.2, {"model.cnn.features": (24, 48), "train.total": "1000steps",
                                         "train.eval_every": "50steps"}, _LEARNT),
    ("blobs_resnet", "label_noise", 0.45, {}),
    ("cifar_fast", "label_noise", 0.45, {}),
    # Batches of broken examples now and then: more or fewer of them, more or less of each broken.
    ("quantiles_mlp", "spikes", 25, {}),
    ("many_mlp", "spikes", 18, {"log.every": "3steps"}),
    ("impedance_mlp", "spikes", 70, {"spikes.every": 0.1, "log.every": "3steps"}),
    ("outliers_mlp", "spikes", 18, {"spikes.part": 2}),
    ("adding_gru", "spikes", 70, {}),
    ("stripes_cnn", "spikes", 35, {"spikes.every": 0.25}),
    ("blobs_resnet", "spikes", 25, {"log.every": "4steps"}),
    ("cifar_fast", "spikes", 70, {"spikes.part": 6, "log.every": "5steps"}),
    # The watched metric chosen the wrong way round.
    ("moons_mlp", "wrong_metric", 1, {}),
    ("many_mlp", "wrong_metric", 1, {"log.every": "1steps"}),
    ("impedance_mlp", "wrong_metric", 1, {}),
    ("tones_lstm", "wrong_metric", 1, {"early_stopping.metric": "val/accuracy", "early_stopping.patience": 6}),
    ("stripes_cnn", "wrong_metric", 1, {}),
    ("cifar_fast", "wrong_metric", 1, {"log.every": "15steps"}),
    ("curves_coder", "wrong_metric", 1, {}),
)  # fmt: skip


def cases() -> list[Case]:
    """All runs of part 3, each with a name of its own."""
    return numbered(_ROWS)
