"""Optimizers by name, each as the core of a chain."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import optax

from jtrain.errors import ConfigError
from jtrain.optim import transforms
from jtrain.optim.core import Core, Decay
from jtrain.table import Fraction, NonNegative, Positive, Range, Share

AfterDirection = Literal["decoupled", "independent"]
Iterations = Annotated[int, Range(1, 20)]

EMBEDDINGS = (r"(.*/)?embedding",)
NOT_MUON = (*EMBEDDINGS, r"(.*/)?head/.*")


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


def lazy_adam(
    *,
    rows: tuple[str, ...] = EMBEDDINGS,
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: Share = 0.0,
    decay: AfterDirection = "decoupled",
) -> Core:
    """Adam, but rows of embeddings without a gradient keep their values and moments; those as `torch.optim.SparseAdam`.

    A row that the batch does not read has a gradient of zeros; so has none in a table that is an output layer as
    well. Weight decay reaches all rows, and cannot be coupled: it would give every row a gradient.

    Args:
      rows: patterns of the tables; their rows are along the leading axis. All else gets plain Adam.
      b1: decay of the mean of gradients.
      b2: decay of the mean of squared gradients.
      eps: added to the root of the latter (in the tables before its bias is corrected, as in torch).
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.

    Raises:
      ConfigError: for a pattern that is not a regular expression.
    """
    is_table = transforms.matcher(rows, "optimizer.lazy_adam.rows")
    transform = transforms.where_path(
        lambda path, leaf: is_table(path),
        transforms.scale_by_lazy_adam(b1=b1, b2=b2, eps=eps),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    )
    named = {"optimizer.lazy_adam.rows": tuple(p for p in rows if p not in EMBEDDINGS)}
    return Core(transform, weight_decay, decay, default_lr=1e-3, family="adam", patterns=named)


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


def muon(
    *,
    momentum: Fraction = 0.95,
    nesterov: bool = True,
    steps: Iterations = 5,
    adjust: Literal["original", "match_rms_adamw"] = "match_rms_adamw",
    adam: tuple[str, ...] = NOT_MUON,
    rest: Literal["adam", "sgd"] = "adam",
    rest_momentum: Fraction = 0.9,
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: Share = 1e-4,
    decay: Decay = "decoupled",
) -> Core:
    """Orthogonalised momentum for hidden kernels, Adam or SGD for the rest; see `transforms.scale_by_muon`.

    Kernels are leaves of two axes or more whose name is kernel. All share one lr, but for `groups`, the place for what
    SGD wants. `torch.optim.Muon` has adjust="original" by default, whose steps want an lr of about 20 times Adam's.

    Args:
      momentum: of the kernels.
      nesterov: looks ahead along it.
      steps: of the Newton-Schulz iteration.
      adjust: factor for the shape of a kernel; match_rms_adamw lets all share an lr.
      adam: patterns of kernels that belong to the rest: embeddings and the output layer, as its authors advise.
      rest: what they, biases and norms get.
      rest_momentum: of SGD, which looks ahead along it likewise.
      b1: of Adam.
      b2: of Adam.
      eps: of Adam.
      weight_decay: factor of the parameters.
      decay: where it enters, see `Core`.

    Raises:
      ConfigError: for a pattern that is not a regular expression.
    """
    excepted = transforms.matcher(adam, "optimizer.muon.adam")

    def is_hidden_kernel(path: str, leaf: Any) -> bool:
        return leaf.ndim >= 2 and path.rpartition("/")[2] == "kernel" and not excepted(path)

    transform = transforms.where_path(
        is_hidden_kernel,
        transforms.scale_by_muon(momentum=momentum, nesterov=nesterov, steps=steps, adjust=adjust),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps) if rest == "adam" else optax.trace(rest_momentum, nesterov),
    )
    named = {"optimizer.muon.adam": tuple(p for p in adam if p not in NOT_MUON)}
    return Core(transform, weight_decay, decay, default_lr=1e-3, family="adam", patterns=named)


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
