import csv
import gzip
import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jtrain.data.examples import Wanted, check_targets
from jtrain.data.sources.table import table
from jtrain.errors import ConfigError, DataError
from jtrain.table import options

VALUES, CLASS, CLASSES, ANY = (Wanted(targets=kind) for kind in ("values", "class", "classes", "any"))


def together(dataset):
    """All (inputs, targets), train before test."""
    splits = [split.arrays() for split in (dataset.train, dataset.test) if split is not None]
    return [np.concatenate(parts) for parts in zip(*splits, strict=True)]


def written(path, content: str) -> str:
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return str(path)


def load(tmp_path, content, wanted=VALUES, name="a.csv", **given):
    return table(wanted, path=written(tmp_path / name, content), **{"target": "y", "test": 0.0, **given})


FLOWERS = "length,width,wild,kind\n" + "".join(
    f"{i / 8},{i * i},{'true' if i % 2 else 'false'},{['rose', 'lily', 'iris'][i % 3]}\n" for i in range(30)
)


def test_options_have_defaults_that_hold():
    for key, option in options(table).items():
        assert option.check(option.default) == option.default, key


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "A.TXT"])
def test_rows_are_those_that_the_csv_module_reads(tmp_path, name):
    dataset = load(tmp_path, FLOWERS, CLASS, name, target="kind")
    rows = list(csv.DictReader(io.StringIO(FLOWERS)))
    inputs, targets = dataset.train.arrays()
    assert inputs.dtype == np.float32
    expected = [[float(r["length"]), float(r["width"]), float(r["wild"] == "true")] for r in rows]
    assert np.array_equal(inputs, np.array(expected, np.float32))
    assert [dataset.class_names[target] for target in targets] == [row["kind"] for row in rows]
    assert dataset.class_names == ("iris", "lily", "rose")
    assert dataset.num_outputs == 3
    assert dataset.test is None


def test_without_a_path_it_is_the_diabetes_set_of_scikit_learn():
    from sklearn.datasets import load_diabetes

    loaded = load_diabetes()
    dataset = table(VALUES)
    inputs, targets = together(dataset)
    by_row = np.lexsort(np.column_stack([inputs, targets]).T)
    expected = np.column_stack([loaded.data, loaded.target]).astype(np.float32)
    np.testing.assert_allclose(
        np.column_stack([inputs, targets])[by_row], expected[np.lexsort(expected.T)], rtol=1e-5, atol=1e-7
    )
    assert (len(dataset.train), len(dataset.test)) == (354, 88)
    assert (dataset.num_outputs, dataset.targets, dataset.class_names) == (1, "values", ("target",))
    check_targets(targets, "values", 1, "train")


