"""Schedules from the config: durations inside tuples become updates, and nonsense is named before anything is built."""

import json

import numpy as np
import pytest

from jtrain import config as configs
from jtrain import config_files
from jtrain.assembly import assemble
from jtrain.durations import Clock
from jtrain.errors import ConfigError
from jtrain.optim.schedules import SCHEDULES, hold

CLOCK = Clock(batch_size=10, epoch_examples=205, total=615)  # 20.5 updates an epoch, 30 epochs
PARTS = (
    ("linear", "5epochs", {"start": 0.1, "end": 1}),
    ("multistep", "200steps", {"milestones": ("1epochs", "5%")}),
    ("step", "10epochs"),
)


def with_parts(parts):
    c = configs.base()
    c.schedule.name = "pieces"
    c.schedule.pieces.parts = parts
    return c


def with_milestones(*milestones):
    c = configs.base()
    c.schedule.name = "multistep"
    c.schedule.multistep.milestones = milestones
    return c


def test_milestones_become_updates():
    c = with_milestones("20steps", "2epochs", "50%")
    configs.validate(c)
    part, given = configs.timed_choice(c, "schedule", CLOCK)
    assert part is SCHEDULES["multistep"]
    assert given == {"milestones": (20, 41, 307), "gamma": 0.1}


def test_durations_in_pieces_become_updates_and_missing_options_their_defaults():
    c = with_parts(PARTS)
    configs.validate(c)
    _, given = configs.timed_choice(c, "schedule", CLOCK)
    assert given["parts"] == (
        ("linear", 102, {"start": 0.1, "end": 1.0}),
        ("multistep", 200, {"milestones": (20, 30), "gamma": 0.1}),
        ("step", 205, {"every": 615, "gamma": 0.5}),
    )
    schedule = SCHEDULES["pieces"](0.5, CLOCK.total, **given)
    steps = np.array([0, 102, 121, 122, 131, 132, 302])
    np.testing.assert_allclose(schedule(steps), [0.05, 0.5, 0.5, 0.05, 0.05, 0.005, 0.5])


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((("linear", "5epochs", {}), ("cosin", "5epochs", {})),
         "parts[1]: no such schedule 'cosin'; did you mean 'cosine'?"),
        ((("linear", "5epochs", {"stat": 0.1}),), "parts[0]: linear has no option 'stat'; did you mean 'start'?"),
        ((("linear", "5epochs", {"start": 2.0}),), "parts[0]: linear.start: must be at least 0 and at most 1"),
        ((("linear", "5epochs", {"start": "a"}),), "parts[0]: linear.start: must be a number"),
        ((("linear", "5", {}),), "parts[0]: '5' needs a unit"),
        ((("linear", 5, {}),), "parts[0]: needs a unit, such as '5steps'"),
        ((("linear", "0epochs", {}),), "parts[0]: must be longer than zero"),
        ((("step", "5epochs", {"every": 3}),), "parts[0]: step.every: needs a unit"),
        ((("step", "5epochs", {"every": "120%"}),), "step.every: '120%' is more than the whole run"),
        ((("multistep", "5epochs", {"milestones": ("2epochs", "1epochs")}),),
         "parts[0]: multistep.milestones[1]: must be after '2epochs'"),
        ((("pieces", "5epochs", {}),), "parts[0]: pieces cannot hold pieces"),
        ((("linear", "5epochs", 0.1),), "parts[0]: the options of linear must be a dict"),
        ((("linear",),), "parts[0]: must be (name, duration, options)"),
        (("linear", "5epochs", {}), "parts[0]: must be (name, duration, options)"),
        ((), "parts: must be a tuple of pieces"),
    ],
)  # fmt: skip
def test_wrong_pieces_are_refused_in_one_line_that_names_the_piece(parts, words):
    with pytest.raises(ConfigError) as error:
        configs.validate(with_parts(parts))
    assert words in str(error.value)
    assert str(error.value).startswith("schedule.pieces.parts")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("milestones", "words"),
    [
        (("2epochs", "2epochs"), "schedule.multistep.milestones[1]: must be after '2epochs', got '2epochs'"),
        (("1epochs", "20", "3epochs"), "schedule.multistep.milestones[1]: '20' needs a unit"),
        ((30, 60), "schedule.multistep.milestones[0]: needs a unit, such as '30steps'"),
        (("0steps",), "schedule.multistep.milestones[0]: must be longer than zero"),
        ((), "schedule.multistep.milestones: must be a tuple of durations"),
    ],
)
def test_wrong_milestones_are_refused(milestones, words):
    with pytest.raises(ConfigError) as error:
        configs.validate(with_milestones(*milestones))
    assert str(error.value).startswith(words)


