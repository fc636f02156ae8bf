"""A program as a whole, in a new process each time.

case: "arguments" of Python and "environment", in which {cache} stands for a folder, {folder} for one that is new each
time, {here} for this one; "cache" 'empty' or 'warm'; "until": the clock stops at the line with this text, '' at the
end; "code" it must end with; "number": a pattern whose group 1 is what is checked, '' for nothing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


class Program:
    """What is run again and again."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.cache = case, tempfile.mkdtemp(prefix="jtrain-bench-cache-")
        self.versions: dict[str, str] = {}

    def check(self) -> list[float]:
        """What the program says of itself; fills the cache that shall be warm."""
        _, said = self.run()
        return [float(re.search(self.case["number"], said)[1])] if self.case["number"] else []  # type: ignore[index]

    def block(self) -> tuple[float, float]:
        """(seconds, 1) from the start of a process to the line, or to its end."""
        if self.case["cache"] == "empty":
            shutil.rmtree(self.cache, ignore_errors=True)
            Path(self.cache).mkdir()
        return self.run()[0], 1.0

    def run(self) -> tuple[float, str]:
        """(seconds, everything that it printed)."""
        with tempfile.TemporaryDirectory(prefix="jtrain-bench-") as folder, tempfile.TemporaryFile() as errors:
            places = {"cache": self.cache, "folder": folder, "here": str(HERE)}
            arguments = [word.format(**places) for word in self.case["arguments"]]
            own = {name: text.format(**places) for name, text in self.case["environment"].items()}
            begun, said, seconds = time.perf_counter(), "", 0.0
            with subprocess.Popen(
                [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder,
                env=os.environ | own,
            ) as process:  # fmt: skip
                assert process.stdout is not None
                for line in process.stdout:
                    said += line
                    if not seconds and self.case["until"] and self.case["until"] in line:
                        seconds = time.perf_counter() - begun
            seconds = seconds or time.perf_counter() - begun
            if process.returncode != self.case["code"] or (self.case["until"] and self.case["until"] not in said):
                errors.seek(0)
                raise RuntimeError(f"{arguments} ended with {process.returncode}: {errors.read().decode()[-2000:]}")
        return seconds, said


def write_images(path: Path) -> None:
    """An .npz file of 1,024 random images of CIFAR's shape, as jtrain's source of that name takes them."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, 256, (1024, 32, 32, 3), np.uint8), rng.integers(0, 10, 1024)
    np.savez(path, train_inputs=inputs, train_targets=targets.astype(np.int32))


def prepare(case: dict[str, Any]) -> Program:
    """The contender."""
    return Program(case)
