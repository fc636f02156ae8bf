"""Every shipped config is loaded, shrunk and trained for a few steps; what its header says can be typed."""

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from jtrain import config_files
from jtrain.assembly import assemble
from jtrain.loop import train
from jtrain.models import resnet
from jtrain.shipped import shipped

NAMES = [
    "digits", "cifar", "cifar:small", "cifar:shapes", "cifar_fast", "cifar_fast:sgd", "cifar_fast:small", "imagenet",
    "imagenet:step", "digits_pretrain",
    "digits_pretrain:denoising", "digits_pretrain:rotation", "digits_finetune", "digits_finetune:{pretrained}",
    "cifar_transfer:{shapes}", "charlm:{text}", "diabetes", "folder:{folder}",
]  # fmt: skip


def shrunk(name):
    c = config_files.load(name)
    c.mesh.devices = 1
    c.train.batch_size = 8
    c.train.total = "4steps"
    c.checkpoint.every = "2steps"
    c.schedule.warmup = "1steps"
    if c.phases:
        c.phases = (c.phases[0], ("1steps", c.phases[1][1]))
    if c.schedule.name == "multistep":
        c.schedule.multistep.milestones = ("1steps",)
    if c.data.name == "tfds":
        c.data.tfds = config_files.configs.base().data.tfds
        c.data.name = "shapes"
    if c.data.name == "shapes":
        c.data.shapes.examples = 64
        c.data.shapes.test_examples = 16
        c.data.validation = 0.1
    if c.model.name == "resnet":
        c.model.resnet.width = 4
        c.model.resnet.depth = 18
    elif c.model.name == "lstm":
        c.model.lstm.hidden = c.model.lstm.embedding = 8
        c.data.text.length = 16
    elif c.model.name == "autoencoder":
        c.model.autoencoder.features = (4, 4, 4)
    elif c.model.name == "fast_cnn":
        c.model.fast_cnn.features = (4,) * 3
    elif c.model.name == "cnn":
        c.model.cnn.features = (4,) * len(c.model.cnn.features)
    return c


@pytest.fixture(scope="module", autouse=True)
def short_resnets():
    """One block a stage, where the smallest of its form has two: half as much to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What the configs' arguments name: a text, a folder of images, and runs to start from."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "notes.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (70, 66, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
    for config, run in (("cifar:shapes", "shapes"), ("digits_pretrain", "pretrained")):
        train(assemble(shrunk(config)), folder / run)
    return {
        "text": folder / "notes.txt", "folder": folder / "images", "shapes": folder / "shapes",
        "pretrained": folder / "pretrained",
    }  # fmt: skip


def test_the_list_is_complete():
    assert {name.partition(":")[0] for name in NAMES} == set(shipped())


@pytest.mark.parametrize("name", NAMES)
def test_shipped_config_trains_and_resumes_when_shrunk(name, tmp_path, given):
    config = shrunk(name.format(**given))
    result = train(assemble(config), tmp_path / "run")
    assert int(result.state.step) == 4
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")  # as if it was killed there; nothing need be compiled anew
    assert int(train(assemble(config), tmp_path / "run").state.step) == 4
    assert "update 2 of 4" in (tmp_path / "run" / "events.jsonl").read_text()


@pytest.mark.parametrize("name", sorted(shipped()))
def test_commands_in_the_header_name_configs_that_load(name):
    header = shipped()[name].read_text().split('"""')[1]
    commands = re.findall(r"--config=(\S+)", header)
    assert commands
    for command in commands:
        config_files.load(command)


@pytest.mark.slow
@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
def test_resnet18_on_cifar_takes_its_steps_and_resumes_on_cpu(tmp_path, monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS, 18, (2, 2, 2, 2))
    c = config_files.load("cifar")
    c.mesh.devices = 1
    c.train.batch_size = 16
    c.train.total = "3steps"
    c.schedule.warmup = "1steps"
    c.data.validation = 0.0
    c.data.tfds.test = "test[:64]"
    assert int(train(assemble(c), tmp_path / "run").state.step) == 3
    c.train.total = "5steps"
    result = train(assemble(c), tmp_path / "run")
    assert int(result.state.step) == 5
    assert result.history[0]["loss"] > 0
