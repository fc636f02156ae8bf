import itertools

import numpy as np
import pytest

from jtrain.data.examples import Wanted
from jtrain.data.sources.shapes import SHAPES, shapes
from jtrain.table import options


def arrays(**given):
    dataset = shapes(Wanted(), **given)
    return *dataset.train.arrays(), *dataset.test.arrays()


def test_images_and_labels_are_as_promised():
    dataset = shapes(Wanted(), examples=105, test_examples=20)
    inputs, targets = dataset.train.arrays()
    assert inputs.shape == (105, 32, 32, 3)
    assert inputs.dtype == np.uint8
    assert targets.dtype == np.int32
    assert sorted(np.bincount(targets, minlength=10)) == [10] * 5 + [11] * 5
    assert dataset.num_outputs == len(dataset.class_names) == 10
    assert "not CIFAR" in dataset.note


def test_set_depends_on_its_own_seed_and_not_on_the_runs():
    one, other_run = shapes(Wanted(), examples=30, test_examples=10), shapes(Wanted(1), examples=30, test_examples=10)
    other_data = shapes(Wanted(), examples=30, test_examples=10, data_seed=1)
    for split in ("train", "test"):
        first, same, different = (getattr(d, split).arrays()[0] for d in (one, other_run, other_data))
        assert np.array_equal(first, same)
        assert not np.array_equal(first, different)


def test_train_and_test_have_no_image_in_common():
    inputs, _, test_inputs, _ = arrays(examples=200, test_examples=200, noise=0.0)
    assert not {i.tobytes() for i in inputs} & {i.tobytes() for i in test_inputs}


def test_noise_has_the_deviation_asked_for():
    clean, _, *_ = arrays(examples=200, test_examples=1, noise=0.0)
    noisy, _, *_ = arrays(examples=200, test_examples=1, noise=0.05)
    # Neighbours at the border are mostly ground, the same but for shade: what differs is noise.
    rough = [np.diff(x[:, :, :2].astype(float), axis=2).ravel() for x in (clean, noisy)]
    added = np.median(np.abs(rough[1])) / 0.6745 / np.sqrt(2) / 255
    assert np.median(np.abs(rough[0])) < 2
    assert 0.03 < added < 0.06


def test_clean_images_of_each_class_look_as_named():
    inputs, targets, *_ = arrays(examples=1000, test_examples=1, noise=0.0)
    gray = inputs.astype(float).mean(axis=-1)
    along_x = np.abs(np.diff(gray, axis=2)).mean(axis=(1, 2))
    along_y = np.abs(np.diff(gray, axis=1)).mean(axis=(1, 2))
    ratio = {name: np.median((along_x / along_y)[targets == i]) for i, name in enumerate(SHAPES)}
    assert ratio["columns"] > 1.8
    assert ratio["rows"] < 1 / 1.8
    for name in ("disc", "ring", "square", "cross", "diagonal", "checkerboard"):
        assert 0.8 < ratio[name] < 1.25


def test_no_two_classes_are_the_same_shape():
    u, v = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41))
    inside = {name: shape(u, v) > 0 for name, shape in SHAPES.items()}
    for one, other in itertools.combinations(inside, 2):
        assert (inside[one] != inside[other]).mean() > 0.05, (one, other)


@pytest.mark.parametrize("size", [8, 48])
def test_other_sizes_and_a_single_example_work(size):
    inputs, _, test_inputs, _ = arrays(examples=1, test_examples=1, size=size)
    assert inputs.shape == test_inputs.shape == (1, size, size, 3)


def test_a_plain_rule_on_pixels_cannot_tell_the_classes():
    inputs, targets, test_inputs, test_targets = arrays(examples=1500, test_examples=500)
    x, z = (i.reshape(len(i), -1).astype(np.float64) / 255 - 0.5 for i in (inputs, test_inputs))
    gram = x @ x.T + 100 * np.eye(len(x))
    scores = z @ (x.T @ np.linalg.solve(gram, np.eye(10)[targets]))  # ridge regression, in closed form
    assert (scores.argmax(axis=1) == test_targets).mean() < 0.4


def test_every_option_has_a_range():
    assert all(option.conditions for option in options(shapes).values())
    with pytest.raises(ValueError, match="200000"):
        options(shapes)["examples"].check(200_001)
