import pickle
import platform

import numpy as np
import pytest

from jtrain.data.examples import Wanted, check_targets, cut_validation, targets_of
from jtrain.data.sources.text import text
from jtrain.data.workers import decodes
from jtrain.errors import ConfigError, DataError
from jtrain.table import options

TOKENS = Wanted(targets="tokens")


def load(path, **given):
    return text(TOKENS, path=str(path), **{"length": 4, "test": 0.0, **given})


def told(dataset, split) -> str:
    """The text of a split again: its first character, then every target in turn."""
    inputs, targets = split.arrays()
    tokens = [inputs[0, 0], *targets.reshape(-1)]
    return "".join(dataset.class_names[token] for token in tokens)


@pytest.fixture
def poem(tmp_path):
    file = tmp_path / "poem.txt"
    file.write_text("Über allen Gipfeln ist Ruh,\nin allen Wipfeln spürest du\nkaum einen Hauch;\n", encoding="utf-8")
    return file


def test_options_have_defaults_that_hold():
    for key, option in options(text).items():
        assert option.check(option.default) == option.default, key


def test_windows_tell_every_character_once(poem):
    dataset = load(poem)
    whole = poem.read_text(encoding="utf-8")
    covered = told(dataset, dataset.train)
    assert whole.startswith(covered)
    assert len(whole) - len(covered) < 4


def test_targets_are_the_inputs_one_token_later(poem):
    dataset = load(poem)
    whole, names = poem.read_text(encoding="utf-8"), dataset.class_names
    inputs, targets = dataset.train.arrays()
    assert inputs.dtype == targets.dtype == np.int32
    for row, (window, later) in enumerate(zip(inputs, targets, strict=True)):
        assert "".join(names[token] for token in window) == whole[4 * row : 4 * row + 4]
        assert "".join(names[token] for token in later) == whole[4 * row + 1 : 4 * row + 5]


@pytest.mark.parametrize(("characters", "windows"), [(5, 1), (8, 1), (9, 2), (12, 2), (13, 3)])
def test_a_window_needs_one_character_more_than_its_length(tmp_path, characters, windows):
    (tmp_path / "a.txt").write_text("abcdefghijklm"[:characters])
    dataset = load(tmp_path / "a.txt")
    assert len(dataset.train) == len(dataset.train.arrays()[0]) == windows


def test_fetched_windows_are_those_of_the_arrays(poem):
    examples = load(poem).train
    rows = np.array([3, 0, 3, len(examples) - 1], np.int32)
    for fetched, whole in zip(examples.fetch(rows), examples.arrays(), strict=True):
        assert fetched.dtype == np.int32
        assert np.array_equal(fetched, whole[rows])
    assert np.array_equal(targets_of(examples, rows), examples.arrays()[1][rows])
    assert examples.nbytes == sum(whole.nbytes for whole in examples.arrays())


def test_windows_need_no_loader_process(poem):
    assert not decodes(load(poem).train)


def test_windows_can_be_pickled_and_cut(poem):
    examples = load(poem).train
    again = pickle.loads(pickle.dumps(examples))
    assert np.array_equal(again.arrays()[1], examples.arrays()[1])
    train, val = cut_validation(examples, 0.25, seed=0)
    assert len(train) + len(val) == len(examples)


def test_test_split_is_the_end_of_the_text_whatever_the_seed(poem):
    whole = poem.read_text(encoding="utf-8")
    for seed in (0, 1):
        dataset = text(Wanted(seed, "tokens"), path=str(poem), length=4, test=0.3)
        cut = len(whole) - round(0.3 * len(whole))
        assert whole[:cut].startswith(told(dataset, dataset.train))
        assert whole[cut:].startswith(told(dataset, dataset.test))
    assert load(poem, test=0.0).test is None


def test_vocabulary_is_the_sorted_characters_of_the_text(poem):
    dataset = load(poem, test=0.3)
    assert dataset.class_names == tuple(sorted(set(poem.read_text(encoding="utf-8"))))
    assert dataset.num_outputs == len(dataset.class_names)
    assert dataset.targets == "tokens"
    assert dataset.note == ""
    check_targets(dataset.train.arrays()[1], "tokens", dataset.num_outputs, "train")


def test_rare_characters_share_one_token(tmp_path):
    (tmp_path / "a.txt").write_text("aaaabbbccédé€", encoding="utf-8")
    dataset = load(tmp_path / "a.txt", vocabulary=4)
    # c and é come twice each; the lesser code point stays.
    assert dataset.class_names == ("a", "b", "c", "\ufffd")
    assert told(dataset, dataset.train) == "aaaabbbcc\ufffd\ufffd\ufffd\ufffd"
    assert dataset.note == 'the 3 rarest characters, 30.77% of the text, are one token "\ufffd"'
    assert load(tmp_path / "a.txt", vocabulary=6).class_names == ("a", "b", "c", "d", "é", "€")


def test_the_sign_for_rare_characters_may_be_in_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("\ufffd\ufffd\ufffdaabbc", encoding="utf-8")
    dataset = load(tmp_path / "a.txt", vocabulary=3, length=3)
    assert dataset.class_names == ("a", "b", "\ufffd")
    assert told(dataset, dataset.train) == "\ufffd\ufffd\ufffdaabb"


