import json

import jax
import numpy as np
import pytest
from helpers import tiny, tiny_run

from jtrain.assembly import assemble
from jtrain.errors import ConfigError
from jtrain.loop import train
from jtrain.state import to_flat
from jtrain.studies import batch_size as module
from jtrain.studies.batch_size import batch_size
from jtrain.studies.batch_size.memory import GIB, Limit, available_memory, compiled, needed, with_batch
from jtrain.studies.batch_size.told import Sizes

WIDE = np.zeros((600, 64), np.float32), np.arange(600, dtype=np.int32) % 3


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """One short stretch a size: what is tested here does not depend on the time that is taken."""
    monkeypatch.setattr(module, "ROUNDS", 1)
    monkeypatch.setattr(module, "STRETCHES", 1)
    monkeypatch.setattr(module, "TIMED", 0.0)


def config(**fields):
    return tiny(study__batch_size__updates=1, train__steps_per_call=1, **fields)


def limited(memory):
    return config(study__batch_size__memory=memory / GIB)


@pytest.fixture(scope="module")
def scan():
    """What every so many sizes need, one after another: {size: bytes}."""
    run = assemble(config(), data={"train": WIDE})
    found = {}
    for size in range(60, 541, 60):
        other = with_batch(run, size)
        found[size] = needed(other, compiled(other))["all"]
    return found


def test_needs_rise_with_the_size(scan):
    assert list(scan.values()) == sorted(scan.values())
    assert scan[540] > 1.3 * scan[60]


@pytest.mark.parametrize("between", [(120, 180), (360, 420)])
def test_largest_size_is_right_to_ten_percent_of_a_planted_limit(scan, between):
    planted = (scan[between[0]] + scan[between[1]]) / 2
    found = batch_size(limited(planted), data={"train": WIDE}).found
    assert between[0] < found["largest"] < between[1]
    run = assemble(config(), data={"train": WIDE})
    own, more = (with_batch(run, size) for size in (found["largest"], round(1.1 * found["largest"]) + 1))
    assert needed(own, compiled(own))["all"] <= planted < needed(more, compiled(more))["all"]


def test_nothing_is_run_that_does_not_fit(scan, monkeypatch):
    limit, ran = scan[300], []
    original = module.advance

    def advance(program, states, feeds, *given, **options):
        ran.append(needed(feeds[0].__self__, program)["all"])
        return original(program, states, feeds, *given, **options)

    monkeypatch.setattr(module, "advance", advance)
    study = batch_size(limited(limit), data={"train": WIDE})
    assert max(ran) <= limit
    assert any(not row["fits"] for row in study.rows)


def test_a_device_that_runs_out_of_memory_all_the_same_counts_as_too_small(monkeypatch):
    original = module.advance

    def advance(program, states, feeds, *given, **options):
        if feeds[0].__self__.batch_size > 100:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
        return original(program, states, feeds, *given, **options)

    monkeypatch.setattr(module, "advance", advance)
    study = batch_size(config(study__batch_size__memory=1.0), data={"train": WIDE})
    assert 100 / 1.1 <= study.found["largest"] <= 100 < study.found["too_large"] <= 110
    assert study.ok


def test_other_errors_of_the_device_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def advance(*given, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(module, "advance", advance)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        batch_size(config(study__batch_size__memory=1.0), data={"train": WIDE})


def test_all_examples_fit_where_there_is_room(tmp_path):
    study = batch_size(config(study__batch_size__memory=1.0), tmp_path, data={"train": WIDE})
    assert study.found["largest"] == 540  # after the validation cut
    assert study.found["too_large"] is None
    assert "all 540 training examples fit the 1 GiB of study.batch_size.memory" in study.conclusion
    told = json.loads((tmp_path / "study.json").read_text())
    assert told["found"]["largest"] == 540
    assert (tmp_path / "study.png").stat().st_size > 10_000


def test_answer_is_no_where_nothing_fits():
    study = batch_size(config(study__batch_size__memory=1e-9), data={"train": WIDE})
    assert not study.ok
    assert "not even a batch of 1 fits" in study.conclusion


def test_sizes_divide_among_micro_batches_shards_and_devices():
    parts = {"mesh__shards": 4, "mesh__devices": 2, "train__accumulate": 2, "batch_size": 16}
    memory = {"study__batch_size__memory": 1.0}
    study = batch_size(config(study__batch_size__most=30, **parts, **memory), data={"train": WIDE})
    assert [row["batch"] for row in study.rows] == [8, 16, 24]
    assert study.found["largest"] == 24
    with pytest.raises(ConfigError, match=r"study\.batch_size\.most: 7 examples .* give 8"):
        batch_size(config(study__batch_size__most=7, **parts, **memory), data={"train": WIDE})


@pytest.mark.parametrize("placement", ["resident", "streamed"])
@pytest.mark.parametrize("devices", [1, 2])
def test_analysis_from_shapes_is_that_of_the_real_step(placement, devices):
    run = tiny_run(batch_size=10, mesh__devices=devices, data__placement=placement, augment="")
    state, given = run.init_state(), run.give(0)
    program = compiled(run)
    real = run.train_steps.lower(state, *given).compile().memory_analysis()
    parts = needed(run, program)
    assert parts["arguments"] == real.argument_size_in_bytes
    assert parts["between"] == real.temp_size_in_bytes
    moved, _ = program(state, *given)  # which takes the real arrays as they lie
    assert int(moved.step) == 1


def test_run_is_left_as_it_was():
    run, control = (tiny_run(study__batch_size__memory=1.0, study__batch_size__updates=1) for _ in range(2))
    before = run.config.to_json_best_effort()
    batch_size(run)
    assert run.config.to_json_best_effort() == before
    after, alone = (to_flat(train(each).state) for each in (run, control))
    for path, leaf in alone.items():
        np.testing.assert_array_equal(np.asarray(after[path]), np.asarray(leaf), err_msg=path)


def test_killed_study_goes_on_where_it_was(tmp_path, monkeypatch):
    original, done = module.needed, []

    def kill(run, program):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run.batch_size)
        return original(run, program)

    given = config(study__batch_size__memory=1.0)
    monkeypatch.setattr(module, "needed", kill)
    with pytest.raises(KeyboardInterrupt):
        batch_size(given, tmp_path, data={"train": WIDE})
    again = []
    monkeypatch.setattr(module, "needed", lambda run, program: again.append(run.batch_size) or original(run, program))
    study = batch_size(given, tmp_path, data={"train": WIDE})
    assert not set(done) & set(again)
    assert {row["batch"] for row in study.rows} == set(done) | set(again)


