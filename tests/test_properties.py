"""Over random configs: update count, logged lr and schedule agree, whatever the units, devices, micro-batches."""

import math

import jax
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
    c.optimizer.sgd.momentum = c.optimizer.sgd.weight_decay = 0.0
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
    state = run.init_state()  # the lr that the step itself applied: plain SGD moves by lr × gradient
    for k in range(min(updates, 4)):
        before = jax.device_get(state.params)
        state, sums = run.train_step(state, *run.feeds["train"].train_batch(run.order, k))
        moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), before, jax.device_get(state.params))
        norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(moved)))
        np.testing.assert_allclose(norm, expected[k] * float(sums["grad_norm"][0]), rtol=1e-3, atol=1e-7)
