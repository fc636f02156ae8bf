"""The config tree: made from the tables, locked, checked; typos and nonsense are refused with a word."""

import json
import math
import random
import re
import string
import sys
from pathlib import Path

import pytest

from jtrain import config as configs
from jtrain import config_files
from jtrain.errors import ConfigError, JtrainError
from jtrain.shipped import shipped

FROM_BASE = b"from jtrain.config import base\ndef get_config():\n    c = base(); "


def changed(**fields):
    c = configs.base()
    for key, value in fields.items():
        node = c
        *parents, last = key.split("__")
        for parent in parents:
            node = node[parent]
        with node.ignore_type():
            node[last] = value
    return c


def test_base_is_valid_locked_and_complete():
    c = configs.base()
    configs.validate(c)
    assert set(configs.flat(c)) == set(configs.schema())
    with pytest.raises(AttributeError):
        c.train.batchsize = 3
    with pytest.raises(AttributeError):
        c.optimizer.nope = 3


def test_options_of_parts_come_from_their_signatures():
    c = configs.base()
    assert c.optimizer.sgd.momentum == 0.9
    assert c.optimizer.sgd.nesterov is False
    assert c.schedule.step.every == "30epochs"


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_configs_are_valid_and_short(name):
    configs.validate(config_files.load(name))
    assert len(shipped()[name].read_text().splitlines()) < 60


BAD = [
    ("train__batch_size", 0, "train.batch_size"), ("train__batch_size", -1, "at least 1"),
    ("train__batch_size", True, "whole number"), ("train__batch_size", 1.5, "whole number"),
    ("optimizer__lr", -0.1, "optimizer.lr: must be at least 0"), ("optimizer__lr", math.nan, "finite"),
    ("optimizer__lr", math.inf, "finite"), ("optimizer__lr", "0.1", "a number"), ("lr_scale", 0.0, "above 0"),
    ("optimizer__name", "adm", "did you mean 'adam'"), ("optimizer__adam__b1", 0.5, "optimizer.name is 'adamw'"),
    ("train__total", "20", "needs a unit"), ("train__total", 20, "20steps"), ("train__total", "50%", "share of itself"),
    ("train__total", "0epochs", "longer than zero"), ("train__eval_every", "200%", "more than the whole run"),
    ("schedule__warmup", "20epochs", "leaves nothing"), ("precision", "float16x", "precision"),
    ("groups", (("head/.*", -1.0),), "groups"), ("groups", (("(", 1.0),), "regular expression"),
    ("groups", "head", "groups"), ("augment", "__import__('os')", "augment"),
    ("augment", "flip_rl", "flip_lr"), ("augment", "pad_crop(-1)", "pad_crop"),
    ("data__validation", 1.0, "below 1"), ("data__placement", "gpu", "data.placement"), ("seed", -1, "seed"),
    ("checkpoint__keep", 0, "at least 1"), ("model__mlp__features", (0,), "at least 1"),
    ("model__mlp__features", 3, "tuple"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "words"), BAD)
def test_nonsense_is_refused_in_one_line_that_names_the_key(key, value, words):
    with pytest.raises(ConfigError) as error:
        configs.validate(changed(**{key: value}))
    message = str(error.value)
    assert words in message
    assert key.split("__")[0] in message
    assert "\n" not in message


def test_overrides_take_the_type_of_the_field():
    c = configs.base()
    for key, text, value in [
        ("train.batch_size", "64", 64), ("train.batch_size", "1e2", 100), ("optimizer.lr", "3e-4", 3e-4),
        ("model.mlp.features", "(8, 8)", (8, 8)), ("log.tensorboard", "true", True), ("augment", "flip_lr", "flip_lr"),
        ("groups", "(('head/.*', 1.0), ('.*', None))", (("head/.*", 1.0), (".*", None))),
    ]:  # fmt: skip
        config_files.override(c, key, text)
        assert configs.flat(c)[key] == value
    configs.validate(c)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("train.batchsize", "64", "did you mean 'train.batch_size'"), ("optimizer", "adam", "is a section"),
        ("optimizer.name.x", "1", "optimizer"), ("train.batch_size", "many", "whole number"),
        ("optimizer.lr", "nan", "finite"), ("log.tensorboard", "maybe", "True or False"), ("lr", "1", "optimizer.lr"),
        ("model.mlp.features", "(8", "tuple"), ("model.mlp.features", "64", "such as '(64,)', got '64'"),
        ("optimizer.no_decay", "bias", "such as \"('bias',)\""), ("train.total", "3", "'3epochs' or '3examples'$"),
        ("groups", "head", "groups: must be a tuple, such as \"(('.*'"), ("batch_size", "3", "train.batch_size"),
    ],
)  # fmt: skip
def test_wrong_overrides_are_explained(key, text, words):
    with pytest.raises(ConfigError, match=re.sub(r"([(*.)])", r"[\1]", words)):
        config_files.override(configs.base(), key, text)


