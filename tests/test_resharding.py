"""A checkpoint of 8 devices restores on 1, 2 and 4, whole or cut over them: equal parameters, the same next updates."""

import shutil

import jax
import numpy as np
import pytest
from helpers import blobs, tiny

from jtrain.assembly import assemble
from jtrain.io.checkpoint import Checkpoints
from jtrain.loop import train
from jtrain.session import place_state
from jtrain.state import to_flat


def run_of(devices, fsdp):
    rules = ((".*/kernel", -1),) if fsdp > 1 else ()
    c = tiny("30steps", 16, mesh__devices=devices, mesh__fsdp=fsdp, mesh__rules=rules, checkpoint__every="10steps")
    c.model.mlp.features = (8, 8)
    c.groups = ((".*", 1.0),)
    c.ema.decay = 0.9
    c.checkpoint.keep = 5
    return assemble(c, data=blobs(classes=4))


@pytest.fixture(scope="module")
def of_eight(tmp_path_factory):
    """(workdir with the checkpoint of update 10 alone, losses of the whole run, its state at update 10)."""
    workdir = tmp_path_factory.mktemp("eight") / "w"
    result = train(run_of(8, 4), workdir)
    for step in (20, 30):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    restored = Checkpoints(workdir / "checkpoints", keep=1, event=print, read_only=True).restore()
    return workdir, losses(result), restored


def losses(result):
    return np.array([row["loss"] for row in result.history if row["split"] == "train"])


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (2, 2), (4, 2), (4, 1), (8, 4)])
def test_restored_on_other_devices_it_goes_on_equally(tmp_path, of_eight, devices, fsdp):
    workdir, whole, restored = of_eight
    run = run_of(devices, fsdp)
    state = place_state(run, restored)
    for path, leaf in to_flat(state).items():
        np.testing.assert_array_equal(jax.device_get(leaf), restored.state[path], err_msg=path)
    kernel = state.params["dense1"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (8, 8 // fsdp)
    assert state.ema["dense1"]["kernel"].sharding == kernel.sharding
    shutil.copytree(workdir, tmp_path / "w")
    found = losses(train(run, tmp_path / "w"))
    assert len(found) == len(whole)
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5)
