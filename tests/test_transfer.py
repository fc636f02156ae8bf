import functools
import io
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import blobs, tiny, tiny_run
from model_helpers import shapes

from jtrain.assembly import assemble
from jtrain.config_files import to_json
from jtrain.errors import ConfigError, DataError
from jtrain.io import weights
from jtrain.io.checkpoint import Checkpoints
from jtrain.io.progress import Screen
from jtrain.loop import train
from jtrain.models import MODELS
from jtrain.models.pure import as_model
from jtrain.models.torch_names import to_torch
from jtrain.state import to_flat
from jtrain.tasks import TASKS, Facts
from jtrain.transfer import Options, start
from jtrain.tree import flatten, unflatten
from jtrain.verbs.export import BOUNDS, activation, export_weights

GOLDEN = pathlib.Path(__file__).parent / "golden"
RESNET = GOLDEN / "torchvision_resnet18.safetensors"


def values(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# A model with a statistic, and what normalises its inputs.
STATE = {
    "params/conv/kernel": values((3, 3, 2, 4), 1),
    "params/norm/scale": values((4,), 2),
    "params/head/kernel": values((4, 5), 3),
    "params/head/bias": values((5,), 4),
    "model_state/batch_stats/norm/mean": values((4,), 5),
    "model_state/batch_stats/norm/var": values((4,), 6) ** 2,
    "model_state/normalize/mean": values((2,), 7),
    "model_state/normalize/scale": values((2,), 8) ** 2,
}
OTHERS = {"step": np.array(3, np.int32), "opt_state/0/mu/conv/kernel": values((3, 3, 2, 4), 9)}
NUMBERS = {"conv": 72, "norm": 4, "head": 25}


def like(**changed):
    """STATE as abstract arrays, some of other shapes; None takes one away. '__' stands for '/'."""
    changed = {path.replace("__", "/"): shape for path, shape in changed.items()}
    found = {path: jax.ShapeDtypeStruct(array.shape, np.float32) for path, array in STATE.items()}
    found |= {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in changed.items() if shape is not None}
    return {path: leaf for path, leaf in found.items() if changed.get(path, ()) is not None}


def without(arrays, *paths):
    return {path: array for path, array in arrays.items() if path not in paths}


def renamed(arrays, old, new):
    return {path.replace(old, new): array for path, array in arrays.items()}


@pytest.fixture
def workdir(tmp_path):
    """workdir({step: state}, best=…, data=…): the folder of a run with these checkpoints."""

    def make(states=None, best=None, data=None):
        checkpoints = Checkpoints(tmp_path / "w" / "checkpoints", keep=9, event=print, finite=False)
        for step, state in (states or {3: STATE | OTHERS}).items():
            checkpoints.save(step, state, {"best": best and {"step": best}, "data": data}, block=True)
        checkpoints.close()
        return tmp_path / "w"

    return make


@pytest.fixture
def torch_file(tmp_path):
    """torch_file(state, name=array, …): a file of these weights as torch has them."""

    def make(state=None, **more):
        nested = unflatten(STATE if state is None else state)
        path = tmp_path / "torch.safetensors"
        weights.write(path, to_torch("own", nested["params"], nested["model_state"]) | more, {})
        return path

    return make


def begin(source, expected=None, **options):
    return start(Options(str(source), **options), "own", like() if expected is None else expected)


def refused(error, match, source, expected=None, **options):
    with pytest.raises(error, match=match) as caught:
        begin(source, expected, **options)
    assert str(caught.value).startswith("transfer.")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(found, expected):
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, strict=True, err_msg=path)


# Torch


@functools.cache
def resnet():
    module = MODELS["resnet"](5, width=4, form="imagenet")
    return as_model(module), flatten(dict(zip(("params", "model_state"), shapes(module, (43, 38, 3)), strict=True)))


def logits_of(arrays):
    model, _ = resnet()
    tree = unflatten(arrays)
    run = jax.jit(functools.partial(model.apply, key=None, train=False))
    return run(tree["params"], tree["model_state"], np.load(GOLDEN / "torchvision_resnet18.npz")["inputs"])[0]


def test_a_file_of_torchvisions_resnet_gives_its_logits():
    begun = start(Options(str(RESNET)), "resnet", resnet()[1])
    assert begun.arrays.keys() == resnet()[1].keys()
    assert (begun.report.coverage, begun.report.unused, begun.report.missing) == (1.0, (), ())
    golden = np.load(GOLDEN / "torchvision_resnet18.npz")["logits"]
    assert golden.std() > 0.05  # the logits say something
    np.testing.assert_allclose(logits_of(begun.arrays), golden, atol=1e-6)


