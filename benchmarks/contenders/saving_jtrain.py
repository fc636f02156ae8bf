"""Saves as jtrain's loop makes them. case: see `Saving`."""

from pathlib import Path
from typing import Any

from contenders.saving import Save, Saving

from jtrain.io.progress import Screen
from jtrain.io.record import Record
from jtrain.run import Run
from jtrain.state import TrainState, to_flat


def prepare(case: dict[str, Any]) -> Saving:
    """The contender."""

    def make_save(run: Run, folder: Path) -> tuple[Save, Any]:
        record = Record(folder, screen=Screen.quiet())
        record.keep_rows(0, 0)

        def save(step: int, state: TrainState) -> None:
            record.save(step, to_flat(state), {}, best_step=None, block=False)

        return save, record.wait

    return Saving(case, make_save)
