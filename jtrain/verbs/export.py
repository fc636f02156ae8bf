"""`export`: a state of a workdir for use elsewhere; here as a file of weights that torch loads."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from jtrain import config as configs
from jtrain import config_files
from jtrain.describe import version
from jtrain.errors import ConfigError, DataError
from jtrain.io import weights
from jtrain.io.manifest import some
from jtrain.io.progress import Screen
from jtrain.models.prepare import RESCALE
from jtrain.models.torch_names import flattened, to_torch
from jtrain.table import did_you_mean
from jtrain.tasks import TASKS
from jtrain.tree import unflatten
from jtrain.weights_source import MARK, NAMES, evaluated, names_of, read_checkpoint, scaling_texts

FORMATS = ("stablehlo", "safetensors")

# task -> what turns outputs y, brought to scale, into predictions, as a formula of its options; '' nothing
ACTIVATIONS = {
    "classification": "softmax(y)", "language_modelling": "softmax(y)", "rotation": "softmax(y)",
    "multilabel": "sigmoid(y)", "autoencoding": "",
}  # fmt: skip
BOUNDS = {
    "linear": "",
    "sigmoid": "{low} + ({high} - {low}) * sigmoid(y)",
    "tanh": "{low} + ({high} - {low}) * (tanh(y) + 1) / 2",
    "relu": "{low} + relu(y)",
}


def export(
    workdir: str | Path, *, out: str | Path | None = None, at: str | int = "latest", format: str = "",
    model: Any = None, data: Any = None, overrides: Mapping[str, str] | None = None, trust: bool = False,
    screen: Screen | None = None,
) -> Path:  # fmt: skip
    """Writes a state of a run for use elsewhere; returns the path of what is written.

    Args:
      workdir: of a run; only read.
      out: the folder (stablehlo, by default `<workdir>/export`) or the file (safetensors, by default
        `<workdir>/weights.safetensors`).
      at: latest, best, or a step.
      format: 'stablehlo', what `jtrain predict` does as a program with its weights, see `export_program`;
        'safetensors', the weights under torch's names, see `export_weights`; '' is stablehlo, but for an `out` that
        ends in .safetensors.
      model: stablehlo: as `assemble` takes it, for a run that was given one.
      data: likewise.
      overrides: stablehlo: {dotted key: text}, as `predict` takes them.
      trust: stablehlo: take the parts "module:Name" that the run's config.json names: they are imported and called.
      screen: where to show it.

    Raises:
      ConfigError: no such format, or `out` is of the other one; and what the two raise.
    """
    of_weights = Path(out or "").suffix == weights.SUFFIX
    format = format or ("safetensors" if of_weights else "stablehlo")
    if format not in FORMATS:
        raise ConfigError(f"--format={format}: no such format{did_you_mean(format, FORMATS)}")
    if format == "safetensors":
        for key in overrides or {}:
            raise ConfigError(f"--config.{key}: is not for --format=safetensors, which writes the weights as they are")
        return export_weights(workdir, out=out, at=at, screen=screen)
    if of_weights:
        raise ConfigError(f"--out={out}: is a file of --format=safetensors; give a folder, or leave --format out")
    from jtrain.verbs.export_program import export_program  # here: weights alone need nothing of a run

    return export_program(
        workdir, out=out, at=at, model=model, data=data, overrides=overrides, trust=trust, screen=screen
    )


def export_weights(
    workdir: str | Path, *, out: str | Path | None = None, at: str | int = "latest", screen: Screen | None = None
) -> Path:
    """Writes the weights that a run is evaluated with under torch's names; returns the path of the file.

    Neither the run's data nor its model is needed. The parameters are the averaged ones where there are any; with them
    go the running statistics, and as texts beside them jtrain's version, the model, the update, and what is no part of
    a torch module. What brings inputs and outputs to scale: inputs become (x - mean) * scale before the model, outputs
    y * scale + mean after it. What the task then makes predictions with: its name, its options as JSON, and under
    'activation' the formula of outputs y at that scale (softmax over the last axis), absent where nothing is left to do
    or a task of your own does not tell. And a checksum of the names of classes, targets or
    tokens, by which `transfer` tells them from others.

    Args:
      workdir: of a run; only read.
      out: the file, replaced if there is one; '.safetensors' is added where it lacks. Or a folder.
      at: latest, best, or a step.
      screen: where to show it.

    Raises:
      ConfigError: `at` is none of these.
      DataError: there is no such run or checkpoint, it is damaged, or the file cannot be written.
    """
    screen = screen or Screen.quiet()
    workdir = Path(workdir)
    config = workdir / "config.json"
    if not config.is_file():
        raise DataError(f"--workdir: {workdir} holds no run (no config.json)")
    found = config_files.from_json(config)
    model = found.model.name
    restored = read_checkpoint(workdir, str(at), key="--at", event=lambda kind, text: screen.line(f"{kind}: {text}"))
    arrays, averaged = evaluated(restored.state)
    nested = unflatten(arrays)
    tensors = to_torch(model, nested["params"], nested.get("model_state", {}))
    texts = {"format": "pt", MARK: version(), "model": model, "step": str(restored.step)}
    texts |= {"averaged": "true"} if averaged else {}
    names = names_of(restored)
    texts |= {NAMES: str(names)} if names else {}
    scalings, task = scaling_texts(arrays), _task_texts(found)
    path = _place(workdir if out is None else out)
    weights.write(path, tensors, texts | scalings | task)
    numbers = sum(int(np.prod(leaf.shape)) for name, leaf in arrays.items() if name.startswith("params/"))
    which = "averaged parameters" if averaged else "parameters"
    screen.line(f"{numbers:,} {which} of {model} after update {restored.step}, under torch's names, in {path}")
    for text in _notes(arrays, scalings, task):
        screen.line(f"note: {text}")
    return path


def activation(task: str, options: Mapping[str, Any]) -> str | None:
    """What turns a task's outputs y, brought to scale, into predictions, as a formula.

    '' is nothing at all; None is not known, of a task of your own.

    Args:
      task: its name.
      options: its options by name.
    """
    if task == "regression":
        return BOUNDS[options["output"]].format(low=options["low"], high=options["high"])
    return ACTIVATIONS.get(task)


def _task_texts(config: ml_collections.ConfigDict) -> dict[str, str]:
    """The task, its options and its activation as texts beside a file's arrays."""
    name = config.task.name
    place = name if name in TASKS else configs.FREE
    options = config.task[place].to_dict() if place in config.task else {}  # a task without options has no place
    formula = activation(name, options)
    texts = {"task": name, "task_options": json.dumps(options)}
    return texts | ({"activation": formula} if formula else {})


