"""LSTM and GRU: PyTorch's numbers, plain loops, and where dropout acts."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_helpers import KEY, drawn, normal, shapes, size

from jtrain.errors import ConfigError
from jtrain.models import MODELS, recurrent
from jtrain.models.pure import as_model
from jtrain.tree import flatten

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "models.npz")
TOKENS = jnp.asarray(np.random.RandomState(3).randint(0, 9, (3, 6)))


def of_torch(kind, what, layer, hidden=5):
    """torch's parameters or gradients of a layer in our layout; what both its biases hold is added."""
    leaf = {name: GOLDEN[f"{kind}/{what}/{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    found = {"input": {"kernel": leaf["weight_ih"].T}, "recurrent": {"kernel": leaf["weight_hh"].T}}
    # The gradient with respect to a sum is that of either term.
    both = leaf["bias_ih"] + leaf["bias_hh"] if what == "params" else leaf["bias_ih"]
    if kind == "lstm":
        return found | {"bias": both}
    found["recurrent"]["bias"] = leaf["bias_hh"][2 * hidden :]
    return found | {"bias": np.concatenate([both[: 2 * hidden], leaf["bias_ih"][2 * hidden :]])}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_layers_have_the_values_and_gradients_of_pytorch(kind, ahead, monkeypatch):
    monkeypatch.setattr(recurrent, "projects_ahead", lambda: ahead)
    layer = recurrent.LAYERS[kind](5)
    params = [jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), of_torch(kind, "params", i)) for i in (0, 1)]
    inputs = jnp.asarray(GOLDEN[f"{kind}/inputs"], jnp.float32).swapaxes(0, 1)

    @functools.partial(jax.jit, static_argnums=0)
    def both(ahead, params):  # `ahead` tells the two programs apart
        def loss(params):
            x = inputs
            for own in params:
                x = layer.apply({"params": own}, x)
            return jnp.sin(x).sum(), x

        return jax.grad(loss, has_aux=True)(params)

    gradients, outputs = both(ahead, params)
    np.testing.assert_allclose(outputs.swapaxes(0, 1), GOLDEN[f"{kind}/outputs"], rtol=1e-5, atol=2e-6)
    for i in (0, 1):
        want = flatten(of_torch(kind, "gradients", i))
        got = flatten(gradients[i])
        assert got.keys() == want.keys()
        for path, leaf in want.items():
            np.testing.assert_allclose(got[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_loop(params, x):
    """One example, [time, in] → [time, hidden], as the formulas stand in the papers."""
    w, u, bias = params["input"]["kernel"], params["recurrent"]["kernel"], params["bias"]
    h = c = np.zeros(u.shape[0])
    found = []
    for x_t in x:
        i, f, g, o = np.split(x_t @ w + h @ u + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        found.append(h)
    return np.array(found)


def gru_loop(params, x):
    """As `lstm_loop`."""
    w, u, bias, inner = (
        *(params[k]["kernel"] for k in ("input", "recurrent")),
        params["bias"],
        params["recurrent"]["bias"],
    )
    hidden = u.shape[0]
    h = np.zeros(hidden)
    found = []
    for x_t in x:
        gates = x_t @ w + bias
        r = sigmoid(gates[:hidden] + h @ u[:, :hidden])
        z = sigmoid(gates[hidden : 2 * hidden] + h @ u[:, hidden : 2 * hidden])
        n = np.tanh(gates[2 * hidden :] + r * (h @ u[:, 2 * hidden :] + inner))
        h = (1 - z) * n + z * h
        found.append(h)
    return np.array(found)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_recurrent_state_sees_no_mask(kind):
    module = MODELS[kind](9, embedding=8, hidden=7, layers=2, dropout=0.5)
    params, _ = drawn(module, (6,), jnp.int32)
    run = jax.jit(functools.partial(module.apply, train=True, capture_intermediates=True, mutable=["intermediates"]))
    logits, captured = run({"params": params}, TOKENS, rngs={"dropout": KEY})
    seen = {
        name: np.asarray(tree["__call__"][0]) for name, tree in captured["intermediates"].items() if name != "__call__"
    }
    loop = {"lstm": lstm_loop, "gru": gru_loop}[kind]
    plain = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for i in (0, 1):
        masked, hidden = seen[f"dropout{i}"], seen[f"{kind}{i}"]
        assert 0.3 < (masked == 0).mean() < 0.7
        want = np.stack([loop(plain[f"{kind}{i}"], masked[:, example]) for example in range(3)], axis=1)
        np.testing.assert_allclose(hidden, want, rtol=1e-4, atol=1e-6)
        assert np.all(hidden != 0)
    masked = seen["dropout2"]
    assert 0.3 < (masked == 0).mean() < 0.7
    np.testing.assert_allclose(np.where(masked == 0, 0, 2 * seen[f"{kind}1"].swapaxes(0, 1)), masked, rtol=1e-6)
    np.testing.assert_allclose(masked @ plain["head"]["kernel"] + plain["head"]["bias"], logits, rtol=1e-4, atol=1e-5)
    assert np.any((seen["dropout0"] == 0)[0] != (seen["dropout0"] == 0)[1])  # a mask of its own each step


def test_parameters_are_counted_as_documented():
    for kind, layer in (("lstm", lambda n: 4 * 7 * (n + 7 + 1)), ("gru", lambda n: 3 * 7 * (n + 7 + 1) + 7)):
        make = functools.partial(MODELS[kind], 9, hidden=7, layers=2)
        params, state = shapes(make(embedding=8, vocabulary=11), (6,), jnp.int32)
        assert size(params) == 11 * 8 + layer(8) + layer(7) + (7 + 1) * 9
        assert state == {}
        assert {"embedding/embedding", f"{kind}1/input/kernel", f"{kind}0/recurrent/kernel"} <= set(flatten(params))
        assert size(shapes(make(), (6,), jnp.int32)[0]) == 9 * 128 + layer(128) + layer(7) + 72
        assert size(shapes(make(), (6, 5))[0]) == layer(5) + layer(7) + 72


def test_kernels_are_drawn_gate_by_gate_and_the_lstm_remembers():
    for kind, gates in (("lstm", 4), ("gru", 3)):
        params = jax.jit(recurrent.LAYERS[kind](64).init)(KEY, jnp.zeros((1, 1, 200)))["params"]
        recurrents = np.split(params["recurrent"]["kernel"], gates, axis=1)
        for one in recurrents:
            np.testing.assert_allclose(one.T @ one, np.eye(64), atol=1e-5)
        assert np.abs(recurrents[0] - recurrents[1]).max() > 0.1
        for one in np.split(params["input"]["kernel"], gates, axis=1):
            np.testing.assert_allclose(one.var(), 2 / (200 + 64), rtol=0.05)
        remember = np.concatenate([np.zeros(64), np.ones(64), np.zeros(128)]) if kind == "lstm" else np.zeros(192)
        np.testing.assert_array_equal(params["bias"], remember)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_last_output_is_the_last_of_the_sequence_and_no_step_sees_the_future(kind):
    make = functools.partial(MODELS[kind], 9, embedding=8, hidden=7)
    params, _ = drawn(make(), (6,), jnp.int32)
    sequence, last = (
        jax.jit(functools.partial(make(output=output).apply, train=False)) for output in ("sequence", "last")
    )
    outputs = sequence({"params": params}, TOKENS)
    assert outputs.shape == (3, 6, 9)
    np.testing.assert_allclose(last({"params": params}, TOKENS), outputs[:, -1], rtol=1e-6)
    changed = sequence({"params": params}, TOKENS.at[:, 4].add(1) % 9)
    np.testing.assert_array_equal(changed[:, :4], outputs[:, :4])
    assert np.all(np.abs(changed[:, 4:] - outputs[:, 4:]).max(axis=(0, 2)) > 1e-4)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_token_of_long_ago_is_remembered(kind):
    """Each target is the token of two steps before: to be had through the recurrent kernels alone."""
    model = as_model(MODELS[kind](4, embedding=8, hidden=16, dropout=0.0))
    tokens = jnp.asarray(np.random.RandomState(0).randint(0, 4, (32, 8)))
    params, _ = drawn(MODELS[kind](4, embedding=8, hidden=16), (8,), jnp.int32)
    tx = optax.adam(0.02)

    @jax.jit
    def step(params, opt_state):
        def loss_fn(params):
            logits, _ = model.apply(params, {}, tokens, key=KEY, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits[:, 2:], tokens[:, :-2]).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state = jax.jit(tx.init)(params)
    for _ in range(300):
        params, opt_state, loss = step(params, opt_state)
        if loss < 0.05:
            break
    assert loss < 0.05


def test_the_cell_adds_up_in_float32_whatever_the_model_computes_in():
    # Every step adds 2⁻⁹ or so to a cell that starts at 0; in bfloat16 it would stop growing at about 1.
    params = {
        "input": {"kernel": jnp.full((1, 4), 0.0)},
        "recurrent": {"kernel": jnp.zeros((1, 4))},
        "bias": jnp.array([20.0, 20.0, 0.002, 20.0]),
    }
    x = jnp.zeros((1000, 1, 1))
    cast = functools.partial(jax.tree.map, lambda leaf: leaf.astype(jnp.bfloat16))
    outputs = recurrent.LSTMLayer(1).apply({"params": cast(params)}, cast(x))
    assert outputs.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(outputs[-1, 0, 0]), np.tanh(2.0), rtol=0.01)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize(
    ("shape", "dtype", "got"), [((8, 8, 3), "float32", r"float32 \[8, 8, 3\]"), ((13,), "float32", r"float32 \[13\]")]
)
def test_inputs_that_are_no_sequences_are_refused(kind, shape, dtype, got):
    with pytest.raises(ConfigError, match=rf"^model\.{kind}: takes whole numbers \[time\] or values .* got {got}"):
        shapes(MODELS[kind](10), shape, dtype)


def test_values_are_taken_as_they_are():
    module = MODELS["lstm"](4, hidden=5)
    params, _ = drawn(module, (6, 3))
    x = normal(7, (2, 6, 3))
    got = jax.jit(functools.partial(module.apply, train=False))({"params": params}, x)
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden = np.stack([lstm_loop(plain["lstm0"], np.asarray(example)) for example in x])
    np.testing.assert_allclose(got, hidden @ plain["head"]["kernel"] + plain["head"]["bias"], rtol=1e-4, atol=1e-5)
