"""A profile of some updates of a run: what the processor and the devices did, and when."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jtrain.errors import ConfigError

Event = Callable[[str, str, int | None], None]  # (kind, text, step)


def window(text: str) -> tuple[int, int] | None:
    """(first, last) boundary between updates of '100:110', which is updates 101 to 110; None for ''.

    Raises:
      ValueError: it is no such text.
    """
    if not text:
        return None
    first, colon, last = text.partition(":")
    if not colon or not (first.isascii() and first.isdigit()) or not (last.isascii() and last.isdigit()):
        raise ValueError(f"must be two numbers of updates, such as '100:110', got {text!r}")
    if int(first) >= int(last):
        raise ValueError(f"the second number must be the larger, such as '100:110', got {text!r}")
    if int(last) >= 2**31:
        raise ValueError(f"must be below 2147483648, got {text!r}")
    return int(first), int(last)


def check_window(text: str) -> None:
    """Raises ValueError unless `window` takes it."""
    window(text)


class ProfileWindow:
    """The profile of one run, while it trains. Whatever happens to it, the run goes on.

    Args:
      folder: the workdir, which gets a folder `profile`; None: there is none.
      text: of `window`.
      total: updates of the run.
      event: told where the profile is, or why there is none.

    Raises:
      ConfigError: a profile is asked for, and there is no workdir.
    """

    def __init__(self, folder: Path | None, text: str, *, total: int, event: Event) -> None:
        found = window(text)
        if found is not None and folder is None:
            raise ConfigError("log.profile: needs a workdir; give one")
        self._first, self._last = found or (0, 0)
        self._folder = folder and folder / "profile"
        self._event, self._total = event, total
        self._wanted, self._begun, self._step = found is not None, -1, -1

    def at(self, step: int, state: Any) -> None:
        """To be called at every boundary between updates, and at those of the window in any case.

        Args:
          step: updates done; a resumed run begins within the window, or behind it.
          state: after them; waited for at both ends, so that the profile holds whole updates.
        """
        if not self._wanted:
            return
        before, self._step = self._step, step
        if self._begun >= 0 and not self._begun <= step < self._last:  # a run that goes back ends it too
            jax.block_until_ready(state)
            self._stop(max(before, step))
        elif self._begun < 0 and self._first >= self._total:
            self._wanted = False
            text = f"log.profile begins after update {self._first}, the run has {self._total}: nothing is profiled"
            self._event("profile", text, step)
        elif self._begun < 0 and self._first <= step < self._last:
            jax.block_until_ready(state)
            self._start(step)
        elif self._begun < 0 and step >= self._last:
            self._wanted = False

    def close(self) -> None:
        """Ends the profile where the run ends within it."""
        if self._wanted and self._begun >= 0:
            self._stop(self._step)

    def _start(self, step: int) -> None:
        assert self._folder is not None
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of Python slows the host down, and drowns the updates
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder, profiler_options=options)
        except (RuntimeError, OSError) as error:
            self._wanted = False
            self._event("profile", f"cannot begin: {' '.join(str(error).split())}", step)
            return
        self._begun = step

    def _stop(self, step: int) -> None:
        assert self._folder is not None
        self._wanted = False
        try:
            jax.profiler.stop_trace()
        except (RuntimeError, OSError) as error:
            self._event("profile", f"cannot be written: {' '.join(str(error).split())}", step)
            return
        files = sorted(self._folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
        if not files:
            self._event("profile", f"{self._folder} got no trace: is its disk full?", step)
            return
        where = f"`xprof --logdir={self._folder}` (pip install xprof), or drop {files[-1]} on https://ui.perfetto.dev"
        self._event("profile", f"updates {self._begun + 1} to {step} are in {self._folder}; to open it: {where}", step)