def test_torchs_names_are_renamed_before_its_layout_is_read(tmp_path):
    path = tmp_path / "wrapped.safetensors"
    head = {"fc.weight": "classifier.1.weight", "fc.bias": "classifier.1.bias"}
    weights.write(path, {f"module.{head.get(n, n)}": a for n, a in weights.read(RESNET).items()}, {})
    rules = ((r"module\.classifier\.1\.(.*)", r"fc.\1"), (r"module\.(.*)", r"\1"))
    begun = start(Options(str(path), rename=rules), "resnet", resnet()[1])
    same(begun.arrays, start(Options(str(RESNET)), "resnet", resnet()[1]).arrays)
    with pytest.raises(
        ConfigError, match=r"missing: fc\.bias, .*is 'module\.layer1\.0\.conv1\.weight' there"
    ) as caught:
        start(Options(str(path)), "resnet", resnet()[1])
    assert "transfer.rename" in str(caught.value)


def test_a_head_of_other_classes_is_refused_with_the_option_that_helps_and_taken_with_it():
    abstract = dict(resnet()[1])
    abstract["params/head/kernel"] = jax.ShapeDtypeStruct((32, 7), np.float32)
    abstract["params/head/bias"] = jax.ShapeDtypeStruct((7,), np.float32)
    with pytest.raises(ConfigError, match=r"head/kernel is \[32, 5\] there and \[32, 7\] here") as caught:
        start(Options(str(RESNET)), "resnet", abstract)
    assert str(caught.value).endswith("set transfer.reinit=('head/.*',)")
    begun = start(Options(str(RESNET), reinit=("head/.*",)), "resnet", abstract)
    assert begun.report.reinitialised == ("params/head/bias", "params/head/kernel")
    assert begun.report.mismatched == (("params/head/bias", (5,), (7,)), ("params/head/kernel", (32, 5), (32, 7)))
    assert begun.report.coverage == 1.0
    assert begun.arrays.keys() == abstract.keys() - set(begun.report.reinitialised)


