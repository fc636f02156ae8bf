"""Checkpoints made to do harm, with checksums that all fit: each is refused, or read as it was saved."""

import copy
import json
import os
import random
import resource
import shutil
import sys

import numpy as np
import pytest
import tensorstore
from io_peers import cut, together

from jtrain.errors import DataError
from jtrain.io import arrays as arrays_io
from jtrain.io import contents, manifest
from jtrain.io.checkpoint import Checkpoints

STEP = 7
SEEDS = 2000
OPENED = []  # every path that Python opens while a checkpoint is read
READING = []


def note(name, arguments):
    if name == "open" and READING:
        OPENED.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else str(arguments[0]))


sys.addaudithook(note)


def whole():
    values = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    return {"params/a": values, "params/b": values[0], "opt_state/n": np.array(3, np.int32), "e": np.zeros((0, 2))}


def same(found, expected):
    assert list(found) == sorted(expected)
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, strict=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two checkpoints of the same state: one process's, and one of two processes."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "canary").write_text("secret")
    one = Checkpoints(folder / "alone", keep=1, event=print)
    one.save(STEP, whole(), {"lr": 0.1, "deep": [{"a": None}]}, block=True)
    one.close()

    def work(checkpoints, process):
        state = whole() | {"params/a": cut(whole()["params/a"], (4, 2), process, 2)}
        checkpoints.save(STEP, state, {"lr": 0.1, "deep": [{"a": None}]}, block=True)

    assert together(folder / "both", 2, work) == [None, None]
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "h")
    return tmp_path / "h"


def read(folder):
    READING.append(folder)
    try:
        return Checkpoints(folder, keep=1, event=print, read_only=True).restore(STEP)
    finally:
        READING.clear()


def inside(folder):
    return json.loads((folder / str(STEP) / "manifest.json").read_bytes())["manifest"]


def document(inner):
    return b'{"checksum":"%s","manifest":%s}\n' % (manifest.checksum(inner).encode(), inner)


