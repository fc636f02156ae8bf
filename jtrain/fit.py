"""The model of a run, and whether model, data, task and loss fit together: found out without computing anything."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain.data.augment import build as build_augment
from jtrain.data.augment import build_mix
from jtrain.data.ops.alternate import Visit
from jtrain.errors import ConfigError, JtrainError
from jtrain.gradient import prepared
from jtrain.models.pure import Model, as_model
from jtrain.remat import BLOCK, Remat
from jtrain.table import parameters
from jtrain.tasks import Task

Draw = Callable[[jax.Array, jax.Array], tuple[Any, Any]]  # (key, inputs [1, …]) -> (params, model_state)


def build_model(config: ml_collections.ConfigDict, given: Any, num_outputs: int) -> tuple[Model, str, Remat]:
    """(model, its name, what of train.remat is left to do): the one given, or the config's with a head of
    `num_outputs`. Residual networks of ours compute their blocks again by themselves."""
    module, name = _module(config, given, num_outputs)
    kind: Remat = config.train.remat
    # Around cut parameters stands a `jax.checkpoint` anyway.
    own = type(module).__module__.startswith("jtrain.models.") and hasattr(module, "remat")
    if kind == "blocks" and config.mesh.fsdp == 1 and own:
        return as_model(module.clone(remat=True)), name, "none"
    return as_model(module), name, kind


def _module(config: ml_collections.ConfigDict, given: Any, num_outputs: int) -> tuple[Any, str]:
    if given is not None:
        named = isinstance(given, type) or inspect.isfunction(given)
        return given, given.__name__ if named else type(given).__name__
    factory, model_options = configs.choice(config, "model")
    name = config.model.name
    if name in configs.CHOICES["model"][1]:
        return factory(num_outputs, **model_options), name
    try:
        if "rngs" in parameters(factory):  # NNX: made anew from each key
            return functools.partial(factory, **model_options), name
        return factory(**model_options), name
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.name: {name} cannot be made from model.options {model_options}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Traced:
    """What is known of a model that was traced.

    Attributes:
      program: of its draws, (key, inputs [1, …]) -> (params, model_state), as `jax.make_jaxpr` gives it.
      inputs: those of the program, of shape and dtype alone.
      params, model_state: abstract.
      convolves: whether there is a convolution in it.
    """

    program: Any
    inputs: jax.ShapeDtypeStruct
    params: Any
    model_state: Any
    convolves: bool


def check_shapes(
    draw: Draw,
    model: Model,
    name: str,
    task: Task,
    sample: np.ndarray,
    targets: np.ndarray,
    augment: str,
    *,
    ours: bool,
) -> Traced:
    """Traces the model; raises ConfigError when model, data, task and loss do not fit.

    Args:
      draw: the values that the model begins with.
      model: on raw inputs.
      name: of the model, for messages.
      task: of the run.
      sample: inputs [1, …] as they are fetched.
      targets: their targets [1, …].
      augment: of the config.
      ours: the model is of jtrain.models.
    """

    def run(params: Any, model_state: Any, inputs: jax.Array, key: jax.Array) -> Any:
        outputs = model.apply(params, model_state, inputs, key=key, train=True)[0]
        # Of ours it is known that they take the same in an evaluation; of others it had better be found out now.
        return outputs if ours else model.apply(params, model_state, inputs, key=None, train=False)[0]

    shape = tuple(sample.shape[1:])
    a_key = jax.eval_shape(jax.random.key, 0)  # abstract: a real one would be computed by compiled programs
    one, two = (jax.ShapeDtypeStruct((examples, *shape), sample.dtype) for examples in (1, 2))
    try:
        program, (params, model_state) = jax.make_jaxpr(draw, return_shape=True)(a_key, one)
        jaxpr, outputs = jax.make_jaxpr(run, return_shape=True)(params, model_state, two, a_key)
    except JtrainError:
        raise
    except Exception as error:  # whatever a model of a user raises on inputs that do not fit it
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"model: {name} does not take inputs of shape {list(shape)} an example: {reason}") from error
    if not jax.tree.leaves(params):
        raise ConfigError(f"model: {name} has no parameters")
    _check_outputs(name, task, outputs)
    batch = {
        "inputs": jax.ShapeDtypeStruct((2, *shape), sample.dtype),
        "targets": jax.ShapeDtypeStruct((2, *targets.shape[1:]), targets.dtype),
        "weight": jax.ShapeDtypeStruct((2,), np.float32),
    }
    changes, mix = build_augment(augment) if augment else None, build_mix(augment)

    def losses_of(outputs: Any, batch: Any) -> Any:
        key, zeros = jax.random.key(0), jnp.zeros(2, jnp.int32)
        seen = prepared(batch, key, task=task, augment=changes, mix=mix, visit=Visit(key, zeros, zeros))
        return task.per_example(task.shown(outputs), seen["targets"])

    try:
        losses = jax.eval_shape(losses_of, outputs, batch)
    except JtrainError:
        raise
    except Exception as error:  # a loss or a task of a user
        reason = " ".join(str(error).split())[:300]
        shapes = f"outputs {list(outputs.shape)} and targets {list(batch['targets'].shape)}"
        mixed = " that are mixed" if mix else ""
        raise ConfigError(f"loss.name: the loss fails on {shapes}{mixed}: {reason}") from error
    for key, value in losses.items():
        wide = key != "loss" and value.shape[:1] == (2,) and len(value.shape) == 2
        if value.shape != (2,) and not wide:  # a mean, or [batch, 1], would be weighted wrongly without a word
            what = "loss.name: the loss" if key == "loss" else f"metric {key}"
            raise ConfigError(f"{what} must be one number an example, [batch]; for 2 it gives {list(value.shape)}")
    return Traced(program, one, params, model_state, _convolves(jaxpr.jaxpr))


def check_blocks(model: Model, name: str, sample: np.ndarray) -> None:
    """Raises ConfigError when no block of the model is marked: all would be computed again, and all kept."""

    def run(inputs: jax.Array) -> Any:
        params, model_state = model.init(jax.random.key(0), inputs)
        return model.apply(params, model_state, inputs, key=jax.random.key(1), train=True)[0]

    inputs = jax.ShapeDtypeStruct((2, *sample.shape[1:]), sample.dtype)
    if f"name={BLOCK}" not in str(jax.make_jaxpr(run)(inputs)):
        raise ConfigError(
            f"train.remat: 'blocks' keeps what is marked as a block, and {name} marks nothing; use 'cheap', or mark "
            "what comes out of a block by jax.ad_checkpoint.checkpoint_name(values, 'block')"
        )


def _convolves(jaxpr: Any) -> bool:
    """Whether there is a convolution in a program, or in one that it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(value) and _convolves(getattr(value, "jaxpr", value)):
                return True
    return False


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns")


def _check_outputs(name: str, task: Task, outputs: Any) -> None:
    wanted = (2, *task.output_shape)
    found = getattr(outputs, "shape", type(outputs).__name__)
    if found == wanted or (found == (2,) and task.output_shape == (1,)):
        return
    what = {
        "class": f"the data has {task.num_outputs} classes",
        "classes": f"the data has {task.num_outputs} labels",
        "values": f"an example has {task.num_outputs} target value{'s' if task.num_outputs > 1 else ''}",
        "tokens": f"the task is to tell each next one of {task.num_outputs} tokens",
        "inputs": "the task is to give the inputs again",
    }[task.predictions]
    raise ConfigError(f"model: {name} gives outputs of shape {found} for 2 examples; {what}, so {wanted} is needed")
