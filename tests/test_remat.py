"""Rematerialisation: the same gradients from less that is kept."""

import functools

import jax
import numpy as np
import pytest
from helpers import put

from jtrain.assembly import assemble
from jtrain.config import base
from jtrain.remat import as_block, make_remat
from jtrain.step import advance


def data(examples=16, size=16):
    rng = np.random.default_rng(0)
    return {
        "train": (rng.integers(0, 255, (examples, size, size, 3), np.uint8), np.arange(examples, dtype=np.int32) % 4)
    }


@functools.cache
def run_of(model, remat):
    c = base()
    c.model.name = model
    options = {
        "resnet": {"depth": 20, "width": 8, "stochastic_depth": 0.2, "dropout": 0.2},
        "wide_resnet": {"depth": 10, "widen": 1, "dropout": 0.3},
        "cnn": {"features": (8, 8), "pools": 1, "conv_dropout": 0.2},
        "highway": {"layers": 3, "width": 8},
        "mlp": {"features": (8, 8)},
    }[model]
    put(c, **{f"model__{model}__{name}": value for name, value in options.items()})
    c.data.validation = 0.0
    c.train.batch_size = 16
    c.train.total = "10steps"
    c.train.remat = remat
    c.mesh.devices = 1
    return assemble(c, data=data())


@functools.cache
def compiled(model, remat):
    run = run_of(model, remat)
    given = run.feeds["train"].train_batch(run.order, 0)
    return jax.jit(run.gradient).lower(run.init_state(), *given).compile(), given


@functools.cache
def found(model, remat):
    step, given = compiled(model, remat)
    return jax.device_get(step(run_of(model, remat).init_state(), *given))


@pytest.mark.parametrize("remat", ["cheap", "blocks"])
@pytest.mark.parametrize("model", ["wide_resnet", "cnn", "highway", "mlp"])
def test_gradients_sums_and_statistics_are_the_same(model, remat):
    """Dropout and batch statistics included."""
    leaves, plain = (dict(jax.tree_util.tree_leaves_with_path(found(model, kind))) for kind in (remat, "none"))
    assert leaves.keys() == plain.keys()
    for path, leaf in plain.items():
        np.testing.assert_allclose(leaves[path], leaf, rtol=1e-4, atol=1e-6, err_msg=jax.tree_util.keystr(path))


def test_blocks_take_less_memory_of_a_residual_net():
    plain, blocks = (compiled("resnet", kind)[0].memory_analysis().temp_size_in_bytes for kind in ("none", "blocks"))
    assert blocks < 0.6 * plain


def kept(remat, *, model="resnet"):
    """Bytes that the backward pass of a loss is given by the forward pass, parameters and inputs aside."""
    run = run_of(model, "none")
    state, inputs = run.init_state(), data()["train"][0]

    def loss(params):
        outputs, _ = run.model.apply(params, state.model_state, inputs, key=jax.random.key(0), train=True)
        return (outputs**2).mean()

    shapes = jax.eval_shape(lambda params: jax.vjp(make_remat(remat, gathers=False)(loss), params)[1], state.params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def test_cheap_keeps_less_than_none_and_blocks_less_than_cheap():
    none, cheap, blocks = map(kept, ("none", "cheap", "blocks"))
    assert cheap < 0.6 * none
    assert blocks < 0.6 * cheap


def test_blocks_keep_what_is_marked_and_nothing_else():
    def loss(x):
        for _ in range(3):
            x = as_block(jax.numpy.sin(jax.numpy.cos(jax.numpy.sin(x))))
        return x.sum()

    shapes = jax.eval_shape(
        lambda x: jax.vjp(make_remat("blocks", gathers=False)(loss), x)[1], np.ones(100, np.float32)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 300  # the input and two of the three marked


def test_a_run_may_change_what_it_computes_again(tmp_path):
    from jtrain.loop import train

    def config(remat, total):
        c = run_of("mlp", "none").config.copy_and_resolve_references()
        c.data.name = "digits"
        return put(c, train__remat=remat, train__total=total)

    train(assemble(config("none", "2steps"), data=data()), tmp_path / "run")
    again = train(assemble(config("blocks", "4steps"), data=data()), tmp_path / "run")
    assert int(again.state.step) == 4


def test_training_goes_the_same_way():
    states = []
    for remat in ("none", "blocks"):
        run = run_of("wide_resnet", remat)
        states.append(advance(run.train_steps, [run.init_state()], [run.give], 0, 3)[0][0])
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=1e-3)