def test_a_torch_file_of_every_float_type_starts_as_float32(tmp_path):
    path = tmp_path / "half.safetensors"
    wide = weights.read(RESNET)
    for dtype in (np.float16, np.float64):
        floats = {name: a.astype(dtype) if a.dtype == np.float32 else a for name, a in wide.items()}
        weights.write(path, floats, {})
        begun = start(Options(str(path)), "resnet", resnet()[1])
        assert {array.dtype for array in begun.arrays.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(begun.arrays["params/head/bias"], wide["fc.bias"].astype(dtype))


def test_torchs_file_does_not_say_how_inputs_were_normalised(torch_file):
    begun = begin(torch_file())
    same(begun.arrays, without(STATE, "model_state/normalize/mean", "model_state/normalize/scale"))
    assert "the source does not tell its own" in begun.report.notes[0]


def test_a_dense_layer_over_a_flattened_map_is_not_taken_in_silence(torch_file):
    flat = STATE | {"params/head/kernel": values((36, 5))}
    begun = begin(torch_file(flat), like(params__head__kernel=(36, 5)))
    assert any(note.startswith("head/kernel: loaded as torch has it; if it reads") for note in begun.report.notes)
    assert "channels, height, width" in begun.report.lines()[-1]
    path = torch_file(flat)
    weights.write(path, weights.read(path), {"jtrain": "0.1.0"})  # an export keeps the order that it had here
    assert not any("flattened" in note for note in begin(path, like(params__head__kernel=(36, 5))).report.notes)


# Another run


def test_the_newest_checkpoint_of_a_run_is_taken_with_its_statistics_and_normalising(workdir):
    folder = workdir({1: {p: a + 1 for p, a in STATE.items()}, 3: STATE | OTHERS})
    begun = begin(folder)
    same(begun.arrays, dict(sorted(STATE.items())))
    assert begun.report.source == f"{folder}, update 3"
    assert begun.report.numbers == sum(NUMBERS.values())
    assert begun.report.lines()[:2] == [
        f"  start     {folder}, update 3",
        "  loaded    4 arrays and 4 statistics; 101 parameters, 100.0%",
    ]
    assert "normalised as they were for these weights" in begun.report.notes[0]


def test_averaged_parameters_are_taken_where_there_are_any(workdir):
    average = {path.replace("params/", "ema/"): a + 1 for path, a in STATE.items() if path.startswith("params/")}
    begun = begin(workdir({3: STATE | average}))
    expected = {path: a + 1 if path.startswith("params/") else a for path, a in STATE.items()}
    same(begun.arrays, dict(sorted(expected.items())))
    assert begun.report.source.endswith(", averaged parameters")


@pytest.mark.parametrize(("where", "step"), [("{}@2", 2), ("{}@best", 1), ("{}", 3), ("{}/checkpoints/1", 1)])
def test_a_checkpoint_is_named_by_step_or_as_the_best(workdir, where, step):
    folder = workdir({n: {p: a + n for p, a in STATE.items()} for n in (1, 2, 3)}, best=1)
    found = begin(where.format(folder))
    np.testing.assert_array_equal(found.arrays["params/head/bias"], STATE["params/head/bias"] + step)
    assert f"update {step}" in found.report.source


def test_a_folder_whose_name_holds_an_at_is_a_workdir(workdir):
    folder = workdir()
    other = folder.rename(folder.with_name("lr@0.1"))
    assert begin(other).report.source == f"{other}, update 3"


def test_what_is_no_checkpoint_is_refused_with_what_there_is(workdir, tmp_path):
    folder = workdir()
    refused(DataError, "no checkpoint 7; there are: 3", f"{folder}@7")
    refused(DataError, "no checkpoint 7; there are: 3", f"{folder}/checkpoints/7")
    refused(DataError, "has chosen a best step yet", f"{folder}@best")
    refused(ConfigError, "'tuesday' must be 'latest', 'best' or the number", f"{folder}@tuesday")
    refused(DataError, "there is no such file or workdir", tmp_path / "nowhere")
    refused(DataError, "no such file", tmp_path / "none.safetensors")
    refused(DataError, "there is no such file or workdir", "x" * 300)  # which no disk can hold
    refused(DataError, "File name too long", "x" * 300 + ".safetensors")
    refused(DataError, "holds no run", tmp_path)
    refused(ConfigError, "'torch' is for files", folder, layout="torch")
    shutil.rmtree(folder / "checkpoints" / "3")
    refused(DataError, "holds no checkpoint yet", folder)


def test_a_damaged_checkpoint_is_passed_over_in_words_or_refused_when_asked_for(workdir):
    folder = workdir({1: STATE, 3: STATE})
    (folder / "checkpoints" / "3" / "manifest.json").write_text("{}")
    begun = begin(folder)
    assert begun.report.source.endswith("update 1")
    assert "checkpoint 3 is damaged" in begun.report.notes[0]
    refused(DataError, "checkpoint 3 is damaged", f"{folder}@3")
    shutil.rmtree(folder / "checkpoints" / "1")
    refused(DataError, "all checkpoints are damaged", folder)


def test_a_rename_moves_parameters_and_their_statistics(workdir):
    encoder = {p.replace("norm/", "encoder/norm/").replace("conv/", "encoder/conv/"): a for p, a in STATE.items()}
    begun = begin(workdir({3: encoder}), rename=((r"encoder/(.*)", r"\1"),))
    same(begun.arrays, dict(sorted(STATE.items())))


def test_the_first_rename_that_matches_counts(workdir):
    swapped = renamed(STATE, "params/head/", "params/tail/")
    rules = (("tail/bias", "head/bias"), (r"tail/(.*)", r"head/\1"))
    same(begin(workdir({3: swapped}), rename=rules).arrays, dict(sorted(STATE.items())))
    refused(ConfigError, r"transfer\.rename: 'tail/bias' .*earlier patterns take", workdir(), rename=rules[::-1])


@pytest.mark.parametrize(
    ("rules", "match"),
    [
        (
            (("hed/(.*)", r"tail/\1"),),
            r"transfer\.rename: 'hed/\(\.\*\)' matches nothing in .*did you mean 'head/\.\*'\?",
        ),
        ((("xyzw.*", "a"),), "matches nothing .*names are conv/kernel, head/bias"),
        ((("params/head/bias", "a"),), "matches nothing"),
        ((("head", "tail"),), "'head' matches nothing"),  # all of a name must match
        ((("norm/(scale|mean)", "norm/one"), ("norm/var", "norm/one")), "'batch_stats/norm/mean' and .* both be"),
        ((("head/bias", "conv/kernel"),), "'conv/kernel' and 'head/bias' would both be 'conv/kernel'"),
        ((("(head", "a"),), "is not a regular expression"),
        ((("head/(.*)", r"\2"),), r"'\\\\2' does not fit 'head/\(\.\*\)'"),
        ((("head/bias", ""),), "leaves nothing of 'head/bias'"),
    ],
)
def test_a_rename_that_cannot_be_meant_is_refused(workdir, rules, match):
    refused(ConfigError, match, workdir(), rename=rules)


def test_normalising_is_never_renamed(workdir):
    wrapped = {path: array for path, array in STATE.items() if "norm/" not in path}
    expected = {p.replace("params/", "params/net/"): leaf for p, leaf in like().items() if "norm/" not in p}
    begun = begin(workdir({3: wrapped}), expected, rename=(("(.*)", r"net/\1"),))
    assert begun.arrays.keys() == expected.keys()


def test_reinitialised_layers_keep_their_draw_with_their_statistics(workdir):
    begun = begin(workdir(), reinit=("head/bias", "norm/.*"))
    away = ("params/head/bias", "params/norm/scale", *(f"model_state/batch_stats/norm/{n}" for n in ("mean", "var")))
    same(begun.arrays, dict(sorted(without(STATE, *away).items())))
    assert begun.report.reinitialised == tuple(sorted(away))
    assert begun.report.coverage == 1.0
    assert begun.report.numbers == 101 - 5 - 4


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("haed/.*", r"'haed/\.\*' matches nothing here; did you mean 'head/\.\*'\?"),
        ("params/head/.*", "matches nothing"),
        ("head", "matches nothing"),  # all of a path must match
        ("qqqq", "names are "),
        ("*", "is not a regular expression"),
        (".*", "leaves nothing to load"),
    ],
)
def test_a_reinit_that_cannot_be_meant_is_refused(workdir, pattern, match):
    refused(ConfigError, rf"transfer\.reinit: .*{match}|transfer\.reinit.*{match}", workdir(), reinit=(pattern,))


