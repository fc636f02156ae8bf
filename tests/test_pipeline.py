import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny, tiny_run

import jtrain
from jtrain import losses, pipeline
from jtrain.assembly import assemble
from jtrain.data.augment import build_mix
from jtrain.data.broken import Tolerant
from jtrain.data.examples import ArrayExamples, BrokenRecord, DataSet
from jtrain.errors import ConfigError, DataError
from jtrain.gradient import prepared
from jtrain.loop import train
from jtrain.tasks import TASKS, Facts

RNG = np.random.default_rng(3)


class Stored:
    """Examples that are read one by one, some of which cannot be."""

    decodes = False

    def __init__(self, inputs, targets, broken=()):
        self.inputs, self.targets, self.broken = inputs, targets, frozenset(broken)

    def __len__(self):
        return len(self.inputs)

    @property
    def nbytes(self):
        return self.inputs.nbytes

    def fetch(self, rows):
        for row in rows:
            if int(row) in self.broken:
                raise BrokenRecord(f"images-{int(row)}.jpg is damaged")
        return self.inputs[rows], self.targets[rows]

    def arrays(self):
        return self.fetch(np.arange(len(self)))


def dataset(broken=(), examples=40):
    inputs = RNG.normal(size=(examples, 6)).astype(np.float32)
    targets = (np.arange(examples) % 3).astype(np.int32)
    return DataSet("stored", Stored(inputs, targets, broken), None, None, 3)


@pytest.mark.parametrize("placement", ["resident", "streamed"])
def test_broken_records_are_passed_over_with_weight_0_and_told_once(tmp_path, placement):
    data = dataset(broken=(3, 17))
    c = tiny(data__broken=2, data__placement=placement, data__validation=0.0, checkpoint__every="20steps")
    run = assemble(c, data=data)
    state = run.init_state()
    found = run.evaluate(state, "train")
    good = [i for i in range(40) if i not in (3, 17)]
    np.testing.assert_allclose(
        state.model_state["normalize"]["mean"], data.train.inputs[good].mean(0), rtol=1e-4, atol=1e-6
    )
    predicted = run.predict(state, "train").argmax(-1)[good]
    assert found["accuracy"] == pytest.approx((predicted == data.train.targets[good]).mean(), rel=1e-5)
    result = train(run, tmp_path / "run")
    assert int(result.state.step) == 20
    events = (tmp_path / "run" / "events.jsonl").read_text()
    for row in (3, 17):
        assert events.count(f"record {row} of train cannot be read (images-{row}.jpg is damaged)") == 1


def test_streamed_and_resident_runs_with_broken_records_are_equal_to_the_bit():
    data = dataset(broken=(3, 17))
    runs = [
        assemble(tiny(data__broken=2, data__placement=placement, data__validation=0.0), data=data)
        for placement in ("resident", "streamed")
    ]
    one, other = (train(run).state.params for run in runs)
    np.testing.assert_array_equal(one["dense0"]["kernel"], other["dense0"]["kernel"])


@pytest.mark.parametrize("placement", ["resident", "streamed"])
def test_more_broken_records_than_allowed_end_the_run_with_the_record_and_the_option(placement):
    c = tiny(data__broken=1, data__placement=placement, data__validation=0.0)
    with pytest.raises(DataError, match=r"data\.broken: record \d+ of train cannot be read .*1 broken"):
        train(assemble(c, data=dataset(broken=(3, 17))))


def test_mean_and_std_of_the_config_take_the_place_of_measured_ones():
    run = tiny_run(data__mean=(1.0,), data__std=(2.0,))
    state = run.init_state()
    np.testing.assert_array_equal(state.model_state["normalize"]["mean"], np.ones(6))
    np.testing.assert_array_equal(state.model_state["normalize"]["scale"], np.full(6, 0.5))
    with pytest.raises(ConfigError, match=r"data\.mean: has 2 numbers, the inputs have 6 channels"):
        tiny_run(data__mean=(1.0, 2.0), data__std=(1.0, 2.0))
    with pytest.raises(ConfigError, match=r"data\.std: is set to .* but data\.mean is \(\)"):
        tiny_run(data__std=(1.0,))


