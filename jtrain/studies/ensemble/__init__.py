"""`ensemble`: what several models bring together, by each way to combine them, against one alone."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from jtrain import config_files
from jtrain.assembly import assemble
from jtrain.data.examples import targets_of
from jtrain.describe import version
from jtrain.errors import ConfigError, DataError, NonFiniteError
from jtrain.io import weights as weight_files
from jtrain.io.progress import Screen
from jtrain.io.workdir import write_atomic
from jtrain.loop import train
from jtrain.run import Run
from jtrain.studies import combine
from jtrain.studies.ensemble.members import (
    Predictor,
    Weights,
    check_weights,
    feed_of,
    judged_by,
    open_member,
    peeked,
    place_of,
    same_model,
)
from jtrain.studies.ensemble.report import judge, report
from jtrain.studies.folds import Cut, Steps, check_cut, cut, cut_sum, fold_run, pool_of, readable
from jtrain.studies.journal import Journal, open_study
from jtrain.studies.study import Study
from jtrain.table import did_you_mean
from jtrain.weights_source import MARK, read_checkpoint

SOUP = "soup.safetensors"


def ensemble(
    given: ml_collections.ConfigDict | Run,
    workdir: str | Path | None = None,
    *,
    model: Any = None,
    data: Any = None,
    screen: Screen | None = None,
) -> Study:
    """Trains members (or takes trained ones) and judges them together, on the test split, else on validation.

    Each member beside the rules of `jtrain.studies.combine`: scores, calibration, how often members agree, and the gain
    over the mean member with its noise. With a workdir each member is a run of its own in `member0`, `member1`, …, and
    `predict_ensemble` predicts with all of them.

    Args:
      given: a config or a run; it stays as it is.
      workdir: for the files; the same command goes on there. None writes nothing.
      model: with a config: as `assemble` takes it.
      data: with a config: as `assemble` takes it.
      screen: None shows nothing.

    Raises:
      ConfigError: there is nothing to judge by, or `study.ensemble.workdirs` do not belong together; or see
        `open_study`.
      DataError: a member's files are lost or damaged.
    """
    with open_study("ensemble", given, workdir, model=model, data=data, screen=screen) as journal:
        run = journal.run
        split = next((name for name in ("test", "val") if name in run.feeds), "")
        if not split:
            raise ConfigError("ensemble: there are no examples to judge by; set data.validation above 0")
        if len(journal.options.workdirs) == 1:
            raise ConfigError("study.ensemble.workdirs: names one run; an ensemble needs two at least")
        makers = _Makers(journal, split)
        targets, counts = judged_by(run, split)
        told, found = [], []
        for number in range(len(journal.options.workdirs) or journal.options.members):
            each, predictions = makers.member(number, targets, counts)
            told.append(each)
            found += [] if predictions is None else [predictions]
        good = [each for each in told if not each["failed"]]
        soup, why = makers.soup(good, counts)
        judged = judge(run.task.predictions, np.stack(found), targets[counts], soup) if len(found) > 1 else None
        # Members by fold are judged by examples that no fold has.
        peek = peeked(run, journal.options.workdirs) if split == "val" and not makers.cuts else ""
        return journal.finish(report(journal.folder, split, told, judged, run.task.predictions, why, peek))


class _Makers:
    """What makes the members of a study and their predictions, or finds them made."""

    def __init__(self, journal: Journal, split: str) -> None:
        self.journal, self.split = journal, split
        self.run, self.options = journal.run, journal.options
        self.predictor = Predictor(self.run, pretext=True)
        self.weights: list[Weights] = []  # of members just made, where nothing is written
        self.known: list[Steps] = []
        self.cuts: list[Cut] = []
        by_fold = not self.options.workdirs and self.options.by == "fold"
        self.why_soup = "all share their first weights" if by_fold else self._shared_start()
        if by_fold:
            self.pool = pool_of(self.run, val=split == "test")
            targets = targets_of(readable(self.run, self.pool), np.arange(len(self.pool)))
            self.cuts = cut(
                targets, self.run.data.targets, self.options.members, seed=self.run.config.seed,
                key="study.ensemble.members",
            )  # fmt: skip

    def member(self, number: int, targets: np.ndarray, counts: np.ndarray) -> tuple[dict[str, Any], np.ndarray | None]:
        """(what its piece tells, predictions [views, examples, …] or None where it failed) of a member."""
        held: list[np.ndarray | None] = []

        def compute() -> dict[str, Any]:
            run, made, told = self._made(number)
            if made is None:
                held.append(None)
                return told
            if self.journal.folder is None and self.why_soup:
                self.weights.append(made)
            predictor = self.predictor if run is self.run else Predictor(run, pretext=True)
            predictions = self._predicted(predictor, made.arrays, counts)
            kind = self.run.task.predictions
            if made.last:
                last = self._predicted(predictor, dict(made.arrays) | dict(made.last), counts)
                one = combine.mean(last[None], kind)
                told["last"] = {name: s.mean() for name, s in combine.scores(one, targets[counts], kind).items()}
            self._keep(f"predictions-{number}.npy", predictions)
            held.append(predictions)
            one = combine.mean(predictions[None], kind)
            words = [f"{name} {s.mean():.4g}" for name, s in combine.scores(one, targets[counts], kind).items()]
            self.journal.told(f"{told['member']} (update {told['step']}): {', '.join(words)} on {self.split}")
            return told

        told = self.journal.piece(f"member-{number}", compute)
        if self.cuts:
            check_cut(told, self.cuts[number], f"member {number} of {self.journal.folder}")
        return told, held[0] if held else None if told["failed"] else self._kept(f"predictions-{number}.npy")

    def _predicted(self, predictor: Predictor, arrays: Mapping[str, np.ndarray], counts: np.ndarray) -> np.ndarray:
        return predictor(arrays, self.run.feeds[self.split].eval_batches(self.run.batch_size))[:, counts]

    def _made(self, number: int) -> tuple[Run, Weights | None, dict[str, Any]]:
        """(run, weights or None where it failed, what is told of it) of a member."""
        told: dict[str, Any] = {"failed": "", "step": 0, "last": {}}
        if self.options.workdirs:
            text = self.options.workdirs[number]
            run, found, step = open_member(self.run, text, self.split)
            folder, _ = place_of(text)
            return run, found, told | {"member": text, "workdir": str(folder), "step": step}
        if self.cuts:
            member = fold_run(self.run, self.pool, self.cuts[number], test=True, known=self.known)
            told |= {"member": f"without fold {number}", "cut": cut_sum(self.cuts[number])}
        else:
            seed = self.run.config.seed + number
            member = self.run.reseed(seed)
            told |= {"member": f"seed {seed}"}
        told["workdir"] = f"member{number}" if self.journal.folder is not None else None
        folder_of = self.journal.folder / f"member{number}" if self.journal.folder is not None else None
        try:
            state = train(member, folder_of).state
        except NonFiniteError as error:
            self.journal.told(f"{told['member']}: failed: {error.what}")
            return self.run, None, told | {"failed": error.what}
        return self.run, Weights.of_state(state), told | {"step": int(state.step)}

    def soup(self, told: Sequence[Mapping[str, Any]], counts: np.ndarray) -> tuple[np.ndarray | None, str]:
        """(predictions [views, examples, …] with the mean of the members' weights, why there is one or none)."""
        why = self.why_soup
        if not why or len(told) < 2:
            return None, "" if len(told) < 2 else "no mean of weights: the members start from different ones"
        held: list[np.ndarray] = []

        def compute() -> dict[str, Any]:
            every = [each.arrays for each in self.weights] or [self._weights_of(each).arrays for each in told]
            mean = combine.average_weights(every)
            held.append(self._predicted(self.predictor, mean, counts))
            self._keep("predictions-soup.npy", held[0])
            if self.journal.folder is not None:
                weight_files.write(self.journal.folder / SOUP, mean, {MARK: version(), "members": str(len(every))})
            return {"members": len(every)}

        self.journal.piece("soup", compute)
        return (held[0] if held else self._kept("predictions-soup.npy")), f"mean of weights: {why}"

    def _shared_start(self) -> str:
        """Why the mean of the members' weights may be a model; "" where it is none."""
        if self.options.workdirs:
            starts = set()
            for text in self.options.workdirs:
                path = place_of(text)[0] / "config.json"
                if not path.is_file():
                    return ""  # `open_member` tells it
                config = config_files.from_json(path)
                alike = same_model(config_files.changes(config, self.run.config))
                starts.add(config.transfer.init_from if alike else "")
            return f"all were fine-tuned from {starts.pop()}" if len(starts) == 1 and "" not in starts else ""
        if self.run.config.transfer.init_from:
            return f"all are fine-tuned from {self.run.config.transfer.init_from}"
        return ""

    def _weights_of(self, told: Mapping[str, Any]) -> Weights:
        assert self.journal.folder is not None
        return read_member(self.run, self.journal.folder / told["workdir"], told["step"])

    def _keep(self, name: str, predictions: np.ndarray) -> None:
        if self.journal.folder is not None:
            write_atomic(self.journal.folder / name, lambda file: np.save(file, predictions))

    def _kept(self, name: str) -> np.ndarray:
        assert self.journal.folder is not None
        path = self.journal.folder / name
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"--workdir: {path} is lost or damaged ({error}); choose a new folder") from error


