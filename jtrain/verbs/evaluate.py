"""`eval`: the metrics of a workdir's state on a split."""

import contextlib
from pathlib import Path
from typing import Any

from jtrain.errors import ConfigError
from jtrain.io.progress import Screen
from jtrain.peers import ALONE, Peers
from jtrain.run import Run
from jtrain.table import did_you_mean
from jtrain.verbs.restored import agree_on, moved, open_run, open_state


def evaluate(
    workdir: str | Path, *, split: str = "", at: str | int = "latest", model: Any = None, data: Any = None,
    overrides: dict[str, str] | None = None, trust: bool = False, screen: Screen | None = None,
    peers: Peers = ALONE,
) -> dict[str, Any]:  # fmt: skip
    """Loss and metrics over a whole split; the workdir is only read.

    Args:
      workdir: of a run.
      split: train, val or test; "" is test, val where there is no test split, train where there is neither.
      at: latest, best, or a step.
      model: as `assemble` takes it, for a run that was given one.
      data: likewise.
      overrides: {dotted key: text} on top of the run's config, for devices, the log and where the data is.
      trust: take the parts "module:Name" that the run's config.json names: they are imported and called.
      screen: where to show it.
      peers: from `jtrain.connect()`, where several processes do this together.
    """
    screen = screen or Screen.quiet()
    with contextlib.closing(open_run(workdir, overrides=overrides, model=model, data=data, trust=trust)) as run:
        split = split or next(name for name in ("test", "val", "train") if name in run.feeds)
        check_split(run, split)
        agree_on(run, peers, {"split": split, "at": str(at)})
        own = split if data is None and not moved(overrides) else ""
        state = open_state(run, workdir, at, screen=screen, peers=peers, held_out=own)
        found = run.evaluate(state, split)
        tell_news(run, screen)
    step = int(state.step)
    screen.row({"step": step, "epoch": run.clock.epoch(step), "split": split} | found)
    for line in confusion_table(found.get("confusion"), run.names):
        screen.line(line)
    return found


def confusion_table(counts: Any, names: tuple[str, ...]) -> list[str]:
    """Lines of a table of how often each class (a row) was taken for which (a column); none without counts."""
    if counts is None:
        return []
    names = names or tuple(map(str, range(len(counts))))
    width = max(6, *(len(f"{value:,.0f}") + 1 for row in counts for value in row))
    left = max(map(len, names)) + 2
    lines = ["confusion: a row for each class of the targets, a column for each that was predicted"]
    lines.append(" " * left + "".join(f"{name[: width - 1]:>{width}}" for name in names))
    return lines + [
        f"{name:<{left}}" + "".join(f"{v:>{width},.0f}" for v in row) for name, row in zip(names, counts, strict=True)
    ]


def tell_news(run: Run, screen: Screen) -> None:
    """Shows what the data's feeds passed over, such as broken records."""
    for feed in run.feeds.values():
        for line in feed.news():
            screen.line(f"data: {line}")


def check_split(run: Run, split: str) -> None:
    """Raises ConfigError when the data has no such split."""
    if split not in run.feeds:
        raise ConfigError(f"split={split}: {run.data.name} has no such split{did_you_mean(split, run.feeds)}")
