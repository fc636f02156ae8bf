"""Residual networks: published sizes, PyTorch's numbers, stochastic depth, rematerialisation."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import KEY, applied, drawn, normal, shapes, size

from jtrain.errors import ConfigError
from jtrain.models import MODELS
from jtrain.models.pure import as_model
from jtrain.models.residual import StochasticDepth, drop_rates
from jtrain.models.resnet import Block, ResNet
from jtrain.models.wide_resnet import WideResNet
from jtrain.tree import flatten

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "models.npz")
RESNET18 = json.loads((FOLDER / "resnet18.json").read_text())


def counted(name, outputs, shape, **options):
    return size(shapes(MODELS[name](outputs, **options), shape)[0])


def test_cifar_resnets_have_the_numbers_of_parameters_of_the_plain_networks():
    params, _ = shapes(MODELS["resnet"](10), (32, 32, 3))
    assert size(params) == RESNET18["parameters"] == 11_173_962
    assert {"stem/kernel", "stage4_block2/conv2/kernel", "stage2_block1/shortcut_norm/scale"} <= set(flatten(params))
    assert counted("resnet", 10, (32, 32, 3), depth=34) == 21_282_122
    assert counted("resnet", 10, (32, 32, 3), depth=20) == GOLDEN["parameters/resnet20"] == 269_722
    assert counted("resnet", 10, (32, 32, 3), depth=110) == GOLDEN["parameters/resnet110"] == 1_727_962
    # Two 1×1 convolutions, 16 → 32 → 64, and their norms more than with padding.
    projected = counted("resnet", 10, (32, 32, 3), depth=20, shortcut="projection")
    assert projected == 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)


@pytest.mark.parametrize(
    ("depth", "published"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)]
)
def test_imagenet_resnets_have_the_published_numbers_of_parameters(depth, published):
    assert counted("resnet", 1000, (64, 64, 3), depth=depth, form="imagenet") == published
    assert GOLDEN[f"parameters/resnet{depth}"] == published


@pytest.mark.parametrize(("depth", "widen", "parameters"), [(28, 10, 36_479_194), (16, 8, 10_961_370)])
def test_wide_resnets_have_the_published_numbers_of_parameters(depth, widen, parameters):
    assert counted("wide_resnet", 10, (32, 32, 3), depth=depth, widen=widen) == parameters
    assert GOLDEN[f"parameters/wide_resnet{depth}_{widen}"] == parameters


def test_width_scales_every_stage():
    params = flatten(shapes(MODELS["resnet"](10, depth=50, width=8, form="imagenet"), (64, 64, 3))[0])
    assert params["stem/kernel"].shape == (7, 7, 3, 8)
    assert params["stage4_block1/conv3/kernel"].shape == (1, 1, 64, 256)
    assert params["stage4_block1/shortcut/kernel"].shape == (1, 1, 128, 256)


def test_resnet_convolutions_are_drawn_by_fan_out():
    params = jax.jit(as_model(ResNet(4, (1,), 64, "relu")).init)(KEY, jnp.zeros((1, 8, 8, 3)))[0]
    np.testing.assert_allclose(params["stem"]["kernel"].var(), 2 / (9 * 64), rtol=0.1)
    np.testing.assert_allclose(params["stage1_block1"]["conv1"]["kernel"].var(), 2 / (9 * 64), rtol=0.03)


def test_resnet18_equals_pytorch():
    model = as_model(MODELS["resnet"](10))
    images = normal(1, (4, 17, 16, 3))
    params, state = drawn(MODELS["resnet"](10), images.shape[1:])
    outputs, state = applied(model, True)(params, state, images, key=None)
    np.testing.assert_allclose(outputs, RESNET18["train_logits"], rtol=1e-4, atol=2e-4)
    statistics = state["batch_stats"]
    mean = statistics["stage3_block1"]["norm1"]["mean"][:16]
    np.testing.assert_allclose(mean, RESNET18["stage3_block1/norm1/mean"], rtol=1e-4, atol=1e-5)
    # torch keeps the unbiased variance of the batch, Flax the biased one.
    places = images[..., 0].size
    unbiased = (statistics["stem_norm"]["var"][:16] - 0.9) * places / (places - 1) + 0.9
    np.testing.assert_allclose(unbiased, RESNET18["stem_norm/var"], rtol=1e-5)


SMALL = {  # as in tests/golden/make_models.py
    "imagenet": (ResNet(5, (1, 1), 4, "relu", "imagenet", bottleneck=True), (2, 33, 30, 3)),
    "padded": (ResNet(5, (1, 1), 4, "relu", shortcut="pad"), (2, 9, 8, 3)),
    "wide": (WideResNet(5, 1, 1, "relu"), (2, 9, 8, 3)),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_form_has_the_values_and_gradients_of_pytorch(name):
    module, shape = SMALL[name]
    model, images = as_model(module), normal(1, shape)
    params, state = drawn(module, shape[1:])

    @jax.jit
    def everything(images):
        def loss(images):
            outputs, _ = model.apply(params, state, images, key=None, train=True)
            return jnp.sin(outputs).sum(), outputs

        gradient, outputs = jax.grad(loss, has_aux=True)(images)
        return outputs, gradient, model.apply(params, state, images, key=None, train=False)[0]

    train, gradient, evaluation = everything(images)
    np.testing.assert_allclose(train, GOLDEN[f"{name}/train"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(evaluation, GOLDEN[f"{name}/eval"], rtol=1e-4, atol=1e-4)
    want = GOLDEN[f"{name}/gradient"]
    np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_a_three_stage_depth_has_no_imagenet_form():
    with pytest.raises(ConfigError, match=r"^model\.resnet\.depth: 56 has three stages.* takes 18, 34, 50, 101, 152$"):
        MODELS["resnet"](10, depth=56, form="imagenet")


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_makes_each_block_its_shortcut_at_the_start(bottleneck):
    x = jnp.abs(normal(0, (3, 4, 4, 8)))  # as a ReLU leaves it
    features = 2 if bottleneck else 8
    for zero_init in (True, False):
        block = Block(features, 1, "relu", bottleneck, zero_init=zero_init)
        outputs, variables = jax.jit(lambda x, b=block: b.init_with_output(KEY, x, True))(x)
        assert np.array_equal(outputs, x) == zero_init
        norms = [
            float(variables["params"][name]["scale"].sum()) for name in sorted(variables["params"]) if "norm" in name
        ]
        assert [value == 0 for value in norms] == [False] * (len(norms) - 1) + [zero_init]


def test_every_block_of_a_zero_init_resnet_starts_as_its_shortcut():
    params, _ = jax.jit(as_model(ResNet(5, (1, 2), 4, "relu", zero_init=True)).init)(KEY, jnp.zeros((1, 8, 8, 3)))
    zeros = {path for path, leaf in flatten(params).items() if path.endswith("scale") and not leaf.any()}
    assert zeros == {f"{block}/norm2/scale" for block in ("stage1_block1", "stage2_block1", "stage2_block2")}


def test_stochastic_depth_leaves_out_whole_examples_and_keeps_the_expectation():
    branch = jnp.broadcast_to(jnp.arange(1.0, 7.0).reshape(1, 2, 3), (4000, 2, 3))
    module = StochasticDepth(0.3)
    got = np.asarray(module.apply({}, branch, True, rngs={"dropout": KEY}))
    kept = got[:, 0, 0] > 0
    np.testing.assert_allclose(got[kept], branch[kept] / 0.7, rtol=1e-6)
    assert not got[~kept].any()
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / 4000)
    np.testing.assert_array_equal(module.apply({}, branch, False), branch)


def test_drop_rates_rise_evenly_to_the_last():
    np.testing.assert_allclose(drop_rates(0.5, 4), [0.125, 0.25, 0.375, 0.5])
    assert drop_rates(0.0, 3) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("module", "rates"),
    [
        (ResNet(4, (1, 1), 4, "relu", stochastic_depth=0.8), [0.4, 0.8]),
        (WideResNet(4, 1, 1, "relu", stochastic_depth=0.9), [0.3, 0.6, 0.9]),
    ],
)
def test_later_blocks_are_left_out_more_often(module, rates):
    params, state = drawn(module, (4, 4, 3))
    images = normal(2, (400, 4, 4, 3))
    branches = functools.partial(
        module.apply,
        train=True,
        capture_intermediates=lambda m, _: isinstance(m, StochasticDepth),
        mutable=["batch_stats", "intermediates"],
    )
    _, captured = jax.jit(branches)({"params": params, **state}, images, rngs={"dropout": KEY})
    left_out = [
        float((np.abs(block["stochastic_depth"]["__call__"][0]).max(axis=(1, 2, 3)) == 0).mean())
        for _, block in sorted(captured["intermediates"].items())
    ]
    np.testing.assert_allclose(left_out, rates, atol=5 * 0.5 / np.sqrt(400))


REMAT = {
    "resnet": functools.partial(ResNet, 4, (1,), 4, "relu", stochastic_depth=0.5, dropout=0.3),
    "wide_resnet": functools.partial(WideResNet, 4, 1, 1, "relu", dropout=0.3, stochastic_depth=0.5),
}


@pytest.mark.parametrize("name", REMAT)
def test_remat_keeps_paths_values_and_gradients(name):
    images = normal(3, (4, 4, 4, 5))
    params, state = drawn(REMAT[name](), images.shape[1:])
    results = []
    for remat in (False, True):
        model = as_model(REMAT[name](remat=remat))
        assert flatten(shapes(REMAT[name](remat=remat), images.shape[1:])[0]).keys() == flatten(params).keys()

        def loss(params, model=model):
            outputs, new_state = model.apply(params, state, images, key=KEY, train=True)
            return jnp.sin(outputs).sum(), (outputs, new_state)

        # The gradient of the wide one would take most of this file's time to compile.
        results.append(jax.jit(jax.grad(loss, has_aux=True) if name == "resnet" else loss)(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


@pytest.mark.parametrize("name", REMAT)
def test_remat_computes_each_norm_again(name):
    counts = []
    for remat in (False, True):
        model = as_model(REMAT[name](remat=remat))
        images = jnp.zeros((2, 4, 4, 5))
        params, state = drawn(REMAT[name](), images.shape[1:])

        def loss(params, model=model, state=state, images=images):
            return model.apply(params, state, images, key=KEY, train=True)[0].sum()

        counts.append(str(jax.make_jaxpr(jax.grad(loss))(params)).count(" rsqrt "))
    assert counts[1] > counts[0] > 0
