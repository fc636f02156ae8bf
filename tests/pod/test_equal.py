"""1, 2 and 4 processes, with 1 and 2 devices each, compute the same; what one wrote, any other number goes on with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pod.pods import CHILD, finish, start

CUT = "mesh__fsdp=2 mesh__rules=(('.*/kernel',-1),)"
STREAMED = "data__placement='streamed'"
VARIANTS = ("whole", f"streamed {STREAMED}", f"cut {CUT}", f"cut-streamed {CUT} {STREAMED}")


def train(folder, processes, devices, *variants):
    """{name: what the first process tells of it}; all processes tell the same losses."""
    out = folder / f"{processes}-{devices}"
    codes, errors = finish(
        start(
            processes, devices,
            lambda i, port: [str(CHILD), f"127.0.0.1:{port}", str(processes), str(i), str(out), *variants],
        ),
        timeout=600,
    )  # fmt: skip
    assert codes == [0] * processes, errors
    told = [[json.loads(line) for line in Path(f"{out}.{i}").read_text().splitlines()] for i in range(processes)]
    for other in told[1:]:
        for own, first in zip(other, told[0], strict=True):  # of a resumed run the first alone has all rows
            assert own["losses"] == first["losses"][-len(own["losses"]) :]
    return {found["name"]: found for found in told[0]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process on one device, with the data on it."""
    return train(tmp_path_factory.mktemp("alone"), 1, 1, "whole")["whole"]


def check(found, alone):
    assert len(alone["losses"]) == 50
    assert alone["losses"][-1] < alone["losses"][0]
    for name, one in found.items():
        np.testing.assert_allclose(one["losses"], alone["losses"], rtol=0, atol=1e-5, err_msg=name)
        for split, metrics in alone["metrics"].items():
            for metric, value in metrics.items():
                assert one["metrics"][split][metric] == pytest.approx(value, abs=1e-5), (name, split, metric)
        assert one["held"] == pytest.approx(alone["held"] * (0.5 if "cut" in name else 1.0), rel=0.06), name


def test_two_processes_of_two_devices_equal_one_of_one(tmp_path, alone):
    check(train(tmp_path, 2, 2, VARIANTS[1], VARIANTS[2]), alone)


@pytest.mark.faults
@pytest.mark.parametrize(("processes", "devices"), [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_any_number_of_processes_and_devices_equals_one(tmp_path, alone, processes, devices):
    check(train(tmp_path, processes, devices, *VARIANTS), alone)


@pytest.mark.faults
@pytest.mark.parametrize(("before", "after"), [((4, 1), (1, 1)), ((4, 2), (1, 2)), ((1, 8), (1, 4)), ((1, 8), (2, 1))])
def test_another_number_goes_on_with_a_checkpoint(tmp_path, alone, before, after):
    workdir = tmp_path / "w"
    fields = f"workdir='{workdir}' checkpoint__keep=5"
    check(train(tmp_path, *before, f"cut {CUT if before[0] * before[1] > 1 else ''} {fields}"), alone)
    for step in (40, 50):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    other = train(tmp_path, *after, f"other {CUT if after[0] * after[1] > 1 else ''} {fields}")
    rows = [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]
    assert any(row["kind"] == "resume" and "update 20 of 50" in row["text"] for row in rows)
    np.testing.assert_allclose(other["other"]["losses"], alone["losses"], rtol=0, atol=1e-5)