def test_milestones_of_several_units_are_compared_as_updates():
    c = with_milestones("2epochs", "40steps")  # 41 and 40
    configs.validate(c)
    part, given = configs.timed_choice(c, "schedule", CLOCK)
    with pytest.raises(ConfigError, match=r"schedule\.multistep\.milestones: must increase, are 41, 40"):
        part(0.1, CLOCK.total, **given)


def test_what_a_piece_refuses_itself_names_the_piece():
    _, given = configs.timed_choice(with_parts((*PARTS, ("wsd", "5steps", {"decay": "9steps"}))), "schedule", CLOCK)
    with pytest.raises(ConfigError, match=r"^schedule\.pieces\.parts\[3\]: .*decay: is 9 updates"):
        SCHEDULES["pieces"](0.1, CLOCK.total, **given)


def test_pieces_and_milestones_survive_config_json(tmp_path):
    c = with_parts(PARTS)
    path = tmp_path / "config.json"
    path.write_text(config_files.to_json(c))
    again = config_files.load(str(path))
    configs.validate(again)
    assert config_files.changes(c, again) == {}
    assert again.schedule.pieces.parts == PARTS
    assert again.schedule.multistep.milestones == ("50%", "75%")
    assert json.loads(config_files.to_json(again)) == json.loads(path.read_text())


def test_pieces_and_milestones_can_be_set_from_the_command_line():
    c = configs.base()
    config_files.override(c, "schedule.name", "pieces")
    config_files.override(c, "schedule.pieces.parts", repr(PARTS))
    configs.validate(c)
    assert c.schedule.pieces.parts == PARTS
    with pytest.raises(ConfigError, match=r"^schedule\.pieces\.parts\[0\]: no such schedule 'liner'"):
        config_files.override(c, "schedule.pieces.parts", "(('liner', '5epochs'),)")
    with pytest.raises(ConfigError, match=r"^schedule\.multistep\.milestones\[1\]: '5x': no such unit"):
        config_files.override(c, "schedule.multistep.milestones", "('1epochs', '5x')")


def test_a_piece_changed_by_hand_leaves_the_defaults_alone():
    c = with_parts(PARTS)
    assert configs.base().schedule.pieces.parts == (("constant", "50%"), ("cosine", "50%"))
    assert configs.choice(c, "schedule")[1]["parts"] == PARTS


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_runs_by_its_defaults(name):
    c = configs.base()
    c.schedule.name = name
    configs.validate(c)
    part, given = configs.timed_choice(c, "schedule", CLOCK)
    assert np.all(np.isfinite(part(0.1, CLOCK.total, **given)(np.arange(CLOCK.total))))
    for total in (1, 2, 5):  # a config that was shrunk for a test
        part, given = configs.timed_choice(c, "schedule", Clock(batch_size=10, epoch_examples=10, total=total))
        assert np.all(np.isfinite(part(0.1, total, **given)(np.arange(total))))


def test_schedule_every_holds_the_lr_between_its_updates_and_after_the_warmup():
    c = configs.base()
    c.model.mlp.features = (4,)
    c.train.total, c.train.batch_size, c.optimizer.lr = "60steps", 100, 0.5
    c.schedule.every, c.schedule.warmup = "10steps", "5steps"
    run = assemble(c)
    steps = np.arange(60)
    rates = run.optimizer.schedules["lr"](steps)
    run.close()
    held = hold(SCHEDULES["cosine"](0.5, 55), 10)(steps[5:] - 5)
    np.testing.assert_allclose(rates, np.concatenate([0.5 * np.arange(1, 6) / 5, held]), rtol=1e-12)
    assert len(set(rates[5:])) == 6
