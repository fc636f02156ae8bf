"""Every shipped config is loaded, shrunk and trained for a few steps; what its header says can be typed."""

import os
import re

import pytest

from jtrain import config_files
from jtrain.assembly import assemble
from jtrain.loop import train
from jtrain.shipped import shipped

NAMES = ["digits", "cifar", "cifar:small", "cifar:shapes"]


def shrunk(name):
    c = config_files.load(name)
    c.mesh.devices = 1
    c.train.batch_size = 8
    c.train.total = "3steps"
    c.checkpoint.every = "2steps"
    c.schedule.warmup = "1steps"
    if c.data.name == "tfds":
        c.data.tfds.name = config_files.configs.base().data.tfds.name
        c.data.name = "shapes"
    if c.data.name == "shapes":
        c.data.shapes.examples = 64
        c.data.shapes.test_examples = 16
    if c.model.name == "resnet":
        c.model.resnet.width = 4
    else:
        c.model.cnn.features = (4, 4, 4)
    return c


def test_the_list_is_complete():
    assert {name.partition(":")[0] for name in NAMES} == set(shipped())


@pytest.mark.parametrize("name", NAMES)
def test_shipped_config_trains_and_resumes_when_shrunk(name, tmp_path):
    result = train(assemble(shrunk(name)), tmp_path / "run")
    assert int(result.state.step) == 3
    longer = shrunk(name)
    longer.train.total = "4steps"
    assert int(train(assemble(longer), tmp_path / "run").state.step) == 4


@pytest.mark.parametrize("name", sorted(shipped()))
def test_commands_in_the_header_name_configs_that_load(name):
    header = shipped()[name].read_text().split('"""')[1]
    commands = re.findall(r"--config=(\S+)", header)
    assert commands
    for command in commands:
        config_files.load(command)


@pytest.mark.slow
@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
def test_resnet18_on_cifar_takes_its_steps_and_resumes_on_cpu(tmp_path):
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
