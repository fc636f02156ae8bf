"""The least that trains ResNet-20 with augmentation, batch norm and averaged parameters in JAX: one compiled step.

The module and the augmentation are jtrain's; the step and the loop are written by hand.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from contenders import common
from flax import traverse_util

from jtrain.data import augment
from jtrain.gradient import AUGMENT
from jtrain.models.draws import key_data
from jtrain.models.resnet import resnet


def prepare(case: dict[str, Any]) -> common.Looped:
    """A loop of compiled steps."""
    images, targets = common.data(case)
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    data = jnp.asarray(images), jnp.asarray(targets)
    model = resnet(case["classes"], **case["options"])
    changed = augment.build(case["augment"])
    key = jax.random.wrap_key_data(key_data(b"0/1"))  # as jtrain's run of seed 0 has it
    tx = optax.sgd(case["lr"], momentum=case["momentum"])

    def train_step(state: Any, data: Any, rows: Any, number: Any) -> tuple[Any, jax.Array]:
        params, statistics, opt_state, average = state
        own = jax.random.fold_in(jax.random.fold_in(key, number), AUGMENT)
        inputs = (changed(data[0][rows], own).astype(jnp.float32) - mean) / std

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": statistics}
            logits, new = model.apply(variables, inputs, train=True, mutable="batch_stats")
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, data[1][rows])
            return losses.mean(), new["batch_stats"]

        (loss, statistics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        decay = jnp.minimum(case["ema"], (1.0 + number) / (10.0 + number))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        return (params, statistics, opt_state, average), loss

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *case["shape"])), train=True))
    flat = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes["params"], sep="/").items()}
    params = jax.tree.map(jnp.asarray, common.nested(common.weights(flat)))
    statistics = jax.tree.map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, 1.0 if path[-1].key == "var" else 0.0), shapes["batch_stats"]
    )
    state = params, statistics, tx.init(params), jax.tree.map(jnp.copy, params)
    compiled, order, done = jax.jit(train_step, donate_argnums=0), common.endless(case), 0

    def step() -> jax.Array:
        nonlocal state, done
        state, loss = compiled(state, data, next(order), jnp.asarray(done))
        done += 1
        return loss

    versions = {"jax": jax.__version__, "optax": optax.__version__}
    return common.Looped(case, versions, step, lambda: jax.block_until_ready(state))
