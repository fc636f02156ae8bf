"""What the examples and the parameters of a run tell, as facts for lint."""

import math
from typing import Any

import jax
import numpy as np

from jtrain import config as configs
from jtrain import tree
from jtrain.coach import lint_arrays
from jtrain.coach.lint_program import drops_memory, ends_in
from jtrain.data.examples import Examples, targets_of
from jtrain.run import Run
from jtrain.tasks import needs

SAMPLED = 64  # test examples that are looked for among the training examples
SEARCHED = 256 << 20  # bytes of training examples up to which that is done


def of_data(run: Run) -> dict[str, Any]:
    """What the examples tell, of those that are held in memory."""
    config, data = run.config, run.data
    sample, _ = data.train.fetch(np.arange(1))
    raw = not config.data.normalize and sample.dtype == np.uint8 and not config.data.whiten
    found: dict[str, Any] = {
        "train": len(data.train),
        "val": len(data.val) if data.val is not None else 0,
        "test": len(data.test) if data.test is not None else 0,
        "outputs": data.num_outputs,
        "class_names": run.names,
        "raw_pixels": raw,
    }
    make, _ = configs.choice(config, "task")
    # A task that makes targets of its own may get any in their place.
    if run.feeds["train"].resident and needs(config.task.name, make) == data.targets:
        targets = targets_of(data.train, np.arange(len(data.train)))
        if data.targets == "class":
            found["class_counts"] = tuple(np.bincount(targets, minlength=data.num_outputs).tolist())
        elif data.targets == "values":
            found |= {"least": float(targets.min()), "most": float(targets.max())}
            found |= {"constant": lint_arrays.constants(targets), "distinct": lint_arrays.whole_numbers(targets)}
    if data.test is not None and data.val is not None:
        found["test_is_val"] = _equal(data.val, data.test)
    if data.test is not None and run.feeds["train"].resident and data.train.nbytes <= SEARCHED:
        some, _ = data.test.fetch(lint_arrays.spread(len(data.test), SAMPLED))
        found["test_in_train"] = lint_arrays.share_among(some, data.train.arrays()[0], SAMPLED)
    return found


def _equal(one: Examples, other: Examples) -> bool:
    """Whether two splits hold the same examples, as far as some of them tell."""
    if len(one) != len(other):
        return False
    rows = lint_arrays.spread(len(one), SAMPLED)
    return bool(np.array_equal(one.fetch(rows)[0], other.fetch(rows)[0]))


def has_batch_norm(run: Run) -> bool:
    """Whether the model state holds variances that move, of whatever library."""
    return any(path.rpartition("/")[2] == "var" for path in tree.flatten(run.shapes.model_state))


def dense_weights(run: Run) -> int:
    """Numbers in kernels of two axes, but those of recurrent layers."""
    flat = tree.flatten(run.shapes.params)
    dense = [leaf for path, leaf in flat.items() if path.endswith("kernel") and len(leaf.shape) == 2]
    return 0 if run.config.model.name in ("lstm", "gru") else sum(math.prod(leaf.shape) for leaf in dense)


def of_program(run: Run) -> dict[str, Any]:
    """What the traced program of a model of the user's own tells."""
    sample, _ = run.data.train.fetch(np.arange(1))
    inputs = jax.ShapeDtypeStruct((2, *sample.shape[1:]), sample.dtype)
    given = run.shapes.params, run.shapes.model_state, inputs, jax.eval_shape(jax.random.key, 0)

    def apply(params: Any, model_state: Any, inputs: Any, key: Any) -> Any:
        return run.model.apply(params, model_state, inputs, key=key, train=True)[0]

    program = jax.make_jaxpr(apply)(*given).jaxpr
    return {
        "ends_in": ends_in(program, rescaled=run.task.rescale is not None),
        "drops_memory": drops_memory(program, program.invars[-2:-1]),
    }
