"""The core of an optimizer: gradient -> direction, without lr, sign or weight decay."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import optax

Decay = Literal["coupled", "decoupled", "independent"]


@dataclasses.dataclass(frozen=True)
class Core:
    """What distinguishes one optimizer from another; `chain.build` makes the rest.

    Attributes:
      transform: gradient -> direction of descent.
      weight_decay: factor of the parameters, 0 for none.
      decay: coupled adds weight_decay · p to the gradient (L2); decoupled adds it to the direction, so that it is
        multiplied by the lr (AdamW); independent subtracts weight_decay · p per update, whatever the lr.
      default_lr: lr where none is given. That of the notes, 1e-2 for SGD and 1e-3 for what steps as Adam does;
        of the paper where its steps are of another size (adagrad, adadelta, lion).
      family: which rules of thumb apply: adam where the size of a step does not depend on the gradient's.
      after_decay: direction with decoupled decay -> direction.
      patterns: paths that options name, by the key of the option; `chain.build` refuses one that matches nothing.
    """

    transform: optax.GradientTransformation
    weight_decay: float
    decay: Decay
    default_lr: float
    family: Literal["sgd", "adam"]
    after_decay: optax.GradientTransformation | None = None
    patterns: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
