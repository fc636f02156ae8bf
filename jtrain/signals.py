"""SIGTERM and SIGINT while a run goes on."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

INSISTS = 1.0  # seconds: launchers forward one signal twice; a person who asks again takes longer


class Signals:
    """SIGTERM and SIGINT are noted, for the loop to save and leave; one more after a second leaves at once.

    Outside the main thread, or when not active, signals keep their usual meaning.
    """

    def __init__(self, *, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.received: int | None = None
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if self.active:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
        elif time.monotonic() - self._at > INSISTS:
            os._exit(128 + number)  # what is committed stays whole
