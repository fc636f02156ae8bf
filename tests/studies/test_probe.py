"""What one batch shows of a model's layers, against hand-made sums and gradients; for any kind of model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import blobs, tiny

from jtrain import config as configs
from jtrain import tree
from jtrain.assembly import assemble
from jtrain.models.pure import Model
from jtrain.studies.probe import make_probe
from jtrain.studies.traced import trace


class Net(nn.Module):
    """A dense layer with a dead unit, one that is squashed, a head; computed again in the backward pass, and jitted."""

    @nn.compact
    def __call__(self, inputs, train=False):
        bias = lambda key, shape, dtype: jnp.zeros(shape, dtype).at[0].set(-1e3)  # noqa: E731
        x = jax.nn.relu(nn.Dense(4, bias_init=bias, name="one")(inputs))
        x = nn.remat(nn.Dense)(5, name="two")(nn.LayerNorm()(x))
        return nn.Dense(3, name="head")(jax.jit(lambda x: jnp.tanh(100.0 * x))(x))


class NNXNet(nnx.Module):
    """Two layers."""

    def __init__(self, *, rngs):
        self.one, self.head = nnx.Linear(6, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, inputs):
        return self.head(jnp.maximum(self.one(inputs), 0))


def probed(run, seed=0):
    inputs, targets = (part[:12] for part in blobs()["train"])
    batch = {"inputs": inputs, "targets": targets}
    state = run.reseed(seed).init_state()
    return make_probe(run, batch)(state, batch), state, batch


def rms(values):
    return float(np.sqrt(np.square(np.asarray(values, np.float64)).mean()))


def test_values_gradients_dead_units_and_flat_ones_are_those_of_a_plain_computation():
    run = assemble(tiny(data__normalize=False), model=Net(), data=blobs())
    found, state, batch = probed(run)
    p = jax.device_get(state.params)

    def rest(params, offsets):
        one = batch["inputs"] @ params["one"]["kernel"] + offsets[0]
        x = jax.nn.relu(one + params["one"]["bias"][None, :])
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        two = x @ params["two"]["kernel"] + offsets[1]
        squashed = jnp.tanh(100 * two)
        head = squashed @ params["head"]["kernel"] + offsets[2]
        loss = -jnp.take_along_axis(jax.nn.log_softmax(head), batch["targets"][:, None], 1).mean()
        return loss, (one, two, head, squashed)

    offsets = [np.zeros((12, n), np.float32) for n in (4, 5, 3)]
    (loss, values), grads = jax.value_and_grad(rest, (0, 1), has_aux=True)(p, offsets)
    assert [layer["name"] for layer in found.layers] == ["one", "two", "head"]
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(found.blank, np.log(3), rtol=1e-6)
    for layer, value, grad in zip(found.layers, values[:3], grads[1], strict=True):
        np.testing.assert_allclose(layer["rms"], rms(value), rtol=1e-4)
        np.testing.assert_allclose(layer["spread"], rms(value - value.mean(0, keepdims=True)), rtol=1e-4)
        np.testing.assert_allclose(layer["grad_rms"], rms(grad), rtol=1e-3, atol=1e-9)
    for path in ("one/kernel", "two/kernel", "head/kernel"):
        layer = path.split("/")[0]
        np.testing.assert_allclose(found.params[path]["grad_rms"], rms(grads[0][layer]["kernel"]), rtol=1e-3)
        np.testing.assert_allclose(found.params[path]["rms"], rms(p[layer]["kernel"]), rtol=1e-5)
    dead = np.mean([(np.asarray(values[0])[:, i] + p["one"]["bias"][i] <= 0).all() for i in range(4)])
    assert found.layers[0]["dead"] == dead >= 0.25
    np.testing.assert_allclose(found.layers[1]["saturated"], (1 - np.square(values[3]) < 0.01).mean())
    assert found.squashed == ""
    assert not found.draws
    assert not found.outputs["probabilities"]


def test_layers_of_nnx_and_of_plain_functions_are_seen_too():
    def init(key, inputs):
        return {"w": jax.random.normal(key, (6, 3))}, {}

    def apply(params, model_state, inputs, *, key, train):
        return jax.nn.softmax(inputs @ params["w"]), model_state

    found = probed(assemble(tiny(), model=NNXNet, data=blobs()))[0]
    assert [layer["name"] for layer in found.layers] == ["one", "head"]
    assert "dead" in found.layers[0]
    found = probed(assemble(tiny(), model=Model(init, apply), data=blobs()))[0]
    assert [layer["name"] for layer in found.layers] == ["w"]
    assert found.outputs["probabilities"]


def test_the_gradient_of_a_custom_rule_is_kept():
    @jax.custom_vjp
    def steep(x):
        return x

    steep.defvjp(lambda x: (x, None), lambda _, g: (1000.0 * g,))

    def init(key, inputs):
        return {"one": {"w": jax.random.normal(key, (6, 3))}}, {}

    def make(rule):
        return Model(init, lambda p, s, x, *, key, train: (rule(x @ p["one"]["w"]), s))

    slow, fast = (probed(assemble(tiny(), model=make(rule), data=blobs()))[0] for rule in (lambda x: x, steep))
    ratio = fast.params["one/w"]["grad_rms"] / slow.params["one/w"]["grad_rms"]
    np.testing.assert_allclose(ratio, 1000.0, rtol=1e-4)


def test_dropout_is_seen_as_a_draw_and_the_loss_in_regression_is_in_units_of_the_targets():
    c = configs.changed(tiny(task__name="regression"), model__mlp__dropout=0.3)
    rng = np.random.default_rng(0)
    inputs, values = rng.normal(size=(60, 6)).astype(np.float32), 7 + 3 * rng.normal(size=60).astype(np.float32)
    run = assemble(c, data=(inputs, values))
    batch = {"inputs": run.data.train.fetch(np.arange(54))[0], "targets": run.data.train.fetch(np.arange(54))[1]}
    found = make_probe(run, batch)(run.init_state(), batch)
    assert found.draws
    np.testing.assert_allclose(found.blank, 1.0, rtol=1e-4)  # over all training examples, whose variance is the unit


@pytest.mark.parametrize("name", ["mlp", "highway", "cnn", "resnet", "gru"])
def test_every_layer_of_our_models_is_seen_or_counted_as_hidden_in_a_loop(name):
    c = tiny(model__mlp__features=(128, 128))
    c.model = configs.base().model
    c.model.name = name
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(20, 8, 8, 3)).astype(np.float32)
    if name in ("mlp", "highway"):
        inputs = inputs.reshape(20, -1)
    if name == "cnn":
        c.model.cnn.features, c.model.cnn.pools = (4, 4), 2
    if name == "resnet":
        c.model.resnet.depth, c.model.resnet.width = 20, 4
    if name == "gru":
        inputs, c.model.gru.hidden, c.model.gru.output = inputs.reshape(20, 8, 24), 4, "last"
    run = assemble(c, data=(inputs, (np.arange(20) % 3).astype(np.int32)))
    inputs = jax.ShapeDtypeStruct((2, *inputs.shape[1:]), np.float32)
    given = run.shapes.params, run.shapes.model_state, inputs, jax.eval_shape(jax.random.key, 0)
    found, events = trace(run.model, *given), []
    outputs = jax.eval_shape(lambda *given: events.extend(found.run(*given)[1]) or found.run(*given)[0], *given)
    assert outputs.shape == (2, 3)
    kernels = {path.rpartition("/")[0] for path in tree.flatten(run.shapes.params) if path.endswith("kernel")}
    seen = {event.name for event in events if event.kind == "layer"}
    assert seen <= kernels
    assert kernels == seen or found.loops
