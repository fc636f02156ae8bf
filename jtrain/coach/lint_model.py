"""Rules on the model: activations, dropout, output, norms, what is frozen."""

from jtrain.coach.facts import Facts
from jtrain.coach.lint_rule import Said, info, known, warning

SATURATING = ("sigmoid", "tanh")
DEEP, DEEP_TANH = 4, 8  # hidden layers; the slope of a sigmoid is a quarter at most, that of tanh up to 1
DROPOUT_CONV, DROPOUT_CONV_FAR = 0.2, 0.3  # the notes'; what wide residual networks take at most
DROPOUT_DENSE, DROPOUT_DENSE_FAR = 0.5, 0.8  # the notes'; four of five values gone
LARGE_HEAD = 100_000  # dense weights
PER_EXAMPLE = 100  # dense weights for each training example
FEW = 10_000  # training examples
NORM_FEWEST, NORM_FEW = 2, 8  # examples over which batch norm takes its statistics


def saturating(f: Facts) -> Said | None:
    """Sigmoid or tanh in a stack of 4 hidden layers or more, where ReLU serves."""
    if f.activation not in SATURATING or f.depth is None or f.depth < DEEP:
        return None
    far = (f.activation == "sigmoid" or f.depth >= DEEP_TANH) and not f.batch_norm
    text = f"{f.activation} in {f.depth} layers in a row lets gradients fade; set it to 'relu'"
    key = f"model.{f.model}.activation"
    return warning(key, text) if far else info(key, text)


def dropout_before_convolution(f: Facts) -> Said | None:
    """Dropout above 0.2 before a convolution."""
    if f.conv_dropout is None or f.conv_dropout <= DROPOUT_CONV:
        return None
    key = f"model.{f.model}.{'conv_dropout' if f.model == 'cnn' else 'dropout'}"
    text = f"{f.conv_dropout:g} before a convolution is high; take {DROPOUT_CONV:g} or less, and more before the head"
    return warning(key, text) if f.conv_dropout > DROPOUT_CONV_FAR else info(key, text)


def dropout_dense(f: Facts) -> Said | None:
    """Dropout above 0.5 in front of dense layers."""
    if f.dense_dropout is None or f.dense_dropout <= DROPOUT_DENSE:
        return None
    text = f"{f.dense_dropout:g} drops more than half of the values; {DROPOUT_DENSE:g} is the usual most"
    key = f"model.{f.model}.dropout"
    return warning(key, text) if f.dense_dropout > DROPOUT_DENSE_FAR else info(key, text)


def dropout_recurrent(f: Facts) -> Said | None:
    """Dropout, drawn anew at each step, on what a recurrent layer hands to the next step."""
    if not f.drops_memory:
        return None
    return warning("model", "dropout between the steps of a recurrent layer wears its memory away; drop its inputs")


def dropout_missing(f: Facts) -> Said | None:
    """Large dense layers, little data, and neither dropout nor augmentation."""
    if not known(f.dense_weights, f.train, f.augment) or f.dense_dropout != 0.0 or f.augment or f.stopping:
        return None
    weights, examples = f.dense_weights or 0, f.train or 0
    if examples > FEW or weights < LARGE_HEAD or weights < PER_EXAMPLE * examples:
        return None
    return info(
        f"model.{f.model}.dropout",
        f"{weights:,} dense weights for {examples:,} training examples, without dropout; try 0.5, or a smaller model",
    )


def output_activation(f: Facts) -> Said | None:
    """An activation behind the last layer that the loss does not want: softmax twice, a bounded logit or number."""
    if not f.ends_in or f.task is None:
        return None
    ending = f"the model ends in {f.ends_in}"
    if f.task == "regression":
        return warning(
            "model",
            f"{ending}, and jtrain multiplies and moves its outputs to where the targets lie: some cannot be reached; "
            "leave it out, and set task.regression.output",
        )
    if f.loss in ("cross_entropy", "focal") and f.ends_in == "softmax":
        return warning("model", f"{ending}, and the loss {f.loss} applies softmax itself; leave it out")
    if f.loss in ("binary_cross_entropy", "sigmoid_focal") and f.ends_in == "sigmoid":
        return warning("model", f"{ending}, and the loss {f.loss} applies the sigmoid itself; leave it out")
    if f.loss in ("cross_entropy", "focal", "binary_cross_entropy", "sigmoid_focal"):
        return warning("model", f"{ending}: logits must be free to take any value; leave it out")
    return None


def norm_of_few(f: Facts) -> Said | None:
    """Batch norm over 1 or 2 examples (info: fewer than 8)."""
    if not f.batch_norm or not known(f.batch_size, f.accumulate, f.shards):
        return None
    examples = (f.batch_size or 0) // (f.accumulate or 1) // (f.shards or 1)
    if examples >= NORM_FEW:
        return None
    parts = [f"batch of {f.batch_size}"]
    parts += [f"{f.accumulate} micro-batches"] if (f.accumulate or 1) > 1 else []
    parts += [f"{f.shards} shards"] if (f.shards or 1) > 1 else []
    key = (
        "train.accumulate" if (f.accumulate or 1) > 1 else "mesh.shards" if (f.shards or 1) > 1 else "train.batch_size"
    )
    text = f"batch norm takes its statistics of {examples} examples ({', '.join(parts)}); make that 16 or more"
    return warning(key, text) if examples <= NORM_FEWEST else info(key, text)


def frozen_all(f: Facts) -> Said | None:
    """Every group is frozen or has a multiplier of 0: nothing is trained."""
    if not f.multipliers or any(f.multipliers):
        return None
    return warning("groups", "no group has a multiplier above 0: nothing is trained; give one 1.0")


def frozen_random(f: Facts) -> Said | None:
    """Parameters are frozen at the random values that they begin with."""
    if f.starts is not False or not f.multipliers or not any(f.multipliers):
        return None
    if None not in f.multipliers and 0.0 not in f.multipliers:
        return None
    share = f"{f.frozen:.0%} of the parameters are" if f.frozen else "a group is"
    return info("groups", f"{share} frozen at random values: transfer.init_from is ''; set it, or train them")
