"""NaN in one device's part of the batch: the same is done about it as on one device."""

import json

import jax
import numpy as np
import pytest
from helpers import hooked, tiny_run

from jtrain.errors import NonFiniteError
from jtrain.loop import train

DEVICES, BATCH = 8, 16
UPDATE = 8


def poisoned(run, index, once=False):
    """Plants NaN into example `index` of the batch of update UPDATE; with `once` it is good on a second look."""
    seen = []

    def give(original, step):
        data, rows = original()
        seen.append(step)
        if step == UPDATE and not (once and seen.count(step) > 1):
            data = data | {"inputs": data["inputs"].at[index, 2].set(np.nan)}
        return data, rows

    return hooked(run, give)


def outcome(workdir, devices, policy, device):
    """(the error's words, kinds and steps of events, steps and skipped updates of the rows, lr_scale, parameters)."""
    run = tiny_run("20steps", BATCH, mesh__devices=devices, data__placement="streamed", train__on_nan=policy)
    index = device * BATCH // DEVICES + 1
    error, params, lr_scale = "", {}, None
    try:
        result = train(poisoned(run, index, once=policy == "rollback"), workdir)
        params = jax.tree.map(np.asarray, result.state.params)
        lr_scale = float(result.state.lr_scale)
    except NonFiniteError as raised:
        error = str(raised).replace(str(workdir), "")
    events = [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    told = [(event["kind"], event["step"]) for event in events]
    return (error, told, [(row["step"], row["split"], row.get("skipped")) for row in rows], lr_scale), params


@pytest.mark.parametrize("policy", ["raise", "skip", "rollback"])
@pytest.mark.parametrize(
    "devices", [pytest.param([6], id="one"), pytest.param(range(DEVICES), id="each", marks=pytest.mark.faults)]
)
def test_nan_on_one_of_eight_devices_is_dealt_with_as_on_one(tmp_path, policy, devices):
    for device in devices:
        expected, params = outcome(tmp_path / f"one{device}", 1, policy, device)
        found, others = outcome(tmp_path / f"eight{device}", DEVICES, policy, device)
        assert found == expected
        assert any(kind in ("non_finite", "skip", "rollback") for kind, _ in found[1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), params, others)
