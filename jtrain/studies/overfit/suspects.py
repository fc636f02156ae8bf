"""Why a model does not learn a few examples by heart: suspects by what was measured, the likeliest first."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jtrain.studies.probe import Signals

# The bounds below were set before any of the planted bugs that judge them.
FAR = 10.0  # times the loss of a guess, or a part of it: a wrong scale, whether learnt or not
ODD = 3.0  # the same, told only where the examples are not learnt
ALIKE = 1e-6  # of the rms: what differs less between examples does not differ
VANISHING = 1e-7  # of the largest gradient among kernels
SATURATED = 0.9  # share of values at which a squashing function is flat
UNRELATED = 0.01  # chance from which on targets are said to have nothing to do with inputs
CONFLICTING = 0.1  # share of examples whose inputs come with other targets too
FALLING = 0.9  # of the loss two fifths of the updates before (the lr falls as well): it still falls


@dataclasses.dataclass(frozen=True)
class Suspect:
    """What may be wrong.

    Attributes:
      name: of the kind of fault.
      words: what was seen, and what to do.
      certain: it is a fault whether or not the examples are learnt.
    """

    name: str
    words: str
    certain: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """What was measured of one run on a few examples.

    Attributes:
      data: of `overfit_data.look`.
      start: before the first update.
      learnt: whether it passes.
      fits: by factor of the lr, in the order they were tried, each with `learnt`, `diverged`, `curve` and, the first,
        `unmoved`: parameters that are trained and have not changed by a bit.
      lr: in force.
      typed_lr: what `optimizer.lr` must be set to for that.
      frozen: paths that the config does not train.
      sizes: numbers of every parameter, by path.
      kernels: paths of parameters of two axes or more.
      kind: what the task predicts.
      given: it starts from trained weights.
    """

    data: Mapping[str, Any]
    start: Signals
    learnt: bool
    fits: Mapping[float, Mapping[str, Any]]
    lr: float
    typed_lr: float
    frozen: Sequence[str]
    sizes: Mapping[str, int]
    kernels: Sequence[str]
    kind: str
    given: bool


def suspects(case: Case) -> list[Suspect]:
    """Those there are, the likeliest first: what data show alone, then what the first batch shows, then the rest."""
    found = [*_inputs(case), *_targets(case), *_saturated(case), *_dead(case), *_scale(case)]
    if case.learnt:
        return [one for one in found if one.certain]
    return [*found, *_frozen(case), *_lr(case), *_capacity(case), *_time(case)]


def _inputs(case: Case) -> list[Suspect]:
    name = "constant input"
    if case.data["alike"]:
        return [Suspect(name, f"all {case.data['examples']} inputs are equal; look at how they are read", True)]
    first = case.start.layers[0] if case.start.layers else None
    if first and case.data["examples"] > 1 and (first["spread"] or 0.0) <= ALIKE * (first["rms"] or 0.0):
        words = f"what {first['name']} makes of different inputs is the same; look at what stands before it"
        return [Suspect(name, words, True)]
    return []


def _targets(case: Case) -> list[Suspect]:
    name, data, found = "shuffled labels", case.data, []
    if data["retargeted"]:
        words = f"{data['retargeted']:.0%} of the targets are others when they are fetched again"
        found.append(Suspect(name, words, True))
    if data["one_target"]:
        found.append(
            Suspect("constant targets", f"all {data['examples']} targets are equal: nothing is to learn", True)
        )
    related = data["related"]
    if related and related["chance"] >= UNRELATED:
        words = (
            f"targets have nothing to do with inputs: the nearest of {related['examples']} examples share "
            f"{related['share']:.1%} of their variance (p {related['chance']:.2g}; if the inputs are of a kind whose "
            "distance says nothing, set --config.study.overfit.neighbours=0)"
        )
        found.append(Suspect(name, words, True))
    if data["conflicts"] > CONFLICTING and not data["alike"]:
        words = f"{data['conflicts']:.0%} of the examples have the inputs of another, but other targets"
        found.append(Suspect(name, words))
    return found


def _saturated(case: Case) -> list[Suspect]:
    name, found = "saturated output", []
    last = case.start.layers[-1] if case.start.layers else {}
    if case.start.squashed in ("tanh", "logistic") and last.get("saturated", 0.0) >= SATURATED:
        words = f"{last['saturated']:.0%} of the outputs are at the ends of {_WORDS[case.start.squashed]}"
        found.append(Suspect(name, f"{words} behind {last['name']}, where its slope is 0; leave it out", True))
    if (case.start.outputs["flat"] or 0.0) >= SATURATED:
        words = f"{case.start.outputs['flat']:.0%} of the outputs are at the bounds of task.{case.kind}"
        found.append(Suspect(name, f"{words}, where there is no slope", True))
    if case.start.outputs["probabilities"] and case.kind == "class":
        found.append(
            Suspect(name, "the outputs are probabilities already, and the loss is of logits; leave softmax out")
        )
    elif case.start.squashed and not found:
        words = f"{_WORDS[case.start.squashed]} stands behind the last layer, {last['name']}, and bounds the outputs"
        found.append(Suspect(name, f"{words}; leave it out"))
    hidden = [layer for layer in case.start.layers[:-1] if layer.get("saturated", 0.0) >= SATURATED]
    if hidden:
        words = (
            f"{hidden[0]['saturated']:.0%} of the values behind {hidden[0]['name']} are where a sigmoid or tanh is flat"
        )
        found.append(Suspect("saturated units", words))
    return found


def _dead(case: Case) -> list[Suspect]:
    name, found, params = "dead gradients", [], case.start.params
    trained = [path for path in case.kernels if path not in case.frozen]
    unmoved = [path for path in next(iter(case.fits.values()))["unmoved"] if path in trained]
    dead = [layer["name"] for layer in case.start.layers if layer.get("dead", 0.0) == 1.0]
    why = f"; every unit behind {dead[0]} is 0 for every example" if dead else ""
    if unmoved:
        words = f"{_some(unmoved)} {'have' if len(unmoved) > 1 else 'has'} not changed by a bit{why}"
        found.append(Suspect(name, words, True))
    elif dead:
        found.append(Suspect(name, why.removeprefix("; ")))
    sizes = {path: params[path]["grad_rms"] or 0.0 for path in trained}
    top = max(sizes, key=lambda path: sizes[path], default="")
    small = [path for path in sizes if sizes[path] <= VANISHING * sizes[top]]
    if small and not found:
        words = f"the gradient of {_some(small)} is {sizes[small[0]]:.1e} at the start, that of {top} {sizes[top]:.1e}"
        found.append(Suspect(name, f"{words}; look at the initializers (jtrain inits)"))
    return found


def _scale(case: Case) -> list[Suspect]:
    name, loss, blank = "wrong loss scale at the start", case.start.loss, case.start.blank
    if loss is None:
        return [Suspect(name, "the first loss is not finite; look at the data and at the loss", True)]
    if not blank or blank <= 0 or case.given:
        return []
    ratio = loss / blank
    if 1 / ODD <= ratio <= ODD:
        return []
    words = f"the loss begins at {loss:.3g}, a guess has {blank:.3g}"
    hint = "; the last layer begins too large, or the loss is not of these outputs" if ratio > 1 else ""
    hint = hint or "; the targets may be among the inputs"
    return [Suspect(name, words + hint, not 1 / FAR <= ratio <= FAR)]


def _frozen(case: Case) -> list[Suspect]:
    if not case.frozen:
        return []
    share = sum(case.sizes[path] for path in case.frozen) / sum(case.sizes.values())
    words = f"`groups` trains nothing of {_some(list(case.frozen))}, {share:.0%} of all numbers"
    return [Suspect("frozen parameters", words)]


def _lr(case: Case) -> list[Suspect]:
    better = next((factor for factor, fit in case.fits.items() if fit["learnt"]), None)
    if better is not None:
        own = "the loss is not finite" if case.fits[1.0]["diverged"] else "they are not learnt"
        words = f"at {case.lr:.3g} {own}, at {case.lr * better:.3g} they are; set --config.optimizer.lr"
        return [Suspect("learning rate", f"{words}={case.typed_lr * better:.3g}, or ask jtrain ladder")]
    if all(fit["diverged"] for fit in case.fits.values()):
        return [Suspect("learning rate", "the loss is not finite even at a tenth of the lr")]
    last, begun = _last(case.fits[1.0]), case.start.loss
    if last is None or (begun is not None and last > begun):
        words = "the loss is not finite" if last is None else f"the loss ends at {last:.3g} and began at {begun:.3g}"
        return [Suspect("learning rate", f"{words}: {case.lr:.3g} is too high; ask jtrain ladder --config=…")]
    ends = {factor: end for factor, fit in case.fits.items() if (end := _last(fit)) is not None}
    best = min(ends, key=lambda factor: ends[factor])
    if ends[best] < FALLING * last:
        words = f"the loss comes to {ends[best]:.3g} at {case.lr * best:.3g}, and to {last:.3g} at {case.lr:.3g}"
        return [Suspect("learning rate", f"{words}; set --config.optimizer.lr={case.typed_lr * best:.3g}")]
    return []


def _last(fit: Mapping[str, Any]) -> float | None:
    """The loss at the end; None: it was not finite."""
    return None if fit["diverged"] else next((loss for _, loss in reversed(fit["curve"]) if loss is not None), None)


def _capacity(case: Case) -> list[Suspect]:
    numbers = sum(size for path, size in case.sizes.items() if path not in case.frozen)
    if numbers >= case.data["targets"]:
        return []
    words = f"it trains {numbers} numbers, the targets are {case.data['targets']}"
    return [Suspect("model too small", f"{words}; set --config.study.overfit.examples lower")]


def _time(case: Case) -> list[Suspect]:
    losses = [loss for _, loss in case.fits[1.0]["curve"] if loss is not None]
    fifth, begun = len(losses) // 5, case.start.loss
    risen = begun is not None and bool(losses) and losses[-1] > begun
    if not fifth or risen or sum(losses[-fifth:]) >= FALLING * sum(losses[-3 * fifth : -2 * fifth]):
        return []
    return [Suspect("too few updates", "the loss still falls; set --config.study.overfit.total higher")]


def _some(paths: Sequence[str]) -> str:
    return paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


_WORDS = {"tanh": "a tanh", "logistic": "a sigmoid", "relu": "a ReLU"}
