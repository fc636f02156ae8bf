import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import shapes

from jtrain.errors import ConfigError, DataError
from jtrain.models import MODELS
from jtrain.models.pure import from_linen
from jtrain.models.torch_names import flattened, from_torch, tensor_names, to_torch, torch_module_names
from jtrain.tree import flatten, map_with_path, unflatten

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
IMAGE = (8, 8, 3)
TINY = {
    "mlp": ({"features": (6,)}, (7,), jnp.float32),
    "cnn": ({"features": (4, 6), "pools": 1}, IMAGE, jnp.float32),
    "fast_cnn": ({"features": (4, 6)}, IMAGE, jnp.float32),
    "resnet": ({"width": 4, "depth": 50, "form": "imagenet"}, (32, 32, 3), jnp.float32),
    "wide_resnet": ({"depth": 10, "widen": 1}, IMAGE, jnp.float32),
    "highway": ({"layers": 2, "width": 4}, (7,), jnp.float32),
    "lstm": ({"embedding": 3, "hidden": 4, "layers": 2}, (6,), jnp.int32),
    "gru": ({"embedding": 3, "hidden": 4, "layers": 2}, (6,), jnp.int32),
    "autoencoder": ({"features": (4,), "pools": 1, "code": 5}, IMAGE, jnp.float32),
}


def abstract(name, outputs=5, **changed):
    """(params, model_state) of a tiny model, abstract."""
    options, shape, dtype = TINY[name]
    return shapes(MODELS[name](outputs, **(options | changed)), shape, dtype)


def drawn(tree, seed=0):
    rng = np.random.default_rng(seed)
    return map_with_path(lambda path, leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)


def flat(params, state):
    return flatten({"params": params, "model_state": state})


def test_every_model_of_ours_is_tried():
    assert TINY.keys() == MODELS.keys() - {"given"}


@pytest.mark.parametrize("name", TINY)
def test_weights_come_back_from_torchs_form_to_the_bit(name):
    params, state = map(drawn, abstract(name))
    like = flat(params, state)
    found, unused = from_torch(name, to_torch(name, params, state), like)
    assert not unused
    assert found.keys() == like.keys()
    for path, leaf in like.items():
        np.testing.assert_array_equal(found[path], leaf, strict=True, err_msg=path)


@pytest.mark.parametrize("depth", [34, 50])
def test_a_resnet_has_exactly_the_names_and_shapes_of_torchvisions(depth):
    params, state = shapes(MODELS["resnet"](1000, depth=depth, form="imagenet"), (64, 64, 3))
    empty = [
        map_with_path(lambda _, leaf: np.broadcast_to(np.float32(0), leaf.shape), tree) for tree in (params, state)
    ]
    found = to_torch("resnet", *empty)
    assert {name: list(array.shape) for name, array in found.items()} == json.loads(
        (GOLDEN / "torchvision_names.json").read_text()
    )[f"resnet{depth}"]
    counters = {name: array.dtype for name, array in found.items() if name.endswith("num_batches_tracked")}
    assert set(counters.values()) == {np.dtype(np.int64)}


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_network_of_torch_gives_its_outputs_here(kind):
    golden = np.load(GOLDEN / "models.npz")
    head = f"{kind}/params/"
    arrays = {f"{kind}.{key.removeprefix(head)}": golden[key] for key in golden.files if key.startswith(head)}
    assert len(arrays) == 8
    arrays |= {"head.weight": np.eye(5), "head.bias": np.zeros(5)}  # so that the outputs are the hidden values
    model = from_linen(MODELS[kind](5, hidden=5, layers=2, dropout=0.0))
    inputs = jnp.asarray(golden[f"{kind}/inputs"], jnp.float32)
    like = flat(*jax.eval_shape(model.init, jax.random.key(0), inputs))
    found, unused = from_torch(kind, arrays, like)
    assert not unused
    params = unflatten(found)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    outputs, _ = jax.jit(lambda params: model.apply(params, {}, inputs, key=None, train=False))(params)
    np.testing.assert_allclose(outputs, golden[f"{kind}/outputs"], rtol=1e-5, atol=2e-6)
    again = to_torch(kind, params, {})  # what torch makes of our sums is the same function, in its own shapes
    assert {name: array.shape for name, array in again.items()} == {n: a.shape for n, a in arrays.items()}


@pytest.mark.parametrize(("shape", "layout"), [((3, 2), (1, 0)), ((5, 3, 2), (2, 1, 0)), ((5, 4, 3, 2), (3, 2, 0, 1))])
def test_kernels_of_every_rank_are_laid_out_as_torchs(shape, layout):
    kernel = np.random.default_rng(0).normal(size=shape)
    tensors = to_torch("own", {"layer": {"kernel": kernel}}, {})
    np.testing.assert_array_equal(tensors["layer.weight"], kernel.transpose(layout))
    assert tensors["layer.weight"].shape[:2] == (2, 3)  # out, in