def test_columns_of_the_diabetes_set_can_be_chosen_by_name():
    from sklearn.datasets import load_diabetes

    loaded = load_diabetes()
    inputs, targets = table(VALUES, features=("bp", "age"), target="bmi,s6", test=0.0).train.arrays()
    names = loaded.feature_names
    np.testing.assert_allclose(inputs, loaded.data[:, [names.index("bp"), names.index("age")]], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(targets, loaded.data[:, [names.index("bmi"), names.index("s6")]], rtol=1e-5, atol=1e-7)


def test_diabetes_loads_without_importing_scikit_learn():
    code = (
        "import sys; from jtrain.data.sources.table import table; from jtrain.data.examples import Wanted;"
        "table(Wanted(targets='values')); print('sklearn' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"


def test_parquet_gives_what_the_same_csv_gives(tmp_path):
    rows = list(csv.DictReader(io.StringIO(FLOWERS)))
    stored = pa.table(
        {
            "length": pa.array([float(r["length"]) for r in rows], pa.float32()),
            "width": pa.array([int(r["width"]) for r in rows], pa.decimal128(8, 0)),
            "wild": pa.array([r["wild"] == "true" for r in rows]),
            "kind": pa.array([r["kind"] for r in rows]).dictionary_encode(),
        }
    )
    folder = tmp_path / "year=2024"  # no column of it
    folder.mkdir()
    parquet.write_table(stored, folder / "a.parquet", row_group_size=7)
    ours = table(CLASS, path=str(folder / "a.parquet"), target="kind")
    theirs = load(tmp_path, FLOWERS, CLASS, target="kind", test=0.2)
    assert ours.class_names == theirs.class_names
    for split in ("train", "test"):
        for one, other in zip(getattr(ours, split).arrays(), getattr(theirs, split).arrays(), strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_test_split_is_stratified_and_the_same_for_every_seed(tmp_path, share):
    content = "x,y\n" + "".join(f"{i},{'rare' if i % 10 == 0 else 'often'}\n" for i in range(100))
    one, other = (
        table(Wanted(seed, "class"), path=written(tmp_path / "a.csv", content), target="y", test=share)
        for seed in (0, 1)
    )
    assert np.array_equal(one.test.arrays()[0], other.test.arrays()[0])
    assert np.bincount(one.test.arrays()[1]).tolist() == [90 * share, 10 * share]
    assert sorted(together(one)[0][:, 0].tolist()) == list(range(100))  # each row once


def test_rows_of_numbers_are_split_at_random(tmp_path):
    content = "x,y\n" + "".join(f"{i},{i}\n" for i in range(50))
    dataset = load(tmp_path, content, test=0.2)
    assert len(dataset.test) == 10
    assert sorted(together(dataset)[1].tolist()) == list(range(50))
    assert dataset.test.arrays()[1].tolist() != list(range(40, 50))


def test_class_numbers_follow_the_order_of_numbers_not_of_text(tmp_path):
    dataset = load(tmp_path, "x,y\n1,10\n2,9\n3,-1\n4,9\n", CLASS)
    assert dataset.class_names == ("-1", "9", "10")
    assert dataset.train.arrays()[1].tolist() == [2, 1, 0, 1]
    assert dataset.train.arrays()[1].dtype == np.int32


def test_classes_that_look_like_numbers_keep_their_spelling(tmp_path):
    dataset = load(tmp_path, "x, y\n1,10\n2, 01\n3,00\n4,0\n5,01\n", CLASS, features=("x",))
    assert dataset.class_names == ("0", "00", "01", "10")
    assert dataset.train.arrays()[1].tolist() == [3, 2, 1, 0, 2]


def test_classes_of_numbers_in_parquet_have_no_spelling(tmp_path):
    parquet.write_table(pa.table({"x": [1, 2, 3], "y": [10.0, 9.0, 10.0]}), tmp_path / "a.parquet")
    dataset = table(CLASS, path=str(tmp_path / "a.parquet"), target="y", test=0.0)
    assert dataset.class_names == ("9", "10")
    assert dataset.train.arrays()[1].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("column", "names"),
    [("10.0 9.0 10.0", ("9.0", "10.0")), ("true false true", ("false", "true")), ("b a b", ("a", "b"))],
)
def test_whole_floats_booleans_and_text_are_classes(tmp_path, column, names):
    values = column.split()
    dataset = load(tmp_path, "x,y\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)), CLASS)
    assert dataset.class_names == names
    assert dataset.train.arrays()[1].tolist() == [1, 0, 1]


def test_several_columns_of_0_and_1_are_classes(tmp_path):
    dataset = load(tmp_path, "x,a,b,c\n5,0,1,true\n6,1,1,false\n", CLASSES, target="c, a,b")
    inputs, targets = dataset.train.arrays()
    assert inputs.tolist() == [[5], [6]]
    assert targets.tolist() == [[1, 0, 1], [0, 1, 1]]
    assert dataset.class_names == ("c", "a", "b")
    check_targets(targets, "classes", dataset.num_outputs, "train")


def test_column_whose_name_has_a_comma_is_one_target(tmp_path):
    dataset = load(tmp_path, 'x,"a,b"\n1,2\n3,4\n', target="a,b")
    assert dataset.train.arrays()[1].tolist() == [2, 4]


def test_any_target_needs_none_and_leaves_the_named_one_out(tmp_path):
    assert load(tmp_path, "x,y\n1,2\n3,4\n", ANY, target="").train.arrays()[0].tolist() == [[1, 2], [3, 4]]
    dataset = load(tmp_path, "x,y\n1,text\n3,\n", ANY)
    assert dataset.train.arrays()[0].tolist() == [[1], [3]]
    assert (dataset.targets, dataset.num_outputs) == ("class", 1)


@pytest.mark.parametrize(("separator", "sign"), [(";", ";"), (r"\t", "\t"), ("\t", "\t"), ("|", "|")])
def test_separator_may_be_another(tmp_path, separator, sign):
    dataset = load(tmp_path, "x,y\n1,2\n3,4\n".replace(",", sign), separator=separator)
    assert dataset.train.arrays()[0].tolist() == [[1], [3]]


def test_blanks_and_the_mark_of_windows_are_no_part_of_names_and_classes(tmp_path):
    dataset = load(tmp_path, "\ufeffx, y\n1, b\n2, a\n", CLASS, features=("x",))
    assert dataset.class_names == ("a", "b")


def test_unnamed_column_can_be_passed_over_by_naming_the_others(tmp_path):
    content = ",x,y\n0,5,1\n1,6,2\n"
    assert load(tmp_path, content, features=("x",)).train.arrays()[0].tolist() == [[5], [6]]
    with pytest.raises(ConfigError, match=r"^data\.table\.features: .*column without a name.*index=False"):
        load(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "wanted", "given", "kind", "words"),
    [
        ("x,y\n1,2\n", VALUES, {"target": "z"}, ConfigError, r"^data\.table\.target: .* no column 'z'; did you mean"),
        ("x,y\n1,2\n", VALUES, {"target": "price"}, ConfigError, r"no column 'price'; it has 'x', 'y'$"),
        ("x,y\n1,2\n", VALUES, {"features": ("xx",)}, ConfigError, r"^data\.table\.features: .*'xx'; did you mean 'x'"),
        ("x,y\n1,2\n", VALUES, {"target": ""}, ConfigError, r"^data\.table\.target: is empty; .*'x', 'y'"),
        ("x,y\n1,2\n", VALUES, {"features": ("x", "y")}, ConfigError, r"features: 'y' is the target"),
        ("x,y\n1,2\n", VALUES, {"features": ("x", "x")}, ConfigError, r"features: 'x' is there twice"),
        ("x,y\n1,2\n", VALUES, {"target": "x,y"}, ConfigError, r"no other columns"),
        ("x,y,z\n1,2,3\n", CLASS, {"target": "z,y"}, ConfigError, r'2 columns, a class is one; .*"multilabel"'),
        ("x;y\n1;2\n", VALUES, {}, ConfigError, r"^data\.table\.separator: ',' finds one column .*separator=';'"),
        ("x,y\n1,2\n", VALUES, {"separator": ",,"}, ConfigError, r"^data\.table\.separator: must be one character"),
        ("x,y\n1,2\n", Wanted(targets="tokens"), {}, ConfigError, r'^data\.name: "table" gives no tokens'),
        ("x,y\n1,2\nred,3\n", VALUES, {}, DataError, r"'x' has 'red' in row 2 \(the first is row 1\); .*features"),
        ("x,y\n1,2\n2,big\n", VALUES, {}, DataError, r"'y' has 'big' in row 2 .*text is for task\.name=\"classif"),
        ("x,y\n2020-01-01,2\n2020-01-02,3\n", VALUES, {}, DataError, r"column 'x' has datetime.* in row 1"),
        ("x,y\n1,2\n,3\nNA,4\n", VALUES, {}, DataError, r"column 'x' lacks 2 of 3 values, the first in row 2"),
        ("x,y\n,2\n,3\n", VALUES, {}, DataError, r"column 'x' lacks 2 of 2 values, the first in row 1"),
        ("x,y\n1,a\n2,\n", CLASS, {}, DataError, r"column 'y' lacks 1 of 2 values, the first in row 2"),
        ("x,y\n1,a\n2, \n", CLASS, {}, DataError, r"column 'y' has '' in row 2"),
        ("x,y\n1,2\n-inf,3\n", VALUES, {}, DataError, r"column 'x' has -inf in row 2 .*; remove such rows"),
        ("x,y\n1,2\n1e39,3\n", VALUES, {}, DataError, r"column 'x' has 1e\+39 in row 2 .*which float32 cannot hold"),
        ("x,y\n1,1\n2,0.5\n", CLASS, {}, DataError, r"column 'y' has 0\.5 in row 2 .*\"regression\""),
        ("x,y\n1,1\n2,inf\n", CLASS, {}, DataError, r"column 'y' has inf in row 2"),
        ("x,y\n1,2020-01-01\n2,2020-01-02\n", CLASS, {}, DataError, r"in row 1 .*classes are text or whole numbers"),
        ("x,y\n1,7\n2,7\n", VALUES, {}, DataError, r"column 'y' .* is 7 in all 2 rows"),
        ("x,y\n1,a\n2,a\n", CLASS, {}, DataError, r"column 'y' .* is a in all 2 rows"),
        ("x,y\n1,0\n2,3\n", CLASSES, {}, DataError, r"column 'y' .* has 3 in row 2 .*0 or 1"),
        ("x,y\n", VALUES, {}, DataError, r"a\.csv has no rows"),
        ("", VALUES, {}, DataError, r"a\.csv cannot be read \(Empty CSV file\)"),
        ("x,y,x\n1,2,3\n", VALUES, {}, DataError, r"2 columns named 'x'"),
        ("x,y\n1,2\n3\n", VALUES, {}, DataError, r"cannot be read \(.*Row #3.*\); .*data\.table\.separator"),
        ("0.5,1.5\n1,2\n", VALUES, {"target": "1.5"}, DataError, r"the first line of .* has numbers, 0\.5, 1\.5"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_column_and_row(tmp_path, content, wanted, given, kind, words):
    with pytest.raises(kind, match=words) as caught:
        load(tmp_path, content, wanted, **given)
    assert "\n" not in str(caught.value)


def test_a_row_far_down_is_named_though_the_file_is_read_in_blocks(tmp_path):
    rows = [f"{i},{i}" for i in range(300_000)]
    rows[250_000] = "zz,1"
    with pytest.raises(DataError, match=r"column 'x' has 'zz' in row 250,001 "):
        load(tmp_path, "x,y\n" + "\n".join(rows))


def test_a_line_end_inside_quotes_is_no_end_of_a_row_wherever_a_block_ends(tmp_path):
    dataset = load(tmp_path, "x,y\n" + "".join(f'{i},"{"ab"[i % 2]}\n\n\n"\n' for i in range(200_000)), CLASS)
    assert dataset.train.arrays()[1].tolist() == [0, 1] * 100_000


def test_parquet_whose_text_is_no_text_is_damaged(tmp_path):
    buffers = [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")]
    text = pa.Array.from_buffers(pa.string(), 2, buffers)
    parquet.write_table(pa.table({"x": [1, 2], "y": text}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read \(.*UTF8"):
        table(CLASS, path=str(tmp_path / "a.parquet"), target="y")


def test_files_that_are_not_utf8_are_named_with_the_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x,y\n1,tea\n2,caf\xe9\n")
    with pytest.raises(DataError, match=r"column 'y' has b'caf\\xe9' in row 2 .*UTF-8"):
        table(CLASS, path=str(tmp_path / "a.csv"), target="y")
    (tmp_path / "a.csv").write_bytes(b"caf\xe9,y\n1,tea\n")
    with pytest.raises(DataError, match=r"a\.csv cannot be read \('utf-8'"):
        table(CLASS, path=str(tmp_path / "a.csv"), target="y")


def parquet_bytes() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"x": np.arange(999.0), "y": np.arange(999)}), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b""),
        ("a.parquet", b"x,y\n1,2\n"),
        ("a.parquet", parquet_bytes()[:2000]),
        ("a.pq", parquet_bytes()[:10] + b"\xff" * 30 + parquet_bytes()[40:]),
        ("a.csv.gz", b"x,y\n1,2\n"),
        ("a.csv.gz", gzip.compress(b"x,y\n" + b"1,2\n" * 999, mtime=0)[:-20]),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"^data\.table\.path: .*{name} cannot be read \(") as caught:
        table(VALUES, path=str(tmp_path / name), target="y")
    assert "\n" not in str(caught.value)


def test_missing_value_in_parquet_may_be_null_or_nan(tmp_path):
    parquet.write_table(pa.table({"x": pa.array([1.0, float("nan"), None]), "y": [1, 2, 3]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'x' lacks 2 of 3 values, the first in row 2"):
        table(VALUES, path=str(tmp_path / "a.parquet"), target="y")


def test_missing_files_and_other_kinds_of_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"^data\.table\.path: no file .*nothing\.csv"):
        table(VALUES, path=str(tmp_path / "nothing.csv"), target="y")
    with pytest.raises(ConfigError, match=r"^data\.table\.path: .*a\.xlsx ends with none of \.csv"):
        table(VALUES, path=str(tmp_path / "a.xlsx"), target="y")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(DataError, match=r"b\.csv is a folder"):
        table(VALUES, path=str(tmp_path / "b.csv"), target="y")


@pytest.mark.parametrize("wanted", [CLASS, CLASSES])
def test_diabetes_has_no_classes(wanted):
    with pytest.raises(ConfigError, match=r'^data\.table\.path: is empty, .*set task\.name="regression"'):
        table(wanted)


def test_a_long_list_of_columns_is_cut_short(tmp_path):
    names = [f"column{i}" for i in range(200)]
    with pytest.raises(ConfigError, match=r"'column11', … \(200 in all\)$") as caught:
        load(tmp_path, ",".join(names) + "\n" + ",".join(["1"] * 200) + "\n", target="price")
    assert len(str(caught.value)) < 400
