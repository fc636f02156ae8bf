"""However a run is watched, and wherever it is stopped between, its last state is the same to the bit."""

import hashlib
import random
import signal

import numpy as np
import pytest
from helpers import tiny_run
from test_loop import interrupt_at

from jtrain.errors import Interrupted
from jtrain.loop import train
from jtrain.state import to_flat

TOTAL = 20
SETTINGS = [(3, 7, 5, ()), (1, 1, 1, ()), (20, 20, 20, (9,)), (6, 4, 9, (3, 13))]  # log, eval, save every; stops
_rng = random.Random(0)
RANDOM = [
    (*(_rng.randrange(1, 22) for _ in range(3)), tuple(sorted(_rng.sample(range(1, 19), k)))) for k in (0, 1, 2, 3) * 5
]


def digest(state):
    whole = hashlib.sha256()
    for path, leaf in sorted(to_flat(state).items()):
        leaf = np.asarray(leaf)
        whole.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
    return whole.hexdigest()


def trained(workdir, log, evaluate, save, stops):
    def run():
        return tiny_run(
            f"{TOTAL}steps", log__every=f"{log}steps", train__eval_every=f"{evaluate}steps",
            checkpoint__every=f"{save}steps", model__mlp__dropout=0.3, ema__decay=0.9,
        )  # fmt: skip

    for step in stops:
        with pytest.raises(Interrupted):
            train(interrupt_at(run(), step, signal.SIGINT), workdir)
    return digest(train(run(), workdir).state)


@pytest.mark.parametrize("settings", [SETTINGS, pytest.param(RANDOM, marks=pytest.mark.faults)], ids=["few", "many"])
def test_watching_and_stopping_never_change_what_is_trained(tmp_path, settings):
    found = {trained(tmp_path / f"run{i}", *setting): setting for i, setting in enumerate(settings)}
    assert len(found) == 1, found
