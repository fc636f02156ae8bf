"""The house: a file imports from lower floors and its own room alone; files stay short."""

import ast
import pathlib
import warnings

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jtrain"
FLOORS = {
    0: {
        "errors",
        "durations",
        "hub",
        "wire",
        "launchers",
        "mesh",
        "peaks",
        "peers",
        "pod",
        "remat",
        "sharding",
        "shards",
        "tree",
        "table",
        "shipped",
        "signals",
    },
    1: {"state", "losses", "scores", "metrics", "precision", "coach", "io"},
    2: {"optim", "models", "data"},
    3: {
        "tasks",
        "fields",
        "study_options",
        "config",
        "config_errors",
        "config_files",
        "gradient",
        "step",
        "evaluation",
    },
    4: {
        "run",
        "control",
        "pipeline",
        "fit",
        "initial",
        "phases",
        "weights_source",
        "transfer_report",
        "transfer",
        "assembly",
        "describe",
        "session",
        "supervise",
        "facts",
        "facts_data",
        "noise",
        "line",
        "flops",
        "coaching",
        "result",
        "failure",
        "readout",
        "resume",
    },
    5: {"loop"},
    6: {"verbs", "studies"},
    7: {"main", "commands", "command_parts", "command_workdirs"},
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py" and "configs" not in p.parts)


def room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "jtrain":
            names = [f"jtrain.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        found |= {name.split(".")[1] if "." in name else "jtrain" for name in names if name.split(".")[0] == "jtrain"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_imports_from_lower_floors_and_its_own_room(path):
    own = room(path)
    assert own in FLOOR, f"{own} has no floor; add it to FLOORS"
    for other in imports(path):
        assert other != "jtrain", "nothing inside imports from jtrain/__init__.py"
        lower = FLOOR[other] < FLOOR[own]
        same_floor_above_ground = own == other or (FLOOR[own] == FLOOR[other] and path.parent == PACKAGE)
        assert lower or same_floor_above_ground, f"{path} (floor {FLOOR[own]}) imports {other} (floor {FLOOR[other]})"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_is_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 400
    if lines > 300:
        warnings.warn(f"{path}: {lines} lines, over 300", stacklevel=1)


def test_no_module_bears_the_name_of_a_public_function():
    import jtrain

    for name in jtrain._HOME:
        assert not (PACKAGE / f"{name}.py").exists()
        assert callable(getattr(jtrain, name))
