"""The lines that end a run's screen."""

from jtrain.result import Result


def summary(result: Result) -> list[str]:
    """What came out, and where the files are."""
    lines = []
    for split, found in result.metrics.items():
        values = "  ".join(f"{name} {value:.4f}" for name, value in found.items() if isinstance(value, int | float))
        lines.append(f"{split:<6}{values}")
    if result.best:
        best = result.best
        lines.append(f"best  {best['metric']} {best['value']:.4f} at update {best['step']} (--at=best)")
    if result.workdir:
        lines.append(f"files {result.workdir}: report.html, metrics.jsonl, checkpoints/")
    return lines
