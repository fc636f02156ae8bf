"""What lint says of 500 shipped recipes that were changed as a sensible user would: no rule may warn of 5 % of them.

    TFDS_DATA_DIR=… python benchmarks/lint_proof.py [--recipes 500] [--show RULE]

The recipes are drawn by benchmarks/lint_recipes.py, which was fixed before any rule was written. Each is assembled;
where its data are not here, or take long to make, it is judged by its config and the size of the data. Exit code 1: a
rule warns of too many. Takes about 5 minutes on 2 cores, and writes nothing.
"""

import argparse
import collections
import contextlib
import sys
from pathlib import Path

import ml_collections

from jtrain.assembly import assemble
from jtrain.coach.facts import Facts
from jtrain.coach.lint import RULES, lint
from jtrain.errors import ConfigError, DataError
from jtrain.facts import facts_of, facts_of_run

sys.path.insert(0, str(Path(__file__).parent))
from lint_recipes import recipes

MOST = 0.05  # share of the recipes that one rule may warn of
SIZES = {"imagenet2012": 1_281_167, "cifar10": 50_000}  # training examples, where the data themselves are not here
REFUSED = 1_437  # of digits
FOLDER = 5_000  # a folder of images is anybody's: of a size as cats and dogs have it


def main() -> None:
    """Prints a row per rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=500)
    parser.add_argument("--show", default="", help="print every finding of this rule")
    given = parser.parse_args()
    said: dict[str, dict[str, set[int]]] = {name: collections.defaultdict(set) for name in RULES}
    judged: collections.Counter[str] = collections.Counter()
    for index, (name, config) in enumerate(recipes(given.recipes)):
        facts, way = facts_for(config)
        judged[way] += 1
        for finding in lint(facts):
            said[finding.rule][finding.level].add(index)
            if finding.rule == given.show:
                print(f"{index:>4} {name:<24}{finding.line()}")
    print(f"{given.recipes} recipes: {', '.join(f'{count} {way}' for way, count in judged.items())}")
    print(f"{'rule':<26}{'warnings':>10}{'share':>8}{'infos':>8}{'share':>8}")
    worst = 0.0
    for name, levels in said.items():
        warnings, infos = (len(levels[level]) for level in ("warning", "info"))
        worst = max(worst, warnings / given.recipes)
        verdict = "  FAIL" if warnings / given.recipes >= MOST else ""
        shares = f"{warnings / given.recipes:>8.1%}{infos:>8}{infos / given.recipes:>8.1%}"
        print(f"{name:<26}{warnings:>10}{shares}{verdict}")
    warned = set().union(*(levels["warning"] for levels in said.values()))
    print(f"recipes with a warning of any rule: {len(warned)} ({len(warned) / given.recipes:.1%})")
    if worst >= MOST:
        raise SystemExit(1)


def facts_for(config: ml_collections.ConfigDict) -> tuple[Facts, str]:
    """(facts, how they were found): of an assembled run, or of the config and the size of its data."""
    if config.data.name == "shapes":
        return facts_of(config, config.data.shapes.examples), "judged by config and size of the data"
    try:
        with contextlib.closing(assemble(config)) as run:
            return facts_of_run(run), "assembled"
    except DataError:
        pass
    except ConfigError as error:  # a batch of more than there are examples, which needs no lint
        if not str(error).startswith("data.folder.path"):
            return facts_of(config, REFUSED), "refused by jtrain, judged by their config"
    size = SIZES[config.data.tfds.name] if config.data.name == "tfds" else FOLDER
    return facts_of(config, size), "judged by config and size of the data"


if __name__ == "__main__":
    main()