def test_inputs_of_other_channels_need_a_fresh_first_layer_and_their_own_normalising(workdir):
    wide = like(
        params__conv__kernel=(3, 3, 6, 4), model_state__normalize__mean=(6,), model_state__normalize__scale=(6,)
    )
    text = refused(ConfigError, r"conv/kernel is \[3, 3, 2, 4\] there and \[3, 3, 6, 4\] here", workdir(), wide)
    assert text.endswith("to draw it anew, set transfer.reinit=('conv/.*',)")
    begun = begin(workdir(), wide, reinit=("conv/.*",))
    assert not any("normalize" in path for path in begun.arrays)
    assert "their channels are others" in begun.report.notes[0]


def test_a_wrong_shape_is_an_error_whatever_the_coverage_and_keeps_the_patterns_there_are(workdir):
    other = like(params__norm__scale=(9,), params__head__bias=(9,), model_state__batch_stats__norm__var=(9,))
    text = refused(ConfigError, "norm/scale is", workdir(), other, coverage=0.1, reinit=("head/.*",))
    assert text.endswith("set transfer.reinit=('head/.*', 'norm/.*',)")


def test_what_is_missing_is_counted_in_numbers_and_refused_below_the_coverage(workdir):
    folder = workdir({3: renamed(STATE, "head/", "heads/")})
    text = refused(ConfigError, "fills 76 of 101 parameters \\(75.2%\\), transfer.coverage asks for 100.0%", folder)
    assert "missing: head/bias, head/kernel; unused there: heads/bias, heads/kernel" in text
    assert "is 'heads/bias' there 'head/bias'?" in text
    refused(ConfigError, "asks for 75.3%", folder, coverage=0.753)
    begun = begin(folder, coverage=76 / 101)
    assert begun.report.missing == ("params/head/bias", "params/head/kernel")
    assert begun.report.unused == ("heads/bias", "heads/kernel")
    assert begun.report.coverage == 76 / 101
    assert any(line == "  missing   head/bias, head/kernel; drawn fresh" for line in begun.report.lines())


def test_a_missing_statistic_is_an_error_unless_less_is_asked_for(workdir):
    folder = workdir({3: without(STATE, "model_state/batch_stats/norm/var")})
    refused(ConfigError, "missing: batch_stats/norm/var", folder)
    assert begin(folder, coverage=0.99).report.missing == ("model_state/batch_stats/norm/var",)
    begin(folder, reinit=("norm/var",))


def test_nothing_at_all_that_fits_is_an_error_at_any_coverage(workdir):
    refused(ConfigError, "fills 0 of 101", workdir({3: renamed(STATE, "params/", "params/x/")}), coverage=0.0)


def test_more_than_is_needed_is_reported(workdir):
    begun = begin(workdir({3: STATE | {"params/extra/bias": np.ones(2, np.float32)}}))
    assert begun.report.unused == ("extra/bias",)
    assert "  unused    extra/bias" in begun.report.lines()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(workdir, torch_file, bad):
    broken = STATE | {"params/conv/kernel": np.full((3, 3, 2, 4), bad, np.float32)}
    refused(DataError, "conv/kernel: holds NaN or infinity", workdir({3: broken}))
    refused(DataError, r"conv\.weight: holds NaN or infinity", torch_file(broken))
    begin(torch_file(broken), reinit=("conv/.*",))  # what is not loaded may be anything


