"""The training notes' rules of thumb, checked on the facts of a run before anything is compiled."""

from collections.abc import Collection, Iterable

from jtrain.coach.facts import Facts
from jtrain.coach.lint_rules import RULES as RULES
from jtrain.coach.told import Finding
from jtrain.table import did_you_mean

ALL = "all"  # silences every rule


def lint(facts: Facts, silence: Collection[str] = ()) -> list[Finding]:
    """What the rules say of a run, warnings first, each in the order of RULES.

    Args:
      facts: of the run, as much as is known.
      silence: ids of rules that are not asked, or 'all'.

    Raises:
      ValueError: an id in `silence` that is none.
    """
    check_silence(silence)
    found = [
        Finding(name, said.level, said.key, said.text, rule.reason, rule.source)
        for name, rule in RULES.items()
        if name not in silence and ALL not in silence
        for said in rule.said(facts)
    ]
    return sorted(found, key=lambda finding: finding.level != "warning")


def check_silence(ids: Iterable[str]) -> None:
    """Raises ValueError unless every id is that of a rule, or 'all'."""
    for index, name in enumerate(ids):
        if name not in RULES and name != ALL:
            near = did_you_mean(name, [*RULES, ALL]) if isinstance(name, str) else ""
            raise ValueError(f"[{index}]: no such rule {name!r}{near}")
