"""What an ensemble is worth: scores, calibration, agreement and gain, as a table, a sentence and a picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.studies import combine
from jtrain.studies.combine import Combined, Gain, Kind
from jtrain.studies.study import Study

HIGHER = frozenset({"accuracy", "label_accuracy"})
WORDS = {
    "mean": "mean of predictions", "vote": "majority vote", "average_then_vote": "average, then vote",
    "median": "median of members",
}  # fmt: skip
SIGNS = {"accuracy": "share right", "label_accuracy": "share of labels right", "nll": "nll (nats)"}


@dataclasses.dataclass(frozen=True)
class Judged:
    """Members and rules, by the same examples.

    Attributes:
      main: the score that the gain is of.
      members: of each member (its mean over views) by name of the score, with "ece" where there are probabilities.
      rules: the same of every rule.
      gains: of every rule that has the main score.
      agreement: [members, members].
      soup: scores of the mean of the weights, and their gain; None: there is none.
      views: forms of the inputs that each member has seen.
      curves: (confidence, share right, count) of the mean rule and of all members, for the picture; None of numbers.
    """

    main: str
    members: list[dict[str, float]]
    rules: dict[str, dict[str, float]]
    gains: dict[str, Gain]
    agreement: np.ndarray
    soup: tuple[dict[str, float], Gain] | None
    views: int
    curves: list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None


def judge(kind: Kind, p: np.ndarray, targets: np.ndarray, soup: np.ndarray | None = None) -> Judged:
    """Judges predictions.

    Args:
      kind: of them.
      p: [members, views, examples, …].
      targets: [examples, …].
      soup: predictions [views, examples, …] with the mean of the members' weights.
    """
    alone = [combine.mean(one[None], kind) for one in p]
    each = [combine.scores(found, targets, kind) for found in alone]
    main = next(iter(each[0]))
    members = np.stack([scores[main] for scores in each])
    together = {name: rule(p, kind) for name, rule in combine.rules(kind).items()}
    scored = {name: combine.scores(found, targets, kind) for name, found in together.items()}

    def gain(scores: Mapping[str, np.ndarray]) -> Gain:
        return combine.gain(scores[main], members, higher_is_better=main in HIGHER)

    def numbers(found: Combined, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
        plain = {name: float(values.mean()) for name, values in scores.items()}
        return plain | ({"ece": combine.calibration_error(found, targets, kind)} if found.calibrated else {})

    stirred = None
    if soup is not None:
        found = combine.mean(soup[None], kind)
        scores = combine.scores(found, targets, kind)
        stirred = numbers(found, scores), gain(scores)
    curves = None
    if together["mean"].calibrated:
        all_of_them = Combined(np.concatenate([found.values for found in alone]), None, True)
        curves = [
            combine.reliability(together["mean"], targets, kind),
            combine.reliability(all_of_them, np.concatenate([targets] * len(alone)), kind),
        ]
    return Judged(
        main, [numbers(*pair) for pair in zip(alone, each, strict=True)],
        {name: numbers(together[name], scores) for name, scores in scored.items()},
        {name: gain(scores) for name, scores in scored.items() if main in scores},
        combine.agreement(p, targets, kind), stirred, p.shape[1], curves,
    )  # fmt: skip


def report(
    folder: Path | None, split: str, told: Sequence[Mapping[str, Any]], judged: Judged | None, kind: Kind, soup: str,
    peeked: str = "",
) -> Study:  # fmt: skip
    """The study's result.

    Args:
      folder: of the study, for what to type next.
      split: that it was judged by.
      told: of every member, what its piece tells.
      judged: None: fewer than two members were trained to their end.
      kind: of predictions.
      soup: why there is a mean of weights, or none.
      peeked: what of the training has looked at the split, in words; "" for nothing.
    """
    good = [each for each in told if not each["failed"]]
    failed = [each for each in told if each["failed"]]
    rows: list[dict[str, Any]] = []
    if judged is None:
        first = failed[0]["failed"] if failed else "there is one alone"
        rows = [{"model": each["member"], "update": each["step"], "failed": bool(each["failed"])} for each in told]
        conclusion = f"no answer: {len(good)} of {len(told)} members were trained to their end; {first}"
        return Study("ensemble", conclusion, rows, {"members": []}, lambda figure: _draw_none(figure), ok=False)
    others = (judged.agreement.sum(axis=1) - 1) / (len(good) - 1)
    for each, scores, alike in zip(good, judged.members, others, strict=True):
        rows.append({"model": each["member"], **scores, "agreement": float(alike)})
    rows += [{"model": f"{each['member']} (failed)"} for each in failed]
    mean = {name: float(np.mean([scores[name] for scores in judged.members])) for name in judged.members[0]}
    sd = {name: float(np.std([scores[name] for scores in judged.members], ddof=1)) for name in mean}
    rows += [{"model": "mean member", **mean, "agreement": float(others.mean())}, {"model": "sd of members", **sd}]
    last = [each["last"] for each in good if each["last"]]
    if last:
        rows.append(
            {"model": "mean member, no EMA", **{name: float(np.mean([one[name] for one in last])) for name in last[0]}}
        )
    for name, scores in judged.rules.items():
        rows.append({"model": WORDS[name], **scores, **_gained(judged.gains.get(name))})
    if judged.soup is not None:
        rows.append({"model": "mean of weights", **judged.soup[0], **_gained(judged.soup[1])})
    found = {
        "split": split, "score": judged.main, "views": judged.views, "mean_member": mean, "sd": sd,
        "rules": {name: scores | _gained(judged.gains.get(name)) for name, scores in judged.rules.items()},
        "soup": soup if judged.soup is None else judged.soup[0] | _gained(judged.soup[1]) | {"why": soup},
        "agreement": judged.agreement.tolist(),
        "members": [
            {"member": each["member"], "workdir": each["workdir"], "step": each["step"]}
            for each in good if each["workdir"]
        ],
        "failed": [each["member"] for each in failed],
    }  # fmt: skip
    conclusion = _conclusion(folder, split, judged, mean[judged.main], failed)
    if peeked:
        conclusion += f"; {peeked} looked at {split}: these scores are a little too good; a test split is fair"
    return Study("ensemble", conclusion, rows, found, lambda figure: _draw(figure, split, judged, good))


def _gained(gain: Gain | None) -> dict[str, float]:
    return {} if gain is None else {"gain": gain.value, "noise": gain.noise}


def _conclusion(
    folder: Path | None, split: str, judged: Judged, mean: float, failed: Sequence[Mapping[str, Any]]
) -> str:
    gain, main = judged.gains["mean"], judged.main
    pick = max if main in HIGHER else min
    best = pick(scores[main] for scores in judged.members)
    text = (
        f"the {WORDS['mean']} of {len(judged.members)} members has {main} {judged.rules['mean'][main]:.4g} on {split}, "
        f"the mean member {mean:.4g}, the best {best:.4g}: a gain of {gain.value:.2g} ± {gain.noise:.2g}"
    )
    if gain.sure:
        text += ", more than twice its noise"
        if folder is not None:
            text += f"; predict with: jtrain predict --workdir={folder}"
    else:
        text += f", less than twice its noise ({2 * gain.noise:.2g}): nothing that can be told here; keep one member"
    return text + (f"; {len(failed)} failed and are not in it: {failed[0]['failed']}" if failed else "")


def _draw(figure: Any, split: str, judged: Judged, good: Sequence[Mapping[str, Any]]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    main = judged.main
    names = [each["member"] for each in good]
    mean = float(np.mean([scores[main] for scores in judged.members]))
    names = [name if len(name) < 24 else f"…{name[-22:]}" for name in names]
    values = [scores[main] for scores in judged.members]
    for place, value in enumerate(values):
        left.plot(value, place, "o", color="0.5", markersize=5)
    together = [(WORDS[name], judged.rules[name][main], gain) for name, gain in judged.gains.items()]
    together += [("mean of weights", judged.soup[0][main], judged.soup[1])] if judged.soup is not None else []
    for place, (name, value, gain) in enumerate(together, len(values)):
        left.errorbar(
            value, place, xerr=2 * gain.noise, fmt="sD^v"[(place - len(values)) % 4], color="black", capsize=3
        )
        left.annotate(f"{gain.value:+.2g}", (value, place), (0, 6), textcoords="offset points", ha="center")
        names.append(name)
    left.axvline(mean, color="0.4", linestyle="--", linewidth=1, label=f"mean member {mean:.4g}")
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel(f"{SIGNS.get(main, main)} on {split}; bars: ± 2 × noise of the gain")
    left.locator_params(axis="x", nbins=4)
    left.grid(True, axis="x", alpha=0.3)
    left.legend(fontsize="small", loc="best")
    if judged.curves is not None:
        _draw_reliability(right, judged)
    else:
        _draw_agreement(right, judged.agreement)
    gain = judged.gains["mean"]
    figure.suptitle(
        f"ensemble: {WORDS['mean']} gains {gain.value:.2g} ± {gain.noise:.2g} in {main} over the mean member"
    )


def _draw_reliability(axis: Any, judged: Judged) -> None:
    looks = (("mean of predictions", "s-", "black"), ("members", "o--", "0.5"))
    axis.plot((0, 1), (0, 1), ":", color="0.4", linewidth=1, label="calibrated")
    for (words, look, shade), (confidence, right, count) in zip(looks, judged.curves or (), strict=True):
        there = count >= max(10, 0.001 * count.sum())
        axis.plot(confidence[there], right[there], look, color=shade, markersize=4, label=words)
    axis.set_xlabel("confidence (probability)")
    axis.set_ylabel("share that is right")
    axis.set_title("calibration", fontsize="medium")
    axis.legend(fontsize="small")
    axis.grid(True, alpha=0.3)


def _draw_agreement(axis: Any, agreement: np.ndarray) -> None:
    axis.imshow(agreement, cmap="gray_r", vmin=-1, vmax=5)
    for (row, column), value in np.ndenumerate(agreement if len(agreement) <= 12 else np.zeros((0, 0))):
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="small")
    axis.set_xlabel("member")
    axis.set_ylabel("member")
    axis.set_title("correlation of errors", fontsize="medium")


def _draw_none(figure: Any) -> None:
    figure.text(0.5, 0.5, "ensemble: fewer than two members were trained to their end", ha="center")
