"""FSDP: parameters and all of their shape cut over devices; the same training, less memory, no needless traffic."""

import re

import jax
import numpy as np
import pytest
from helpers import put

from jtrain.assembly import assemble
from jtrain.config import base
from jtrain.describe import header
from jtrain.errors import ConfigError
from jtrain.loop import train
from jtrain.mesh import make_mesh
from jtrain.sharding import cut_alike, cut_parameters
from jtrain.state import to_flat
from jtrain.step import advance

WIDTH = 128  # of the hidden layers: kernels of 16,384 elements are cut, biases are not
CLASSES = 4


def clouds(examples=64, features=128):
    rng = np.random.default_rng(0)
    targets = np.arange(examples) % CLASSES
    inputs = rng.normal(size=(examples, features)) + targets[:, None]
    return {"train": (inputs.astype(np.float32), targets.astype(np.int32))}


def config(fsdp, **fields):
    c = base()
    c.model.mlp.features = (WIDTH, WIDTH, WIDTH)
    c.model.mlp.dropout = 0.3
    c.optimizer.name = "sgd"
    c.optimizer.sgd.momentum = 0.9
    c.optimizer.lr = 0.01
    c.ema.decay = 0.9
    c.data.validation = 0.25
    c.train.total = "12steps"
    c.train.batch_size = 16
    c.mesh.devices = 8
    c.mesh.fsdp = fsdp
    return put(c, **fields)


def trained(c, steps=12):
    run = assemble(c, data=clouds())
    (state,), _, _ = advance(run.train_steps, [run.init_state()], [run.give], 0, steps, most=run.per_call, block=True)
    run.close()
    return run, state


def compiled_step(run):
    given = run.feeds["train"].train_batch(run.order, 0)
    return run.train_step.lower(run.init_state(), *given).compile()


@pytest.fixture(scope="module")
def whole():
    return trained(config(1))


@pytest.fixture(scope="module")
def cut():
    return trained(config(4))


def test_cut_parameters_train_as_whole_ones(whole, cut):
    found = to_flat(cut[1])
    for path, leaf in to_flat(whole[1]).items():
        np.testing.assert_allclose(np.asarray(found[path]), np.asarray(leaf), rtol=0, atol=1e-5, err_msg=path)


def test_first_parameters_are_those_of_one_device_to_the_bit(whole, cut):
    found = to_flat(cut[0].init_state())
    for path, leaf in to_flat(whole[0].init_state()).items():
        np.testing.assert_array_equal(np.asarray(found[path]), np.asarray(leaf), err_msg=path)


def test_evaluation_and_predictions_take_cut_parameters(whole, cut):
    metrics = [run.evaluate(state, "val") for run, state in (whole, cut)]
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, abs=1e-5), name
    predictions = [run.predict(state, "val") for run, state in (whole, cut)]
    np.testing.assert_allclose(predictions[1], predictions[0], rtol=0, atol=1e-5)


def test_all_that_has_a_parameters_shape_is_cut_and_a_device_holds_its_part(cut):
    for path, leaf in to_flat(cut[1]).items():
        big = leaf.shape in ((128, WIDTH), (WIDTH, WIDTH))
        share = leaf.addressable_shards[0].data.size / max(leaf.size, 1)
        assert share == (0.25 if big else 1.0), path
    paths = {path.split("/")[0] for path, leaf in to_flat(cut[1]).items() if not leaf.sharding.is_fully_replicated}
    assert paths == {"params", "opt_state", "ema"}


def test_a_device_is_given_and_makes_a_part_of_the_state_alone(whole, cut):
    def sizes(run):
        init = run.init.lower({}).compile().memory_analysis()
        step = compiled_step(run).memory_analysis()
        return init.output_size_in_bytes, init.temp_size_in_bytes, step.argument_size_in_bytes

    (all_made, _, all_taken), (made, between, taken) = sizes(whole[0]), sizes(cut[0])
    kernels = 3 * 3 * WIDTH * WIDTH * 4  # three layers; parameters, momentum and average; float32
    assert all_made - made == pytest.approx(0.75 * kernels, rel=0.01)
    assert all_taken - taken == pytest.approx(0.75 * kernels, rel=0.01)
    assert between < kernels / 3  # less than the parameters once


