"""The first state of a run: what the model begins with, drawn or given, and what belongs to it."""

import itertools
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain import tree
from jtrain.fit import Draw, Traced
from jtrain.models import draws
from jtrain.models.initializers import reinitialise
from jtrain.models.pure import Model
from jtrain.run import Optimizer
from jtrain.state import TrainState, new_state, to_flat
from jtrain.step import StepOptions


def make_draw(config: ml_collections.ConfigDict, model: Model) -> Draw:
    """`draw(key, inputs) -> (params, model_state)`, pure: the model's own draws, or those of the config's `init`."""
    make_initializer, options = configs.choice(config, "init")
    initializer = make_initializer(**options)

    def draw(key: jax.Array, inputs: jax.Array) -> tuple[Any, Any]:
        params, model_state = model.init(key, inputs)
        return reinitialise(params, key, initializer, config.init.params), model_state

    return draw


def make_init(
    config: ml_collections.ConfigDict, draw: Draw, traced: Traced, optimizer: Optimizer, options: StepOptions
) -> Callable[[Mapping[str, Any]], TrainState]:
    """`init(given) -> TrainState`, pure: the state that begins with what is `given` by path ('params/…'); the rest of
    parameters and model state is drawn."""
    paths = flat_model(traced.params, traced.model_state).keys()

    def init(given: Mapping[str, Any]) -> TrainState:
        params, model_state = traced.params, traced.model_state
        if paths - given.keys():
            example = jnp.zeros(traced.inputs.shape, traced.inputs.dtype)
            params, model_state = draw(jax.random.fold_in(jax.random.key(config.seed), _stream(config)), example)
        params, model_state = (
            tree.map_with_path(lambda path, leaf: given.get(f"{prefix}/{path}", leaf), part)  # noqa: B023
            for prefix, part in (("params", params), ("model_state", model_state))
        )
        trained = tree.split(params, optimizer.groups.frozen)[1]
        opt_state = optimizer.tx.init(trained)
        return new_state(
            params,
            model_state,
            opt_state,
            key=draws.key_data(_root(config, 1)),
            lr_scale=config.lr_scale,
            ema=options.ema_decay > 0,
            extra=options.extra(trained),
        )

    return init


def make_on_host(
    config: ml_collections.ConfigDict,
    traced: Traced,
    init: Callable[[Mapping[str, Any]], TrainState],
    given: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of what of a new state needs no compiled program, one after another; each array is the caller's.

    Args:
      config: of the run.
      traced: its model.
      init: from `make_init`.
      given: parameters and model state by path, which are not drawn.
    """
    shapes = flat_model(traced.params, traced.model_state)
    program, state = jax.make_jaxpr(init, return_shape=True)(shapes)
    names = list(to_flat(state))
    rest = draws.outputs(program, sorted(shapes), names)
    same: dict[str, list[str]] = {}  # by path of the model, the paths of the state that begin with it
    for path, value in rest.items():
        if isinstance(value, draws.Same):
            same.setdefault(value, []).append(path)
        else:
            yield path, value
    for path, array in itertools.chain(given.items(), _drawn(config, traced, given)):
        for place in same.get(path, [path]):
            yield place, array.copy()  # arrays on a device may share its memory, and be donated


def _drawn(
    config: ml_collections.ConfigDict, traced: Traced, given: Container[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of what is not `given` and needs no compiled program to be drawn, from the config's seed."""
    wanted = ["" if path in given else path for path in flat_model(traced.params, traced.model_state)]
    return draws.draw(traced.program, _root(config, _stream(config)), wanted)


def flat_model(params: Any, model_state: Any) -> dict[str, Any]:
    """{'params/conv/kernel': leaf} of both."""
    parts = {"params": params, "model_state": model_state}
    return {f"{prefix}/{path}": leaf for prefix, part in parts.items() for path, leaf in tree.flatten(part).items()}


def _root(config: ml_collections.ConfigDict, stream: int) -> bytes:
    return f"{config.seed}/{stream}".encode()


def _stream(config: ml_collections.ConfigDict) -> int:
    """What is new beside trained weights is no draw that those may have been trained with."""
    return 2 if config.transfer.init_from else 0
