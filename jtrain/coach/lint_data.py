"""Rules on data, targets, augmentation and the splits."""

import math
import re

from jtrain.coach.facts import Facts
from jtrain.coach.lint_rule import Said, info, known, listed, warning

SMOOTHING, SMOOTHING_FAR = 0.2, 0.4
SMALL_VALIDATION, TINY_VALIDATION = 100, 20  # examples
SURE = 0.9  # an accuracy, for the spread that chance alone gives it
CHANGED = 0.02  # share of the examples of which one of two evaluations is right and the other wrong
FEW_VALUES, SEEN_OFTEN = 10, 10  # different targets that look like classes, and examples of each
MANY_CLASSES, SEEN_RARELY = 50, 3  # classes that look like numbers, and examples of each
LEAKED = 0.9  # share of the test examples
BOUNDS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 100.0))
TURNED = 60  # degrees from which on a 6 may pass for a 9
GLYPHS = (
    "digits", "mnist", "binarized_mnist", "mnist_corrupted", "emnist", "kmnist", "svhn_cropped", "omniglot", "cmaterdb",
)  # fmt: skip
TO_TURN = ("flip_lr", "flip_ud", "flip_alternating")

BETTER_HIGH = (
    "accuracy",
    "auc",
    "f1",
    "r2",
    "precision",
    "recall",
    "score",
    "iou",
    "dice",
    "bleu",
    "match",
    "explained",
)
BETTER_LOW = ("loss", "error", "mse", "mae", "rmse", "perplexity", "wer", "cer", "nll", "bits")
CHOOSES_BY_ACCURACY = ("classification", "rotation", "multilabel")


def single_class(f: Facts) -> Said | None:
    """All training examples are of one class."""
    if f.class_counts is None or sum(count > 0 for count in f.class_counts) != 1:
        return None
    (only,) = (_name(f, number) for number, count in enumerate(f.class_counts) if count)
    return warning(
        "data.name", f"all {sum(f.class_counts):,} training examples are of class {only}; look at the targets"
    )


def empty_classes(f: Facts) -> Said | None:
    """Classes without a training example."""
    if f.class_counts is None or sum(count > 0 for count in f.class_counts) < 2:
        return None
    empty = [_name(f, number) for number, count in enumerate(f.class_counts) if not count]
    if not empty:
        return None
    words = f"{len(empty)} of {len(f.class_counts)} classes have no training example: {listed(empty)}"
    return warning("data.name", f"{words}; number classes from 0 without gaps, or take more examples")


def constant_targets(f: Facts) -> Said | None:
    """A target of a regression that is the same for all training examples."""
    if not f.constant:
        return None
    many = "the target is" if f.outputs == 1 else f"{f.constant} of {f.outputs} targets are"
    return warning("data.name", f"{many} the same for all training examples: there is nothing to learn; look at them")


def classes_as_numbers(f: Facts) -> Said | None:
    """A regression whose targets are few different whole numbers: classes, it seems."""
    if f.task != "regression" or not known(f.distinct, f.train) or not 1 < (f.distinct or 0) <= FEW_VALUES:
        return None
    if (f.train or 0) < SEEN_OFTEN * (f.distinct or 0):
        return None
    return info(
        "task.name",
        f"the targets are {f.distinct} different whole numbers; if they are classes, not amounts, set 'classification'",
    )


def numbers_as_classes(f: Facts) -> Said | None:
    """A classification with many classes of very few examples each: numbers, it seems."""
    if f.task != "classification" or f.class_counts is None or f.train is None or f.class_names:
        return None
    present = sum(count > 0 for count in f.class_counts)
    if present < MANY_CLASSES or f.train > SEEN_RARELY * present:
        return None
    return info(
        "task.name", f"{present} classes for {f.train:,} training examples; if they are amounts, set 'regression'"
    )


