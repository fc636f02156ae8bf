"""The least that trains the MLP in JAX: one compiled step with donated state, data on the device, rows step by step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from contenders import common


def prepare(case: dict[str, Any]) -> common.Looped:
    """A loop of bare steps."""
    data = tuple(jnp.asarray(array) for array in common.data(case))
    params = jax.tree.map(jnp.asarray, common.nested(common.mlp_weights(case)))
    tx = optax.sgd(case["lr"], momentum=case["momentum"])

    def loss_fn(params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(inputs @ params["dense0"]["kernel"] + params["dense0"]["bias"])
        logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def train_step(state: Any, data: Any, rows: Any) -> tuple[Any, jax.Array]:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, data[0][rows], data[1][rows])
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    compiled = jax.jit(train_step, donate_argnums=0)
    state = params, tx.init(params)
    order = common.endless(case)

    def step() -> jax.Array:
        nonlocal state
        state, loss = compiled(state, data, next(order))
        return loss

    versions = {"jax": jax.__version__, "optax": optax.__version__}
    return common.Looped(case, versions, step, lambda: jax.block_until_ready(state))