@pytest.mark.parametrize(("count", "expected"), [(3, [1, 1, 1]), (7, [2, 2, 2]), (30, [5, 12, 12])])
def test_few_examples_are_drawn_by_seed_with_as_many_of_each_class_as_there_can_be(count, expected):
    targets = np.array([0] * 5 + [1] * 60 + [2] * 35, np.int32)
    examples = Tolerant(ArrayExamples(np.arange(100, dtype=np.float32)[:, None], targets), 0, "train")
    rows, again, other = (pipeline.choose(examples, "class", count, seed) for seed in (1, 1, 2))
    assert len(set(rows.tolist())) == count
    np.testing.assert_array_equal(rows, again)
    assert rows.tolist() != other.tolist()
    counts = np.bincount(targets[rows], minlength=3)
    assert (counts >= expected).all()
    assert counts.sum() == count


def test_broken_records_are_not_among_few_examples():
    stored = dataset(broken=(3, 17)).train
    drawn = {
        row for seed in range(20) for row in pipeline.choose(Tolerant(stored, 2, "train"), "class", 6, seed).tolist()
    }
    assert not drawn & {3, 17}
    assert len(drawn) > 20


def test_broken_records_have_empty_rows_in_the_table_of_predictions(tmp_path):
    data = dataset(broken=(3,))
    c = tiny("2steps", data__broken=1, data__validation=0.0)
    train(assemble(c, data=data), tmp_path / "run")
    jtrain.predict(tmp_path / "run", split="train", out=tmp_path / "p", data=data)
    rows = (tmp_path / "p.csv").read_text().splitlines()
    assert rows[4] == "3"
    assert rows[5].count(",") == 5
    found = np.load(tmp_path / "p.npz")
    np.testing.assert_array_equal(found["weight"], [i != 3 for i in range(40)])
    np.testing.assert_array_equal(np.isnan(found["probabilities"]).all(1), [i == 3 for i in range(40)])
    assert found["targets"][3] == found["predicted"][3] == -1


def test_more_examples_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"data\.examples: 500 asked for, there are 65 to train on"):
        tiny_run(data__examples=500)
    assert len(tiny_run(data__examples=20, batch_size=5).feeds["train"].examples) == 20


def test_mixing_mixes_inputs_and_targets_by_the_same_share_and_passes_over_weight_0():
    task = TASKS["classification"](losses.cross_entropy, Facts(3, (4,), np.zeros(()), np.ones(())))
    batch = {
        "inputs": jnp.asarray(RNG.normal(size=(6, 4)).astype(np.float32)), "targets": jnp.asarray([0, 1, 2, 0, 1, 2]),
        "weight": jnp.asarray([1.0, 1, 1, 0, 1, 1]),
    }  # fmt: skip
    seen = prepared(batch, jax.random.key(0), task=task, augment=None, mix=build_mix("mixup(1.0)"))
    hot, inputs = np.eye(3)[np.asarray(batch["targets"])], np.asarray(batch["inputs"])
    partners = (np.roll(inputs, 1, 0), np.roll(hot, 1, 0)), (np.roll(inputs, -1, 0), np.roll(hot, -1, 0))
    fits = []
    for other, other_hot in partners:
        share = ((np.asarray(seen["inputs"]) - other) / (inputs - other)).mean(1)
        expected = share[:, None] * hot + (1 - share[:, None]) * other_hot
        fits.append(np.allclose(seen["targets"], expected, atol=1e-3))
    assert any(fits)
    np.testing.assert_array_equal(seen["targets"][3], hot[3])
    mixed = np.abs(np.asarray(seen["inputs"]) - inputs).max(1) > 1e-6
    assert mixed.sum() == 4  # not the example of weight 0, nor the one whose partner it is


def test_mixed_batches_train_and_evaluation_is_unmixed():
    inputs = RNG.integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    run = assemble(tiny(augment="mixup(0.4)", data__validation=0.0), data=(inputs, np.arange(40) % 3))
    state = run.init_state()
    plain = assemble(tiny(data__validation=0.0), data=(inputs, np.arange(40) % 3))
    assert run.evaluate(state, "train") == plain.evaluate(plain.init_state(), "train")
    _, sums = run.train_step(state, *run.feeds["train"].train_batch(run.order, 0))
    _, unmixed = plain.train_step(plain.init_state(), *plain.feeds["train"].train_batch(plain.order, 0))
    assert float(sums["loss"][0]) != float(unmixed["loss"][0])
