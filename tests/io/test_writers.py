import datetime
import errno
import json
import os
import struct
import sys

import numpy as np
import pytest

from jtrain.errors import ConfigError, DataError
from jtrain.io.writers import EventWriter, JsonlWriter, TensorBoardWriter


class Full:
    """A file on a full disk."""

    def write(self, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    flush = close = write


def test_a_row_can_be_read_as_soon_as_it_is_written(tmp_path):
    writer = JsonlWriter(tmp_path / "logs" / "m.jsonl")
    writer.write({"step": 1, "loss": np.float32(0.5), "name": "→"})
    assert (tmp_path / "logs" / "m.jsonl").read_text() == '{"step": 1, "loss": 0.5, "name": "→"}\n'
    writer.close()


def test_rows_are_strict_json(tmp_path):
    writer = JsonlWriter(tmp_path / "m")
    writer.write({"a": float("nan"), "b": [np.inf, 1], "c": None, "d": "\udcff"})
    writer.sync()
    writer.close()

    def refuse(name):
        raise AssertionError(name)

    row = json.loads((tmp_path / "m").read_bytes(), parse_constant=refuse)
    assert row == {"a": None, "b": [None, 1], "c": None, "d": "\udcff"}


def test_writing_goes_on_after_the_rows_that_are_there_even_torn_ones(tmp_path):
    (tmp_path / "m").write_bytes(b'{"step": 1}\n{"st')
    writer = JsonlWriter(tmp_path / "m")
    writer.write({"step": 2})
    writer.close()
    assert (tmp_path / "m").read_bytes() == b'{"step": 1}\n{"st\n{"step": 2}\n'


def test_a_full_disk_names_the_file(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer._file.close()
    writer._file = Full()
    for call in (lambda: writer.write({"a": 1}), writer.sync, writer.close):
        with pytest.raises(DataError, match=r"metrics\.jsonl: cannot write: No space left on device"):
            call()


def test_events_have_a_time_a_kind_a_text_and_if_known_a_step(tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl")
    writer.write("lr", "0.1 → 0.05, because the loss is not finite")
    writer.write("lr", "again", step=7)
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows] == [["time", "step", "kind", "text"]] * 2
    assert [(row["step"], row["kind"], row["text"]) for row in rows] == [
        (None, "lr", "0.1 → 0.05, because the loss is not finite"),
        (7, "lr", "again"),
    ]
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(rows[0]["time"])
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)


def events_in(path):
    """Records of a TFRecord file: length (u64), its CRC (u32), data, its CRC."""
    from tensorboardX.proto.event_pb2 import Event

    content, position = path.read_bytes(), 0
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        header, data = content[position : position + 8], content[position + 12 : position + 12 + length]
        assert struct.unpack_from("<I", content, position + 8)[0] == masked_crc(header)
        assert struct.unpack_from("<I", content, position + 12 + length)[0] == masked_crc(data)
        yield Event.FromString(data)
        position += length + 16


def masked_crc(data):
    """CRC-32C bit by bit, masked as TFRecord does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_tensorboard_numbers_come_back(tmp_path):
    writer = TensorBoardWriter(tmp_path / "tensorboard")
    writer.write({"step": 10, "epoch": 0.5, "split": "train", "loss": 0.25, "lr/head/.*": 1e-3, "data_wait": None})
    writer.write({"step": 20, "split": "val", "loss": np.float32(2.0), "accuracy": float("nan"), "note": "text"})
    writer.sync()
    first, *events = events_in(writer.path)
    assert first.file_version == "brain.Event:2"
    found = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert found[:4] == [
        (10, "train/epoch", 0.5),
        (10, "train/loss", 0.25),
        (10, "train/lr/head/.*", pytest.approx(1e-3)),
        (20, "val/loss", 2.0),
    ]
    assert found[4][1] == "val/accuracy"
    assert np.isnan(found[4][2])
    assert len(found) == 5
    writer.close()


def test_a_resume_purges_and_opens_a_new_file_read_after_the_old(tmp_path):
    one = TensorBoardWriter(tmp_path)
    other = TensorBoardWriter(tmp_path, purge_step=101)
    assert one.path.name < other.path.name
    other.close()
    one.close()
    _, event = events_in(other.path)
    assert (event.step, event.session_log.status) == (101, event.session_log.START)


def test_a_full_disk_under_tensorboard_is_an_error_and_no_hang(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer._records.close()
    writer._records._writer = Full()
    with pytest.raises(DataError, match=r"events\.out.*No space left on device"):
        writer.write({"step": 1, "split": "val", "loss": 1.0})


def test_tensorboard_missing_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError) as caught:
        TensorBoardWriter(tmp_path)
    assert str(caught.value) == "log.tensorboard: needs tensorboardX: pip install 'jtrain[tensorboard]'"
