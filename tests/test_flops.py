"""FLOPs of an update against counts by hand, and the utilization that follows."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import put, tiny_run

from jtrain import config as configs
from jtrain import flops
from jtrain.assembly import assemble
from jtrain.peaks import PEAKS, peak_of


def images(batch, model=None, side=8, **fields):
    """A run of a model on 16 images [side, side, 3] of 10 classes."""
    c = put(configs.base(), train__batch_size=batch, data__validation=0.0, **{"mesh__devices": 1, **fields})
    pixels = np.random.default_rng(0).integers(0, 255, (16, side, side, 3)).astype(np.uint8)
    return assemble(c, data={"train": (pixels, (np.arange(16) % 10).astype(np.int32))}, model=model)


class Convs(nn.Module):
    """Two convolutions and a dense layer: 8×8×3 → 8×8×4 → 4×4×6 (stride 2, groups 2) → 10."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.relu(nn.Conv(6, (3, 3), strides=2, feature_group_count=2)(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


CONVS = 2 * (2 * 64 * 4 * 27) + 3 * (2 * 16 * 6 * 18) + 3 * (2 * 96 * 10)  # the first layer's inputs get no gradient


def test_dense_layers_cost_6_a_weight_and_example_but_the_first_4():
    first, rest = 6 * 8, 8 * 3
    assert flops.per_update(tiny_run(batch_size=10)) == 10 * (4 * first + 6 * rest)


@pytest.mark.parametrize(
    "fields",
    [{}, {"mesh__devices": 8}, {"train__accumulate": 4}, {"train__remat": "cheap"}, {"precision": "bfloat16"},
     {"augment": "pad_crop(1)|mixup"}, {"augment": "flip_alternating"}],
    ids=str,
)  # fmt: skip
def test_convolutions_cost_what_a_hand_counts_however_they_are_computed(fields):
    assert flops.per_update(images(8, Convs(), **fields)) == 8 * CONVS


def test_what_is_frozen_gets_no_gradient_and_passes_on_none_that_nobody_needs():
    head_only = images(8, Convs(), groups=(("Dense_0/.*", 1.0), (".*", None)))
    assert flops.per_update(head_only) == 8 * (2 * 64 * 4 * 27 + 2 * 16 * 6 * 18 + 2 * (2 * 96 * 10))
    head_frozen = images(8, Convs(), groups=(("Dense_0/.*", None), (".*", 1.0)))
    assert flops.per_update(head_frozen) == 8 * (CONVS - 2 * 96 * 10)


def test_phases_are_counted_each_for_itself():
    run = tiny_run(phases=(("0steps", "Dense_1/.*|head/.*"), ("10steps", ".*")))
    frozen, whole = 10 * (2 * 48 + 4 * 24), 10 * (4 * 48 + 6 * 24)
    assert [flops.per_update(run, step) for step in (0, 9, 10)] == [frozen, frozen, whole]


class Recurrent(nn.Module):
    """A loop over time with one product in it, and a dense layer on its last state."""

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(len(x), 8, 24)
        enter, step = (
            self.param("enter", nn.initializers.ones, (24, 5)),
            self.param("step", nn.initializers.ones, (5, 5)),
        )

        def body(state, part):
            return jnp.tanh(part @ enter + state @ step), None

        state, _ = jax.lax.scan(body, jnp.zeros((len(x), 5)), x.swapaxes(0, 1))
        return nn.Dense(10)(state)


def test_every_round_of_a_loop_counts():
    assert flops.per_update(images(8, Recurrent())) == 8 * (8 * (2 * 2 * 24 * 5 + 3 * 2 * 25) + 3 * 2 * 50)


