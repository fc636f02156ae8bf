"""A save that the disk refuses is one error, and no pages of tracebacks from the libraries below."""

import os
import subprocess
import sys
from pathlib import Path

FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from jtrain.errors import DataError
from jtrain.io.checkpoint import Checkpoints

arrays = {f"a/{i}": np.random.default_rng(i).normal(size=40_000) for i in range(12)}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a write beyond it fails, as on a full disk
checkpoints = Checkpoints(Path(sys.argv[1]), keep=1, event=print)
try:
    checkpoints.save(1, arrays, {}, block=True)
except DataError as error:
    print(error)
checkpoints.close()
"""
OTHERS = """
import asyncio, logging, sys
from jtrain.io import arrays

arrays.orbax()
logging.getLogger("absl").error("of another")
async def fail():
    raise ValueError("lost")
async def main():
    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0)
asyncio.run(main())
class Bad:
    def __del__(self):
        raise ZeroDivisionError
Bad()
"""


def ran(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True)


def test_a_failed_save_is_one_line(tmp_path):
    done = ran(FULL, tmp_path / "c")
    assert done.stderr == ""
    assert "cannot save checkpoint 1" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "c" / "1").exists()


def test_errors_of_others_are_still_shown():
    shown = ran(OTHERS).stderr
    for word in ("of another", "never retrieved", "ZeroDivisionError"):
        assert word in shown
