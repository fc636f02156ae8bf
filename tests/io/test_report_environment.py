import json
import platform
import sys

from jtrain.io.environment import (
    command_line,
    environment,
    read_environment,
    without_home,
    write_end,
    write_environment,
)

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


def test_neither_machines_nor_accounts_nor_the_home_folder_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr(
        sys, "argv",
        ["/home/alice/.venv/bin/jtrain", "train", "--config=/home/alice/x.py", "--coordinator=node7.corp:1234",
         "--processes", "2", "--process=0", "--config.log.mlflow=https://corp", "--config.log.wandb", "alice/p",
         "--config.data.npz.path=/home/alice/x.npz", "--config.data.tfds.data_dir=/data/home/alice/x",
         "--config.transfer.init_from=/home/alice2/w", "--config.phases=('/home/alice',)"],
    )  # fmt: skip
    described = [("start", "weights of /home/alice/w.safetensors")]
    write_environment(tmp_path, step=0, **FACTS, described=described, defaults={"a": "/home/alice/b"})
    write_end(tmp_path, step=1, seconds=1.0)
    found = read_environment(tmp_path)
    assert found["sessions"][0]["command"] == [
        "jtrain", "train", "--config=~/x.py", "--config.data.npz.path=~/x.npz",
        "--config.data.tfds.data_dir=/data/home/alice/x", "--config.transfer.init_from=/home/alice2/w",
        "--config.phases=('~',)",
    ]  # fmt: skip
    assert found["described"] == [["start", "weights of ~/w.safetensors"]]
    assert found["defaults"] == {"a": "~/b"}


def test_a_home_that_is_the_root_or_a_link_is_no_end_of_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert without_home("/a/b") == "/a/b"
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    assert without_home(f"{tmp_path}/link/a, {tmp_path}/real/a {tmp_path}/real.bak") == f"~/a, ~/a {tmp_path}/real.bak"
