"""What a child of server.py does to itself before it becomes a run."""

import os
import time


def slow_disk(seconds):
    """Every fsync takes `seconds` longer, so that a save takes its time."""
    real = os.fsync

    def fsync(descriptor):
        time.sleep(seconds)
        real(descriptor)

    os.fsync = fsync


def note_compiles(path):
    """Adds a line to the file for every program that is compiled or read from the compile cache."""
    import jax

    def listener(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            with open(path, "a") as file:
                file.write(f"{time.time()} {about.get('fun_name')}\n")

    jax.monitoring.register_event_duration_secs_listener(listener)
