import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtrain.errors import ConfigError
from jtrain.optim.chain import CLIPS, build
from jtrain.optim.groups import build_groups
from jtrain.optim.optimizers import OPTIMIZERS
from jtrain.optim.schedules import SCHEDULES
from jtrain.table import options
from jtrain.tree import flatten, unflatten

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "optim.json").read_text())


def arrays(flat):
    return unflatten({path: jnp.asarray(values, jnp.float32) for path, values in flat.items()})


def label(case):
    return "-".join([case["name"], *(f"{k}={v}" for k, v in case["options"].items()), f"clip={case['max_norm']}"])


@pytest.mark.parametrize("case", GOLDEN["optimizers"], ids=label)
def test_equals_pytorch_over_fifty_updates(case):
    params = arrays(GOLDEN["start"])
    paths = list(GOLDEN["start"])
    clip = CLIPS["norm"](max_norm=case["max_norm"]) if case["max_norm"] else CLIPS["none"]()
    core = OPTIMIZERS[case["name"]](**case["options"])
    schedule = SCHEDULES["constant"](case["lr"], 50)
    tx, _ = build(core, schedule, build_groups(((".*", 1.0),), paths), set(paths), clip)
    opt_state = tx.init(params)

    @jax.jit
    def update(params, opt_state, grads, step):
        updates, opt_state = tx.update(grads, opt_state, params, step=step, lr_scale=jnp.float32(1))
        return optax.apply_updates(params, updates), opt_state

    for step in range(50):
        grads = arrays({path: values[step] for path, values in GOLDEN["gradients"].items()})
        params, opt_state = update(params, opt_state, grads, jnp.int32(step))
        # A parameter that crosses zero keeps no relative digits: hence atol.
        expected = case["params"].get(str(step + 1))
        if expected:
            for path, leaf in flatten(params).items():
                np.testing.assert_allclose(leaf, expected[path], rtol=1e-5, atol=1e-6, err_msg=f"{path}, {step}")


@pytest.mark.parametrize("case", GOLDEN["clip"], ids=lambda case: str(case["max_norm"]))
def test_clipping_equals_pytorch(case):
    grads = arrays({path: values[0] for path, values in GOLDEN["gradients"].items()})
    clipped, _ = CLIPS["norm"](max_norm=case["max_norm"]).update(grads, optax.EmptyState())
    for path, leaf in flatten(clipped).items():
        np.testing.assert_allclose(leaf, case["gradients"][path], rtol=2e-6)


def test_clipping_leaves_a_gradient_of_zero_alone():
    clipped, _ = CLIPS["norm"]().update({"w": jnp.zeros(3)}, optax.EmptyState())
    np.testing.assert_array_equal(clipped["w"], np.zeros(3))


def test_defaults_are_those_of_the_notes():
    read = {name: (make().default_lr, make().weight_decay, make().decay) for name, make in OPTIMIZERS.items()}
    assert read == {
        "sgd": (1e-2, 1e-4, "coupled"),
        "adam": (1e-3, 0.0, "coupled"),
        "adamw": (1e-3, 1e-4, "decoupled"),
    }
    assert options(OPTIMIZERS["sgd"])["momentum"].default == 0.9


@pytest.mark.parametrize(
    ("name", "option", "wrong"),
    [("sgd", "momentum", 1.0), ("sgd", "weight_decay", -0.1), ("sgd", "weight_decay", 1.1), ("sgd", "decay", "l2"),
     ("adam", "b2", 1.0), ("adam", "eps", 0.0), ("adamw", "b1", -0.1)],
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
