import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jtrain.errors import DataError, HeldError
from jtrain.io import workdir
from jtrain.io.workdir import (
    Workdir,
    cut_rows,
    open_append,
    write_atomic,
    write_json_atomic,
    write_text_atomic,
)

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
HOLD = """
import sys
from pathlib import Path
from jtrain.io.workdir import Workdir
held = Workdir(Path(sys.argv[1]))
held.acquire()
print("held", flush=True)
sys.stdin.read()
"""
# The child outlives its parent, as a data worker does for a moment.
FORK = """
import os, sys, time
from pathlib import Path
from jtrain.io.workdir import Workdir
held = Workdir(Path(sys.argv[1]))
held.acquire()
if os.fork() == 0:
    print("child", flush=True)
    time.sleep(30)
    os._exit(0)
os.kill(os.getpid(), 9)
"""


def started(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT)


def test_a_second_process_is_told_who_holds_the_workdir(tmp_path):
    with started(HOLD, tmp_path / "run") as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(HeldError, match=rf"process {other.pid} on {os.uname().nodename} since 20\d\d-") as caught:
            Workdir(tmp_path / "run").acquire()
        assert caught.value.exit_code == 4
        other.stdin.close()
    Workdir(tmp_path / "run").acquire()


def test_a_killed_holder_holds_nothing(tmp_path):
    with started(HOLD, tmp_path) as other:
        assert other.stdout.readline() == b"held\n"
        other.kill()
    with Workdir(tmp_path):
        pass


def test_a_forked_child_does_not_hold_on(tmp_path):
    with started(FORK, tmp_path / "run") as other:
        assert other.stdout.readline() == b"child\n"
        other.wait()
        with Workdir(tmp_path / "run"):
            pass
        other.stdout.close()


def test_the_holder_can_be_read_and_release_ends_it(tmp_path):
    held = Workdir(tmp_path / "a" / "b")
    held.acquire()
    text = json.loads((tmp_path / "a" / "b" / "lock").read_text())
    assert text["pid"] == os.getpid()
    assert set(text) == {"pid", "host", "start"}
    with pytest.raises(HeldError):
        Workdir(tmp_path / "a" / "b").acquire()
    held.release()
    held.release()
    with Workdir(tmp_path / "a" / "b"):
        pass


def test_a_workdir_that_is_a_file_or_below_one_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(DataError, match=r"workdir .*: it, or what it is in, is a file; choose another"):
            Workdir(path).acquire()


def test_a_workdir_that_cannot_be_written_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "lock")

    monkeypatch.setattr(workdir.os, "open", refuse)
    with pytest.raises(DataError, match="cannot write: Permission denied; choose another --workdir"):
        Workdir(tmp_path).acquire()


def test_json_comes_back_with_null_for_what_json_lacks(tmp_path):
    value = {"a": np.float32(1.5), "b": float("nan"), "c": (1, np.int64(2)), "d": {3: np.array(True)}}
    write_json_atomic(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"a": 1.5, "b": None, "c": [1, 2], "d": {"3": True}}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text_atomic(tmp_path / "x", "old …")

    def fail(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError, match="x: cannot write: No space left on device"):
        write_atomic(tmp_path / "x", fail)
    assert (tmp_path / "x").read_text() == "old …"
    assert os.listdir(tmp_path) == ["x"]


def test_a_path_through_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file/x: cannot write: Not a directory"):
        write_text_atomic(tmp_path / "file" / "x", "text")


def test_a_bug_in_the_writing_function_leaves_no_leftovers_either(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomic(tmp_path / "x", lambda file: 1 / 0)
    assert os.listdir(tmp_path) == []


def test_a_line_goes_after_a_torn_one_not_into_it(tmp_path):
    for text in (b"one\n", b"to", b"three\n"):
        with open_append(tmp_path / "x") as file:
            file.write(text)
    assert (tmp_path / "x").read_text() == "one\nto\nthree\n"


def test_rows_are_cut_byte_for_byte(tmp_path):
    lines = [
        b'{"step":1,  "loss": 1e-05}\n',
        b'{"step": 2, "loss": 1E-5, "name": "\xc3\xa9\xe2\x80\xa8"}\n',
        b'{"step": 3}\n',
        b'{"st',
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(lines))
    assert [row["step"] for row in cut_rows(path, 3)] == [1, 2, 3]
    assert path.read_bytes() == b"".join(lines[:3])
    assert [row["step"] for row in cut_rows(path, 2)] == [1, 2]
    assert path.read_bytes() == b"".join(lines[:2])
    assert cut_rows(path, 0) == []
    assert path.read_bytes() == b""


def test_nothing_is_written_when_nothing_is_to_be_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n')
    before = path.stat().st_ino
    cut_rows(path, 1)
    assert path.stat().st_ino == before


@pytest.mark.parametrize("content", [None, b"", b'{"step": 1}\n', b'{"step": 1}\n{"step": 2}', b'{"step": 1}\n{"step'])
def test_fewer_rows_than_the_checkpoint_counts_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "m").write_bytes(content)
    with pytest.raises(DataError, match=r"m: holds [01] whole rows, the checkpoint counts 2"):
        cut_rows(tmp_path / "m", 2)


def test_no_file_and_no_rows_is_nothing(tmp_path):
    assert cut_rows(tmp_path / "m", 0) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("line", [b"{]\n", b"17\n", b"\xff\n"])
def test_a_damaged_row_among_those_to_keep_is_named(tmp_path, line):
    (tmp_path / "m").write_bytes(b'{"step": 1}\n' + line)
    with pytest.raises(DataError, match="m: line 2 is damaged"):
        cut_rows(tmp_path / "m", 2)
