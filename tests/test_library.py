"""jtrain as a library: your own arrays, your own Linen or NNX model, in a few lines."""

import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx
from helpers import blobs, tiny, tiny_run

import jtrain
from jtrain.errors import ConfigError, DataError


class Mine(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(16)(x)))


class MineNNX(nnx.Module):
    def __init__(self, width=16, *, rngs):
        self.one = nnx.Linear(6, width, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.two = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        return self.two(self.drop(jax.nn.relu(self.one(x))))


def some_config():
    c = tiny("80steps", 24)
    c.model.mlp.features = jtrain.config.base().model.mlp.features
    c.model.mlp.dropout = jtrain.config.base().model.mlp.dropout
    return c


@pytest.mark.parametrize("model", [Mine(), MineNNX, None], ids=["linen", "nnx", "ours"])
def test_arrays_and_a_model_of_yours_train_through_the_same_loop(model):
    config = some_config()
    run = jtrain.assemble(config, model=model, data=blobs())
    result = jtrain.train(run)
    assert result.metrics["test"]["accuracy"] >= 0.9
    np.testing.assert_allclose(run.predict(result.state, "test").sum(-1), 1, atol=1e-5)


def test_a_model_of_yours_by_name_from_the_command_line_side(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_nets", sys.modules[__name__])
    c = some_config()
    c.model.name = "my_nets:MineNNX"
    c.model.options.width = 4
    # a class of NNX needs a factory: its options are bound, rngs come later
    run = jtrain.assemble(c, data=blobs())
    assert run.parameter_count == 6 * 4 + 4 + 4 * 3 + 3


def test_the_callers_config_is_left_alone():
    config = some_config()
    jtrain.assemble(config, data=blobs())
    assert config.data.name == "digits"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((np.zeros((8, 2)), np.zeros(7, int)), "train"),
        ((np.full((64, 2), np.nan), np.zeros(64, int)), "nan"),
        ((np.zeros((64, 2)), np.full(64, -1)), "target of row 0 is -1"),
        ((np.zeros((64, 2)), np.zeros(64)), "whole numbers"),
        ({"tain": (np.zeros((64, 2)), np.zeros(64, int))}, "train"),
        ("digits", "arrays|pair"),
    ],
)
def test_wrong_arrays_are_explained(data, words):
    with pytest.raises((DataError, ConfigError), match=f"(?i){words}"):
        jtrain.assemble(some_config(), data=data)


def test_a_model_with_the_wrong_number_of_outputs_is_explained():
    with pytest.raises(ConfigError, match=r"the data has 3 classes, so \(2, 3\) is needed"):
        jtrain.assemble(some_config(), model=nn.Dense(5), data=blobs())


def test_whole_numbers_reach_an_embedding_when_normalising_is_off():
    class Embedding(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return nn.Dense(2)(nn.Embed(7, 4)(tokens).mean(axis=1))

    tokens = np.random.default_rng(0).integers(0, 7, (80, 5))
    config = some_config()
    config.data.normalize = False
    run = jtrain.assemble(config, model=Embedding(), data=(tokens, (tokens[:, 0] > 3).astype(int)))
    assert int(jtrain.train(run).state.step) == 80


def test_training_a_config_is_told_to_assemble_it_first():
    with pytest.raises(ConfigError, match=r"needs a run of jtrain\.assemble"):
        jtrain.train(some_config())


def test_a_workdir_whose_model_or_data_a_program_gave_says_so(tmp_path):
    config = some_config()
    config.train.total = "6steps"
    jtrain.train(jtrain.assemble(config, model=Mine(), data=blobs()), tmp_path / "run")
    with pytest.raises(ConfigError, match="arrays"):
        jtrain.evaluate(tmp_path / "run")
    with pytest.raises(ConfigError, match="model of a program"):
        jtrain.evaluate(tmp_path / "run", data=blobs())
    assert "accuracy" in jtrain.evaluate(tmp_path / "run", data=blobs(), model=Mine())


def test_import_is_lazy():
    code = "import sys, jtrain; print([m for m in ('jax', 'numpy', 'flax', 'absl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert {"train", "assemble", "config"} <= set(dir(jtrain))
    with pytest.raises(AttributeError, match="nothing"):
        _ = jtrain.nothing


def test_another_seed_draws_anew_on_the_same_data_with_the_same_compiled_step():
    run = tiny_run()
    other, fresh = run.reseed(7), tiny_run(seed=7)
    assert other.train_steps is run.train_steps
    assert other.config.seed == 7
    assert run.config.seed == 0
    same = [np.array_equal(a, b) for a, b in zip(*map(leaves, (other, fresh)), strict=True)]
    assert all(same)  # drawn as a run of that seed draws
    assert not all(np.array_equal(a, b) for a, b in zip(*map(leaves, (other, run)), strict=True))
    assert not np.array_equal(other.give(0)[1], run.give(0)[1])
    np.testing.assert_array_equal(other.data.val.arrays()[0], run.data.val.arrays()[0])


def test_a_run_is_made_again_with_another_config_from_its_own_data_and_model():
    run = jtrain.assemble(tiny(), model=Mine(), data=blobs())
    longer = run.again(jtrain.config.changed(run.config, train__total="40steps", seed=3), run.data)
    assert (longer.clock.total, run.clock.total) == (40, 20)
    assert longer.model_name == "Mine"
    assert longer.fingerprint == run.fingerprint  # the seed does not cut the validation split anew
    same = run.again(run.config, run.data)
    assert all(np.array_equal(a, b) for a, b in zip(*map(leaves, (same, run)), strict=True))


def leaves(run):
    state = run.init_state()  # its model_state holds what normalises: another split of the data, other numbers
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.key))]