def read_member(run: Run, workdir: Path, step: int) -> Weights:
    """The weights of a member that the study trained; raises DataError where they are lost or damaged."""
    restored = read_checkpoint(workdir, str(step), key="--workdir", event=lambda kind, text: None)
    found = Weights.of(restored.state)
    check_weights(run, found.arrays, str(workdir))
    return found


def predict_ensemble(
    workdir: str | Path, inputs: Any = "test", rule: str = "mean", *, model: Any = None, data: Any = None,
    trust: bool = False, told: Callable[[Run, np.ndarray], None] = lambda run, values: None,
) -> combine.Combined:  # fmt: skip
    """What the members of an ensemble say together, in the order of the split or of `inputs`.

    Args:
      workdir: of a finished `ensemble` study.
      inputs: a split (train, val or test), or [n, …] of the training data's shape and type.
      rule: of `jtrain.studies.combine`: mean, vote or average_then_vote; of numbers mean or median.
      model: as `assemble` takes it, for a study that was given one.
      data: likewise.
      trust: take the parts "module:Name" that the study's config.json names.
      told: hears the run, which is closed afterwards, and the values.

    Raises:
      ConfigError: there is no such split or rule, or inputs do not suit.
      DataError: the folder holds no finished ensemble, or members' files are lost or damaged.
    """
    folder = Path(workdir)
    members, split = _members_of(folder), inputs if isinstance(inputs, str) else ""
    config = config_files.read_config(folder / "config.json", trust=trust)
    if config.data.name == "arrays" and data is None:
        raise ConfigError(
            f"{folder}: this study's data were arrays of a program; give them again (data=…) in a program"
        )
    with contextlib.closing(assemble(config, model=model, data=data)) as run, contextlib.ExitStack() as stack:
        ways = combine.rules(run.task.predictions)
        if rule not in ways:
            raise ConfigError(f"--rule: no such rule {rule!r} for these predictions; use one of {', '.join(ways)}")
        if split and split not in run.feeds:
            raise ConfigError(f"--split={split}: {run.data.name} has no such split{did_you_mean(split, run.feeds)}")
        feed = run.feeds[split] if split else stack.enter_context(feed_of(run, np.asarray(inputs)))
        own = Predictor(run, pretext=False)
        found = []
        for member in members:
            if Path(member["workdir"]).is_absolute():
                other, weights, _ = open_member(run, f"{member['workdir']}@{member['step']}", "test")
            else:
                other, weights = run, read_member(run, folder / member["workdir"], member["step"])
            predictor = own if other is run else Predictor(other, pretext=False)
            found.append(predictor(weights.arrays, feed.eval_batches(run.batch_size))[:, : len(feed.examples)])
        together = ways[rule](np.stack(found), run.task.predictions)
        told(run, together.values)
        return together


def _members_of(folder: Path) -> list[dict[str, Any]]:
    """The members of a finished study."""
    try:
        told = json.loads((folder / "study.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"--workdir: {folder} holds no finished ensemble (no study.json that can be read)") from error
    if told.get("study") != "ensemble" or not told["found"].get("members"):
        raise DataError(f"--workdir: {folder} holds no ensemble that can predict, but: {told.get('conclusion')}")
    return told["found"]["members"]