def test_a_float64_beyond_float32_is_named(torch_file):
    refused(DataError, r"head\.bias: holds NaN or infinity", torch_file(**{"head.bias": np.full(5, 1e300)}))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_])
def test_whole_numbers_where_floats_belong_are_refused(torch_file, dtype):
    refused(DataError, r"head\.bias: is \w+, not floats", torch_file(**{"head.bias": np.ones(5, dtype)}))


def test_whole_numbers_of_ours_are_taken_if_they_fit(workdir):
    path = "model_state/count/seen"
    ours = like() | {path: jax.ShapeDtypeStruct((2,), np.int32)}
    begun = begin(workdir({3: STATE | {path: np.array([1, 2], np.int64)}}), ours)
    np.testing.assert_array_equal(begun.arrays[path], np.array([1, 2], np.int32), strict=True)
    refused(DataError, "which int32 cannot hold", workdir({4: STATE | {path: np.array([0.5, 2])}}), ours)


UNIT = {f"model_state/rescale/{name}": np.array(7, np.float32) for name in ("mean", "scale")}


def test_the_unit_of_outputs_comes_only_with_every_parameter(workdir):
    ours = like() | {path: jax.ShapeDtypeStruct((), np.float32) for path in UNIT}
    folder = workdir({3: STATE | UNIT})
    begun = begin(folder, ours)
    same({p: a for p, a in begun.arrays.items() if "rescale" in p}, UNIT)
    assert "as they were for these weights" in begun.report.notes[1]
    kept = begin(folder, ours, reinit=("rescale/.*",))
    assert not any("rescale" in text for text in (*kept.arrays, *kept.report.notes))
    assert not any("rescale" in path for path in begin(folder, ours, reinit=("head/.*",)).arrays)
    assert not any("rescale" in path for path in begin(folder, ours, reinit=("rescale/scale",)).arrays)  # both or none
    begun = begin(folder, ours, reinit=("head/.*",))
    assert begun.report.notes[1:] == (
        "outputs are brought into the unit of this run's targets; parameters are drawn fresh",
    )
    assert "this run leaves its own" in begin(folder).report.notes[1]
    assert "the source does not tell its own" in begin(workdir({4: STATE}), ours).report.notes[1]


@pytest.mark.parametrize("layers", [{"head/": "out/"}, {"head/": "out/", "conv/": "attention/head/"}])
def test_the_unit_of_other_targets_does_not_come_with_a_new_last_layer_of_any_name(workdir, layers):
    state, ours = STATE | UNIT, like() | {path: jax.ShapeDtypeStruct((), np.float32) for path in UNIT}
    for old, new in layers.items():
        state, ours = renamed(state, old, new), renamed(ours, old, new)
    folder = workdir({3: state})
    assert begin(folder, ours).arrays.keys() > UNIT.keys()
    for options in ({"reinit": ("out/.*",)}, {"rename": (("out/(.*)", r"gone/\1"),), "coverage": 0.1}):
        assert not any("rescale" in path for path in begin(folder, ours, **options).arrays)


def test_a_model_of_a_program_learns_targets_of_another_unit_with_a_new_last_layer(tmp_path):
    inputs = values((60, 3))
    targets = inputs @ np.array([1, -2, 3], np.float32)
    config = functools.partial(tiny, task__name="regression", optimizer__lr=0.03)
    train(assemble(config("1steps"), model=Net(1), data=(inputs, targets * 1000 + 50_000)), tmp_path)
    options = {"transfer__init_from": str(tmp_path), "transfer__reinit": ("last/.*",)}
    run = assemble(config("30steps", **options), model=Net(1), data=(inputs, targets))
    assert run.evaluate(train(run, None).state, "val")["r2"] > 0.2


# Classes and tokens


def named(names, source, expected=None, **options):
    """The notes that tell of other classes, when ours have the checksum `names`."""
    found = start(Options(str(source), **options), "own", like() if expected is None else expected, names)
    return [note for note in found.report.notes if "other classes, targets or tokens" in note]


def test_weights_for_other_classes_are_told_unless_what_depends_on_them_is_new(workdir):
    folder = workdir(data={"train": 9, "names": 7})
    (note,) = named(8, folder)
    assert note.startswith(f"{folder}, update 3 was trained on other classes")
    assert note.endswith("transfer.reinit with 'head/.*'")
    assert named(7, folder) == named(None, folder) == named(0, folder) == []
    assert named(8, folder, reinit=("head/.*",)) == []
    assert len(named(8, folder, reinit=("conv/.*",))) == 1
    assert named(8, workdir({4: STATE}, data={"train": 9})) == named(8, workdir({5: STATE})) == []


