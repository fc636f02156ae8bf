"""docs/scale.md: its tables are those of benchmarks/scale.py, whose arithmetic is held against slow plain versions."""

import importlib.util
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jtrain import metrics

ROOT = Path(__file__).resolve().parents[1]


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


scale = benchmark("scale")

FREE = scale.Assumed(hop=0.0, host_hop=0.0)
RING = scale.Chip(1e12, 1e9, 1e9, 100.0, {6: (6,)}, 1, "")


@pytest.mark.parametrize("name", scale.tables())
def test_the_page_holds_the_tables_that_the_script_prints(name):
    assert scale.tables()[name] in (ROOT / "docs" / "scale.md").read_text()


def test_a_ring_all_reduce_takes_what_its_messages_take():
    n, size, sent = 6, 600.0, 0.0
    shards = np.random.default_rng(0).normal(size=(n, n, 3))  # of every chip: n pieces of its gradient
    whole = shards.sum(axis=0)
    for phase in range(2):  # reduce-scatter, all-gather: n - 1 rounds each, in which everyone sends one piece
        for turn in range(n - 1):
            given = [((chip - turn + phase) % n, chip) for chip in range(n)]
            messages = {(chip + 1) % n: (piece, shards[chip, piece].copy()) for piece, chip in given}
            for chip, (piece, message) in messages.items():
                shards[chip, piece] = message if phase else shards[chip, piece] + message
            sent += size / n
    np.testing.assert_allclose(shards, np.broadcast_to(whole, shards.shape))
    assert scale.all_reduce(RING, n, size, FREE) == pytest.approx(sent / RING.link)
    assert scale.all_reduce(RING, n, 0.0, scale.Assumed(hop=1.0)) == 2 * (n - 1)


def test_islands_send_each_piece_once_between_hosts():
    chip, size = scale.PUBLISHED["H100"], 8e9
    inside = 2 * 7 / 8 * size / 450e9  # among the 8 of a host, before and after
    between = 2 * 31 / 32 * 1e9 / 50e9  # each of the 8 with its own eighth, among 32 hosts
    assert scale.all_reduce(chip, 256, size, FREE) == pytest.approx(inside + between)


@pytest.mark.parametrize(("write", "mtbf"), [(0.2, 4 * 3600), (2.0, 4 * 3600), (60.0, 200 * 3600)])
def test_the_interval_of_saves_loses_least(write, mtbf):
    def expected(every):  # a unit of work takes so long, exactly, where failures come at random
        return mtbf * math.expm1((every + write) / mtbf) / every

    tried = np.geomspace(write, 10 * mtbf, 20_000)
    best = tried[np.argmin([expected(every) for every in tried])]
    assert scale.save_every(write, mtbf) == pytest.approx(best, rel=0.02)
    every = scale.save_every(write, mtbf)
    assert scale.lost(write, every, mtbf, 0.0) == pytest.approx(expected(every) - 1, rel=0.05)


def test_collectives_are_read_from_a_program():
    text = """
      %a = f32[64]{0} all-reduce(%x), channel_id=1
      %b = (bf16[2,3]{1,0}, f32[]) all-reduce-start(%y), channel_id=2
      %c = f32[8]{0} all-reduce-done(%b)
      ROOT %d = f32[4,4]{1,0} all-gather(%z), dimensions={0}
    """
    assert benchmark("scale_measure").collectives(text) == [("all-reduce", 256), ("all-reduce", 16), ("all-gather", 64)]


def test_what_was_measured_is_resnet_50():
    measured = scale.MEASURED
    assert measured["parameters"] == 25_557_032  # torchvision's resnet50
    assert measured["parameter bytes"] == measured["optimizer bytes"] == 4 * measured["parameters"]
    # Three times the forward pass: 4.09 billion multiply-adds (torchvision's table), two operations each.
    assert measured["flops an image"] == pytest.approx(3 * 2 * 4.09e9, rel=0.05)
    sums = measured["data-parallel"]
    assert sums["gradient bytes"] + sums["small bytes"] > measured["parameter bytes"] > sums["gradient bytes"]


def test_no_metric_of_training_gathers_the_batch():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    outputs = jax.ShapeDtypeStruct((64, 50), np.float32, sharding=cut)
    targets = jax.ShapeDtypeStruct((64,), np.int32, sharding=cut)
    for name in ("accuracy", "top5_accuracy"):
        metric = metrics.named(name)
        program = jax.jit(lambda x, y, metric=metric: metric.values(x, y).sum()).lower(outputs, targets).compile()
        assert "all-reduce" in program.as_text()
        assert "all-gather" not in program.as_text()
