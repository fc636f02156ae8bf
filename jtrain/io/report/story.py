"""What came out of a run, in one sentence and a few numbers."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from jtrain.io.progress import duration_words
from jtrain.io.report.html import Markup, esc, is_number, measure, number
from jtrain.io.report.read import Files

# The kinds of events after which a run goes no further, and how it is told. A resume begins anew.
ENDS = {
    "early_stopping": "Stopped early",
    "given_up": "Given up",
    "non_finite": "Ended by a number that is not finite",
    "interrupted": "Interrupted",
    "lost": "Ended, as another process was lost",
}
BEGINNINGS = ("resume", "restart", "rollback", "branch")


def how_it_ended(files: Files) -> tuple[str, str]:
    """('done', a sentence): also 'early_stopping', 'given_up', 'non_finite', 'interrupted', 'lost' or 'unfinished'."""
    total, last = files.total, files.last
    end = _last_end(files.events)
    is_whole = total is not None and last >= total
    if end and not (is_whole and end.get("kind") in ("interrupted", "lost")):
        kind = str(end["kind"])
        return kind, f"{ENDS[kind]}: {_sentence(end.get('text', ''))}"
    of = f" of {total:,}" if total is not None else ""
    if is_whole:
        epochs = f" ({number(last / files.updates_per_epoch, 3)} epochs)" if files.updates_per_epoch else ""
        return "done", f"Done: all {last:,} updates{epochs}{_time(files)}."
    if not files.rows:
        return "unfinished", f"Unfinished: nothing was logged yet{f', {total:,} updates to do' if total else ''}."
    return "unfinished", f"Unfinished: update {last:,}{of}; it is still running, or was killed."


def seconds_of(made: Mapping[str, Any]) -> float | None:
    """How long a run took, over all its sessions; None where one of them was killed, or nothing is known."""
    sessions = _sessions(made)
    times = [seconds for one in sessions if is_number(seconds := one.get("seconds"))]
    return float(sum(times)) if times and len(times) == len(sessions) else None


def started(made: Mapping[str, Any]) -> str:
    """When the first session of a run began, such as '1 November 2026, 10:00 UTC'; '' where that is unknown."""
    sessions = _sessions(made)
    try:
        when = datetime.datetime.fromisoformat(str(sessions[0].get("started"))) if sessions else None
    except ValueError:
        return ""
    return f"{when.day} {when:%B %Y, %H:%M} UTC" if when else ""


def headline(files: Files) -> str:
    """The sentence, and the tiles with the numbers."""
    kind, sentence = how_it_ended(files)
    look = "lead" if kind in ("done", "early_stopping") else "lead note"
    told = dict(pair for pair in files.made.get("described", ()) if isinstance(pair, list) and len(pair) == 2)
    what = " · ".join(esc(told[name]) for name in ("model", "data") if told.get(name)) or _named(files.config)
    when = [esc(started(files.made)), "" if kind == "done" else esc(_time(files).removeprefix(" in "))]
    about = " · ".join(filter(None, (what, *when)))
    lines = [f'<p class="soft">{about}</p>' if about else ""]
    lines.append(f'<p class="{look}">{esc(sentence)}</p>')
    lines += [f'<p class="note small">{esc(note)}.</p>' for note in files.notes]
    found = tiles(files)
    return "".join(lines) + (found and f'<dl class="tiles">{found}</dl>')


def tiles(files: Files) -> str:
    """The numbers that matter most: the watched metric on the test and the validation split, the losses, the best."""
    watch, words = files.watch, list[str]()
    test, val, train = (files.at(split) for split in ("test", "val", "train"))
    for split, row in (("test", test), ("validation", val)):
        if is_number(row.get(watch)):
            words.append(_tile(f"{split} {pretty(watch)}", row[watch], _where(files, row), main=not words))
    if not words and is_number(train.get(watch)):
        words.append(_tile(f"training {pretty(watch)}", train[watch], _where(files, train), main=True))
    best = files.best
    if is_number(best.get("value")) and is_number(best.get("step")):
        name = pretty(str(best.get("metric", "")).partition("/")[2])
        words.append(_tile(f"best validation {name}", best["value"], f"at update {best['step']:,}"))
    for split, row in (("test", test), ("validation", val), ("training", train)):
        if watch != "loss" and is_number(row.get("loss")):
            words.append(_tile(f"{split} loss", row["loss"], _where(files, row)))
    return "".join(words)


def results(files: Files) -> list[list[Any]]:
    """Rows of a table: each metric on each split at its last evaluation."""
    splits = [split for split in ("train", "val", "test") if files.at(split)]
    names = ["loss", *files.metrics]
    names += [f"ema/{name}" for name in names if any(is_number(files.at(s).get(f"ema/{name}")) for s in splits)]
    return [[pretty(name), *(_measured(files.at(split).get(name)) for split in splits)] for name in names]


def pretty(name: str) -> str:
    """A metric's name for people: 'top5_accuracy' is 'top5 accuracy', 'ema/loss' 'loss (averaged weights)'."""
    averaged = name.startswith("ema/")
    name = name.removeprefix("ema/").replace("_", " ")
    name = {"r2": "R²", "mse": "MSE", "mae": "MAE", "rmse": "RMSE", "macro f1": "macro F1", "label f1": "label F1"}.get(
        name, name
    )
    return f"{name} (averaged weights)" if averaged else name


def _last_end(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The event that ended the newest part of a run."""
    for event in reversed(events):
        if event.get("kind") in BEGINNINGS:
            return None
        if event.get("kind") in ENDS:
            return event
    return None


def _sentence(text: Any) -> str:
    words = " ".join(str(text).split())
    words = words if len(words) <= 400 else f"{words[:400]}…"
    return words if words.endswith((".", "…")) else f"{words}."


def _time(files: Files) -> str:
    seconds = seconds_of(files.made)
    return f" in {duration_words(seconds)}" if seconds is not None else ""


def _tile(name: str, value: Any, where: str, *, main: bool = False) -> str:
    small = f"<small>{esc(where)}</small>" if where else ""
    return f"<div{' class=main' if main else ''}><dt>{esc(name)}</dt><dd>{measure(value)}{small}</dd></div>"


def _measured(value: Any) -> Markup | None:
    return Markup(measure(value), number=True) if is_number(value) else None


def _where(files: Files, row: Mapping[str, Any]) -> str:
    return f"at update {row['step']:,}" if is_number(row.get("step")) else ""


def _named(config: Mapping[str, Any]) -> str:
    names = [str(config[key]) for key in ("model.name", "data.name") if config.get(key)]
    return esc(" on ".join(names))


def _sessions(made: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = made.get("sessions")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