def test_modules_are_called_as_torchvision_calls_them_or_with_dots():
    ours = ["stem", "stem_norm", "stage2_block3/norm2", "stage4_block1/shortcut", "stage4_block1/shortcut_norm", "head"]
    theirs = ["conv1", "bn1", "layer2.2.bn2", "layer4.0.downsample.0", "layer4.0.downsample.1", "fc"]
    assert torch_module_names("resnet", ours) == dict(zip(ours, theirs, strict=True))
    assert torch_module_names("own", ["a/b/c", ""]) == {"a/b/c": "a.b.c", "": ""}


def test_statistics_of_an_nnx_model_which_are_in_no_collection_have_their_modules_name():
    params = {"norm": {"scale": np.ones(2), "bias": np.zeros(2)}, "kernel": np.ones((3, 2))}
    state = {"norm": {"mean": np.full(2, 3.0), "var": np.full(2, 4.0)}}
    tensors = to_torch("Net", params, state)
    assert sorted(tensors) == [
        "norm.bias", "norm.num_batches_tracked", "norm.running_mean", "norm.running_var", "norm.weight", "weight",
    ]  # fmt: skip
    found, _ = from_torch("Net", tensors, flat(params, state))
    np.testing.assert_array_equal(found["model_state/norm/var"], state["norm"]["var"])


def test_what_scales_inputs_and_outputs_is_not_for_torch():
    state = {
        "normalize": {"mean": np.ones(3), "scale": np.ones(3)},
        "rescale": {"mean": np.ones(()), "scale": np.ones(())},
    }
    params = {"head": {"bias": np.zeros(2)}}
    assert list(to_torch("mlp", params, state)) == ["head.bias"]
    found, unused = from_torch("mlp", {"head.bias": np.ones(2), "mean": np.ones(3)}, flat(params, state))
    assert (list(found), unused) == (["params/head/bias"], ["mean"])


def test_two_arrays_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"params/a/kernel and params/a/scale would both be 'a\.weight'"):
        to_torch("own", {"a": {"kernel": np.ones((2, 2)), "scale": np.ones(2)}}, {})


def test_unknown_names_are_unused_and_absent_ones_not_found():
    like = flat({"a": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}}, {})
    arrays = {"a.weight": np.ones((3, 2)), "b.weight": np.ones(1), "a.num_batches_tracked": np.zeros((), np.int64)}
    found, unused = from_torch("own", arrays, like)
    assert list(found) == ["params/a/kernel"]
    assert unused == ["b.weight"]


def test_biases_that_cannot_be_added_are_damage_and_a_lone_one_is_missing():
    like = {"params/lstm0/bias": np.ones(8)}
    with pytest.raises(DataError, match=r"lstm\.bias_ih_l0 and lstm\.bias_hh_l0 differ in shape"):
        from_torch("lstm", {"lstm.bias_ih_l0": np.ones(8), "lstm.bias_hh_l0": np.ones(4)}, like)
    assert from_torch("lstm", {"lstm.bias_ih_l0": np.ones(8)}, like) == ({}, ["lstm.bias_ih_l0"])
    odd = {"gru.bias_ih_l0": np.ones((2, 2)), "gru.bias_hh_l0": np.ones((2, 2))}
    found, _ = from_torch("gru", odd, {"params/gru0/bias": np.ones(6)})
    assert found["params/gru0/bias"].shape == (2, 2)  # left for the comparison of shapes


def test_tensor_names_of_an_lstm_bias_are_both_of_torchs():
    assert tensor_names("lstm", "params/lstm1/bias", {"lstm1"}) == ("lstm.bias_ih_l1", "lstm.bias_hh_l1")
    assert tensor_names("own", "params/lstm1/bias", {"lstm1"}) == ("lstm1.bias",)


@pytest.mark.parametrize(
    ("name", "changed", "expected"),
    [
        ("cnn", {"head": "flatten"}, ["params/head/kernel"]),
        ("cnn", {"head": "average"}, []),
        ("resnet", {}, []),
        ("wide_resnet", {}, []),
        ("lstm", {}, []),
        ("gru", {}, []),
        ("highway", {}, []),
        ("mlp", {}, []),
        ("autoencoder", {}, ["params/code/kernel", "params/expand/kernel"]),
        ("autoencoder", {"code": 0}, []),
    ],
)
def test_dense_layers_over_flattened_maps_are_found(name, changed, expected):
    assert flattened(flat(*abstract(name, **changed))) == expected


def test_an_mlp_over_colour_images_is_found_by_what_normalises_them():
    params, _ = shapes(MODELS["mlp"](5, features=(6,)), IMAGE)
    state = {"normalize": {"mean": np.ones(3), "scale": np.ones(3)}}
    assert flattened(flat(params, state)) == ["params/dense0/kernel"]
    grey = {"normalize": {"mean": np.ones(1), "scale": np.ones(1)}}
    assert flattened(flat(params, grey)) == []
    table = {"normalize": {"mean": np.ones(192), "scale": np.ones(192)}}
    assert flattened(flat(params, table)) == []
