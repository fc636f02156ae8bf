"""The configs that come with jtrain, and the file that a `--config=…` names."""

import difflib
from pathlib import Path

from jtrain.errors import ConfigError


def shipped() -> dict[str, Path]:
    """{name: file} of the configs that come with jtrain, in a checkout or an installed wheel."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}
    return {}


def locate(text: str) -> tuple[Path, str | None]:
    """(file, argument) of `cifar`, `cifar:small`, `path/to/x.py:arg` or `run.json`.

    Raises:
      ConfigError: when there is no such file, with the nearest shipped name.
    """
    name, _, argument = text.partition(":")
    path, arg = Path(name), argument or None
    if path.suffix not in (".py", ".json"):
        if name in shipped():
            return shipped()[name], arg
        near = difflib.get_close_matches(name, shipped(), n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"shipped: {', '.join(shipped())}; or a path to a .py or .json file"
        )
        raise ConfigError(f"--config={text}: no shipped config {name!r}; {hint}")
    if path.is_file():
        return path, arg
    if path.parts[:-1] == ("configs",) and path.stem in shipped():
        return shipped()[path.stem], arg
    near = difflib.get_close_matches(path.stem, shipped(), n=1)
    hint = f"; did you mean 'configs/{near[0]}.py'?" if near else f"; shipped: {', '.join(shipped())}"
    raise ConfigError(f"--config={text}: no such file {str(path)!r}{hint}")
