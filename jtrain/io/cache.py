"""The per-user cache folder, private to its owner, and XLA's compile cache in it."""

import os
import stat
import sys
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/jtrain, or ~/.cache/jtrain."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "jtrain"


def private_folder(name: str) -> Path | None:
    """A folder in the cache that only this user can write; None, with a warning, where there can be none."""
    folder = cache_folder() / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        print(f"warning: no cache in {folder}: {error.strerror}", file=sys.stderr)
        return None
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        print(f"warning: no cache in {folder}: others can write there", file=sys.stderr)
        return None
    return folder


def use_compile_cache() -> None:
    """Keeps compiled programs for the next process, unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = private_folder("xla")
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
