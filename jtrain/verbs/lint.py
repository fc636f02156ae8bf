"""`lint`: the rules of thumb of the training notes, checked on a config before anything is compiled."""

import contextlib

import ml_collections

from jtrain.assembly import assemble
from jtrain.coach.lint import RULES
from jtrain.coach.lint import lint as judged
from jtrain.coach.told import Finding
from jtrain.errors import DataError
from jtrain.facts import facts_of, facts_of_run
from jtrain.io.progress import Screen
from jtrain.run import Run


def lint(given: ml_collections.ConfigDict | Run, *, screen: Screen | None = None) -> list[Finding]:
    """What the rules say of a config or an assembled run: warnings first, [] where all is well.

    A config is assembled, so that its data and parameters are judged too; where its data are not here, the config is
    judged alone. Nothing is compiled, and nothing written.

    Args:
      given: a config, which names its data and model, or a run, which may have been given others.
      screen: where the findings are shown.

    Raises:
      ConfigError: the config is not valid.
    """
    screen = screen or Screen.quiet()
    if isinstance(given, Run):
        config, facts = given.config, facts_of_run(given)
    else:
        config = given
        try:
            with contextlib.closing(assemble(config)) as run:
                facts = facts_of_run(run)
        except DataError as error:
            screen.line(f"lint: of the config alone, without its data: {error}")
            facts = facts_of(config)
    found = judged(facts, config.lint.silence)
    for finding in found:
        screen.line(finding.line())
        screen.line(f"     why: {finding.reason} ({finding.source})")
        screen.line(f"     silence: --config.lint.silence='(\"{finding.rule}\",)'")
    asked = sum(name not in config.lint.silence for name in RULES) if "all" not in config.lint.silence else 0
    warnings = sum(finding.level == "warning" for finding in found)
    if found:
        screen.line(f"lint: {_count(warnings, 'warning')}, {_count(len(found) - warnings, 'info')}, of {asked} rules")
    else:
        screen.line(f"lint: nothing to say ({asked} rules)")
    return found


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
