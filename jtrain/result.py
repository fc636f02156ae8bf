"""What a run came to."""

import dataclasses
from pathlib import Path
from typing import Any

from jtrain.coach.told import Verdict
from jtrain.state import TrainState


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      state: after the last update.
      history: the rows of metrics.jsonl, those of earlier parts of a resumed run included; in other processes than the
        first, those since this start.
      metrics: {'val': {...}, 'test': {...}} of the last state, for the splits there are.
      best: {'step', 'metric', 'value'} on the validation split, or None.
      workdir: where the files are, or None.
      stop: the verdict for which the run was ended early, in `diagnose.mode = "act"`; None where it was not.
    """

    state: TrainState
    history: list[dict[str, Any]]
    metrics: dict[str, dict[str, float]]
    best: dict[str, Any] | None
    workdir: Path | None
    stop: Verdict | None = None