def output_unbounded(f: Facts) -> Said | None:
    """A linear output for targets that fill a range such as 0 to 1 exactly."""
    if f.bounded_output != "linear" or f.least is None or (f.least, f.most) not in BOUNDS or f.distinct is not None:
        return None
    text = f"the targets go from {f.least:g} to {f.most:g} exactly; 'sigmoid' with .low and .high keeps outputs there"
    return info("task.regression.output", text)


def raw_pixels(f: Facts) -> Said | None:
    """Pixels from 0 to 255 go into a model without batch norm as they are."""
    if not f.raw_pixels or f.batch_norm is not False:
        return None
    return warning("data.normalize", "is off: the model sees pixels of 0 to 255; turn it on, or scale them yourself")


def validation_small(f: Facts) -> Said | None:
    """A validation split of under 100 examples, by which the best checkpoint is chosen."""
    if not f.val or f.val >= SMALL_VALIDATION or f.task in (None, "language_modelling"):  # a window is many examples
        return None
    steers = [name for name, on in (("early stopping", f.stopping), ("the plateau", f.plateau)) if on]
    spread = ""
    if f.task in CHOOSES_BY_ACCURACY:
        spread = f" (an accuracy of {SURE:.0%} is known to ±{math.sqrt(SURE * (1 - SURE) / f.val):.1%})"
    goes = " and ".join([*steers, "the best checkpoint"])
    text = f"{goes} {'go' if steers else 'goes'} by {f.val} examples{spread}; take more, or compare by `jtrain kfold`"
    return warning("data.validation", text) if steers and f.val < TINY_VALIDATION else info("data.validation", text)


def difference_in_noise(f: Facts) -> Said | None:
    """Early stopping asks for a difference of accuracy that so few examples cannot tell.

    Two evaluations of a run share their examples, so those alone count of which one is right and the other wrong: of a
    share c of n examples, and as many to the better as to the worse, the difference spreads by √(c / n) (McNemar 1947).
    """
    if not f.val or not f.min_delta or not f.stopping or not _is_accuracy(f.stopping):
        return None
    noise = math.sqrt(CHANGED / f.val)
    if f.min_delta >= noise:
        return None
    unit = 10.0 ** (math.floor(math.log10(noise)) - 1)
    enough = math.ceil(noise / unit) * unit  # in two digits, and rounded up: what is advised must do
    return info(
        "early_stopping.min_delta",
        f"{f.min_delta:g} is less than the ±{noise:.2g} by which two evaluations on {f.val:,} examples differ by "
        f"chance where {CHANGED:.0%} of the answers change; take {enough:.2g} or more, or a larger data.validation",
    )


def test_chooses(f: Facts) -> Said | None:
    """The validation split holds the same examples as the test split."""
    if not f.test_is_val:
        return None
    return warning(
        "data.validation",
        "the validation split is the test split, by which the best is chosen: the test result will be too good; "
        "leave 'val' out, so that it is cut from train",
    )


def test_in_train(f: Facts) -> Said | None:
    """Test examples are among the training examples."""
    if f.slices is not None and _overlap(*f.slices):
        train, test = f.slices
        key = "data.tfds.test"
        return warning(key, f"{test!r} is part of {train!r}, which is trained on; cut it off there as well")
    if f.test_in_train is None or f.test_in_train < LEAKED:
        return None
    return warning(
        "data.name", f"{f.test_in_train:.0%} of the test examples are training examples too; keep the splits apart"
    )


def metric_direction(f: Facts) -> list[Said]:
    """A metric by which something is chosen improves the other way than its name says."""
    found = []
    for name, higher in (f.directions or {}).items():
        words = re.split(r"[/_]", name.lower())
        if (higher and set(words) & set(BETTER_LOW)) or (not higher and set(words) & set(BETTER_HIGH)):
            way = "higher" if higher else "lower"
            text = f"{name} counts as better when it is {way}; give its Metric higher_is_better={not higher}"
            found.append(warning("task.name", text))
    return found