def test_tokens_of_another_text_are_told_of_the_embedding_too(workdir):
    words = {"params/embedding/embedding": values((5, 2))}
    ours = like() | {path: jax.ShapeDtypeStruct(array.shape, np.float32) for path, array in words.items()}
    folder = workdir({3: STATE | words}, data={"names": 7})
    assert named(8, folder, ours)[0].endswith("transfer.reinit with 'embedding/.*', 'head/.*'")
    assert named(8, folder, ours, reinit=("head/.*",))[0].endswith("transfer.reinit with 'embedding/.*'")
    assert named(8, folder, ours, reinit=("head/.*", "embedding/.*")) == []


def test_a_model_without_a_head_is_told_when_all_of_it_is_loaded(workdir):
    folder, ours = workdir({3: renamed(STATE, "head/", "out/")}, data={"names": 7}), renamed(like(), "head/", "out/")
    assert named(8, folder, ours)[0].endswith("transfer.reinit with the name of the last layer")
    assert named(8, folder, ours, reinit=("out/.*",)) == []


def test_this_runs_own_normalising_is_kept_on_request(workdir):
    begun = begin(workdir(), reinit=("normalize/.*",))
    assert not any("normalize" in path for path in begun.arrays)
    assert begun.report.notes == ()


def test_weights_of_normalised_inputs_in_a_run_that_does_not_normalise_are_told(workdir):
    ours = without(like(), "model_state/normalize/mean", "model_state/normalize/scale")
    assert "this run does not normalise" in begin(workdir(), ours).report.notes[0]


FILTERS = {"model_state/whitening/whiten/kernel": values((2, 2, 2, 16))}
BEHIND = STATE | FILTERS | {"params/conv/kernel": values((3, 3, 16, 4))}  # the same model behind filters that whiten


def test_another_data_whiten_is_named_with_what_to_set(workdir, torch_file):
    behind = like(model_state__whitening__whiten__kernel=(2, 2, 2, 16), params__conv__kernel=(3, 3, 16, 4))
    wider = like(model_state__whitening__whiten__kernel=(3, 3, 2, 36), params__conv__kernel=(3, 3, 36, 4))
    folder = workdir({3: BEHIND})
    none = r"conv/kernel is .*; data\.whiten is 2 there and 0 here: set data\.whiten to 2; to draw it anew"
    refused(ConfigError, none, folder)
    refused(ConfigError, r"; data\.whiten is 2 there and 3 here: set data\.whiten to 2; to draw these", folder, wider)
    assert "whiten" not in "".join(begin(folder, behind).report.notes)
    found = begin(folder, reinit=("conv/.*",)).report
    assert any(
        note.startswith("data.whiten is 2 there and 0 here: a first layer that is loaded") for note in found.notes
    )
    # A layer of the model's own in place of the filters, which then is missing and not of another shape.
    stem = without(like(params__stem__kernel=(2, 2, 2, 16), params__conv__kernel=(3, 3, 16, 4)))
    refused(
        ConfigError, r"missing: stem/kernel; .*; data\.whiten is 2 there and 0 here: set .* to 2; rename", folder, stem
    )
    refused(ConfigError, none, torch_file(BEHIND))
    with pytest.raises(ConfigError, match=r"data\.whiten is 0 there and 2 here: set data\.whiten to 0"):
        begin(torch_file(STATE), behind)


# Files in Flax's layout


@pytest.mark.parametrize("separator", ["/", "."])
def test_a_file_of_flax_names_is_taken_with_or_without_its_collections(tmp_path, separator):
    path = tmp_path / "flax.safetensors"
    for cut in ("", "params/"):
        names = {p: p.removeprefix("model_state/").removeprefix(cut).replace("/", separator) for p in STATE}
        weights.write(path, {names[p]: array for p, array in STATE.items()}, {})
        begun = begin(path)
        same(begun.arrays, dict(sorted(STATE.items())))
        assert "Flax" in begun.report.source


