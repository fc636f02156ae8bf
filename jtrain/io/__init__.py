"""Files: checkpoints, writers, progress, pictures.

The names below look at the checkpoints of any run; they are loaded when they are first used.
"""

import importlib
from typing import Any

_HOME = {
    "steps": "jtrain.io.inspect",
    "read": "jtrain.io.inspect",
    "compare": "jtrain.io.inspect",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'jtrain.io' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
