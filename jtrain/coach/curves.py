"""What a run has logged, as arrays: the only thing that `diagnose` sees of it."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.coach.rows import Row, columns, csv_rows, epoch, explained, is_metric, joined, line_rows, number
from jtrain.durations import Clock
from jtrain.errors import DataError

LEAST_ROWS = 4  # of training losses, below which nothing is said


@dataclasses.dataclass(frozen=True)
class Curves:
    """What a run has logged. None: unknown; NaN: not finite, or not logged there.

    Attributes:
      step: [n] updates done at the end of each interval, ascending.
      loss: [n] mean training loss of each interval.
      grad_norm, lr: [n], or None.
      train: other metrics of the training batches by name, [n] each.
      val_step: [m] updates done at each evaluation.
      val: metrics of the validation split by name, 'loss' among them where it is known, [m] each.
      total: updates of the whole run.
      updates_per_epoch: updates of one pass through the data.
      guess: training loss of a model that knows nothing of its inputs.
      watch: the metric by which the best checkpoint is chosen, such as 'accuracy'; '': unknown.
      higher_is_better: which way the run takes it to improve.
      best_step: the evaluation that was taken for the best.
      final_lr: that of the last update of the whole run, as it is planned.
      failed_at: the update whose loss or gradient was not finite, where one ended the run.
      mixed: training examples are mixed (mixup, cutmix), so that training metrics are not those of validation.
      probes: of the line probe (`jtrain.line`), [p] each: 'step' and validation losses along the line through
        the weights of these, 'train/…' metrics of training examples as evaluation has them; {}: none.
      normed: the model carries running statistics, or other state of its own.
      harder: something makes training clearly harder than validation: dropout of more than a tenth, augmentation other
        than flips, smoothed labels.
    """

    step: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray | None = None
    lr: np.ndarray | None = None
    train: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    val_step: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    val: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    total: int | None = None
    updates_per_epoch: float | None = None
    guess: float | None = None
    watch: str = ""
    higher_is_better: bool | None = None
    best_step: int | None = None
    final_lr: float | None = None
    failed_at: int | None = None
    mixed: bool | None = None
    normed: bool | None = None
    harder: bool | None = None
    probes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_rows(cls, rows: Iterable[Row], probes: Sequence[Row] = (), **known: Any) -> "Curves":
        """From rows as in metrics.jsonl: `step`, `split` ('train' where there is none), `loss`, …; null is NaN.

        Args:
          rows: in any order; of several for a step and split the last counts.
          probes: rows of the line probe, as in coach.json.
          known: other attributes. Where `updates_per_epoch` or `guess` is not among them, they are read off the
            columns `epoch`, and `r2` or `explained`, if there are such.
        """
        by_split: dict[str, dict[float, Row]] = {"train": {}, "val": {}}
        for row in rows:
            split = by_split.get(str(row.get("split", "train")))
            if split is not None and number(row.get("step")) > 0:
                split[number(row["step"])] = row
        train = [row for _, row in sorted(by_split["train"].items())]
        val = [row for _, row in sorted(by_split["val"].items())]
        trained, validated = columns(joined(train)), columns(val)
        step = trained.pop("step", np.zeros(0))
        val_step = validated.pop("step", np.zeros(0))
        known.setdefault("updates_per_epoch", epoch(train + val))
        if known.get("guess") is None:
            known["guess"] = explained(trained) or explained(validated)
        if known.get("final_lr") is None and len(step) and known.get("total") == step[-1] and "lr" in trained:
            known["final_lr"] = float(trained["lr"][-1])
        return cls(
            step=step, loss=trained.pop("loss", np.full(len(step), math.nan)), grad_norm=trained.get("grad_norm"),
            lr=trained.get("lr"), train={k: v for k, v in trained.items() if is_metric(k)}, val_step=val_step,
            val={k: v for k, v in validated.items() if is_metric(k) or k == "loss"},
            probes=columns(sorted(probes, key=lambda row: number(row.get("step")))), **known,
        )  # fmt: skip

    @property
    def updates(self) -> np.ndarray:
        """[n] updates of each interval."""
        return np.diff(self.step, prepend=0.0)

    @property
    def done(self) -> float:
        """Updates done at the last row."""
        return float(max([0.0, *self.step[-1:], *self.val_step[-1:]]))

    def until(self, step: float) -> "Curves":
        """What had been logged after `step` updates; the best evaluation is that of then."""
        rows, evaluations = self.step <= step, self.val_step <= step
        probed = self.probes["step"] <= step if "step" in self.probes else rows
        cut = dataclasses.replace(
            self, step=self.step[rows], loss=self.loss[rows],
            grad_norm=None if self.grad_norm is None else self.grad_norm[rows],
            lr=None if self.lr is None else self.lr[rows],
            train={k: v[rows] for k, v in self.train.items()}, val_step=self.val_step[evaluations],
            val={k: v[evaluations] for k, v in self.val.items()},
            probes={k: v[probed] for k, v in self.probes.items()},
            failed_at=self.failed_at if self.failed_at is not None and self.failed_at <= step else None,
        )  # fmt: skip
        return dataclasses.replace(cut, best_step=cut._best())

    def thinned(self, most: int) -> "Curves":
        """With so many rows at most: means over as many neighbours each; the last may be of fewer."""
        every = -(-len(self.step) // most)
        if every <= 1:
            return self
        starts = np.arange(0, len(self.step), every)
        weight = self.updates

        def mean(values: np.ndarray) -> np.ndarray:
            known = np.where(np.isfinite(values), weight, 0.0)
            whole = np.add.reduceat(known, starts)
            sums = np.add.reduceat(np.nan_to_num(values) * known, starts)
            return np.where(whole > 0, sums / np.maximum(whole, 1e-9), math.nan)

        ends = np.append(starts[1:], len(self.step)) - 1
        return dataclasses.replace(
            self, step=self.step[ends], loss=mean(self.loss), lr=None if self.lr is None else mean(self.lr),
            grad_norm=None if self.grad_norm is None else mean(self.grad_norm),
            train={name: mean(values) for name, values in self.train.items()},
        )  # fmt: skip

    def _best(self) -> int | None:
        values = self.val.get(self.watch)
        if values is None or self.higher_is_better is None or not np.isfinite(values).any():
            return None
        places = np.nanargmax(values) if self.higher_is_better else np.nanargmin(values)
        return int(self.val_step[places])


def read_curves(path: str | Path) -> tuple[Curves, bool]:
    """(what a run has logged, whether it has ended), from its workdir, its metrics.jsonl, or any CSV with a header.

    Of a CSV the columns are taken for `step` (or epoch), `loss`, `lr`, `grad_norm`, `val_loss` and `val_…` by their
    usual names, see STEP, LOSS and VAL.

    Raises:
      DataError: there is no such file, it cannot be read, or it holds no losses.
    """
    path = Path(path)
    if path.is_dir():
        rows = _json_rows(path / "metrics.jsonl")
        return _of_workdir(path, rows)
    if path.suffix == ".jsonl":
        rows = _json_rows(path)
        if path.name == "metrics.jsonl" and (path.parent / "config.json").is_file():
            return _of_workdir(path.parent, rows)
    else:
        rows = csv_rows(_text(path), path)
    curves = Curves.of_rows(rows)
    return dataclasses.replace(_checked(curves, path), total=int(curves.done)), True


def silenced(path: str | Path) -> tuple[str, ...]:
    """The verdicts that the config of a run leaves out (`diagnose.silence`); () for a file that is of no workdir.

    Raises:
      DataError: its config.json is damaged.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent if path.name == "metrics.jsonl" else None
    names = _json(folder / "config.json").get("diagnose", {}).get("silence", ()) if folder else ()
    return tuple(map(str, names))