def test_a_layout_that_cannot_be_told_is_asked_for(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.write(path, {"head.bias": values((5,))}, {})
    refused(ConfigError, r"transfer\.layout: .*neither .*say 'torch' or 'flax'", path)
    bias = {"params/head/bias": jax.ShapeDtypeStruct((5,), np.float32)}
    for layout in ("torch", "flax"):
        assert list(begin(path, bias, layout=layout).arrays) == list(bias)
    weights.write(path, {"head.weight": values((5,)), "head.kernel": values((5,))}, {})
    refused(ConfigError, "both torch's and Flax's", path)


def test_two_names_of_one_path_are_damage(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.write(path, {"head/kernel": values((5,)), "params/head/kernel": values((5,))}, {})
    refused(DataError, "another array are both params/head/kernel", path)


def test_a_pickle_is_refused_by_name_of_the_option(tmp_path):
    path = tmp_path / "resnet18.pth"
    path.write_bytes(b"PK\x03\x04" + b"\0" * 64)
    refused(DataError, "can run code and are not read", path)


# Whole runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a short run with averaged parameters, and its result."""
    folder = tmp_path_factory.mktemp("parent") / "w"
    return folder, train(tiny_run("10steps", ema__decay=0.9), folder)


def test_a_run_begins_with_the_evaluated_weights_of_another(trained):
    folder, result = trained
    run = tiny_run("4steps", transfer__init_from=str(folder))
    state = run.init_state()
    same(jax.device_get(flatten(state.params)), jax.device_get(flatten(result.state.ema)))
    assert run.evaluate(state, "test")["loss"] == pytest.approx(result.metrics["test"]["ema/loss"], rel=1e-6)


def test_the_rest_is_loaded_and_a_new_head_is_another_draw_than_that_of_a_run_from_scratch(trained):
    folder, result = trained
    options = {"transfer__init_from": str(folder), "transfer__reinit": ("head/.*",)}
    begun, fresh = tiny_run("4steps", **options).init_state(), tiny_run("4steps").init_state()
    same(jax.device_get(flatten(begun.params["dense0"])), jax.device_get(flatten(result.state.ema["dense0"])))
    assert not np.isclose(begun.params["head"]["kernel"], fresh.params["head"]["kernel"]).any()


def test_an_export_holds_what_is_evaluated_and_starts_a_run_to_the_bit(trained, tmp_path):
    folder, result = trained
    path = export_weights(folder, out=tmp_path / "new" / "w")
    assert path == tmp_path / "new" / "w.safetensors"
    found = weights.read(path)
    np.testing.assert_array_equal(found["head.weight"], np.asarray(result.state.ema["head"]["kernel"]).T)
    assert sorted(found) == ["dense0.bias", "dense0.weight", "head.bias", "head.weight"]
    texts = weights.read_metadata(path)
    assert {k: texts[k] for k in ("format", "model", "step", "averaged")} == {
        "format": "pt", "model": "mlp", "step": "10", "averaged": "true",
    }  # fmt: skip
    inputs = blobs()["train"][0]
    by_hand = (inputs - np.array(json.loads(texts["model_state/normalize/mean"]), np.float32)[None, :]) * np.array(
        json.loads(texts["model_state/normalize/scale"]), np.float32
    )[None, :]
    hidden = np.maximum(by_hand @ found["dense0.weight"].T + found["dense0.bias"][None, :], 0)
    outputs = hidden @ found["head.weight"].T + found["head.bias"][None, :]
    run = tiny_run("4steps", transfer__init_from=str(path))
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        run.predict_inputs(run.init_state(), inputs), shifted / shifted.sum(axis=1, keepdims=True), atol=1e-6
    )
    from_file, from_run = (start(Options(str(p)), "mlp", run.abstract(0)) for p in (path, folder))
    same(from_file.arrays, from_run.arrays)


def test_an_export_of_a_run_that_started_from_torchvisions_file_is_that_file(tmp_path):
    arrays = start(Options(str(RESNET)), "resnet", resnet()[1]).arrays
    nested = unflatten(arrays)
    found, original = to_torch("resnet", nested["params"], nested["model_state"]), weights.read(RESNET)
    counters = [name for name in original if name.endswith("num_batches_tracked")]
    assert all(found[name] == 0 and found[name].dtype == np.int64 for name in counters)
    same(without(found, *counters), without(original, *counters))


def test_an_export_needs_neither_data_nor_model_and_replaces_the_file(trained, tmp_path):
    folder, _ = trained
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["name"] == "arrays"  # those of a program, which is gone
    assert export_weights(folder, out=tmp_path, at=7) == tmp_path / "weights.safetensors"
    before = (tmp_path / "weights.safetensors").read_bytes()
    export_weights(folder, out=tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_an_export_that_cannot_be_is_refused(trained, tmp_path):
    folder, _ = trained
    for error, match, place, options in (
        (DataError, "--workdir: .* holds no run", tmp_path, {}),
        (ConfigError, "--at: 'never' must be", folder, {"at": "never"}),
        (DataError, "--at: .*no checkpoint 999", folder, {"at": 999}),
    ):
        with pytest.raises(error, match=match):
            export_weights(place, out=tmp_path / "w", **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"--out=.*cannot make the folder"):
        export_weights(folder, out=tmp_path / "file" / "w")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_model_of_another_size_stops_a_run_before_anything_is_written(trained, tmp_path):
    folder, _ = trained
    run = tiny_run("4steps", transfer__init_from=str(folder), model__mlp__features=(9,))
    with pytest.raises(ConfigError, match=r"transfer\.init_from: .*dense0/bias is \[8\] there and \[9\] here"):
        train(run, tmp_path / "child")
    assert not any(p.name in ("config.json", "checkpoints") for p in (tmp_path / "child").glob("*"))


HEAD = {"params/head/kernel": (4, 5), "params/head/bias": (5,)}


@pytest.fixture
def exported(tmp_path):
    """exported(data, **fields): (the metadata, the screen's lines, the file) of a run that has done nothing."""

    def make(data=None, **fields):
        config = tiny(**fields)
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, event=print)
        checkpoints.save(1, {path: values(shape) for path, shape in HEAD.items()}, {"data": data}, block=True)
        checkpoints.close()
        (tmp_path / "config.json").write_text(to_json(config))
        shown = io.StringIO()
        path = export_weights(tmp_path, out=tmp_path / "w", screen=Screen(shown))
        return weights.read_metadata(path), shown.getvalue(), path

    return make


def test_an_export_tells_how_a_bounded_regressor_makes_its_predictions(exported):
    fields = {"output": "sigmoid", "low": 0.5, "high": 2.0}
    texts, shown, _ = exported(task__name="regression", **{f"task__regression__{k}": v for k, v in fields.items()})
    assert (texts["task"], json.loads(texts["task_options"])) == ("regression", fields)
    assert texts["activation"] == "0.5 + (2.0 - 0.5) * sigmoid(y)"
    assert "outputs y are not yet predictions: regression makes them by 0.5 + (2.0 - 0.5) * sigmoid(y)" in shown


def test_an_export_tells_of_no_activation_where_there_is_none_or_it_is_not_known(exported):
    texts, shown, _ = exported(task__name="regression")
    assert texts["task"] == "regression"
    assert "activation" not in texts
    assert "predictions" not in shown
    texts, shown, _ = exported(task__name="gone:mine", loss__name="mse")
    assert (texts["task"], texts["task_options"], "activation" in texts) == ("gone:mine", "{}", False)
    assert "note: if gone:mine has an activation" in shown


@pytest.mark.parametrize(
    ("name", "output"), [*((name, "linear") for name in TASKS), *(("regression", bound) for bound in list(BOUNDS)[1:])]
)
def test_the_activation_that_an_export_tells_is_the_tasks(name, output):
    bounds = {"linear": {}, "relu": {"low": -1.5}}.get(output, {"low": -1.5, "high": 2.0})
    options = {"low": 0.0, "high": 1.0, "output": output} | bounds if name == "regression" else {}
    facts = Facts(5, (8, 8, 1), np.zeros(1), np.ones(1), least=-1.0, most=1.0)
    task = TASKS[name](lambda outputs, targets: outputs, facts, **options)
    y = values((3, 5))
    functions = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu, "y": y}
    formula = activation(name, options)
    assert formula is not None
    np.testing.assert_allclose(task.activation(task.shown(y)), eval(formula or "y", functions), atol=1e-6)


