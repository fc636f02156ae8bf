"""What a run says on the screen: lines, a live bar or plain progress, evaluation rows, sparklines."""

import io
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

BARS = "▁▂▃▄▅▆▇█"
_ASCII = str.maketrans(
    {"→": "->", "←": "<-", "…": "...", "×": "x", "·": "|", "—": "-", "–": "-", "−": "-", "±": "+-", "≤": "<="}
    | {"≥": ">=", "✓": "ok", "✗": "x", "²": "^2", "½": "1/2", "µ": "u", "‘": "'", "’": "'", "“": '"', "”": '"'}
    | dict(zip(BARS, "_.,-=+*#", strict=True))
)


class Screen:
    """The screen of a run. Nothing that happens to it (a closed pipe, LANG=C) ends the training."""

    def __init__(self, stream: TextIO | None = None, *, live: bool | None = None):
        """Args:
        stream: where to; None: standard output.
        live: a bar that moves; None: on a terminal.
        """
        self._stream = _Stream(stream or sys.stdout)
        self._live = self._stream.isatty() if live is None else live
        self._bar: Any = None

    @classmethod
    def quiet(cls) -> "Screen":
        """One that says nothing: for a run inside a program, or a process other than the first."""
        screen = cls(live=False)
        screen._stream.silent = True
        return screen

    def line(self, text: str = "") -> None:
        """Prints text on lines of its own, above a live bar."""
        if self._bar is not None:
            self._bar.clear()
        self._stream.write(text + "\n")
        self._stream.flush()
        if self._bar is not None:
            self._bar.refresh()

    def progress(
        self, *, step: int, total: int, epoch: float, rate: float | None, loss: float, lr: float, wait: float | None,
        batch_size: int,
    ) -> None:  # fmt: skip
        """Shows how far a run is: moves the bar, or prints a line where there is none.

        Args:
          step: optimizer updates done, of `total`.
          total: updates of the whole run.
          epoch: epochs done.
          rate: examples per second; None: not known yet.
          loss: of the last log interval.
          lr: learning rate of the last update.
          wait: share of the time spent waiting for data, 0 to 1; None: not known yet.
          batch_size: examples an update, for the time left.
        """
        # In the order of their worth: a narrow terminal cuts the end off.
        parts = [f"loss {loss:.4g}", f"lr {lr:.3g}"]
        if rate:
            parts.append(f"{rate:,.0f} examples/s" if rate >= 9.95 else f"{rate:.2g} examples/s")
        if rate and step < total:
            parts.append(f"{duration_words((total - step) * batch_size / rate)} left")
        if wait is not None:
            parts.append(f"waiting {wait:.0%}")
        parts.append(f"epoch {epoch:.2f}")
        numbers = ", ".join(parts)
        if self._live:
            if self._bar is None:
                self._bar = _bar(total=total, initial=step, file=self._stream, ascii=not self._stream.has_glyphs)
            self._bar.n = step
            self._bar.ncols = shutil.get_terminal_size().columns - 1  # tqdm's own way draws nothing when told 0
            self._bar.set_postfix_str(self._stream.encodable(numbers))
            if step >= total:
                self.close()
        else:
            self.line(f"{step / total:4.0%}  step {step:>{len(str(total))}}/{total}, {numbers}")

    def row(self, row: Mapping[str, Any]) -> None:
        """Prints an evaluation (step, epoch, split, loss, metrics), in columns that line up with other rows'."""
        left_out = ("step", "epoch", "split")
        numbers = {k: v for k, v in row.items() if k not in left_out and (v is None or isinstance(v, int | float))}
        shown = "".join(f"  {name} {'none' if value is None else f'{value:.4g}':<9}" for name, value in numbers.items())
        self.line(f"step {row['step']:>8}  epoch {row['epoch']:>7.2f}  {row['split']:<5}{shown}".rstrip())

    def close(self) -> None:
        """Ends the bar, and leaves it as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar(**options: Any) -> Any:
    from tqdm import tqdm  # where there is none, it is not needed

    class Bar(tqdm):
        monitor_interval = 0  # no thread beside the training

    layout = "{percentage:3.0f}% |{bar:10}| {n_fmt}/{total_fmt}{postfix}"
    # `delay`: the first drawing waits for the first numbers.
    return Bar(bar_format=layout, mininterval=0.0, delay=1e-9, **options)


class _Stream:
    """A stream that never raises: unknown glyphs become ASCII, and once broken it stays silent."""

    def __init__(self, stream: TextIO | None):
        self.silent = stream is None  # a program may be started with its output closed
        self._stream: TextIO = stream or io.StringIO()
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.has_glyphs = _can_encode(BARS + "→…", self.encoding)

    def write(self, text: str) -> None:
        if self.silent:
            return
        try:
            self._stream.write(self.encodable(text))
        except (OSError, ValueError):  # ValueError: the file is closed
            self.silent = True

    def flush(self) -> None:
        if self.silent:
            return
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self.silent = True

    def isatty(self) -> bool:
        try:
            return not self.silent and self._stream.isatty()
        except ValueError:  # the file is closed
            return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def encodable(self, text: str) -> str:
        if _can_encode(text, self.encoding):
            return text
        return text.translate(_ASCII).encode(self.encoding, "replace").decode(self.encoding)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values as a line of small bars, lowest to highest; at most `width` of them, a blank where not finite."""
    count = min(width, len(values))
    cells = []
    for i in range(count):
        part = [v for v in values[i * len(values) // count : (i + 1) * len(values) // count] if math.isfinite(v)]
        cells.append(sum(part) / len(part) if part else math.nan)
    finite = [c for c in cells if math.isfinite(c)]
    if not finite:
        return " " * count
    low, high = min(finite), max(finite)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((c - low) * scale)] if math.isfinite(c) else " " for c in cells)


def duration_words(amount: float) -> str:
    """A length of time in words: '0.4 s', '12 s', '3 min 20 s', '1 h 24 min', '2 d 3 h'."""
    if not math.isfinite(amount):
        return "unknown time"
    if amount < 9.95:
        return f"{max(amount, 0.0):.1f} s"
    whole = round(amount)
    for big, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {big}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def count_words(number: float) -> str:
    """A number for people: '950', '12.3 k', '11.2 M', '1.5 G'."""
    for unit, size in (("", 1), ("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if abs(number) < 999.5 * size and unit == "":
            return f"{number:g}" if number == int(number) else f"{number:.3g}"
        if abs(number) < 999.95 * size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e12:.1f} T"


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
