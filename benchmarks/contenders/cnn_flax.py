"""The small CNN in plain Flax: nn.Conv, nn.max_pool, TrainState, one compiled step, data on the device."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from contenders import common
from flax import linen as nn
from flax.training.train_state import TrainState


class CNN(nn.Module):
    """3×3 convolutions, each with ReLU and pooling; the average of all places; a head."""

    features: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, width in enumerate(self.features):
            x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3), name=f"conv{i}")(x)), (2, 2), (2, 2))
        return nn.Dense(self.classes, name="head")(x.mean(axis=(1, 2)))


def prepare(case: dict[str, Any]) -> common.Looped:
    """A loop of compiled steps."""
    data = tuple(jnp.asarray(array) for array in common.data(case))
    model = CNN(tuple(case["features"]), case["classes"])
    params = jax.tree.map(jnp.asarray, common.nested(common.cnn_weights(case)))
    tx = optax.sgd(case["lr"], momentum=case["momentum"])
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    def train_step(state: TrainState, data: Any, rows: Any) -> tuple[TrainState, jax.Array]:
        def loss_fn(params: Any) -> jax.Array:
            logits = state.apply_fn({"params": params}, data[0][rows])
            return optax.softmax_cross_entropy_with_integer_labels(logits, data[1][rows]).mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    compiled = jax.jit(train_step, donate_argnums=0)
    order = common.endless(case)

    def step() -> jax.Array:
        nonlocal state
        state, loss = compiled(state, data, next(order))
        return loss

    versions = {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__}
    return common.Looped(case, versions, step, lambda: jax.block_until_ready(state))
