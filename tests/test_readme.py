"""What the README shows is what happens."""

import re
import shlex
from pathlib import Path

import pytest

from jtrain.main import main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
REFUSED = re.findall(r"\$ jtrain (.*)\n    (jtrain: .*)", README)


def test_the_library_example_trains_your_arrays_and_model_in_fifteen_lines(capsys):
    (code,) = PYTHON
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    names = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    assert names["result"].best["value"] > 0.9
    assert "val/accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "answer"), REFUSED)
def test_a_refusal_reads_as_shown(command, answer, capsys):
    assert main(shlex.split(command)) == 2
    assert capsys.readouterr().err.strip() == answer


def test_files_that_are_linked_exist():
    headings = {
        f"#{line.lstrip('# ').lower().replace(' ', '-')}" for line in README.splitlines() if line.startswith("#")
    }
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        if link.startswith("#"):
            assert link in headings
            continue
        assert (Path(__file__).resolve().parents[1] / link).exists(), link


def test_configs_that_are_named_load():
    from jtrain import config_files

    named = set(re.findall(r"--config=([\w:./]+)", README))
    assert {"digits", "cifar", "cifar:small", "cifar:shapes"} <= named
    for name in named:
        config_files.load(name)
