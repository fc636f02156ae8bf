"""How many programs XLA has compiled."""

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class Compiles:
    """Counts from its making on."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._told)

    def _told(self, event: str, seconds: float, **details: str | int) -> None:
        self.count += event == _EVENT