def _of_workdir(folder: Path, rows: list[Row]) -> tuple[Curves, bool]:
    """With what its other files tell: the length of the run, the best, and how it ended."""
    config = _json(folder / "config.json")
    events = _json_rows(folder / "events.jsonl") if (folder / "events.jsonl").is_file() else []
    coach = _json(folder / "coach.json")
    facts, probes = coach.get("curves"), line_rows(coach)
    facts = dict(facts) if isinstance(facts, dict) else {}
    best, train, augment = _json(folder / "best.json"), config.get("train", {}), str(config.get("augment", ""))
    known: dict[str, Any] = {"mixed": "mixup" in augment or "cutmix" in augment}
    curves = Curves.of_rows(rows)
    epoch, batch = curves.updates_per_epoch, train.get("batch_size")
    if epoch and batch and train.get("total"):
        known["total"] = Clock.start(train["total"], batch_size=batch, epoch_examples=round(epoch * batch)).total
    if config.get("task", {}).get("name") == "regression" and config.get("loss", {}).get("name") in ("auto", "mse"):
        known["guess"] = 1.0  # targets are measured in their standard deviations
    if best:
        known["watch"], known["best_step"] = str(best["metric"]).removeprefix("val/"), int(best["step"])
        known["higher_is_better"] = _taken(curves.val.get(known["watch"]), float(best["value"]))
    failures = [int(event["step"]) for event in events if event.get("kind") == "non_finite" and event.get("step")]
    resumed = max((int(event.get("step") or 0) for event in events if event.get("kind") == "resume"), default=-1)
    if failures and failures[-1] >= max(curves.done - 1, resumed):
        known["failed_at"] = failures[-1]
    names = {field.name for field in dataclasses.fields(Curves)} - {
        "probes",
        "step",
        "loss",
        "train",
        "val",
        "val_step",
    }
    known |= {name: value for name, value in facts.items() if name in names and value is not None}
    curves = _checked(Curves.of_rows(rows, probes, **known), folder / "metrics.jsonl")
    stopped = any(event.get("kind") in ("early_stopping", "given_up") for event in events)
    return curves, bool(stopped or known.get("failed_at") or curves.total is None or curves.done >= curves.total)


def _taken(values: np.ndarray | None, best: float) -> bool | None:
    """Which way a metric was taken to improve, by the value that was taken for the best; None: both are possible."""
    if values is None or not np.isfinite(values).any():
        return None
    highest, lowest = bool(best >= np.nanmax(values)), bool(best <= np.nanmin(values))
    return None if highest == lowest else highest


def _checked(curves: Curves, path: Path) -> Curves:
    failed = curves.failed_at is not None or not np.isfinite(curves.loss[-1:]).all()
    if len(curves.step) < LEAST_ROWS and not (failed and len(curves.step)):
        raise DataError(
            f"{path}: holds {len(curves.step)} rows of training losses, a diagnosis needs {LEAST_ROWS}; let the run go "
            "on, or log more often (log.every)"
        )
    return curves


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there is no such file; give the workdir of a run, or a CSV with step, loss"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path)) if path.is_file() else {}
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}); put back a copy of it") from error
    return found if isinstance(found, dict) else {}


def _json_rows(path: Path) -> list[Row]:
    lines = _text(path).splitlines()
    rows: list[Row] = []
    for place, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if place == len(lines):  # a run that is under way writes it, or it was killed there
                break
            raise DataError(f"{path}: line {place} is no JSON; put back a copy of the file") from error
        if isinstance(row, dict):
            rows.append(row)
    return rows
