import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtrain.errors import ConfigError
from jtrain.optim.chain import build
from jtrain.optim.clip import CLIPS
from jtrain.optim.groups import build_groups
from jtrain.optim.optimizers import OPTIMIZERS
from jtrain.optim.schedules import SCHEDULES
from jtrain.table import options
from jtrain.tree import flatten, unflatten

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "optimizers.json").read_text())
SPARSE = GOLDEN["sparse"]
RANDOM = np.random.default_rng(7)


def draw(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def arrays(flat):
    return unflatten({path: jnp.asarray(values, jnp.float32) for path, values in flat.items()})


def label(case):
    return "-".join([case["name"], *(f"{k}={v}" for k, v in case["options"].items()), f"clip={case['max_norm']}"])


def parameters_after(core, params, gradients, *, lr, clip=None, decays=None):
    """The parameters after every update, stacked along a new first axis; gradients likewise."""
    paths = list(flatten(params))
    groups = build_groups(((".*", 1.0),), paths)
    decays = set(paths) if decays is None else decays
    tx, _ = build(core, SCHEDULES["constant"](lr, 50), groups, decays, clip or CLIPS["none"]())

    def update(carry, grads):
        params, opt_state, step = carry
        updates, opt_state = tx.update(grads, opt_state, params, step=step, lr_scale=jnp.float32(1))
        params = optax.apply_updates(params, updates)
        return (params, opt_state, step + 1), params

    return jax.jit(jax.lax.scan, static_argnums=0)(update, (params, tx.init(params), jnp.int32(0)), gradients)[1]


@pytest.mark.parametrize("case", GOLDEN["optimizers"], ids=label)
def test_equals_pytorch_over_fifty_updates(case):
    clip = CLIPS["norm"](max_norm=case["max_norm"]) if case["max_norm"] else None
    core = OPTIMIZERS[case["name"]](**case["options"])
    history = parameters_after(core, arrays(GOLDEN["start"]), arrays(GOLDEN["gradients"]), lr=case["lr"], clip=clip)
    for path, leaves in flatten(history).items():
        for update, expected in case["params"].items():
            # A parameter that crosses zero keeps no relative digits: hence atol.
            np.testing.assert_allclose(
                leaves[int(update) - 1], expected[path], rtol=1e-5, atol=1e-6, err_msg=f"{path}, {update}"
            )


@pytest.mark.parametrize("case", SPARSE["cases"], ids=lambda case: f"eps={case['options']['eps']}")
def test_lazy_adam_equals_sparse_adam_on_a_table_of_three_rows(case):
    core = OPTIMIZERS["lazy_adam"](**case["options"])
    gradients = arrays({"word/embedding": SPARSE["gradients"]})
    history = parameters_after(core, arrays({"word/embedding": SPARSE["start"]}), gradients, lr=case["lr"])
    for update, expected in case["table"].items():
        found = history["word"]["embedding"][int(update) - 1]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=update)


def test_lazy_adam_leaves_rows_without_a_gradient_and_their_moments_alone():
    transform = OPTIMIZERS["lazy_adam"]().transform
    params = {"embedding": draw(3, 2)}
    _, before = transform.update({"embedding": draw(3, 2)}, transform.init(params))
    # An entry of zero in a touched row is touched; a row of zeros is not.
    grads = {"embedding": jnp.array([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]])}
    updates, after = transform.update(grads, before)
    np.testing.assert_array_equal(updates["embedding"][jnp.array([0, 2])], np.zeros((2, 2)))
    assert (updates["embedding"][1] != 0).all()
    tables = [(old, new) for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True) if old.ndim]
    assert len(tables) == 2
    for old, new in tables:
        np.testing.assert_array_equal(new[jnp.array([0, 2])], old[jnp.array([0, 2])])
        assert (new[1] != old[1]).all()


def test_lazy_adam_is_adam_for_all_but_its_tables():
    params = {"table": draw(3, 2), "embedding": draw(3, 2), "kernel": draw(3, 2)}
    gradients = jax.tree.map(lambda p: draw(5, *p.shape).at[:, 1].set(0.0), params)
    lazy = parameters_after(OPTIMIZERS["lazy_adam"](rows=(".*table",)), params, gradients, lr=0.1)
    plain = parameters_after(OPTIMIZERS["adam"](), params, gradients, lr=0.1)
    np.testing.assert_array_equal(lazy["kernel"], plain["kernel"])
    np.testing.assert_array_equal(lazy["embedding"], plain["embedding"])
    assert (lazy["table"][1] == lazy["table"][0]).sum() == 2  # the middle row of the only table


@pytest.mark.parametrize(("name", "option"), [("lazy_adam", "rows"), ("muon", "adam")])
def test_pattern_that_is_broken_or_matches_nothing_is_named(name, option):
    with pytest.raises(ConfigError, match=rf"^optimizer\.{name}\.{option}: '\(' is not a regular expression"):
        OPTIMIZERS[name](**{option: ("(",)})
    core = OPTIMIZERS[name](**{option: ("tabel/.*",)})
    with pytest.raises(ConfigError, match=rf"^optimizer\.{name}\.{option}: pattern 'tabel/\.\*' matches no parameter"):
        parameters_after(core, {"table": draw(2)}, {"table": draw(1, 2)}, lr=0.1)