def test_a_loop_of_unknown_length_is_no_guess():
    class While(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = x.reshape(len(x), -1).astype(jnp.float32)
            kernel = jax.lax.stop_gradient(self.param("kernel", nn.initializers.ones, (192, 192)))
            x = jax.lax.while_loop(lambda v: v.sum() < 1e6, lambda v: v @ kernel, x)
            return nn.Dense(10)(x)

    run = images(8, While(), log__peak_flops=1e9)
    assert flops.per_update(run) is None
    assert flops.make_mfu(run)(0, 100.0) is None


def test_the_compilers_count_of_a_large_dense_net_is_about_the_same():
    run = images(16, side=16, model__name="mlp", model__mlp__features=(64, 64), optimizer__name="sgd")
    shapes = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        run.phases[0].shapes, run.phases[0].shardings,
    )  # fmt: skip
    theirs = run.train_step.lower(shapes, *run.feeds["train"].train_batch(run.order, 0)).cost_analysis()["flops"]
    assert theirs == pytest.approx(flops.per_update(run), rel=0.25)  # it adds updates, norms and the like


def test_utilization_is_flops_over_what_all_devices_could_do():
    run = tiny_run(batch_size=16, log__peak_flops=1e6, mesh__devices=8)
    mfu = flops.make_mfu(run)
    per_example = 4 * 48 + 6 * 24
    assert mfu(0, 1000.0) == pytest.approx(1000 * per_example / 8e6)
    assert mfu(0, None) is None
    assert flops.make_mfu(tiny_run()) is None  # the peak of this processor is not known


def test_a_peak_in_float32_holds_for_the_default_way_to_multiply_alone(monkeypatch):
    class H200:
        device_kind, platform = "NVIDIA H200", "gpu"

    run = tiny_run()
    mesh = type("Mesh", (), {"devices": np.array([H200()]), "size": 1})()
    run = dataclasses.replace(run, mesh=mesh)
    assert flops.peak(run) == PEAKS["H200"].float32
    with jax.default_matmul_precision("highest"):
        assert flops.peak(run) is None
    bf16 = configs.changed(run.config, precision="bfloat16")
    assert flops.peak(dataclasses.replace(run, config=bf16)) == 989e12


@pytest.mark.parametrize(
    ("kind", "precision", "tera"),
    [
        ("NVIDIA H200", "bfloat16", 989), ("NVIDIA H200 NVL", "bfloat16", 835), ("NVIDIA GH200 480GB", "float32", 494),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989), ("NVIDIA H100 PCIe", "float16", 756),
        ("NVIDIA A100-SXM4-40GB", "float32", 156), ("NVIDIA A100 80GB PCIe", "bfloat16", 312),
        ("Tesla V100-SXM2-16GB", "float16", 125), ("Tesla V100-PCIE-16GB", "float32", 14),
        ("Tesla V100-SXM2-16GB", "bfloat16", None), ("Tesla T4", "float16", 65),
        ("NVIDIA L4", "bfloat16", 121), ("NVIDIA L40S", "bfloat16", 362), ("NVIDIA A10", "float32", 62.5),
        ("NVIDIA A10G", "float32", None), ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None), ("NVIDIA GeForce RTX 4090 D", "bfloat16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", None), ("TPU v4", "bfloat16", 275),
        ("TPU v5 lite", "bfloat16", 197), ("TPU v5", "bfloat16", 459), ("TPU v6 lite", "float32", 918),
        ("TPU v4 lite", "bfloat16", 138), ("NVIDIA H100 80GB HBM2e", "bfloat16", 756),
        ("GRID A100-10C", "bfloat16", None), ("GRID A100X-4C", "bfloat16", None), ("GRID T4-16Q", "float16", None),
        ("NVIDIA A40-8Q", "bfloat16", None), ("NVIDIA A100-1-5CME", "bfloat16", None), ("GRID A40", "float32", None),
        ("TPU v3", "bfloat16", 61.5), ("TPU v4", "float16", None), ("cpu", "float32", None), ("", "float32", None),
    ],
)  # fmt: skip
def test_a_device_is_known_by_the_words_of_its_name(kind, precision, tera):
    assert peak_of(kind, precision) == (tera and tera * 1e12)