def smoothing_high(f: Facts) -> Said | None:
    """Label smoothing above 0.2."""
    if not f.smoothing or f.smoothing <= SMOOTHING:
        return None
    text = f"{f.smoothing:g} takes more of the label away than is usual; 0.1 is"
    key = f"loss.{f.loss}.label_smoothing"
    return warning(key, text) if f.smoothing > SMOOTHING_FAR else info(key, text)


def smoothing_of_mixed(f: Facts) -> Said | None:
    """Label smoothing on targets that mixup or CutMix mix already."""
    if not f.smoothing or not f.mixed:
        return None
    return info(
        f"loss.{f.loss}.label_smoothing",
        f"{f.smoothing:g} on targets that are mixed already: both make them softer; set it to 0, or see that both help",
    )


def augment_changes_target(f: Facts) -> Said | None:
    """An augmentation that changes what an example shows: mirrored digits and letters, turns that are to be told."""
    if f.augment is None:
        return None
    turned = [name for name in f.augment if name in TO_TURN]
    turned += [name for name, given in f.augment.items() if name == "rotate" and _degrees(given) >= TURNED]
    if f.task == "rotation":
        turned = [name for name in turned if name in ("flip_ud", "rotate")]
        return (
            warning("augment", f"{listed(turned)} makes other turns than those to be told; leave it out")
            if turned
            else None
        )
    if f.task != "classification" or not turned:
        return None
    if f.source and f.source.partition("/")[0].partition(":")[0] in GLYPHS:
        return warning("augment", f"{listed(turned)} makes other signs of digits or letters; leave it out")
    if _named_like_glyphs(f):  # grades A to F, or numbers of classes, are called so as well
        text = "the classes are named like digits or letters; if the images show these"
        return info("augment", f"{text}, {listed(turned)} makes other signs of them; leave it out")
    return None


def views_unseen(f: Facts) -> Said | None:
    """Evaluation mirrors images that training never mirrors."""
    if not f.views or f.augment is None:
        return None
    trained = {"flip_lr" if name == "flip_alternating" else name for name in f.augment}
    unseen = [name for name in f.views if name in TO_TURN and name not in trained]
    if not unseen:
        return None
    return info("tta", f"{listed(unseen)}: training has no such images; add it to augment, or leave it out of tta")


def _name(f: Facts, number: int) -> str:
    return repr(f.class_names[number]) if f.class_names and number < len(f.class_names) else str(number)


def _is_accuracy(metric: str) -> bool:
    return metric.rpartition("/")[2] in ("accuracy", "label_accuracy", "exact_match")


def _degrees(given: object) -> float:
    values = given.values() if isinstance(given, dict) else ()
    return max((abs(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)), default=0.0)


def _named_like_glyphs(f: Facts) -> bool:
    names = [name.strip() for name in f.class_names or ()]
    return len(names) >= 5 and all(len(name) == 1 and name.isalnum() for name in names)


def _overlap(train: str, test: str) -> bool:
    """Whether two texts such as 'train[:90%]' name parts of one split that overlap; False where that is not plain."""
    one, other = _slice(train), _slice(test)
    if one is None or other is None or one[0] != other[0]:
        return False
    (_, start, end, unit), (_, begin, stop, other_unit) = one, other
    whole = (start, end) == (0.0, math.inf) or (begin, stop) == (0.0, math.inf)
    return whole or (unit == other_unit and max(start, begin) < min(end, stop))


def _slice(text: str) -> tuple[str, float, float, str] | None:
    match = re.fullmatch(r"(\w+)(?:\[(\d*)(%?):(\d*)(%?)\])?", text)
    if match is None:
        return None
    name, start, unit, end, other = match.groups()
    percent = unit or other or ""
    if percent and ((start and not unit) or (end and not other)):
        return None
    last = float(end) if end else math.inf
    return name, float(start or 0), math.inf if percent and last >= 100 else last, percent
