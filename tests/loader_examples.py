"""Examples that loader processes can import: the tests themselves are no modules to them."""

import os
import signal
import sys
import time

import numpy as np

from jtrain.data.examples import BrokenRecord


class Made:
    """Examples that follow from their numbers; some are broken, and fetching may take its time."""

    nbytes = 1

    def __init__(self, count=40, broken=(), seconds=0.0):
        self.count, self.broken, self.seconds = count, frozenset(broken), seconds

    def __len__(self):
        return self.count

    def fetch(self, rows):
        time.sleep(self.seconds)
        for row in rows:
            if int(row) in self.broken:
                raise BrokenRecord(f"made.bin: record {row} is bad")
        inputs = (rows[:, None] * np.array([[1, 3, 7]]) % 251).astype(np.uint8)
        return inputs, (rows % 5).astype(np.int32)

    def arrays(self):
        return self.fetch(np.arange(self.count))


class Telling(Made):
    """Its targets tell of the process that fetches: its number, whether it has JAX, how many threads it may use."""

    def fetch(self, rows):
        facts = [os.getpid(), "jax" in sys.modules, int(os.environ.get("OMP_NUM_THREADS", -1))]
        return super().fetch(rows)[0], np.array([facts] * len(rows))


class Deadly(Made):
    """Record 3 kills who fetches it."""

    def fetch(self, rows):
        if 3 in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fetch(rows)


class TwoWords(Exception):
    """Cannot be read back from its pickle: its __init__ needs more than the message."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


class Raising(Made):
    """Fetching raises `error`; TwoWords where it is None."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error

    def fetch(self, rows):
        raise self.error or TwoWords("so", "there")
