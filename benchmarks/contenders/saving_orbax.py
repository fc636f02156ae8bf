"""orbax alone in the place of jtrain's checkpoints. case: see `Saving`; "way" 'checkpointer' or 'v1'."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from contenders.saving import Save, Saving
from orbax.checkpoint import v1

from jtrain.run import Run
from jtrain.state import TrainState, to_flat


def prepare(case: dict[str, Any]) -> Saving:
    """The contender."""

    def make_save(run: Run, folder: Path) -> tuple[Save, Any]:
        if case["way"] == "checkpointer":
            checkpointer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())

            def save(step: int, state: TrainState) -> None:
                checkpointer.save(folder / str(step), args=ocp.args.PyTreeSave(to_flat(state)))

            return save, checkpointer.wait_until_finished
        under_way: list[Any] = []

        def save_v1(step: int, state: TrainState) -> None:
            under_way[:] = [v1.save_async(folder / str(step), to_flat(state))]

        return save_v1, lambda: under_way.pop().result()

    found = Saving(case, make_save)
    found.versions |= {"orbax-checkpoint": ocp.__version__}
    return found
