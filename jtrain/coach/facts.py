"""What lint knows of a run: plain values, None where one is not known."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Facts:
    """Plain values of one run. A rule that needs one that is None says nothing.

    Attributes:
      task, loss, model, optimizer, schedule, source: names of the parts, as in the config.
      own_model: the model is of the user's own, not of jtrain.
      total: updates of the run.
      evaluations: of the validation split, in the whole run.
      batch_size, accumulate, shards: as in the config; shards 0 is none.
      reference_batch: for which the lr was given; 0: none.
      family: 'adam' where the size of a step does not depend on the gradient's, else 'sgd'.
      default_lr: of the optimizer.
      lr_given: as in the config; 0 is the default of the optimizer.
      lr: the peak in force for most of what is trained, with the factors of batch, group and `lr_scale`.
      momentum: of SGD.
      betas: of Adam and its kin.
      muon_adjust: how Muon scales its steps.
      weight_decay, decay: the factor, and where it enters: 'coupled', 'decoupled' or 'independent'.
      decay_set: the factor is not the optimizer's default.
      summed_lr: of all updates, the sum of their lr.
      averaging: '', 'moving', 'schedule_free' or 'lookahead'.
      ema_decay: of the average.
      multipliers: of the groups, None where frozen.
      frozen: share of the parameters that no phase trains.
      starts: from weights trained elsewhere.
      loaded_lr: the greatest peak of parameters that come from elsewhere and are trained; 0: all of these are frozen.
      peak, end: of the schedule over the run, and after its last update.
      spans: lengths of the schedule in force by their option, as shares of the updates after the warm-up.
      warmup: share of the run.
      rounded: (option, its text, updates) of durations longer than 0 and shorter than one update.
      plateau, stopping: the metric that is watched, '' where it is off.
      plateau_patience, stopping_patience: evaluations.
      min_delta: of early stopping.
      directions: metrics that something is chosen by, and whether higher is better.
      log_every, eval_every: updates.
      activation: of the hidden layers.
      depth: hidden layers in a row with neither shortcut nor gate.
      batch_norm: the model normalises over the batch.
      dense_dropout, conv_dropout: share that is dropped before dense layers, and before a convolution.
      dense_weights: of all dense kernels.
      ends_in: the activation behind the last layer: '' none, 'softmax', 'sigmoid', 'tanh' or 'relu'.
      drops_memory: dropout falls on what a recurrent layer hands from step to step.
      train, val, test: examples of the splits, 0 where there is none.
      outputs: classes, labels, values or tokens.
      class_counts: training examples of each class.
      class_names: of the outputs.
      least, most: of the training targets, where they are numbers.
      distinct: how many different training targets there are, where all of them are whole numbers.
      constant: number of target values that do not vary over the training examples.
      bounded_output: what bounds the outputs of a regression, or 'linear'.
      raw_pixels: the model sees pixels from 0 to 255.
      test_is_val: validation and test split hold the same examples.
      test_in_train: share of the test examples that are among the training examples.
      slices: the texts that name (training, test) parts of one stored data set.
      augment: ops of training, with their options.
      views: ops of evaluation (tta).
      smoothing: of labels.
      mixed: training mixes examples.
    """

    task: str | None = None
    loss: str | None = None
    model: str | None = None
    own_model: bool | None = None
    optimizer: str | None = None
    schedule: str | None = None
    source: str | None = None
    total: int | None = None
    evaluations: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    shards: int | None = None
    reference_batch: int | None = None
    family: str | None = None
    default_lr: float | None = None
    lr_given: float | None = None
    lr: float | None = None
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    muon_adjust: str | None = None
    weight_decay: float | None = None
    decay: str | None = None
    decay_set: bool | None = None
    summed_lr: float | None = None
    averaging: str | None = None
    ema_decay: float | None = None
    multipliers: tuple[float | None, ...] | None = None
    frozen: float | None = None
    starts: bool | None = None
    loaded_lr: float | None = None
    peak: float | None = None
    end: float | None = None
    spans: Mapping[str, float] | None = None
    warmup: float | None = None
    rounded: tuple[tuple[str, str, float], ...] | None = None
    plateau: str | None = None
    plateau_patience: int | None = None
    stopping: str | None = None
    stopping_patience: int | None = None
    min_delta: float | None = None
    directions: Mapping[str, bool] | None = None
    log_every: int | None = None
    eval_every: int | None = None
    activation: str | None = None
    depth: int | None = None
    batch_norm: bool | None = None
    dense_dropout: float | None = None
    conv_dropout: float | None = None
    dense_weights: int | None = None
    ends_in: str | None = None
    drops_memory: bool | None = None
    train: int | None = None
    val: int | None = None
    test: int | None = None
    outputs: int | None = None
    class_counts: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None
    least: float | None = None
    most: float | None = None
    distinct: int | None = None
    constant: int | None = None
    bounded_output: str | None = None
    raw_pixels: bool | None = None
    test_is_val: bool | None = None
    test_in_train: float | None = None
    slices: tuple[str, str] | None = None
    augment: Mapping[str, Mapping[str, object]] | None = None
    views: tuple[str, ...] | None = None
    smoothing: float | None = None
    mixed: bool | None = None