def test_more_than_256_characters_keep_their_tokens(tmp_path):
    whole = "".join(chr(0x4E00 + i) for i in range(300)) + "a"
    (tmp_path / "a.txt").write_text(whole, encoding="utf-8")
    dataset = load(tmp_path / "a.txt", vocabulary=1000)
    assert dataset.num_outputs == 301
    assert told(dataset, dataset.train) == whole


def test_bytes_are_the_bytes_of_the_file(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) + b"\r\n\xff")
    dataset = load(tmp_path / "a.bin", unit="bytes", length=2)
    inputs, targets = dataset.train.arrays()
    assert bytes([inputs[0, 0], *targets.reshape(-1).tolist()]) == bytes(range(256)) + b"\r\n\xff"
    assert inputs.dtype == np.int32
    assert dataset.num_outputs == len(set(dataset.class_names)) == 256
    assert [dataset.class_names[byte] for byte in (10, 65, 255)] == ["\\x0a", "A", "\\xff"]


def test_line_ends_and_the_mark_of_windows_are_not_in_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rsix\n.")
    dataset = load(tmp_path / "a.txt", length=1)
    assert told(dataset, dataset.train) == "one\ntwo\nsix\n."


def test_folder_joins_its_text_files_in_sorted_order(tmp_path):
    for name in ("b.txt", "a.txt", "inner/c.txt", ".hidden/d.txt", "e.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name.split(".")[-2][-1])
    dataset = load(tmp_path, length=1)
    assert told(dataset, dataset.train) == "a\nb\nc"


def test_pattern_takes_files_of_any_ending(tmp_path):
    for name in ("a.md", "inner/b.md", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name.split(".")[-2][-1])
    dataset = load(tmp_path / "**" / "*.md", length=1)
    assert told(dataset, dataset.train) == "a\nb"


def test_file_whose_name_looks_like_a_pattern_is_read(tmp_path):
    (tmp_path / "a[1].txt").write_text("hello")
    dataset = load(tmp_path / "a[1].txt", length=1)
    assert told(dataset, dataset.train) == "hello"


def test_most_takes_the_start_of_the_text(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name * 4)
    for most, expected in ((3, "aaa"), (6, "aaaa\nb"), (14, "aaaa\nbbbb\ncccc"), (0, "aaaa\nbbbb\ncccc")):
        dataset = load(tmp_path, length=1, most=most)
        assert told(dataset, dataset.train) == expected


def test_without_a_path_it_is_the_standard_library():
    dataset, again = (text(Wanted(seed, "tokens"), most=300_000) for seed in (0, 1))
    assert np.array_equal(dataset.train.arrays()[0], again.train.arrays()[0])
    assert platform.python_version() in dataset.note
    written = told(dataset, dataset.train)
    assert len(written) > 280_000
    assert written.count("\n    def ") > 100
    assert dataset.num_outputs < 256


def test_default_is_two_million_characters_and_more_can_be_asked_for(tmp_path, monkeypatch):
    # The standard library stands in a small folder: what counts is what is taken, not how much there is.
    for name in ("abc.py", "ast.py", "mine.py", "json/decoder.py", "json/tests/test_it.py", "idlelib/run.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / "json" / "latin.py").write_bytes(b"# \xe9\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    dataset = text(TOKENS, length=1, test=0.0)
    by_hash = ["json/decoder.py", "abc.py", "ast.py"]  # the same in every process
    assert told(dataset, dataset.train).split()[1::2] == by_hash
    monkeypatch.setattr("jtrain.data.sources.text.DEFAULT_MOST", 12)
    assert len(told(dataset, text(TOKENS, length=1, test=0.0).train)) == 12
    assert len(told(dataset, text(TOKENS, length=1, test=0.0, most=20).train)) == 20
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"^data\.text\.path: this Python comes without its sources in .*nothing"):
        text(TOKENS)


@pytest.mark.parametrize("targets", ["class", "classes", "values"])
def test_other_tasks_are_told_which_one_takes_text(targets):
    with pytest.raises(ConfigError, match=r'^data\.name: "text" gives tokens; set task\.name="language_modelling"'):
        text(Wanted(targets=targets))


def test_any_target_gives_tokens(poem):
    assert text(Wanted(targets="any"), path=str(poem), length=2).targets == "tokens"


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"abcd", {}, r"^data\.text\.length: 4 needs 5 characters of text, but the train part of a\.txt has 4"),
        (b"abcdefgh", {"test": 0.5}, r"the train part of a\.txt has 4"),
        (b"abcdefghi", {"test": 0.2}, r"the test part of a\.txt has 2; .* or data\.text\.test=0$"),
        (b"abcd", {"unit": "bytes"}, r"5 bytes of text"),
    ],
)
def test_text_shorter_than_a_window_names_the_part(tmp_path, content, options, words):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / "a.txt", **options)


def test_file_that_is_not_utf8_is_named_with_the_place(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xc3\xa9 caf\xe9\n")
    with pytest.raises(DataError, match=r'a\.txt is not UTF-8 at byte 9 \(0xe9\); .*data\.text\.unit="bytes"'):
        load(tmp_path)


def test_missing_and_empty_places_are_named(tmp_path):
    with pytest.raises(DataError, match=r"^data\.text\.path: no file or folder .*nothing"):
        load(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"^data\.text\.path: no \*\.txt in the folder .*set a pattern"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"^data\.text\.path: no file fits the pattern .*\*\.md"):
        load(tmp_path / "*.md")
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=r"holds no text, only empty files"):
        load(tmp_path / "a.txt")