def test_centred_rmsprop_survives_a_gradient_that_does_not_change():
    # E[g²] and E[g]² agree to the last bits, and their difference is below zero now and then.
    gradients = {"w": jnp.broadcast_to(jnp.linspace(0.1, 3.0, 64)[None], (100, 64))}
    core = OPTIMIZERS["rmsprop"](centered=True, alpha=0.5)
    history = parameters_after(core, {"w": jnp.zeros(64)}, gradients, lr=1e-9)
    assert np.isfinite(history["w"]).all()


def test_lion_moves_by_the_sign_of_its_momentum():
    params, gradients = {"w": draw(4, 3)}, {"w": draw(3, 4, 3)}
    history = parameters_after(OPTIMIZERS["lion"](b1=0.8, b2=0.95, weight_decay=0.1), params, gradients, lr=0.01)
    p, m = np.asarray(params["w"], np.float64), np.zeros((4, 3))
    for update, g in enumerate(np.asarray(gradients["w"], np.float64)):
        p = p - 0.01 * (np.sign(0.8 * m + 0.2 * g) + 0.1 * p)
        m = 0.95 * m + 0.05 * g
        np.testing.assert_allclose(history["w"][update], p, rtol=1e-5, atol=1e-6)


def test_lamb_steps_in_proportion_to_each_leaf():
    params = {"big": 10 * draw(4, 3), "small": 0.1 * draw(3), "zero": jnp.zeros(3)}
    gradients = {"big": draw(3, 4, 3), "small": draw(3, 3), "zero": draw(3, 3)}
    core = OPTIMIZERS["lamb"](b1=0.8, b2=0.95, eps=1e-2, weight_decay=0.1)
    history = parameters_after(core, params, gradients, lr=0.01, decays={"big"})
    for name in params:
        p = np.asarray(params[name], np.float64)
        m, v = np.zeros_like(p), np.zeros_like(p)
        for update, g in enumerate(np.asarray(gradients[name], np.float64)):
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
            t = update + 1
            r = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-2) + (0.1 * p if name == "big" else 0)
            norm = np.linalg.norm(p)
            p = p - 0.01 * (norm / np.linalg.norm(r) if norm else 1.0) * r
            np.testing.assert_allclose(history[name][update], p, rtol=1e-5, atol=1e-6, err_msg=f"{name}, {t}")


def newton_schulz(matrix):
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize(
    ("shape", "adjust", "nesterov"),
    [((6, 3), "original", True), ((3, 6), "original", True), ((3, 6), "match_rms_adamw", False),
     ((2, 2, 3, 5), "match_rms_adamw", True)],
)  # fmt: skip
def test_muon_orthogonalises_the_momentum_of_a_kernel(shape, adjust, nesterov):
    params, gradients = {"kernel": draw(*shape)}, {"kernel": draw(3, *shape)}
    core = OPTIMIZERS["muon"](momentum=0.9, nesterov=nesterov, adjust=adjust, weight_decay=0.1)
    history = parameters_after(core, params, gradients, lr=0.1)
    p, mean = np.asarray(params["kernel"], np.float64), np.zeros(shape)
    inside, outside = np.prod(shape[:-1]), shape[-1]
    factor = max(1, outside / inside) ** 0.5 if adjust == "original" else 0.2 * max(inside, outside) ** 0.5
    for update, g in enumerate(np.asarray(gradients["kernel"], np.float64)):
        mean = 0.9 * mean + 0.1 * g  # PyTorch's form, an average; ours is a sum, and the norm takes out the factor
        ahead = 0.1 * g + 0.9 * mean if nesterov else mean
        direction = newton_schulz(ahead.reshape(inside, outside)).reshape(shape)
        p = p - 0.1 * (factor * direction + 0.1 * p)
        np.testing.assert_allclose(history["kernel"][update], p, rtol=1e-4, atol=1e-5)


def test_muon_agrees_with_optax_where_their_definitions_meet():
    params, gradients = {"kernel": draw(4, 6)}, {"kernel": draw(3, 4, 6)}
    ours = OPTIMIZERS["muon"](nesterov=False, adjust="original").transform
    axes = {"kernel": optax.contrib.MuonDimensionNumbers()}
    theirs = optax.contrib.scale_by_muon(nesterov=False, weight_dimension_numbers=axes)
    state, other = ours.init(params), theirs.init(params)
    for g in gradients["kernel"]:
        direction, state = ours.update({"kernel": g}, state, params)
        expected, other = theirs.update({"kernel": g}, other, params)
        np.testing.assert_allclose(direction["kernel"], np.sqrt(6 / 4) * expected["kernel"], rtol=1e-4, atol=1e-5)


