"""`diagnose`: what the curves of a run say, in words and as a picture."""

from pathlib import Path

import numpy as np

from jtrain.coach import diagnose as coach
from jtrain.coach.curves import LEAST_ROWS, Curves, read_curves, silenced
from jtrain.coach.told import Verdict
from jtrain.errors import DataError
from jtrain.io.diagnosis_picture import Line, draw_diagnosis
from jtrain.io.manifest import some
from jtrain.io.progress import Screen

PICTURE = "diagnosis.png"
WIDTH = 110  # characters of a line above the picture


def diagnose(
    path: str | Path, *, screen: Screen | None = None, out: str | Path | None = None, silence: tuple[str, ...] = ()
) -> list[Verdict]:
    """Says what is wrong with a run, and draws it; [] for a healthy one.

    Args:
      path: a workdir, its metrics.jsonl, or a CSV with columns such as step, loss, val_loss, lr.
      screen: where it is told.
      out: the picture; None is diagnosis.png in the workdir, and NAME.diagnosis.png beside a CSV.
      silence: names of verdicts that are left out, besides those of the run's own `diagnose.silence`.

    Raises:
      DataError: the file is missing, damaged, or holds no losses; or the picture cannot be written there.
    """
    screen, path = screen or Screen.quiet(), Path(path)
    if (path / "study.jsonl").is_file():
        runs = some(sorted(str(each.parent) for each in path.rglob("metrics.jsonl")))
        inside = f", such as {runs}" if runs else ""
        raise DataError(f"{path}: is the folder of a study; diagnose reads one run{inside}")
    curves, ended = read_curves(path)
    verdicts = coach.diagnose(curves, ended=ended, silence=(*silence, *silenced(path)))
    for verdict in verdicts:
        screen.line(f"diagnose {verdict.level}: {verdict.line()}")
    if not any(verdict.level == "warning" for verdict in verdicts):
        screen.line(f"diagnose: {healthy(curves, ended)}")
    picture = Path(out) if out is not None else _place(path)
    try:
        draw(curves, verdicts, picture, title=path.name)
    except DataError as error:
        if out is not None:
            raise
        screen.line(f"no picture: {error}; --out=… puts it elsewhere")  # what was asked for has been said
    else:
        screen.line(f"picture {picture}")
    return verdicts


def healthy(curves: Curves, ended: bool) -> str:
    """One sentence on a run of which nothing bad is to be said."""
    finite = curves.loss[np.isfinite(curves.loss)]
    if len(finite) < LEAST_ROWS:
        return f"too early to tell: {len(finite)} rows of losses, {LEAST_ROWS} are needed; log more often (log.every)"
    text = f"training loss {finite[0]:.4g} → {finite[-1]:.4g}"
    validated = curves.val.get("loss")
    if validated is not None and len(validated):
        text += f", validation loss {validated[0]:.4g} → {validated[-1]:.4g}"
    so_far = "" if ended else " so far"
    return f"healthy{so_far}: {text} in {curves.done:,.0f} updates; no sign of what diagnose knows"


def draw(curves: Curves, verdicts: list[Verdict], path: Path, *, title: str) -> None:
    """Draws the loss, the watched metric, the gradient's norm and the lr, with the marks of the verdicts.

    Raises:
      DataError: it cannot be written.
    """
    losses: dict[str, Line] = {"train": (curves.step, curves.loss)}
    if "loss" in curves.val:
        losses["val"] = (curves.val_step, curves.val["loss"])
    panels = [("loss", losses)]
    if curves.watch in curves.val and curves.watch != "loss":
        metric: dict[str, Line] = {"val": (curves.val_step, curves.val[curves.watch])}
        if curves.watch in curves.train:
            metric = {"train": (curves.step, curves.train[curves.watch]), **metric}
        panels.append((curves.watch.replace("_", " "), metric))
    if curves.grad_norm is not None:
        panels.append(("gradient norm", {"train": (curves.step, curves.grad_norm)}))
    if curves.lr is not None:
        panels.append(("learning rate", {"train": (curves.step, curves.lr)}))
    levels = {"loss of a guess": curves.guess} if curves.guess else {}
    lines = [title if verdicts else f"{title}: healthy", *(_cut(f"{v.name}: {v.text}") for v in verdicts)]
    draw_diagnosis(
        path, title="\n".join(lines), panels=panels, levels=levels,
        marks=[mark for verdict in verdicts for mark in verdict.marks],
        stretches=[(v.evidence["from_update"], curves.done, v.name) for v in verdicts if "from_update" in v.evidence],
    )  # fmt: skip


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _place(path: Path) -> Path:
    if path.is_dir():
        return path / PICTURE
    return path.with_name(PICTURE) if path.name == "metrics.jsonl" else path.with_name(f"{path.stem}.{PICTURE}")
