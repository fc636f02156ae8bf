"""What the sizes come to: the knee, the lr there, the table, the sentence and the picture."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from jtrain.run import Run
from jtrain.studies.batch_size.memory import MIB, Limit, unit_of

KNEE = 0.05  # of the best throughput may be missing at the knee; or as much as the rounds scatter, where that is more
MOST_SCATTER = 0.25  # beyond which there is no knee to be told
RANGE = 20  # between the least and the greatest throughput, from which on the picture's axis is logarithmic


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is known of every size that was looked at.

    Attributes:
      run: the config's.
      limit: of the memory of a device.
      parts: bytes a size needs by what for, "all" in all; empty where compiling ran out of memory.
      rates: examples a second in each round, of the sizes that were timed.
      failed: sizes that ran out of memory although the analysis said that they fit.
    """

    run: Run
    limit: Limit
    parts: Mapping[int, Mapping[str, int]]
    rates: Mapping[int, list[float]]
    failed: frozenset[int]

    def bytes(self, size: int) -> float:
        """What a size needs; infinite where compiling ran out of memory."""
        return self.parts[size].get("all", math.inf)

    def fits(self, size: int) -> bool:
        """Whether it fits."""
        return size not in self.failed and self.bytes(size) <= self.limit.bytes

    @property
    def speed(self) -> dict[int, float]:
        """Examples a second by size."""
        return {size: statistics.median(rates) for size, rates in sorted(self.rates.items())}

    @property
    def scatter(self) -> float:
        """Half the range of the rounds, as a share: the median of all sizes."""
        return statistics.median((max(each) - min(each)) / 2 / statistics.median(each) for each in self.rates.values())

    @property
    def fast(self) -> float:
        """Examples a second from which on a size counts as being as fast as the best."""
        return (1 - max(KNEE, self.scatter)) * max(self.speed.values())

    @property
    def knee(self) -> int | None:
        """The smallest size that is as fast as any; None where none was timed, or the rounds differ too much."""
        if not self.rates or self.scatter > MOST_SCATTER:
            return None
        return min((size for size, speed in self.speed.items() if speed >= self.fast), default=None)

    def lrs(self, size: int) -> dict[str, Any]:
        """The lr at a size by both rules, and by the one that the run would take."""
        run, config = self.run, self.run.config.optimizer
        scaling, ratio = config.batch_scaling, size / run.batch_size
        linear = scaling == "linear" or (scaling == "auto" and run.optimizer.core.family == "sgd")
        both = {"lr_linear": run.optimizer.lr * ratio, "lr_sqrt": run.optimizer.lr * math.sqrt(ratio)}
        return both | {"lr": both["lr_linear" if linear else "lr_sqrt"], "rule": "linear" if linear else "square root"}

    def rows(self) -> list[Mapping[str, Any]]:
        """The table."""
        rows: list[Mapping[str, Any]] = []
        speed, knee = self.speed, self.knee
        for size in sorted(self.parts):
            lrs, parts, rate = self.lrs(size), self.parts[size], speed.get(size)
            rows.append({
                "batch": size,
                "MiB": parts["all"] / MIB if parts else None,
                "of it activations": parts["between"] / MIB if parts else None,
                "fits": self.fits(size),
                "examples/s": rate,
                "ms an update": 1e3 * size / rate if rate else None,
                "lr, linear": lrs["lr_linear"],
                "lr, square root": lrs["lr_sqrt"],
                "note": ", ".join(["knee"] * (size == knee) + ["the config's"] * (size == self.run.batch_size)),
            })  # fmt: skip
        return rows

    def conclusion(self, low: int | None, high: int | None) -> str:
        """The sentence; `low` is the largest that fits, `high` the smallest known that does not."""
        if low is None:
            return f"not even a batch of {high} fits {self.limit.words}; train.remat or mesh.fsdp make it need less"
        there = len(self.run.data.train)
        if high is None:
            which = (
                f"all {low:,} training examples" if low > there - unit_of(self.run) else f"{low:,}, the most allowed,"
            )
            fits = f"{which} fit {self.limit.words}, as one batch"
        else:
            fits = f"the largest batch that fits {self.limit.words} has {low:,} examples ({high:,} do not fit)"
        knee, speed = self.knee, self.speed
        if knee is None:
            why = "none was measured" if not speed else f"the rounds differ by ±{self.scatter:.0%}"
            return f"{fits}; how fast which size is cannot be told: {why}; ask again when nothing else runs here"
        words = f"{speed[knee]:,.4g} examples a second" + (f", ±{self.scatter:.0%}" if self.scatter > KNEE else "")
        gain = max(speed.values()) / speed[knee] - 1
        fast = f"beyond {knee:,} a larger batch is {f'at most {gain:.0%}' if gain > 0.005 else 'no'} faster ({words})"
        if knee == max(speed):
            fast = f"throughput still rises at {knee:,} ({words})"
        return f"{fits}; {fast}; {self._advice(knee)}"

    def _advice(self, knee: int) -> str:
        """What to type."""
        own, config, speed, lrs = self.run.batch_size, self.run.config, self.speed, self.lrs(knee)
        if speed.get(own, 0.0) >= self.fast:
            return f"the config's {own:,} is as fast as any: leave train.batch_size and the lr"
        other, by_other = ("square root", "lr_sqrt") if lrs["rule"] == "linear" else ("linear", "lr_linear")
        gain = f", for {speed[knee] / speed[own]:.2g}× the examples a second" if own in speed else ""
        typed = f"--config.train.batch_size={knee}"
        if config.optimizer.reference_batch:
            moves = f"the lr moves by itself ({lrs['rule']} rule, optimizer.reference_batch)"
        else:
            typed += f" --config.optimizer.lr={lrs['lr']:.3g}"
            moves = f"the lr moves by the {lrs['rule']} rule of {config.optimizer.name}"
        change = f"from {self.run.optimizer.lr:.3g} at {own:,} to {lrs['lr']:.3g} ({other}: {lrs[by_other]:.3g})"
        return f"{moves} {change}{gain}: {typed}"

    def picture(self, low: int | None, high: int | None) -> Callable[[Any], None]:
        """Draws memory and throughput against the batch size; the arguments are those of `conclusion`."""
        memory = {size: self.bytes(size) / MIB for size in sorted(self.parts) if math.isfinite(self.bytes(size))}
        speed, rates, knee, own = self.speed, dict(self.rates), self.knee, self.run.batch_size
        limit = self.limit.bytes / MIB

        def draw(figure: Any) -> None:
            upper, lower = figure.subplots(2, 1, sharex=True)
            upper.plot(list(memory), list(memory.values()), "k.-", label="the step needs")
            upper.axhline(limit, color="0.4", linestyle="--", label=f"limit, {limit:,.0f} MiB")
            if low is not None:
                label = f"{low:,} fit" + ("" if high is None else f", {high:,} do not")
                upper.plot([low], [memory[low]], "ks", markersize=9, fillstyle="none", linestyle="", label=label)
            upper.set(ylabel="memory of a device [MiB]", title="batch size: memory and throughput")
            upper.set_yscale("log", base=2)
            lower.plot(list(speed), list(speed.values()), "k.-", label="median of the rounds, and their range")
            lower.vlines(list(speed), *([end(rates[size]) for size in speed] for end in (min, max)), color="0.4")
            if knee is not None:
                lower.axvline(knee, color="0.4", linestyle="-.", label=f"knee, {knee:,}")
            lower.axvline(own, color="0.6", linestyle=":", label=f"the config's, {own:,}")
            lower.set(xlabel="batch size [examples]", ylabel="throughput [examples/s]")
            lower.set_xscale("log", base=2)
            lower.xaxis.set_major_formatter("{x:,.0f}")
            if speed and max(speed.values()) > RANGE * min(speed.values()):
                lower.set_yscale("log", base=2)
            else:
                lower.set_ylim(bottom=0)
            for axes in (upper, lower):
                axes.yaxis.set_major_formatter("{x:,.6g}")
                axes.grid(True, which="major", color="0.9")
                axes.legend(fontsize="small", loc="best")

        return draw
