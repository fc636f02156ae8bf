"""Optimizers as the core of a chain: gradient -> direction, without lr, sign or weight decay."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import optax

from jtrain.errors import ConfigError
from jtrain.table import Fraction, Positive, Share

Decay = Literal["coupled", "decoupled", "independent"]


@dataclasses.dataclass(frozen=True)
class Core:
    """What distinguishes one optimizer from another; `chain.build` makes the rest.

    Attributes:
      transform: gradient -> direction of descent.
      weight_decay: factor of the parameters, 0 for none.
      decay: coupled adds weight_decay · p to the gradient (L2); decoupled adds it to the direction, so that it is
        multiplied by the lr (AdamW); independent subtracts weight_decay · p per update, whatever the lr.
      default_lr: lr where none is given.
      family: which rules of thumb apply.
    """

    transform: optax.GradientTransformation
    weight_decay: float
    decay: Decay
    default_lr: float
    family: Literal["sgd", "adam"]


def sgd(
    *, momentum: Fraction = 0.9, nesterov: bool = False, weight_decay: Share = 1e-4, decay: Decay = "coupled"
) -> Core:
    """Stochastic gradient descent; with coupled decay the same as `torch.optim.SGD`.

    Args:
      momentum: v ← momentum · v + gradient; 0 keeps no state.
      nesterov: direction gradient + momentum · v instead of v (Sutskever et al., 2013).
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.

    Raises:
      ConfigError: for nesterov without momentum.
    """
    if nesterov and momentum == 0:
        raise ConfigError("optimizer.sgd.nesterov: needs a momentum; set optimizer.sgd.momentum above 0, such as 0.9")
    transform = optax.trace(decay=momentum, nesterov=nesterov) if momentum else optax.identity()
    return Core(transform, weight_decay, decay, default_lr=1e-2, family="sgd")


def adam(
    *,
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: Share = 0.0,
    decay: Decay = "coupled",
) -> Core:
    """Adam (Kingma and Ba, 2015, algorithm 1); with coupled decay the same as `torch.optim.Adam`.

    Args:
      b1: decay of the mean of gradients.
      b2: decay of the mean of squared gradients.
      eps: added to the root of the latter.
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.
    """
    return Core(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), weight_decay, decay, default_lr=1e-3, family="adam")


def adamw(
    *,
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: Share = 1e-4,
    decay: Decay = "decoupled",
) -> Core:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), the same as `torch.optim.AdamW`.

    Args:
      b1: decay of the mean of gradients.
      b2: decay of the mean of squared gradients.
      eps: added to the root of the latter.
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.
    """
    return adam(b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, decay=decay)


OPTIMIZERS: dict[str, Callable[..., Core]] = {"sgd": sgd, "adam": adam, "adamw": adamw}
