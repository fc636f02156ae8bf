"""The way of the weights, as the line probe sees it: straight on, or wandering."""

import dataclasses

import numpy as np

from jtrain.coach.curves import Curves

LEAST = 2  # probes from which anything is told
MOST = 1e6  # losses of a guess; what is beyond has blown up


@dataclasses.dataclass(frozen=True)
class Way:
    """Probes of a run, [p] each.

    Attributes:
      step: updates done.
      share: of the whole run that is done then.
      straight: the loss falls on as far again, and three times as far, along the line on which the weights came.
      steep: by how much the loss is higher as far again ahead, in losses of a guess, beside what it has risen to here;
        below 0 it falls on.
      ahead: the same without that: by how much the loss is higher, in losses of a guess.
      far: the same three times as far ahead.
      on: by how much it is lower three times as far ahead, in falls from the probe before: 3 where it falls evenly.
    """

    step: np.ndarray
    share: np.ndarray
    straight: np.ndarray
    steep: np.ndarray
    ahead: np.ndarray
    far: np.ndarray
    on: np.ndarray

    def between(self, first: float, last: float) -> "Way":
        """The probes between two shares of the run."""
        inside = (self.share > first) & (self.share <= last)
        return Way(**{field.name: getattr(self, field.name)[inside] for field in dataclasses.fields(self)})

    def __len__(self) -> int:
        return len(self.step)


def way_of(curves: Curves, scale: float, whole: float) -> Way | None:
    """What the probes say; None where there are too few.

    Args:
      curves: of the run.
      scale: loss of a guess.
      whole: updates of the whole run.
    """
    probes = curves.probes
    if not probes or not all(name in probes for name in ("step", "before", "now", "ahead", "far")):
        return None
    now, ahead, far = probes["now"], probes["ahead"], probes["far"]
    risen = np.maximum(0.0, np.nan_to_num(now - probes["before"]))  # of weights that learn by heart: no wall
    # What is not finite ahead has blown up there.
    most = MOST * scale
    ahead, far = (np.where(np.isfinite(values), np.minimum(values, most), most) for values in (ahead, far))
    known = np.isfinite(now) & np.isfinite(probes["step"])
    if known.sum() < LEAST:
        return None
    straight, steep = (ahead < now) & (far < now), (ahead - now - risen) / scale
    fallen = probes["before"] - now
    found = {
        "step": probes["step"], "share": probes["step"] / max(whole, 1.0), "straight": straight, "steep": steep,
        "ahead": (ahead - now) / scale, "far": (far - now) / scale,
        "on": (now - far) / np.maximum(np.nan_to_num(fallen), 1e-9 * scale),
    }  # fmt: skip
    return Way(**{name: values[known] for name, values in found.items()})
