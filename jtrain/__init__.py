"""jtrain trains neural networks in JAX/Flax, and knows how to train them well.

The names below are loaded when they are first used, so that `import jtrain` costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "assemble": "jtrain.assembly",
    "train": "jtrain.loop",
    "advance": "jtrain.step",
    "connect": "jtrain.pod",
    "load": "jtrain.config_files",
    "evaluate": "jtrain.verbs.evaluate",
    "predict": "jtrain.verbs.predict",
    "check": "jtrain.verbs.check",
    "export": "jtrain.verbs.export",
    "lint": "jtrain.verbs.lint",
    "diagnose": "jtrain.verbs.diagnose",
    "report": "jtrain.verbs.report",
    "Model": "jtrain.models.pure",
    "ladder": "jtrain.studies.ladder",
    "lr_find": "jtrain.studies.lr_find",
    "inits": "jtrain.studies.inits",
    "batch_size": "jtrain.studies.batch_size",
    "overfit": "jtrain.studies.overfit",
    "kfold": "jtrain.studies.kfold",
    "ensemble": "jtrain.studies.ensemble",
    "predict_ensemble": "jtrain.studies.ensemble",
    "data_size": "jtrain.studies.data_size",
    "search": "jtrain.studies.search",
    "act": "jtrain.studies.act",
    "autopilot": "jtrain.studies.autopilot",
}
_MODULES = ("config", "durations", "errors")

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"jtrain.{name}")
    raise AttributeError(f"module 'jtrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
