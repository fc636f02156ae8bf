"""A worker of a search of a plain function, in a process of its own: STORAGE FOLDER SECONDS TRIALS."""

import os
import sys
import time
from pathlib import Path

from jtrain.studies.search.shared import optimise
from jtrain.studies.search.space import Axis
from jtrain.studies.search.storage import open_storage
from jtrain.studies.search.trial import Answer


def main(storage: str, folder: str, seconds: str, trials: str) -> None:
    """Writes a file FOLDER/<number>-<try>-<pid> when it begins a trial, and says so."""

    def objective(asked):
        Path(folder, f"{asked.number}-{asked.tries}-{os.getpid()}").write_text(repr(asked.point))
        time.sleep(float(seconds))
        return Answer((asked.point["x"] - 0.3) ** 2)

    found = optimise(
        (Axis("x"),), objective, trials=int(trials), sampler="quasi", storage=open_storage(storage, None), told=print
    )
    print(" ".join(f"{trial.number}:{trial.answer.status}" for trial in found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
