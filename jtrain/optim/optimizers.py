"""Optimizers by name, each as the core of a chain."""

from collections.abc import Callable

import optax

from jtrain.errors import ConfigError
from jtrain.optim import transforms
from jtrain.optim.by_path import lazy_adam, muon
from jtrain.optim.core import Core, Decay
from jtrain.table import Fraction, NonNegative, Positive, Share


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


def adamax(
    *,
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: Share = 0.0,
    decay: Decay = "coupled",
) -> Core:
    """Adam with the largest recent gradient in place of the root (Kingma and Ba, algorithm 2); as `torch.optim.Adamax`.

    Args:
      b1: decay of the mean of gradients.
      b2: decay of the largest gradient.
      eps: added to the gradient's size.
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.
    """
    return Core(optax.scale_by_adamax(b1=b1, b2=b2, eps=eps), weight_decay, decay, default_lr=1e-3, family="adam")


def adagrad(
    *,
    initial_accumulator: NonNegative = 0.0,
    eps: Positive = 1e-10,
    weight_decay: Share = 0.0,
    decay: Decay = "coupled",
) -> Core:
    """Steps over the root of the sum of all squared gradients (Duchi et al., 2011); as `torch.optim.Adagrad`.

    `optax.adagrad` differs: its sum starts from 0.1, and its eps is within the root. Torch's lr_decay is a schedule.

    Args:
      initial_accumulator: what the sum starts from.
      eps: added to its root.
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.
    """
    transform = transforms.scale_by_adagrad(initial=initial_accumulator, eps=eps)
    return Core(transform, weight_decay, decay, default_lr=1e-2, family="adam")


def adadelta(*, rho: Fraction = 0.9, eps: Positive = 1e-6, weight_decay: Share = 0.0, decay: Decay = "coupled") -> Core:
    """Steps as large as the recent ones, over recent gradients (Zeiler, 2012); as `torch.optim.Adadelta`.

    Args:
      rho: decay of both means of squares.
      eps: added to each within its root.
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.
    """
    return Core(optax.scale_by_adadelta(rho=rho, eps=eps), weight_decay, decay, default_lr=1.0, family="adam")


def rmsprop(
    *,
    alpha: Fraction = 0.99,
    eps: Positive = 1e-8,
    centered: bool = False,
    momentum: Fraction = 0.0,
    weight_decay: Share = 0.0,
    decay: Decay = "coupled",
) -> Core:
    """Steps over the root of the mean of recent squared gradients (Hinton, 2012); as `torch.optim.RMSprop`.

    `optax.rmsprop` differs: decay 0.9, eps within the root, and the lr inside the momentum.

    Args:
      alpha: decay of the mean of squared gradients.
      eps: added to its root.
      centered: takes off the square of the mean gradient, so that it is a variance.
      momentum: v ← momentum · v + step; 0 keeps none.
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.
    """
    if centered:
        transform = transforms.scale_by_centred_rms(alpha=alpha, eps=eps)
    else:
        transform = optax.scale_by_rms(decay=alpha, eps=eps, eps_in_sqrt=False)
    if momentum:
        transform = optax.chain(transform, optax.trace(decay=momentum))
    return Core(transform, weight_decay, decay, default_lr=1e-3, family="adam")


def lion(*, b1: Fraction = 0.9, b2: Fraction = 0.99, weight_decay: Share = 1e-3, decay: Decay = "decoupled") -> Core:
    """Steps of one size, the sign of a momentum (Chen et al., Symbolic Discovery, 2023, algorithm 2).

    The paper takes an lr 3 to 10 times smaller than Adam's and a decay as many times larger: so the defaults.

    Args:
      b1: share of the momentum in the direction, sign(b1 · m + (1 − b1) · gradient).
      b2: decay of the momentum m, updated after.
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.
    """
    return Core(optax.scale_by_lion(b1=b1, b2=b2), weight_decay, decay, default_lr=1e-4, family="adam")


def lamb(
    *,
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: Positive = 1e-6,
    weight_decay: Share = 1e-4,
    decay: Decay = "decoupled",
) -> Core:
    """Adam with steps in proportion to the norm of each leaf, for large batches (You et al., 2020, algorithm 2).

    The direction, decoupled decay included, is scaled to the norm of its leaf; where either is 0, it stays.

    Args:
      b1: decay of the mean of gradients.
      b2: decay of the mean of squared gradients.
      eps: added to the root of the latter.
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.
    """
    adam_part = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    after = optax.scale_by_trust_ratio()
    return Core(adam_part, weight_decay, decay, default_lr=1e-3, family="adam", after_decay=after)


OPTIMIZERS: dict[str, Callable[..., Core]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "adamax": adamax,
    "lazy_adam": lazy_adam,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "rmsprop": rmsprop,
    "lion": lion,
    "lamb": lamb,
    "muon": muon,
}