def test_json_round_trip_is_equal_and_runs_no_python(tmp_path):
    c = config_files.load("cifar:small")
    path = tmp_path / "config.json"
    path.write_text(config_files.to_json(c))
    again = config_files.load(str(path))
    assert configs.flat(again) == configs.flat(c)
    assert config_files.changes(c, again) == {}
    configs.validate(again)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "one JSON object"),
        ('{"train": {"batchsize": 3}}', "train.batch_size"),
        ('{"train": 3}', "section"),
    ],
)
def test_damaged_json_is_refused(tmp_path, text, words):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        configs.validate(config_files.load(str(path)))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("c.train.batchsize = 3", "did you mean 'train.batch_size'"),
        ("c.optimzer.lr = 3", "did you mean 'optimizer.lr'"),
        ("c.optimizer.lt = 0.1", "did you mean 'optimizer.lr'"),
        ("c.train.batch_size = 'many'", "train.batch_size: must be a whole number, got 'many'"),
        ("c.train.total = 3", "train.total: needs a unit, such as '3steps'"),
        ("c['train']['total'] = 3", "train.total: needs a unit, such as '3steps'"),
        ("t = c.train; t.total = 3", "train.total: needs a unit, such as '3steps'"),
        ("c.seed, c.train.total = 3, 4", "train.total: needs a unit, such as '4steps'"),
        ("import numpy; c.optimizer.lr = numpy.float32(0.1)", "optimizer.lr: must be a number, got"),
        ("import sys; sys.exit(3)", "ends the program"),
        ("c.train.batch_size = 1 / 0", "ZeroDivisionError"),
        ("import nowhere_at_all", "nowhere_at_all"),
        ("raise RuntimeError('no luck')", "no luck"),
    ],
)
def test_a_config_file_that_raises_is_one_line_with_its_place(tmp_path, body, words):
    path = tmp_path / "mine.py"
    path.write_text(
        f"from jtrain.config import base\n\ndef get_config(arg=None):\n    c = base()\n    {body}\n    return c\n"
    )
    with pytest.raises(ConfigError) as error:
        config_files.load(str(path))
    message = str(error.value)
    assert words in message
    assert "mine.py:5" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"def f(:", "mine.py:1"), (b"x = 1", "get_config"),
        (b"def get_config(arg=None):\n    return {}", "returns dict"), (b"x = 1\0", "mine.py.*null bytes"),
        (b"x = '\xff'", r"mine.py.*can't decode byte 0xff"), (b"raise SystemExit", "mine.py:1: .*ends the program"),
        (b"import ml_collections as m\ndef get_config():\n    return m.ConfigDict({'a': 1})", "mine.py: a: no such"),
        (FROM_BASE + b"c.unlock(); del c['train']; return c", "mine.py: train.total: is missing"),
        (FROM_BASE + b"c.unlock(); del c['model']['options']; return c", "mine.py: model.options: is missing"),
        (FROM_BASE + b"c.model.options.act = sum; return c", "model.options.act: config.json cannot"),
        (FROM_BASE + b"c.model.options.sizes = [1]; return c", "model.options.sizes: must be a tuple"),
    ],
)  # fmt: skip
def test_a_config_file_without_a_config_is_explained(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=words) as error:
        config_files.load(str(path))
    assert "\n" not in str(error.value)


def test_nested_options_of_your_part_survive_config_json(tmp_path):
    c = configs.base()
    c.model.name = "pathlib:Path"
    c.model.options = {"a": {"b": 1, "none": {}}, "sizes": (1, (2,))}
    config_files.override(c, "model.options.a.c.d", "(1, 'x')")
    configs.validate(c)
    path = tmp_path / "config.json"
    path.write_text(config_files.to_json(c))
    again = config_files.from_json(path)
    assert config_files.changes(c, again) == {}
    assert again.model.options.to_dict() == {
        "a": {"b": 1, "none": {}, "c": {"d": (1, "x")}}, "sizes": (1, (2,)),
    }  # fmt: skip
    path.write_text('{"model": {"options": {"a.b": 1}}}')
    with pytest.raises(ConfigError, match=r"model\.options: a name must not hold a dot"):
        config_files.from_json(path)


