"""Optimizers that go by the path of a leaf: embeddings or hidden kernels get one kind of update, the rest another."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import optax

from jtrain.errors import ConfigError
from jtrain.optim import transforms
from jtrain.optim.core import Core, Decay
from jtrain.table import Fraction, Positive, Range, Share, options

AfterDirection = Literal["decoupled", "independent"]
Iterations = Annotated[int, Range(1, 20)]

EMBEDDINGS = (r"(.*/)?embedding",)
NOT_MUON = (*EMBEDDINGS, r"(.*/)?head/.*")


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
      ConfigError: for a pattern that is not a regular expression; for an option of what the rest does not get.
    """
    _check_rest(rest, {"rest_momentum": rest_momentum} if rest == "adam" else {"b1": b1, "b2": b2, "eps": eps})
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


def _check_rest(rest: str, unused: Mapping[str, float]) -> None:
    """Raises ConfigError where one of the options that `rest` has no use for is not at its default."""
    for name, value in unused.items():
        if value != options(muon)[name].default:
            other = "sgd" if rest == "adam" else "adam"
            raise ConfigError(
                f"optimizer.muon.{name}: is set to {value!r}, but optimizer.muon.rest is {rest!r}, which has no use "
                f"for it; leave it out, or set optimizer.muon.rest to {other!r}"
            )
