"""The stages of autopilot: each decides something, from what the ones before it have decided."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jtrain import config as configs
from jtrain import mesh as meshes
from jtrain.io.progress import duration_words
from jtrain.loop import train
from jtrain.run import Run
from jtrain.studies.act.final import FINAL, make_final, measure_final
from jtrain.studies.act.legs import with_total
from jtrain.studies.autopilot.finale import Allowed, final_run, is_better
from jtrain.studies.autopilot.recipe import (
    BUDGET,
    BUDGET_FEW,
    SHORTEST,
    Decision,
    candidates,
    check_options,
    few_to_judge,
    findings,
    is_yours,
    plan,
    put,
    rules_of,
    scolded,
    values_of,
)
from jtrain.studies.autopilot.trials import agreed, cost_of, try_out
from jtrain.studies.batch_size import batch_size
from jtrain.studies.journal import Journal
from jtrain.studies.ladder import ladder
from jtrain.studies.overfit import overfit
from jtrain.studies.short import FEWEST

OVERFIT, LADDER = 0.2, 0.25  # shares of the budget that these may take
RUNGS, RUNS = 10, 14  # of the ladder at most, and its runs with other seeds
PACE = 30  # updates by which the time of one is measured
TIMED = 0.8  # share of the minutes that is given out as updates; compiling takes the rest


class Pilot:
    """The decisions so far, and what they cost.

    Args:
      journal: of the study.
      folder: of its stages.
    """

    def __init__(self, journal: Journal, folder: Path) -> None:
        self.journal, self.run, self.folder = journal, journal.run, folder
        self.options = journal.options
        self.decisions: list[dict[str, Any]] = []
        self.values: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.budget, self._length_tried = 0, False
        self._begun = time.perf_counter()
        self._before = 0.0  # seconds of earlier parts

    def fly(self) -> str:
        """All stages; why there is no model in the end, "" where there is one."""
        asked = configs.updates(self.run.clock, self.options.budget, "study.autopilot.budget", zero=True)
        check_options(self.run, asked)
        self._stage("lint", lambda: self._lint(asked))
        planned = self._stage("plan", lambda: self._plan(asked))
        self.budget = planned["budget"]
        if self.options.minutes:
            self.budget = self._stage("pace", self._pace)["budget"]
        checked = self._stage("overfit", self._overfit)
        if checked["failed"]:
            return str(checked["failed"])
        self._stage("batch size", self._batch)
        self._stage("ladder", self._ladder)
        self._length_tried = bool(self._stage("trials", self._trials).get("length_tried"))
        self._stage("check", self._check)
        trained = self._stage("train", lambda: self._train("6-train", self.total))
        if trained["more"]:
            more = self._stage("more", lambda: self._train("7-more", trained["more"], trained["next"]))
            if is_better(self.run, more, trained):
                trained = more
                self.values |= more["change"]
        if trained["attempt"] is None:
            return str(trained["failed"])
        source = self.folder / trained["folder"] / trained["attempt"]
        make_final(source, trained["step"], self.folder / FINAL)
        with contextlib.closing(self.recipe()) as run:
            self.metrics = self.journal.piece("final", lambda: measure_final(run, self.folder / FINAL))
        return ""

    def _train(self, name: str, updates: int, change: Mapping[str, Any] | None = None) -> dict[str, Any]:
        may = Allowed(self.left, self.may(), lr=not self.run.config.optimizer.lr, length=self._length_tried)
        with contextlib.closing(self.recipe()) as run:
            return final_run(self.journal, run, self.folder / name, updates, change or {}, may)

    def recipe(self, **changes: Any) -> Run:
        """The run as it is decided so far; keys of further changes have two underscores for dots."""
        config = configs.changed(put(self.run.config, self.values), **changes)
        return self.run.again(config, self.run.data)

    @property
    def total(self) -> int:
        """Updates of the final run, as far as the budget has them."""
        with contextlib.closing(self.recipe()) as run:
            return max(1, min(run.clock.total, self.left))

    @property
    def left(self) -> int:
        """Updates of the budget that are left."""
        return max(0, self.budget - sum(one["updates"] for one in self.decisions))

    def may(self) -> bool:
        """Whether there is time for more than the final run."""
        if not self.options.minutes:
            return True
        return self._before + time.perf_counter() - self._begun < 60 * self.options.minutes / 2

    def _stage(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a stage came to, from the journal where it was done before; its decisions are noted and put in force."""

        def timed() -> dict[str, Any]:
            begun = time.perf_counter()
            self.journal.told(f"autopilot: {name}")
            found = {"updates": 0} | compute()
            told = [dataclasses.asdict(one) for one in found.pop("decisions")]
            seconds = time.perf_counter() - begun
            # Of a stage that does not say what each of its decisions has cost, the first has cost it all.
            costs = found.pop("costs", None) or [(found["updates"], seconds), *[(0, 0.0)] * (len(told) - 1)]
            return found | {"decisions": told, "costs": costs, "seconds": seconds}

        known = self.journal.has(name)
        found: dict[str, Any] = self.journal.piece(name, timed)
        if known:
            self._before += found["seconds"]
        for one, (updates, seconds) in zip(found["decisions"], found["costs"], strict=True):
            told = {"stage": name, "decision": one["text"], "reason": one["reason"]}
            told |= {"updates": updates, "seconds": seconds, "always": name in ("train", "more")}
            self.decisions.append(told | {"keys": sorted(one["values"])})
            self.values |= one["values"]
            if not known:
                self.journal.told(f"  {name}: {one['text']}, because {one['reason']}")
        if not known and found["updates"]:
            self._tell_time()
        return found

    def _tell_time(self) -> None:
        """How long the rest takes, at most, at the pace so far."""
        spent, took = (sum(one[name] for one in self.decisions) for name in ("updates", "seconds"))
        if spent and self.left:
            rest = duration_words(took / spent * self.left)
            self.journal.told(
                f"  {self.left:,} updates are left, some {rest} at the pace so far; they need not be used"
            )

    def _lint(self, asked: int) -> dict[str, Any]:
        """What lint says of the config with the plan: what the plan mends, and an lr that is open, is not told."""
        with contextlib.closing(
            self.run.again(put(self.run.config, values_of(plan(self.run, asked))), self.run.data)
        ) as run:
            said = [one for one in findings(run) if one.key != "optimizer.lr" or self.run.config.optimizer.lr]
        told = [Decision("lint", f"{one.key} stays as it is", f"[{one.rule}] {one.text}") for one in said]
        nothing = Decision(
            "lint", "nothing is to be changed", "no rule of lint says anything of the config and the plan"
        )
        return {"decisions": told or [nothing], "rules": [one.rule for one in said]}

    def _check(self) -> dict[str, Any]:
        """What lint says of the recipe that is trained by, beyond what it has said of the plan."""
        known = self.journal.piece("lint", dict)["rules"]
        with contextlib.closing(self.recipe()) as run:
            said = [one for one in findings(run) if one.rule not in known]
        told = [Decision("check", f"{one.key} as decided", f"lint says of it [{one.rule}] {one.text}") for one in said]
        nothing = Decision("check", "the recipe is sensible", "lint says nothing of what was decided")
        return {"decisions": told or [nothing]}

    def _plan(self, asked: int) -> dict[str, Any]:
        told = plan(self.run, asked)
        run = self.run.again(put(self.run.config, values_of(told)), self.run.data)
        with contextlib.closing(run):
            times = BUDGET_FEW if few_to_judge(run) else BUDGET
            budget = asked or times * run.clock.total
        reason = "it is yours" if asked else f"{times} times the updates of the final run"
        if not asked and few_to_judge(run):
            reason += f", as {len(run.data.val or ()):,} validation examples tell little without folds"
        self.journal.told(f"  up to {budget:,} updates in all: {reason}")
        return {"decisions": [*told, Decision("plan", f"budget of {budget:,} updates", reason)], "budget": budget}

    def _pace(self) -> dict[str, Any]:
        """How many updates the minutes are."""
        with contextlib.closing(
            self.recipe(diagnose__mode="off", train__eval_every="100%", log__every="10steps")
        ) as run:
            count = max(1, min(PACE, run.clock.total, self.budget // 4))
            result = train(with_total(run, run.config, count))
        rates = [row["examples_per_second"] for row in result.history if row.get("examples_per_second")]
        rate = rates[-1] / run.batch_size if rates else 1.0
        updates = max(count + FEWEST, int(TIMED * 60 * self.options.minutes * rate))
        budget, values = min(self.budget, updates), {}
        if run.clock.total > max(FEWEST, budget // 2):
            values = {"train.total": f"{max(FEWEST, budget // 2)}steps"}
        reason = f"{self.options.minutes:g} minutes are some {updates:,} updates at {rate:.3g} a second"
        text = f"budget of {budget:,} updates" + (f", {values['train.total']} of them the final run" if values else "")
        return {"decisions": [Decision("pace", text, reason, values)], "budget": budget, "updates": count}

    def _overfit(self) -> dict[str, Any]:
        asked = configs.updates(self.run.clock, self.run.config.study.overfit.total, "study.overfit.total")
        if asked > OVERFIT * self.budget:
            why = f"its {asked:,} updates are more than {OVERFIT:.0%} of the budget"
            return {"decisions": [Decision("overfit", "not asked", why)], "failed": ""}
        study = overfit(self.recipe(), self.folder / "2-overfit", screen=self.journal.screen)
        fits = study.found["fits"].values()
        names = {one["name"] for one in study.found["suspects"]}
        open_yet = {"too few updates"} | (set() if self.run.config.optimizer.lr else {"learning rate"})
        if any(fit["learnt"] for fit in fits):
            open_yet |= {"wrong loss scale at the start"}  # slow at first is all that it made
        found = {"updates": sum(fit["updates"] for fit in fits), "failed": ""}
        if study.ok:
            return found | {"decisions": [Decision("overfit", "the model can learn", study.conclusion)]}
        if names and names <= open_yet:
            at = "with another lr" if any(fit["learnt"] for fit in fits) else "nothing is broken, it is only slow"
            return found | {"decisions": [Decision("overfit", f"goes on: {at}", study.conclusion)]}
        text = f"stops here; suspect: {', '.join(sorted(names)) or 'unknown'}"
        return found | {
            "decisions": [Decision("overfit", text, study.conclusion)],
            "failed": f"overfit {study.conclusion}",
        }

    def _batch(self) -> dict[str, Any]:
        size = self.values.get("train.batch_size", self.run.batch_size)
        if "train.batch_size" not in self.values and is_yours(self.run, "train.batch_size"):
            return {"decisions": [Decision("batch size", f"{size} stays", "it is yours")]}
        if meshes.is_cpu(self.run.mesh):
            reason = "on CPU larger batches bring no more examples a second that would pay for fewer updates"
            return {"decisions": [Decision("batch size", f"{size} stays", reason)]}
        study = batch_size(self.recipe(), self.folder / "3-batch-size", screen=self.journal.screen)
        largest, knee = study.found["largest"], study.found["knee"]
        if largest is not None and size > largest:
            told = Decision("batch size", f"{size} → {largest}", study.conclusion, {"train.batch_size": largest})
        else:
            reason = f"it fits; the device is busy from {knee} on, but fewer updates an epoch would learn less"
            told = Decision("batch size", f"{size} stays", reason)
        return {"decisions": [told], "updates": 0}

    def _ladder(self) -> dict[str, Any]:
        lr = self.run.config.optimizer.lr
        if lr:
            return {"decisions": [Decision("ladder", f"lr {lr:g} stays", "it is yours")]}
        with contextlib.closing(self.recipe()) as run:
            total, default = run.clock.total, run.optimizer.lr
        most = min(int(LADDER * self.budget), self.left - total)
        length = min(most // RUNS, total // 2)
        if length < min(SHORTEST, total // 2) or not self.may() or len(self.run.phases) > 1:
            why = "phases have no one lr" if len(self.run.phases) > 1 else f"{most:,} updates are too few for a ladder"
            told = Decision("ladder", f"lr {default:g}, the default of {self.run.config.optimizer.name}", why)
            return {"decisions": [told]}
        run = self.recipe(study__ladder__total=f"{length}steps", study__ladder__most=RUNGS)
        study = ladder(run, self.folder / "4-ladder", screen=self.journal.screen)
        spent = sum(row["updates"] * (row.get("runs") or 1) for row in study.rows)
        found = study.found["lr"]
        if found is None:
            told = Decision(
                "ladder", f"lr {default:g}, the default of {self.run.config.optimizer.name}", study.conclusion
            )
        else:
            reason = study.conclusion.partition("; type --config")[0].removeprefix(f"lr {found:g}: ")
            told = Decision("ladder", f"lr {found:g}", reason, {"optimizer.lr": found})
        return {"decisions": [told], "updates": spent}

    def _trials(self) -> dict[str, Any]:
        if not self.options.candidates or self.run.data.val is None or len(self.run.phases) > 1:
            why = "study.autopilot.candidates is off" if not self.options.candidates else "nothing could judge them"
            return {"decisions": [Decision("trials", "none", why)]}
        with contextlib.closing(self.recipe()) as run:
            yours = is_yours(self.run, "optimizer.lr"), is_yours(self.run, "train.total")
            tried = candidates(run, lr_is_yours=yours[0], length_is_yours=yours[1])
            known = rules_of(run)
            tried = [one for one in tried if not scolded(run, one.values, known)]
            found = try_out(self.journal, run, tried, self.left - run.clock.total, self.may) if self.may() else None
            taken, against = agreed(run, found.chosen) if found else ({}, {})
        if found is None:
            why = "what is left of the budget is for the final run" if tried else "all that could be tried is yours"
            return {"decisions": [Decision("trials", "none", why)]}
        base = f"{run.watch} {found.base['value']:.4g}, {found.note}"
        told, costs = [Decision("trials", "the recipe so far is the measure", base)], [cost_of(found.base)]
        for row in found.rows:
            name, why = row["candidate"], ""
            if name in against:
                why = f"; but lint says of it {against[name]}"
            elif row["better"] and name not in taken:
                why = "; another of its kind is better"
            text, values = (name, taken[name].values) if name in taken else (f"no {name}", {})
            told.append(Decision("trials", text, row["told"] + why, values))
            costs.append(cost_of(row))
        told_by = {row["candidate"] for row in found.rows if row["runs"] >= 2 and 2 * found.length >= self.total}
        length = few_to_judge(run) and any(one.group == "length" and one.name in told_by for one in tried)
        return {"decisions": told, "costs": costs, "updates": found.updates, "length_tried": length}
