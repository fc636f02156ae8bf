"""The tasks on which `ladder` and `lr_find` are judged: shipped configs, shortened alike for them and the grid."""

import ml_collections

from jtrain import load

# name -> (shipped config, what of it is shortened, seeds of the grid)
TASKS: dict[str, tuple[str, dict[str, str], int]] = {
    "digits": ("digits", {}, 2),
    "diabetes": ("diabetes", {}, 5),
    "cifar": ("cifar:small", {"data.examples": "3840", "train.total": "6epochs", "train.batch_size": "128"}, 1),
    "charlm": ("charlm", {"data.examples": "3200", "train.total": "4epochs"}, 1),
}


def config_of(task: str, seed: int = 0) -> ml_collections.ConfigDict:
    """The config of a task."""
    name, shorter, _ = TASKS[task]
    return load(name, shorter | {"seed": str(seed)})
