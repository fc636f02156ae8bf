"""A program of the shape of Flax's official examples, to its first step: ResNet-18, CIFAR form, batch 32, float32.

`model.init` under `jax.jit`, a TrainState with batch statistics, a compiled train step with loss and accuracy, batches
normalised on the host. What the examples read and write beside (tensorflow-datasets, checkpoints, summaries) is left
out.

    python start_flax.py DATA.npz
"""

import functools
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = nn.relu(norm()(conv(self.features, (3, 3), self.stride)(x)))
        y = norm()(conv(self.features, (3, 3))(y))
        if y.shape != x.shape:
            x = norm()(conv(self.features, (1, 1), self.stride)(x))
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """A stem of 3×3 and four stages of two blocks."""

    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = nn.Conv(64, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        for stage in range(4):
            for block in range(2):
                x = Block(64 * 2**stage, 2 if stage > 0 and block == 0 else 1)(x, train)
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


class TrainState(train_state.TrainState):
    """With running statistics."""

    batch_stats: Any


def create_train_state(key: jax.Array, model: nn.Module, tx: optax.GradientTransformation) -> TrainState:
    """A new state, its weights drawn by a compiled `init`."""
    variables = jax.jit(model.init)({"params": key}, jnp.ones((1, 32, 32, 3)))
    return TrainState.create(
        apply_fn=model.apply, params=variables["params"], batch_stats=variables["batch_stats"], tx=tx
    )


@jax.jit
def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update."""

    def loss_fn(params: Any) -> Any:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, new = state.apply_fn(variables, images, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (new, logits)

    (loss, (new, logits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state = state.apply_gradients(grads=grads, batch_stats=new["batch_stats"])
    return state, {"loss": loss, "accuracy": (logits.argmax(-1) == labels).mean()}


def main() -> None:
    """Trains for a step."""
    data = np.load(sys.argv[1])
    images, labels = data["train_inputs"], data["train_targets"]
    mean, std = images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))
    state = create_train_state(jax.random.key(0), ResNet18(), optax.sgd(0.1, momentum=0.9, nesterov=True))
    print(f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)) / 1e6:.1f} M parameters")
    rows = np.random.default_rng(0).permutation(len(images))[:32]
    state, metrics = train_step(state, (images[rows].astype(np.float32) - mean) / std, labels[rows])
    print(f"step 1, loss {float(metrics['loss']):.3f}", flush=True)


if __name__ == "__main__":
    main()
