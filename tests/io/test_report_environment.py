import json
import platform

from jtrain.io.environment import command_line, environment, read_environment, write_end, write_environment

FACTS = {"total": 100, "devices": "1 × cpu", "mesh": {"data": 1}, "processes": 1, "precision": "float32", "data": {}}


def test_the_environment_names_versions_and_machine():
    import jax

    found = environment()
    assert found["packages"]["jax"] == jax.__version__
    assert found["python"] == platform.python_version()
    assert found["cpus"] >= 1
    assert platform.node() not in json.dumps(found)


def test_sessions_are_added_and_ended(tmp_path):
    write_environment(tmp_path, step=0, **FACTS)
    write_end(tmp_path, step=40, seconds=1.5)
    write_environment(tmp_path, step=40, **FACTS)
    write_end(tmp_path, step=100, seconds=2.0)
    found = read_environment(tmp_path)
    assert found["total"] == 100
    assert [(one["step"], one["until"], one["seconds"]) for one in found["sessions"]] == [(0, 40, 1.5), (40, 100, 2.0)]


def test_a_session_whose_updates_are_gone_is_no_part_of_the_run(tmp_path):
    write_environment(tmp_path, step=0, **FACTS)
    write_end(tmp_path, step=40, seconds=1.5)
    write_environment(tmp_path, step=0, **FACTS)
    assert len(read_environment(tmp_path)["sessions"]) == 1


def test_a_damaged_file_counts_as_none(tmp_path):
    (tmp_path / "run.json").write_text("{")
    assert read_environment(tmp_path) == {}
    write_end(tmp_path, step=1, seconds=1.0)
    write_environment(tmp_path, step=0, **FACTS)
    assert read_environment(tmp_path)["devices"] == "1 × cpu"


def test_only_the_jtrain_command_is_kept():
    assert command_line(["/opt/bin/jtrain", "train", "--config=digits"]) == ["jtrain", "train", "--config=digits"]
    assert command_line(["/src/jtrain/main.py", "check"]) == ["jtrain", "check"]
    assert command_line(["/home/me/secret.py", "--token=1"]) is None
    assert command_line([""]) is None
