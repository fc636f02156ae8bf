"""All tests run on 8 simulated CPU devices; rank promotion raises; warnings are errors (pyproject.toml)."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Compiling is most of a test's time: programs are kept for the next session, of this user alone.
_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jtrain" / "tests-xla"
_cache.mkdir(parents=True, exist_ok=True, mode=0o700)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