def plain(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


HUGE = [2**31, 2**40, 2**61, 2**62, 2**63, 2**64, 10**30, 10**400]
ODD = [
    None,
    True,
    False,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    -0.0,
    10**25,
    "",
    "x",
    "\ud800",
    "\0",
    [],
    [[]],
    {},
    {"a": 1},
]
NAMES = [
    "../canary", "../../canary", "state/../../canary", "state/../../../canary", "state//d", "state/./d", "./state/d",
    "..\\canary", "state\\..\\x", "state/\0", "state/\ud800", "state/" + "x" * 5000, "state", "", "/", ".", "..", "~",
    "file:///etc/passwd", "gs://bucket/x", "state-0/../../canary", "state-00/d/x", "State/d", "state/d/\n",
]  # fmt: skip
DTYPES = [
    "object", "O", "|O", ">f4", "float32,int8", "str", "S8", "V8", "datetime64[s]", "float8", "longdouble", "int32",
    "uint32", "float64", "bool", "", "pickle", "f4", "bfloat16", "int4", 7, None, ["f4"], {"a": "f4"},
]  # fmt: skip


def places(value, found):
    """Every (container, key) in a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            places(value[key], found)
    return found


def some_array(draw, m):
    return m["arrays"][draw.choice([path for path, record in m["arrays"].items() if record["parts"]])]


def odd_value(draw, m, canary):
    container, key = draw.choice(places(m, []))
    container[key] = draw.choice(ODD)


def removed(draw, m, canary):
    container, key = draw.choice(places(m, []))
    del container[key]


def doubled(draw, m, canary):
    container, key = draw.choice(places(m, []))
    if isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container[draw.choice(["x", f"{key}x", "state/d/new", f"{key}@0,0"])] = copy.deepcopy(container[key])


def swapped(draw, m, canary):
    (one, a), (other, b) = draw.sample(places(m, []), 2)
    one[a], other[b] = copy.deepcopy(other[b]), copy.deepcopy(one[a])


def file_name(draw, m, canary):
    name = draw.choice([*NAMES, str(canary), f"state{canary}", f"state-0/{'../' * 12}{canary}"])
    old = draw.choice(list(m["files"]))
    record = m["files"].pop(old) if draw.random() < 0.5 else m["files"][old]
    m["files"][name] = draw.choice([record, contents.file_record(canary)])


def folder_name(draw, m, canary):
    draw.choice(some_array(draw, m)["parts"])["folder"] = draw.choice(
        [*NAMES, str(canary.parent), "state-1", "state-99"]
    )


def huge_shape(draw, m, canary):
    record = some_array(draw, m)
    size, axis = draw.choice(HUGE), draw.randrange(4)
    shape = [size, *record["shape"][1:]] if axis < 2 else [*record["shape"], *([size] * draw.choice([1, 2, 40]))]
    record["shape"] = shape
    if draw.random() < 0.7:
        record["parts"] = [record["parts"][0] | {"start": [0] * len(shape), "shape": shape}]


def huge_empty(draw, m, canary):
    m["arrays"]["e"]["shape"] = draw.sample([0, draw.choice(HUGE), draw.choice(HUGE)], 3)


def other_dtype(draw, m, canary):
    some_array(draw, m)["dtype"] = draw.choice(DTYPES)


def other_part(draw, m, canary):
    """Overlaps, gaps, parts outside."""
    record = some_array(draw, m)
    part = draw.choice(record["parts"])
    kind = draw.randrange(4)
    if kind == 0:
        record["parts"].remove(part)
    elif kind == 1:
        record["parts"].append(copy.deepcopy(part))
    elif part["start"]:
        axis, name = draw.randrange(len(part["start"])), draw.choice(["start", "shape"])
        part[name][axis] += draw.choice([-2, -1, 1, 2, 1000])
        if kind == 3:
            draw.choice(record["parts"])[name][axis] -= 1


def other_checksum(draw, m, canary):
    record = draw.choice([some_array(draw, m)["parts"][0], draw.choice(list(m["files"].values()))])
    record["checksum"] = draw.choice(["", "0" * 32, "0" * 31, "g" * 32, record["checksum"].upper(), 0, None])


def other_step(draw, m, canary):
    m["step"] = draw.choice([0, 8, -7, True, 7.0, "7", None, 10**30])


def other_schema(draw, m, canary):
    m["schema"] = draw.choice([0, 1, 3, True, 2.0, "2", None, [2]])


def deep(draw, m, canary):
    depth = draw.choice([20, 49, 50, 60, 300, 900, 990, 100_000])
    opened, closed = draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return plain(m).replace(b'"lr":0.1', b'"lr":' + opened * depth + b"1" + closed * depth)


def repeated_key(draw, m, canary):
    key = draw.choice([b'"arrays"', b'"files"', b'"step"', b'"params/a"', b'"shape"', b'"size"', b'"dtype"'])
    content = plain(m)
    return content.replace(key + b":", key + b":" + draw.choice([b"0", b"{}", b"[]", b"7"]) + b"," + key + b":", 1)


def not_json(draw, m, canary):
    return draw.choice(
        [b"", b"{", b"[]", b"null", b"1" * 5000, b"NaN", b"\xff\xfe", b'"x"', b"[" * 100_000, plain(m)[:-1]]
    )


def byte(draw, m, canary):
    content = bytearray(plain(m))
    content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


KINDS = [odd_value, removed, doubled, swapped, file_name, folder_name, huge_shape, huge_empty, other_dtype, other_part,
         other_checksum, other_step, other_schema, deep, repeated_key, not_json, byte]  # fmt: skip


def mutate(seed, saved):
    """(checkpoint folder, bytes of a manifest) of a mutation; three in four have a checksum that fits."""
    draw = random.Random(seed)
    folder = saved / draw.choice(["alone", "both"])
    m = inside(folder)
    original = (folder / str(STEP) / "manifest.json").read_bytes()
    content = KINDS[seed % len(KINDS)](draw, m, saved / "canary")
    if content is None and draw.random() < 0.1:
        content = draw.choice(KINDS[:4])(draw, m, saved / "canary")
    content = plain(m) if content is None else content
    if draw.random() < 0.75:
        return folder, document(content)
    return folder, original[: original.index(b'"manifest":')] + b'"manifest":' + content + b"}\n"


def attack(saved, seeds):
    """Reads one mutated checkpoint after another; how many were read as they were saved."""
    equal = 0
    for seed in seeds:
        folder, content = mutate(seed, saved)
        path = folder / str(STEP) / "manifest.json"
        original = path.read_bytes()
        path.write_bytes(content)
        try:
            restored = read(folder)
        except DataError:
            pass
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {content[:300]!r}") from error
        else:
            # An empty array has no number that could be another.
            same({p: a for p, a in restored.state.items() if a.size}, {p: a for p, a in whole().items() if a.size})
            equal += 1
        finally:
            path.write_bytes(original)
    return equal


def under_attack(saved, seeds):
    attack(saved, seeds[:20])  # libraries are loaded, and memory that stays is taken
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    OPENED.clear()
    equal = attack(saved, seeds)
    inner = (str(saved / "alone" / str(STEP)), str(saved / "both" / str(STEP)))
    opened = {os.path.normpath(path) for path in OPENED if not path.isdecimal()}  # decimal: a descriptor
    outside = {path for path in opened if not path.startswith(inner)}
    assert OPENED
    assert outside == set()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
    assert 0 < equal < len(seeds) / 4  # a control state that is another is no damage


def test_a_tenth_of_the_mutated_manifests_is_refused_or_read_as_saved(saved):
    under_attack(saved, range(0, SEEDS, 10))


@pytest.mark.faults
def test_every_mutated_manifest_is_refused_or_read_as_saved(saved):
    under_attack(saved, range(SEEDS))


@pytest.mark.parametrize("name", ["alone", "both"])
def test_the_unchanged_ones_are_read(saved, name):
    same(read(saved / name).state, whole())


def replace_file(path, how, canary):
    content = path.read_bytes()
    path.unlink()
    if how == "link":
        (canary.parent / "copy").write_bytes(content)  # the very same bytes, but elsewhere
        path.symlink_to(canary.parent / "copy")
    elif how == "inner link":
        path.with_name("twin").write_bytes(content)
        path.symlink_to("twin")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()


@pytest.mark.parametrize("how", ["link", "inner link", "pipe", "folder"])
def test_no_file_of_a_checkpoint_may_be_anything_but_a_regular_file(copied, how):
    for name in ("manifest.json", "state/manifest.ocdbt", "state/_METADATA"):
        shutil.rmtree(copied / "x", ignore_errors=True)
        shutil.copytree(copied / "alone", copied / "x")
        replace_file(copied / "x" / str(STEP) / name, how, copied / "canary")
        OPENED.clear()
        with pytest.raises(DataError, match=f"is damaged .*{name}"):
            read(copied / "x")
        assert not any(path.endswith("copy") for path in OPENED)


def test_a_manifest_is_not_read_through_a_link(copied):
    replace_file(copied / "alone" / str(STEP) / "manifest.json", "link", copied / "canary")
    (copied / "copy").write_bytes(b"of another")
    with pytest.raises(DataError, match=r"is damaged \(manifest.json: is a link\)"):
        read(copied / "alone")


def test_no_folder_of_a_checkpoint_may_be_a_link(copied):
    folder = copied / "alone" / str(STEP)
    (folder / "state").rename(copied / "moved")
    (folder / "state").symlink_to(copied / "moved")
    with pytest.raises(DataError, match="'state': is a link"):
        read(copied / "alone")
    (folder / "state").unlink()
    (copied / "moved").rename(folder / "state")
    folder.rename(copied / "moved")
    folder.symlink_to(copied / "moved")
    with pytest.raises(DataError, match="7: is a link"):
        read(copied / "alone")


def test_a_link_beside_the_manifest_is_refused_and_a_note_is_not(copied):
    folder = copied / "alone" / str(STEP)
    (folder / "notes.txt").write_text("the good one")
    same(read(copied / "alone").state, whole())
    (folder / "link").symlink_to(copied / "canary")
    with pytest.raises(DataError, match="'link': is a link"):
        read(copied / "alone")


def test_a_file_that_the_manifest_does_not_know_is_refused(copied):
    (copied / "alone" / str(STEP) / "state" / "checkpoint").write_bytes(b"msgpack that orbax would have read")
    with pytest.raises(DataError, match=r"'state/checkpoint': the manifest does not know this file"):
        read(copied / "alone")


def rewritten(folder, change):
    """Changes what orbax wrote, and makes all checksums of the manifest fit again."""
    step = folder / str(STEP)
    m = inside(folder)
    change(step / "state", m)
    m["files"] = {name: contents.file_record(step / name) for name in contents.files_in(step) if "/" in name}
    (step / "manifest.json").write_bytes(manifest.encode(m))


def zarray(state, **changes):
    base = {"driver": "ocdbt", "base": f"file://{state}/"}
    store = tensorstore.KvStore.open(base).result()
    found = json.loads(store.read("params/a/.zarray").result().value)
    store.write("params/a/.zarray", json.dumps(found | changes).encode()).result()


def test_what_orbax_would_read_is_compared_before_it_is_read(copied, monkeypatch):
    def never(*arguments):
        raise AssertionError("it was read")

    changes = [
        ({"shape": [2**33, 4]}, "params/a: shape or dtype differs"),
        ({"dtype": "<f8"}, "params/a: shape or dtype differs"),
        ({"chunks": [2**33, 4]}, "params/a: is cut into pieces larger than itself"),
        ({"shape": [8, 2**33], "chunks": [8, 2**33]}, "params/a: shape or dtype differs"),
    ]
    monkeypatch.setattr(arrays_io.orbax().Checkpointer, "restore", never)
    for number, (change, words) in enumerate(changes):
        folder = copied / f"c{number}"
        shutil.copytree(copied / "alone", folder)
        rewritten(folder, lambda state, m, change=change: zarray(state, **change))
        with pytest.raises(DataError, match=words):
            read(folder)


def test_arrays_larger_than_this_machine_are_refused_even_where_all_agree(copied):
    def change(state, m):
        zarray(state, shape=[2**40, 4], chunks=[8, 4])
        part = m["arrays"]["params/a"]["parts"][0]
        m["arrays"]["params/a"]["shape"] = part["shape"] = [2**40, 4]

    rewritten(copied / "alone", change)
    with pytest.raises(DataError, match=r"arrays are 17,592,186,0.* bytes, this machine's memory is"):
        read(copied / "alone")


def test_orbax_is_not_talked_into_another_kind_of_leaf(copied):
    def change(state, m):
        path = state / "_METADATA"
        path.write_text(path.read_text().replace("np.ndarray", "jax.Array"))

    rewritten(copied / "alone", change)
    with pytest.raises(DataError, match="is damaged"):
        read(copied / "alone")


def test_a_checkpoint_of_schema_1_is_refused_in_clear_words(copied):
    m = inside(copied / "alone") | {"schema": 1}
    (copied / "alone" / str(STEP) / "manifest.json").write_bytes(document(plain(m)))
    with pytest.raises(DataError, match="schema 1, this version reads 2 alone"):
        read(copied / "alone")


def test_a_manifest_that_is_too_long_is_not_read(copied):
    path = copied / "alone" / str(STEP) / "manifest.json"
    os.truncate(path, manifest.MOST_BYTES + 1)
    with pytest.raises(DataError, match=r"manifest.json: more than 67,108,864 bytes"):
        read(copied / "alone")
