"""The folder of a run's checkpoints: which are there, and how one comes and goes without ever being there by half."""

import os
import secrets
from pathlib import Path
from typing import Any

from jtrain.io import contents
from jtrain.io import manifest as manifests
from jtrain.io.contents import Damaged


def steps(folder: Path) -> list[int]:
    """The steps whose names are there, oldest first; whether they are whole shows only on reading."""
    if not folder.is_dir():
        return []
    names = [p.name for p in folder.iterdir() if p.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def holds(folder: Path, step: int, control: dict[str, Any]) -> bool:
    """Whether this step is there, whole, with this control state (a state is a function of its step)."""
    if not (folder / str(step)).exists():
        return False
    try:
        manifest = manifests.read_manifest(folder / str(step), step)
        contents.verify(folder / str(step), manifest["files"])
    except Damaged:
        return False
    return manifest["control"] == control


def begin(folder: Path, step: int) -> Path:
    """Makes the folder, of a name never used before, in which a checkpoint grows until `put`."""
    temporary = folder / f".tmp-{step}-{secrets.token_hex(4)}"
    temporary.mkdir(parents=True)
    return temporary


def put(folder: Path, step: int, temporary: Path) -> None:
    """Gives a finished checkpoint its name by one rename; one that has it (damaged, or of other control state) goes."""
    target, old = folder / str(step), folder / f".old-{step}"
    if target.exists():
        contents.remove(old)
        os.rename(target, old)  # a kill from here to the next rename is mended by `sweep`
    os.rename(temporary, target)
    contents.sync_one(folder)
    contents.remove(old)


def remove(folder: Path, step: int) -> None:
    """Deletes a checkpoint."""
    # Renamed first, so that a kill in the middle leaves no half checkpoint under a good name.
    doomed = folder / f".tmp-old-{step}-{secrets.token_hex(4)}"
    os.rename(folder / str(step), doomed)
    contents.remove(doomed)


def sweep(folder: Path) -> None:
    """Removes what saves that failed or were killed have left behind."""
    for leftover in folder.glob(".tmp-*"):
        contents.remove(leftover)
    for old in folder.glob(".old-*"):
        target = folder / old.name.removeprefix(".old-")
        if target.exists() or not target.name.isdecimal():
            contents.remove(old)
        else:
            os.rename(old, target)
