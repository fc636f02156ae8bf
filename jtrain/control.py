"""The control state: what a run knows between updates, beside its state on the device."""

import dataclasses
from typing import Any

from jtrain import metrics


@dataclasses.dataclass
class Control:
    """The few host numbers of a run; with the state they make a checkpoint.

    Attributes:
      totals: sums since the last log point.
      logged, evaluated: the updates at which these were last done.
      best: {'step', 'metric', 'value'} of the best evaluation, or None.
      lr_factors: what each owner asks of `lr_scale`; the state holds their product.
      plateau, stopping: what these remember between evaluations.
      stopped: the update after which the run was ended early; 0: it was not.
      skipped, overflows, rollbacks: how often, because a gradient was not finite.
      told: names of the verdicts that were told.
      noise: sums of the probes of the noise scale.
      parent: {'workdir', 'step'} of the run that this one branched from, or None.
      data: the fingerprint of the data.
      devices: how many, and of what kind.
    """

    totals: metrics.Totals = dataclasses.field(default_factory=dict)
    logged: int = 0
    evaluated: int = 0
    best: dict[str, Any] | None = None
    lr_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    plateau: dict[str, float] = dataclasses.field(default_factory=dict)
    stopping: dict[str, float] = dataclasses.field(default_factory=dict)
    stopped: int = 0
    skipped: int = 0
    overflows: int = 0
    rollbacks: int = 0
    told: list[str] = dataclasses.field(default_factory=list)
    noise: dict[str, Any] = dataclasses.field(default_factory=dict)
    parent: dict[str, Any] | None = None
    data: dict[str, int] = dataclasses.field(default_factory=dict)
    devices: str = ""