def sizes(run, speed):
    parts = {size: {"all": size, "between": 0} for size in speed}
    return Sizes(run, Limit(1e9, "1 GB"), parts, {size: list(rates) for size, rates in speed.items()}, frozenset())


def test_knee_is_the_smallest_size_near_the_best_and_noise_moves_it_down():
    run = tiny_run(batch_size=8)
    steady = {8: (100.0,) * 3, 16: (190.0,) * 3, 32: (240.0,) * 3, 64: (250.0,) * 3}
    assert sizes(run, steady).knee == 32
    noisy = {8: (100, 110, 120), 16: (190, 220, 250), 32: (200, 240, 280), 64: (200, 250, 300)}
    assert sizes(run, noisy).knee == 16
    text = sizes(run, steady).conclusion(64, 128)
    assert "beyond 32 a larger batch is at most 4% faster" in text
    assert "2.4× the examples a second: --config.train.batch_size=32" in text


def test_no_knee_is_told_where_the_rounds_differ_too_much():
    found = sizes(tiny_run(batch_size=8), {8: [100, 200, 300], 16: [50, 200, 500]})
    assert found.knee is None
    assert "cannot be told: the rounds differ by ±81%" in found.conclusion(16, None)
    assert "--config" not in found.conclusion(16, None)


def test_lr_moves_by_the_rule_of_the_optimizer():
    adam = sizes(tiny_run(batch_size=8), {8: [1.0], 32: [4.0]})  # lr 0.01
    assert adam.lrs(32) == {"lr_linear": 0.04, "lr_sqrt": 0.02, "lr": 0.02, "rule": "square root"}
    assert "from 0.01 at 8 to 0.02 (linear: 0.04)" in adam.conclusion(32, None)
    assert "--config.train.batch_size=32 --config.optimizer.lr=0.02" in adam.conclusion(32, None)
    sgd = sizes(tiny_run(batch_size=8, optimizer__name="sgd"), {8: [1.0], 32: [4.0]})
    assert sgd.lrs(32)["lr"] == pytest.approx(0.04)


def test_lr_that_moves_by_itself_is_not_to_be_typed():
    run = tiny_run(batch_size=8, optimizer__reference_batch=8, optimizer__batch_scaling="linear")
    text = sizes(run, {8: [1.0], 32: [4.0]}).conclusion(32, None)
    assert text.endswith("--config.train.batch_size=32")
    other = tiny_run(batch_size=32, optimizer__reference_batch=8, optimizer__batch_scaling="linear")
    assert other.optimizer.lr == pytest.approx(sizes(run, {8: [1.0]}).lrs(32)["lr"])


def test_config_that_is_fast_already_is_left_alone():
    text = sizes(tiny_run(batch_size=32), {8: [100.0], 32: [101.0]}).conclusion(32, None)
    assert text.endswith("the config's 32 is as fast as any: leave train.batch_size and the lr")


def test_available_memory_is_the_least_of_machine_and_container(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 4000 kB\nMemAvailable: 2000 kB\n")
    assert available_memory(tmp_path) == 2000 * 1024
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a/b\n0::/c\n")
    old, new = tmp_path / "sys/fs/cgroup/memory/a", tmp_path / "sys/fs/cgroup/c"
    old.mkdir(parents=True)
    new.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("1500000\n")
    (old / "memory.usage_in_bytes").write_text("600000\n")
    (old / "memory.stat").write_text("cache 5\ntotal_inactive_file 100000\n")
    assert available_memory(tmp_path) == 1_000_000
    (new / "memory.max").write_text("max\n")
    (new / "memory.current").write_text("5\n")
    assert available_memory(tmp_path) == 1_000_000
    (new / "memory.max").write_text("700000\n")
    assert available_memory(tmp_path) == 699_995


def test_machine_that_tells_no_memory_asks_for_the_limit(monkeypatch):
    monkeypatch.setattr("jtrain.studies.batch_size.memory.available_memory", lambda: None)
    with pytest.raises(ConfigError, match=r"study\.batch_size\.memory: .* give the GiB"):
        batch_size(config(), data={"train": WIDE})
