"""What a study comes to: a table, a picture, one sentence, and whether the answer is yes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jtrain.io.workdir import disk_error, write_atomic, write_json_atomic


@dataclasses.dataclass(frozen=True, repr=False)
class Study:
    """The result of a study.

    Attributes:
      name: of the study.
      conclusion: one plain sentence.
      rows: of its table; what one row lacks is blank.
      found: what it found by name, plain numbers and texts, such as {"lr": 0.01}; what is NaN or infinite is null in
        the file.
      draw: (figure) -> None, makes its picture on an empty matplotlib Figure.
      ok: False: the answer is no (the command then ends with 1).
    """

    name: str
    conclusion: str
    rows: Sequence[Mapping[str, Any]]
    found: Mapping[str, Any]
    draw: Callable[[Any], None]
    ok: bool = True

    def __repr__(self) -> str:
        return f"{self.table()}\n{self.name}: {self.conclusion}"

    def table(self) -> str:
        """The rows as text, in columns."""
        return table(self.rows)

    def plot(self, path: str | Path) -> None:
        """Draws the picture into a PNG; raises DataError when it cannot be written."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        self.draw(figure)
        write_atomic(Path(path), canvas.print_png)

    def save(self, folder: str | Path) -> None:
        """Writes study.json and study.png into a folder; raises DataError when they cannot be written."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(folder, error) from error
        told = {"study": self.name, "ok": self.ok, "conclusion": self.conclusion, "found": dict(self.found)}
        write_json_atomic(folder / "study.json", told | {"rows": [dict(row) for row in self.rows]})
        self.plot(folder / "study.png")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text in columns, numbers to four digits and to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(names, *cells, strict=True)]
    numeric = [all(not isinstance(row.get(name), str) for row in rows) for name in names]
    lines = []
    for line in [names, *cells]:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