def test_muon_gives_adam_to_all_but_hidden_kernels():
    params = {
        "embed": {"embedding": draw(4, 3)}, "dense": {"kernel": draw(3, 3), "bias": draw(3)},
        "gate": {"kernel": draw(3, 3)}, "head": {"kernel": draw(3, 2)},
    }  # fmt: skip
    gradients = jax.tree.map(lambda p: draw(2, *p.shape), params)
    default = flatten(parameters_after(OPTIMIZERS["muon"](weight_decay=0.0), params, gradients, lr=0.1))
    plain = flatten(parameters_after(OPTIMIZERS["adam"](), params, gradients, lr=0.1))
    same = {path for path, leaf in default.items() if np.array_equal(leaf, plain[path])}
    assert same == {"embed/embedding", "dense/bias", "head/kernel"}
    chosen = flatten(
        parameters_after(OPTIMIZERS["muon"](weight_decay=0.0, adam=("gate/.*",)), params, gradients, lr=0.1)
    )
    same = {path for path, leaf in chosen.items() if np.array_equal(leaf, plain[path])}
    assert same == {"embed/embedding", "dense/bias", "gate/kernel"}


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_beside_sgd_gives_the_rest_the_momentum_of_sgd(nesterov):
    params = {"conv": {"kernel": draw(2, 2, 3, 4), "bias": draw(4)}, "head": {"kernel": draw(4, 2)}}
    gradients = jax.tree.map(lambda p: draw(3, *p.shape), params)
    muon = OPTIMIZERS["muon"](rest="sgd", rest_momentum=0.7, nesterov=nesterov, weight_decay=0.0)
    found = flatten(parameters_after(muon, params, gradients, lr=0.1))
    sgd = OPTIMIZERS["sgd"](momentum=0.7, nesterov=nesterov, weight_decay=0.0)
    plain = flatten(parameters_after(sgd, params, gradients, lr=0.1))
    same = {path for path, leaf in found.items() if np.array_equal(leaf, plain[path])}
    assert same == {"conv/bias", "head/kernel"}


def test_defaults_are_those_of_the_notes_and_papers():
    read = {name: (make().default_lr, make().weight_decay, make().decay) for name, make in OPTIMIZERS.items()}
    assert read == {
        "sgd": (1e-2, 1e-4, "coupled"),
        "adam": (1e-3, 0.0, "coupled"),
        "adamw": (1e-3, 1e-4, "decoupled"),
        "adamax": (1e-3, 0.0, "coupled"),
        "lazy_adam": (1e-3, 0.0, "decoupled"),
        "adagrad": (1e-2, 0.0, "coupled"),
        "adadelta": (1.0, 0.0, "coupled"),
        "rmsprop": (1e-3, 0.0, "coupled"),
        "lion": (1e-4, 1e-3, "decoupled"),
        "lamb": (1e-3, 1e-4, "decoupled"),
        "muon": (1e-3, 1e-4, "decoupled"),
    }
    assert options(OPTIMIZERS["sgd"])["momentum"].default == 0.9


@pytest.mark.parametrize(
    ("name", "option", "wrong"),
    [("sgd", "momentum", 1.0), ("sgd", "weight_decay", -0.1), ("sgd", "weight_decay", 1.1), ("sgd", "decay", "l2"),
     ("adam", "b2", 1.0), ("adam", "eps", 0.0), ("adamw", "b1", -0.1), ("lazy_adam", "decay", "coupled"),
     ("adagrad", "initial_accumulator", -1.0), ("muon", "steps", 0), ("muon", "adjust", "none")],
)  # fmt: skip
def test_option_out_of_range_is_refused(name, option, wrong):
    with pytest.raises(ValueError, match=r"must be|no such choice"):
        options(OPTIMIZERS[name])[option].check(wrong)


def test_sgd_without_momentum_has_no_state():
    state = OPTIMIZERS["sgd"](momentum=0.0).transform.init({"w": jnp.zeros(3)})
    assert jax.tree.leaves(state) == []


def test_nesterov_without_momentum_is_an_error():
    with pytest.raises(ConfigError, match=r"^optimizer\.sgd\.nesterov: needs a momentum"):
        OPTIMIZERS["sgd"](momentum=0.0, nesterov=True)


@pytest.mark.parametrize(
    ("rest", "option", "other"),
    [("adam", "rest_momentum", "sgd"), ("sgd", "b1", "adam"), ("sgd", "b2", "adam"), ("sgd", "eps", "adam")],
)
def test_an_option_that_muons_rest_has_no_use_for_is_refused_by_name(rest, option, other):
    words = (
        rf"^optimizer\.muon\.{option}: is set to 0\.5, but optimizer\.muon\.rest is '{rest}', which has no use for it; "
        rf"leave it out, or set optimizer\.muon\.rest to '{other}'$"
    )
    with pytest.raises(ConfigError, match=words):
        OPTIMIZERS["muon"](rest=rest, **{option: 0.5})
    OPTIMIZERS["muon"](rest=other, **{option: 0.5})