def _notes(arrays: dict[str, np.ndarray], scalings: dict[str, str], task: dict[str, str]) -> list[str]:
    notes = []
    name, formula = task["task"], task.get("activation")
    if formula:
        scaled = " brought to scale" if any(RESCALE in path for path in scalings) else ""
        notes.append(f"outputs y{scaled} are not yet predictions: {name} makes them by {formula}")
    elif name not in TASKS:
        notes.append(f"if {name} has an activation, a torch model must apply it to outputs: the file does not tell it")
    if scalings:
        notes.append(
            f"what jtrain does to inputs or outputs beside the model is in the file's metadata: {some([*scalings])}"
        )
    doubtful = [path.removeprefix("params/") for path in flattened(arrays)]
    if doubtful:
        notes.append(
            f"{some(doubtful)}: written as jtrain has it; if it reads or makes a flattened map, jtrain orders that "
            "[height, width, channels], and a torch model must permute it likewise"
        )
    return notes


def _place(out: str | Path) -> Path:
    """The file to write; raises DataError when its folder cannot be made."""
    path = Path(out)
    if str(out).endswith(os.sep) or os.path.isdir(path):
        path = path / "weights"
    if path.suffix != weights.SUFFIX:
        path = path.with_name(path.name + weights.SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out={out}: cannot make the folder {path.parent}: {error.strerror}") from error
    return path
