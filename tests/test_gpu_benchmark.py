"""benchmarks/gpu.py: what is done stays done, what fails is told, and nothing is claimed that no GPU measured."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import gpu
import gpu_reference
from gpu_data import read_pack

GPU = "NVIDIA H200"
FOUND = {
    "G1.jtrain.0": {"seconds": [2.0, 2.2, 2.0, 2.2, 2.1], "accuracy": [0.941, 0.939, 0.940, 0.940, 0.940]},
    "G1.jtrain.5": {"seconds": [2.1], "accuracy": [0.940]},
    "G1.record": {"seconds": [3.0, 3.0], "accuracy": [0.938, 0.942]},
    "G2.jtrain": {"seconds": [1e-5, 1.25e-5, 1e-5], "mfu": 0.3}, "G2.torch": {"seconds": [2e-5, 2e-5]},
    "G3.jtrain": {"in turn": [8.0, 9.0], "one program": [2.0, 2.0]},
    "G4.steps": {"seconds": {"1": [8.0, 8.0], "4": [3.0, 3.0], "16": [2.0, 1.0], "64": [4.0, 4.0]}},
    "G4.save": {"milliseconds": [9.0, 7.0, 30.0]},
}  # fmt: skip


def jpegs(count, seed=0):
    """(file, label) of random smooth images, and the images as Pillow reads them."""
    rng, files, images = np.random.default_rng(seed), [], []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)).resize((32, 32)).save(file, "JPEG")
        files.append(file.getvalue())
        images.append(np.asarray(Image.open(file)))
    return list(zip(files, (i % 10 for i in range(count)), strict=True)), np.stack(images)


def make_pack(path, train=80, test=20):
    train_files, images = jpegs(train)
    np.savez(path, **gpu.packed("train", iter(train_files)), **gpu.packed("test", iter(jpegs(test, 1)[0])))
    return images


def command(tmp_path, *more):
    return gpu.main(["run", "--pack", str(tmp_path / "pack.npz"), "--out", str(tmp_path / "out"), *more])


def row(tmp_path, name):
    return json.loads((tmp_path / "out" / "results" / f"{name}.json").read_text())


@pytest.fixture
def fake(monkeypatch):
    """Pieces that take no time, and say what the list tells of them; gives the arguments of those that were run."""
    asked = []

    def piece(arguments, given):
        asked.append(arguments)
        name = next(name for name, words in gpu.pieces(given).items() if words == arguments)
        return {"status": "ok", "device": GPU, "took": 0.0} | FOUND[name] | changed.get(name, {})

    changed: dict = {}
    monkeypatch.setattr(gpu, "run_piece", piece)
    piece.asked, piece.changed = asked, changed
    return piece


def test_a_pack_gives_back_images_and_labels(tmp_path):
    images = make_pack(tmp_path / "pack.npz", 12, 3)
    found = read_pack(tmp_path / "pack.npz")
    np.testing.assert_array_equal(found["train"][0], images)
    assert found["train"][1].tolist() == [*range(10), 0, 1]
    assert found["test"][0].shape == (3, 32, 32, 3)


def test_pieces_are_done_once_and_failed_ones_again(tmp_path, fake):
    assert command(tmp_path, "--seeds", "6", "--minutes", "0") == gpu.AGAIN
    assert fake.asked == []
    fake.changed["G3.jtrain"] = {"status": "FAIL", "why": "out of memory"}
    assert command(tmp_path, "--seeds", "6") == 0
    assert len(fake.asked) == 7
    assert "out of memory" in row(tmp_path, "G3")["claims"][0]["why"]
    fake.changed.clear()
    assert command(tmp_path, "--seeds", "6") == 0
    assert fake.asked[7:] == [["jtrain", "members"]]
    assert row(tmp_path, "G3")["verdict"] == "great"


def test_rows_are_ratios_of_what_was_measured(tmp_path, fake):
    make_pack(tmp_path / "pack.npz", 3, 3)
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "record.py").write_text("")
    command(tmp_path, "--seeds", "6", "--references", str(tmp_path / "references"))
    seconds, accuracy = row(tmp_path, "G1")["claims"]
    assert (seconds["ratio"]["median"], seconds["verdict"]) == (pytest.approx(2.1 / 3.0), "great")
    assert (accuracy["ratio"]["median"], accuracy["better"]) == (pytest.approx(1.0), "higher")
    images, rate = row(tmp_path, "G2")["claims"]
    assert images["ratio"]["median"] == pytest.approx(2e-5 / np.mean([1e-5, 1.25e-5, 1e-5]))
    assert rate["ratio"]["median"] == pytest.approx(1e5)
    assert "MFU 0.300" in rate["what"]
    assert row(tmp_path, "G3")["claims"][0]["ratio"] == {"median": 4.25, "least": 4.0, "greatest": 4.5}
    steps, save = row(tmp_path, "G4")["claims"]
    assert (steps["ours"], steps["ratio"]["least"]) == ("16 a call", 4.0)
    assert (save["ratio"]["median"], save["verdict"]) == (9.0, "pass")


def test_without_a_gpu_every_row_says_not_measured_and_why(tmp_path, fake):
    fake.changed |= {name: {"device": ""} for name in FOUND}
    command(tmp_path, "--seeds", "6")
    for name in gpu.WHAT:
        found = row(tmp_path, name)
        assert found["verdict"] == "not measured"
        assert {claim["why"] for claim in found["claims"]} == {"no GPU"}


def test_a_piece_that_fails_is_told_with_its_last_line(tmp_path):
    given = gpu.argparse.Namespace(pack=tmp_path / "none.npz", out=tmp_path, tiny=True, most=1.0)
    found = gpu.run_piece(["torch", "script", str(tmp_path / "none.py"), "2"], given)
    assert found["status"] == "FAIL"
    assert "Error" in found["why"]


def test_the_table_of_a_reference_is_read_without_its_warmup():
    lines = [
        "|  run     |  epoch  |  val_acc  |  tta_val_acc  |  time_seconds  |", "|  warmup  |  0  |  0.5  |  |  9.0  |",
        "|          |  eval   |  0.93     |  0.94         |  9.5           |", "noise",
        "|  0       |  0      |  0.5      |               |  1.0           |",
        "|          |  eval   |  0.92     |  0.95         |  2.5           |",
        "|  1       |  eval   |  0.91     |               |  2.75          |",
    ]  # fmt: skip
    assert gpu_reference.read_table("\n".join(lines)) == {"seconds": [2.5, 2.75], "accuracy": [0.95, 0.91]}
    with pytest.raises(SystemExit, match="no line"):
        gpu_reference.read_table("nothing of the kind")


@pytest.mark.slow
def test_every_piece_of_jtrain_runs_when_it_is_tiny(tmp_path):
    make_pack(tmp_path / "pack.npz")
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "run", "--pack", str(tmp_path / "pack.npz")]
    words += ["--out", str(tmp_path / "out"), "--seeds", "2", "--tiny", "--minutes", "20"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""}, check=False)
    assert done.returncode == 0, done.stderr
    pieces = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.tiny.json")}
    assert len(pieces) == 6
    assert {name for name, piece in pieces.items() if piece["status"] != "ok"} <= {"G2.torch.tiny"}  # for want of torch
    assert row(tmp_path, "G1")["verdict"] == "not measured"
