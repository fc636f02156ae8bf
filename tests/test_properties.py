"""Over random configs: update count, logged lr and schedule agree, whatever the units, devices, micro-batches."""

import math

import numpy as np
from helpers import blobs, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jtrain.assembly import assemble
from jtrain.loop import train

EXAMPLES, BATCH = 65, 12  # 72 less the validation cut

totals = st.one_of(
    st.integers(1, 9).map(lambda n: (f"{n}steps", n)),
    st.integers(1, 100).map(lambda n: (f"{n}examples", math.ceil(n / BATCH))),
    st.sampled_from(["0.3epochs", "1epochs", "1.5epochs"]).map(
        lambda t: (t, math.ceil(round(float(t[:-6]) * 10) * EXAMPLES / 10 / BATCH))
    ),
)
warmups = st.sampled_from(["0", "1steps", "13examples", "20%", "0.1epochs"])
schedules = st.sampled_from(
    ["constant", "cosine", "linear", "polynomial", "inverse_time", "cosine_restarts", "one_cycle"]
)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(totals, warmups, schedules, st.sampled_from([1, 4]), st.sampled_from([1, 8]), st.sampled_from([1.0, 0.25]))
def test_update_count_logged_lr_and_schedule_agree(total, warmup, schedule, accumulate, devices, scale):
    text, updates = total
    c = tiny(text, BATCH, schedule__name=schedule, log__every="1steps", mesh__devices=devices, lr_scale=scale)
    c.train.accumulate = accumulate
    c.optimizer.name = "sgd"
    if updates > 3:
        c.schedule.warmup = warmup
    run = assemble(c, data=blobs())
    assert run.clock.total == updates
    result = train(run)
    rows = [row for row in result.history if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, updates + 1))
    assert int(result.state.step) == updates
    expected = [float(run.optimizer.schedules["lr"](np.int64(k))) * scale for k in range(updates)]
    np.testing.assert_allclose([row["lr"] for row in rows], expected, rtol=1e-6)
    assert all(math.isfinite(lr) and lr >= 0 for lr in expected)