def test_an_export_knows_its_classes_again(exported):
    state = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in HEAD.items()}
    texts, _, path = exported({"names": 7})
    assert texts["names"] == "7"
    assert named(7, path, state) == []
    assert named(8, path, state)[0].endswith("transfer.reinit with 'head/.*'")
    arrays = weights.read(path)
    weights.write(path, arrays, {"names": "7"})  # not jtrain's, so that it may mean anything
    assert named(8, path, state) == []
    weights.write(path, arrays, texts | {"names": "seven"})
    refused(DataError, "its metadata names are no checksum", path, state)
    assert "names" not in exported()[0]


class Net(nn.Module):
    outputs: int = 3

    @nn.compact
    def __call__(self, inputs, *, train):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(4, name="first")(inputs))
        return nn.Dense(self.outputs, name="last")(x)


def test_a_model_of_a_program_starts_from_its_own_run_and_export(tmp_path):
    run = assemble(tiny("5steps"), model=Net(), data=blobs())
    state = jax.device_get(to_flat(run.init_state()))
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, event=print)
    checkpoints.save(5, state, {}, block=True)
    checkpoints.close()
    (tmp_path / "config.json").write_text(to_json(run.config))
    expected = {path: leaf for path, leaf in state.items() if path.startswith(("params/", "model_state/"))}
    for source in (tmp_path, export_weights(tmp_path, out=tmp_path / "x")):
        same(start(Options(str(source)), run.model_name, run.abstract(0)).arrays, expected)