def test_weights_alone_are_gathered_and_again_for_the_backward_pass(cut):
    text = compiled_step(cut[0]).as_text()
    gathered = re.findall(r" = f32\[([\d,]*)\]\S* all-gather\(", text)
    assert gathered == [f"{WIDTH},{WIDTH}"] * 5  # three layers, of which the first sends no gradient on
    assert not re.search(r"all-to-all|collective-permute", text)


def test_a_run_with_cut_parameters_goes_on_from_whole_ones(tmp_path):
    train(assemble(config(1, train__total="4steps"), data=clouds()), tmp_path / "run")
    again = train(assemble(config(8, train__total="8steps"), data=clouds()), tmp_path / "run")
    assert int(again.state.step) == 8
    kernel = again.state.params["dense1"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8


def test_header_says_how_much_is_cut(cut):
    line = next(line for line in header(cut[0]) if "devices" in line)
    assert "8 × cpu, data 2 × fsdp 4 (49.2 k of 50.1 k parameters cut)" in line


SHAPES = {
    "a/kernel": (64, 128),
    "b/kernel": (3, 3, 64, 64),
    "b/bias": (64,),
    "odd/kernel": (4099, 3),
    "square": (64, 64),
}


def shapes():
    return {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in SHAPES.items()}


def axes(rules=()):
    found = cut_parameters(shapes(), make_mesh(8, 4), rules)
    return {path: list(lies.spec).index("fsdp") if len(lies.spec) else None for path, lies in found.items()}


def test_the_largest_axis_that_divides_is_cut_and_of_equal_ones_the_last():
    assert axes() == {"a/kernel": 1, "b/kernel": 3, "b/bias": None, "odd/kernel": None, "square": 1}


def test_rules_come_before_and_the_first_that_matches_counts():
    rules = (("a/.*", 0), (".*/kernel", None), ("b/bias", -1))
    assert axes(rules) == {"a/kernel": 0, "b/kernel": None, "b/bias": 0, "odd/kernel": None, "square": 1}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("nothing", 0),), r"mesh\.rules: pattern 'nothing' matches no parameter"),
        ((("odd/.*", 0),), r"mesh\.rules: .*axis 0 of odd/kernel \[4099, 3\] does not divide by mesh\.fsdp 4"),
        ((("b/bias", 1),), r"mesh\.rules: .*b/bias \[64\] has no axis 1"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(rules, message):
    with pytest.raises(ConfigError, match=message):
        axes(rules)


def test_a_leaf_belongs_to_the_longest_path_that_ends_its_own_and_has_its_shape():
    like = shapes()
    params = {"kernel": like["square"], "a/kernel": like["a/kernel"]}
    mesh = make_mesh(8, 4)
    cut = cut_parameters(params, mesh)
    leaves = {"mu/a/kernel": like["a/kernel"], "mu/kernel": like["square"], "row/a/kernel": like["b/bias"]}
    found = cut_alike(leaves, params, cut)
    assert found["mu/a/kernel"] == cut["a/kernel"]
    assert found["mu/kernel"] == cut["kernel"]
    assert found["row/a/kernel"].is_fully_replicated


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mesh__fsdp": 3}, r"mesh\.fsdp: 3 does not divide the 8 devices; use one of \[1, 2, 4, 8\]"),
        ({"mesh__fsdp": 1, "mesh__rules": ((".*", 0),)}, r"mesh\.rules: is set to .* but mesh\.fsdp is 1"),
        ({"mesh__rules": ((".*", "x"),)}, r"mesh\.rules: '\.\*' needs the number of an axis"),
        ({"mesh__rules": (("(", 0),)}, r"mesh\.rules: '\(' is not a regular expression"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        assemble(config(4, **fields), data=clouds())