def test_a_config_file_imports_its_neighbours_and_leaves_the_path_of_shipped_ones_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "neighbour_of_mine.py").write_text("SIZE = 17")
    (tmp_path / "mine.py").write_bytes(
        FROM_BASE + b"import neighbour_of_mine; c.train.batch_size = neighbour_of_mine.SIZE; return c"
    )
    assert config_files.load(str(tmp_path / "mine.py")).train.batch_size == 17
    before = sys.path.copy()
    config_files.load("digits")
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "words"), [("digit", "'digits'"), ("configs/cifr.py", "configs/cifar.py"), ("nope.json", "no such file")]
)
def test_a_missing_config_names_the_nearest(text, words):
    with pytest.raises(ConfigError, match=words):
        config_files.load(text)


def test_your_own_part_has_its_options_checked():
    c = changed(model__name="flax.linen:Dense")
    c.model.options.features = 10
    assert configs.choice(c, "model")[1] == {"features": 10}
    c.model.options.use_bais = False
    with pytest.raises(ConfigError, match="use_bias"):
        configs.choice(c, "model")
    c = configs.base()
    c.model.options.features = 3
    with pytest.raises(ConfigError, match=r"model\.options\.features"):
        configs.validate(c)


def test_what_may_change_on_resume():
    assert config_files.may_change("train.total")
    assert config_files.may_change("schedule.cosine.floor")
    assert not config_files.may_change("train.batch_size")
    assert not config_files.may_change("seed")


NONSENSE = [
    None, -1, 0, -0.5, math.nan, math.inf, -math.inf, True, "", "nan", "-5epochs", "5", "1e999epochs", "no_such", [],
    [1], (), ("(", 1), {"a": 1}, 2**80, 1e300, b"x", object(),
]  # fmt: skip


def is_sensible(key, value, default):
    """An independent word on whether a field may hold a value: same type, finite, in a plain range."""
    if type(value) is not type(default) and not (isinstance(default, float) and type(value) is int):
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        return math.isfinite(value) and 0 <= value < 2**63
    return True


def set_by_force(config, key, value):
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    with node.ignore_type():
        node[last] = value
    return node[last]  # an int becomes a float in a float field


def refusal(config):
    try:
        configs.validate(config)
    except JtrainError as error:
        return str(error)
    return None


def test_fuzz_of_two_thousand_mutations_never_ends_in_a_traceback():
    rng = random.Random(0)
    defaults, refused = configs.flat(configs.base()), 0
    for _ in range(2000):
        key, value = rng.choice(sorted(defaults)), rng.choice(NONSENSE)
        c = configs.base()
        value = set_by_force(c, key, value)
        message = refusal(c)
        if message is None:
            assert is_sensible(key, value, defaults[key]), (key, value)
        else:
            refused += 1
            assert key in message, (key, value, message)
            assert "\n" not in message
    assert refused > 1000


def test_one_letter_typos_find_their_key():
    rng = random.Random(1)
    right = total = 0
    config = configs.base()
    for key in sorted(configs.schema()):
        for _ in range(3):
            i = rng.randrange(len(key))
            letter = rng.choice(string.ascii_lowercase)
            typo = rng.choice([key[:i] + key[i + 1 :], key[:i] + letter + key[i:], key[:i] + letter + key[i + 1 :]])
            if typo in configs.schema():
                continue
            total += 1
            with pytest.raises(ConfigError) as error:
                config_files.override(config, typo, "1")
            right += f"'{key}'" in str(error.value) or "is a section" in str(error.value)
    assert right / total >= 0.95, f"{right} of {total}"


def test_config_json_is_plain_json():
    loaded = json.loads(config_files.to_json(configs.base()))
    assert loaded["train"]["batch_size"] == 128


def test_the_page_on_configs_is_true(tmp_path):
    page = (Path(__file__).resolve().parents[1] / "docs" / "config.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    config = config_files.load(str(tmp_path / "mine.py"))
    lines = re.findall(r"^    c\.(\S+) = (.*)", page.replace(code, ""), re.MULTILINE)
    typed = re.findall(r"--config\.(\S+)=(?:'([^']*)'|(\S+))", page)
    assert len(lines) > 5
    assert len(typed) > 3
    for key, *texts in lines + typed:
        config_files.override(config, key, "".join(texts).strip('"`;'))
    path = tmp_path / "runs" / "w.json"
    path.parent.mkdir()
    path.write_text('{"model": {"name": "my_nets:Net"}}')
    with pytest.raises(ConfigError) as error:
        config_files.load(str(path))
    assert str(error.value).replace(str(path), "runs/w/config.json") in page
    for section in configs.CHOICES:
        assert section in re.findall(r"a `name`: `([a-z ]+)`", page)[0].split()
