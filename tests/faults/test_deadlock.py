"""Many steps on eight simulated devices, with batches, evaluations and saves under way: none hangs."""

import pytest
from faults.lanes import newest

LIMIT = 240.0  # seconds; a run takes some ten on an idle machine
STREAMED = (
    "--config.mesh.devices=8", "--config.data.placement=streamed", "--config.log.every=10steps",
    "--config.train.eval_every=100steps", "--config.checkpoint.every=50steps",
)  # fmt: skip


@pytest.mark.parametrize(("times", "steps"), [(1, 200), pytest.param(10, 2000, marks=pytest.mark.faults)])
def test_thousands_of_steps_on_eight_simulated_devices_come_to_an_end(tmp_path, lanes, argv, times, steps):
    def run(lane, workdir):
        environ = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
        child = lane.start(*argv(workdir, steps, *STREAMED), environ=environ)
        assert child.wait(LIMIT) == 0, child.err()
        assert "8 × cpu" in child.out()
        assert newest(workdir) == steps

    lanes.each(run, [tmp_path / f"run{i}" for i in range(times)])
