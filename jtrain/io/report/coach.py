"""What the coach says, in a page: lint, diagnosis, the noise scale."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jtrain.io.report.curves import verdict_marks
from jtrain.io.report.html import esc, is_number, number, section
from jtrain.io.report.points import log_ticks, short
from jtrain.io.report.read import Files

_THICK, _DOT = "stroke-width:6", "stroke-width:9"


def lint(files: Files) -> str:
    """The findings about the config; '' where nothing was found."""
    items = []
    for finding in _dicts(files.coach.get("lint")):
        level = "warning" if finding.get("level") == "warning" else "info"
        source = f" ({finding['source']})" if finding.get("source") else ""
        items.append(
            f'<li class="{level}"><p><span class="tag">{level}</span><code>{esc(finding.get("key", ""))}</code> '
            f'{esc(finding.get("text", ""))}</p><p class="soft small">{esc(finding.get("reason", ""))}{esc(source)} · '
            f"rule {esc(finding.get('rule', ''))}</p></li>"
        )
    if not items:
        return ""
    hint = '<p class="soft small">A rule is silenced by <code>--config.lint.silence="(\'its-name\',)"</code>.</p>'
    return section("lint", "Lint", f'<ul class="told">{"".join(items)}</ul>{hint}')


def diagnosis(files: Files) -> str:
    """The verdicts on the run; that there is nothing to say, too, where it was looked at."""
    verdicts = _dicts(files.coach.get("diagnosis"))
    letters: dict[str, str] = {}
    for mark in verdict_marks(files):
        name = mark.words.partition(": ")[0]
        letters[name] = letters.get(name, "") + mark.sign
    items = []
    for verdict in verdicts:
        level = "warning" if verdict.get("level", "warning") == "warning" else "info"
        name = str(verdict.get("name", ""))
        evidence = verdict.get("evidence")
        numbers = [
            f"{str(key).replace('_', ' ')} {number(value)}"
            for key, value in (evidence.items() if isinstance(evidence, Mapping) else ())
        ]
        sign = "".join(f' <span class="tag">mark {letter}</span>' for letter in letters.get(name, ""))
        items.append(
            f'<li class="{level}"><h3>{esc(name.replace("_", " "))}{sign}</h3>'
            f"<p>{esc(verdict.get('text', ''))}</p><p><b>What to do:</b> {esc(verdict.get('action', ''))}</p>"
            + (f'<p class="soft small">{esc(" · ".join(numbers))}</p>' if numbers else "")
            + "</li>"
        )
    return section("diagnosis", "Diagnosis", f'<ul class="told">{"".join(items)}</ul>' if items else "")


def noise(files: Files) -> str:
    """The gradient noise scale with its interval, beside the batch size in force, and what is suggested."""
    found = files.coach.get("noise")
    if not isinstance(found, dict) or not is_number(found.get("noise_scale")):
        return ""
    scale, low, high = found["noise_scale"], found.get("low"), found.get("high")
    where = f" after update {found['step']:,}" if is_number(found.get("step")) else ""
    said = f"The gradient noise scale{where} is {_examples(scale)} examples"
    said += f" (99 % interval {_examples(low)} to {_examples(high)})" if is_number(low) and is_number(high) else ""
    said += ": about so many an update are worth their work; fewer are mostly noise, more bring little."
    lines = [f"<p>{esc(said)}</p>"]
    if is_number(low) and is_number(high) and 0 < low <= scale <= high:
        lines.append(_bar(scale, low, high, files.config.get("train.batch_size"), found.get("suggested_batch")))
    told = str(found.get("text") or "")
    if not told and is_number(found.get("suggested_batch")):
        told = f"Suggested batch size: {found['suggested_batch']:,}."
    lines.append(f"<p>{esc(told)}</p>" if told else "")
    return section("noise", "Noise scale", "".join(lines))


def _bar(scale: float, low: float, high: float, batch: Any, suggested: Any) -> str:
    """The interval on a logarithmic axis, with the batch size in force and the one that is suggested."""
    marks = [("batch size", batch, "c2"), ("suggested", suggested, "c3")]
    marks = [(name, float(at), look) for name, at, look in marks if is_number(at) and at > 0]
    values = [low, high, *(at for _, at, _ in marks)]
    left, right = math.log10(min(values)) - 0.15, math.log10(max(values)) + 0.15

    def place(value: float) -> float:
        return (math.log10(value) - left) / (right - left) * 100

    lines = [
        '<path class="grid" d="M0 50H1000"/>',
        f'<path class="line c1" style="{_THICK}" d="M{place(low) * 10:.0f} 50H{place(high) * 10:.0f}"/>',
        f'<path class="ring c1" d="M{place(scale) * 10:.0f} 50h0"/>',
        *(f'<path class="dots {look}" style="{_DOT}" d="M{place(at) * 10:.0f} 50h0"/>' for _, at, look in marks),
    ]
    words = f"noise scale {_examples(scale)}, interval {_examples(low)} to {_examples(high)}" + "".join(
        f", {name} {at:,.0f}" for name, at, _ in marks
    )
    labels = "".join(
        f'<span class="{_edge(place(at))}" style="left:{place(at):.1f}%">{esc(short(at))}</span>'
        for at in log_ticks(10**left, 10**right)
    )
    swatches = [("noise scale, 99 % interval", f'<path class="line c1" style="{_THICK}" d="M0 5H24"/>')]
    swatches += [
        (f"{name} {at:,.0f}", f'<path class="dots {look}" style="{_DOT}" d="M12 5h0"/>') for name, at, look in marks
    ]
    legend = [
        f'<li><svg viewBox="0 0 24 10" aria-hidden="true">{sign}</svg>{esc(name)}</li>' for name, sign in swatches
    ]
    return (
        f'<ul class="legend">{"".join(legend)}</ul>'
        f'<div class="bar"><svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-labelledby="noise-t"><title id="noise-t">{esc(words)}</title>{"".join(lines)}</svg>{labels}</div>'
    )


def _edge(share: float) -> str:
    return "first" if share < 4 else "last" if share > 96 else "mid"


def _examples(value: Any) -> str:
    return f"{value:,.0f}" if is_number(value) and value >= 100 else number(value, 3)


def _dicts(found: Any) -> Sequence[Mapping[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
