"""`export --format=stablehlo`: a run's predictions as one program with its weights, that runs without jtrain."""

import contextlib
import hashlib
import importlib.resources
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jtrain.data.views import build_views
from jtrain.describe import version
from jtrain.errors import ConfigError, DataError, JtrainError
from jtrain.evaluation import make_predict_step
from jtrain.io.progress import Screen
from jtrain.io.workdir import disk_error
from jtrain.run import Run
from jtrain.state import TrainState, count, eval_params
from jtrain.verbs.restored import open_run, open_state

PLATFORMS = ("cpu", "cuda", "tpu")
MODEL, SIGNATURE, EXAMPLE, LOADER = "model.jaxexport", "signature.json", "example.npz", "predict.py"
MADE_BY = "jtrain export"
EXAMPLES = 4
MOST_BYTES = 1_900_000_000  # a file of flatbuffers holds 2 GiB
ONE_DEVICE = {"mesh.devices": "1", "mesh.fsdp": "1", "mesh.shards": "0"}
# Compiled for another batch size or with its weights at hand, a program rounds otherwise; accelerators and half
# precision round at all to about 3 digits.
TOLERANCE, COARSE = 1e-5, 2e-2
MEANING = {
    "class": "the probability of each class", "classes": "the probability of each label",
    "values": "numbers in the targets' own unit", "tokens": "the probability of each next token, at every place",
    "inputs": "the inputs as the model gives them again",
}  # fmt: skip


def export_program(
    workdir: str | Path, *, out: str | Path | None = None, at: str | int = "latest", model: Any = None,
    data: Any = None, overrides: Mapping[str, str] | None = None, trust: bool = False, screen: Screen | None = None,
) -> Path:  # fmt: skip
    """Writes what `jtrain predict` does as a folder that needs jax and numpy alone; returns its path.

    In it are the program with the weights that the run is evaluated with (averaged ones where there are any), from raw
    inputs to predictions, test-time views included, for any batch size (model.jaxexport, StableHLO by `jax.export`); a
    few inputs of the run's data with their predictions (example.npz); what goes in and comes out (signature.json); and
    a loader, predict.py, with flatbuffers, by which jax reads the program. It is put there once the loader gives the
    predictions of the run again, in two batch sizes.

    Args:
      workdir: of a run; only read. Its data are needed, as for `predict`.
      out: the folder, by default `<workdir>/export`; an earlier export in it is replaced.
      at: latest, best, or a step.
      model: as `assemble` takes it, for a run that was given one.
      data: likewise.
      overrides: as of `predict`.
      trust: likewise.
      screen: where to show it.

    Raises:
      ConfigError: the model cannot be exported, or what `predict` raises. DataError: there is no such run or
        checkpoint, the folder holds something else, or cannot be written.
      JtrainError: the exported program gives other predictions than the run.
    """
    screen = screen or Screen.quiet()
    folder = Path(workdir) / "export" if out is None else Path(out)
    buffers = _flatbuffers()
    _refuse_foreign(folder)
    with contextlib.closing(
        open_run(workdir, overrides=dict(overrides or {}) | ONE_DEVICE, model=model, data=data, trust=trust)
    ) as run:
        state = open_state(run, workdir, at, screen=screen)
        inputs = _examples(run)
        predictions = run.predict_inputs(state, inputs)
        exported, batch, notes = _exported(run, state, inputs)
        content = bytes(exported.serialize())
        signature = _signature(run, state, inputs, predictions, exported.platforms, batch, Path(workdir))
        signature |= {"sha256": hashlib.sha256(content).hexdigest()}
        with _written(folder) as fresh:
            (fresh / MODEL).write_bytes(content)
            (fresh / SIGNATURE).write_text(json.dumps(signature, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            np.savez(fresh / EXAMPLE, inputs=inputs, predictions=predictions)
            loader = importlib.resources.files("jtrain.verbs").joinpath("export_loader.py").read_text(encoding="utf-8")
            (fresh / LOADER).write_text(loader, encoding="utf-8")
            (fresh / "flatbuffers").mkdir()
            for file in buffers:
                shutil.copyfile(file, fresh / "flatbuffers" / file.name)
            difference = _check(fresh, inputs, predictions, signature)
        for line in _told(run, state, folder, signature, len(content), difference, notes):
            screen.line(line)
    return folder


def _flatbuffers() -> list[Path]:
    """The files of the package without which jax neither writes nor reads programs; pure Python."""
    found = importlib.util.find_spec("flatbuffers")
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise ConfigError("--format=stablehlo: jax writes it with flatbuffers: pip install flatbuffers")
    return sorted(Path(places[0]).glob("*.py"))


def _refuse_foreign(folder: Path) -> None:
    """Raises DataError where something lies that is no export."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise DataError(f"--out={folder}: is a file; give a folder, or --format=safetensors for weights alone")
    if not os.path.isdir(folder) or not os.listdir(folder):
        return
    try:
        signature = json.loads((folder / SIGNATURE).read_bytes())
        ours = signature["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise DataError(f"--out={folder}: holds something that is no export of jtrain; choose another folder")


def _examples(run: Run) -> np.ndarray:
    """A few inputs [n, …] of the first split there is that was not trained on."""
    feed = next(run.feeds[split] for split in ("test", "val", "train") if split in run.feeds)
    inputs, _ = feed.examples.fetch(np.arange(min(EXAMPLES, len(feed.examples))))
    return inputs


def _exported(run: Run, state: TrainState, inputs: np.ndarray) -> tuple[jax_export.Exported, int | None, list[str]]:
    """(the program, the only batch size that it takes or None, what could not be had, in sentences)."""
    views = build_views(run.config.tta) if run.config.tta else None
    step = make_predict_step(model=run.model, task=run.task, views=views, constrain=lambda batch: batch)
    params, model_state = jax.device_get((eval_params(state), state.model_state))  # constants of the program
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((params, model_state)))
    if size > MOST_BYTES:
        raise ConfigError(
            f"--format=stablehlo: the weights are {size / 1e9:.2g} GB, and a program holds at most "
            f"{MOST_BYTES / 1e9:.2g}; take --format=safetensors"
        )

    @jax.jit
    def predict(inputs: jax.Array) -> jax.Array:
        return step(params, model_state, {"inputs": inputs}, None)

    any_batch = jax_export.symbolic_shape("batch")[0]
    own = (jax_export.default_export_platform(),)
    attempts = [(any_batch, PLATFORMS), (any_batch, own), (run.batch_size, PLATFORMS), (run.batch_size, own)]
    reasons: list[str] = []
    for batch, platforms in attempts:
        try:
            found = jax_export.export(predict, platforms=platforms)(
                jax.ShapeDtypeStruct((batch, *inputs.shape[1:]), inputs.dtype)
            )
        except Exception as error:  # of any kind: a model's own code fails on a size that is no number
            reasons.append(" ".join(str(error).split())[:200] or repr(error))
            continue
        fixed = batch is not any_batch
        notes = [f"takes batches of {run.batch_size} alone ({reasons[0]}); {LOADER} fills them up"] if fixed else []
        if platforms == own:
            notes.append(f"runs on {own[0]} alone, not on {', '.join(PLATFORMS)} ({reasons[0]})")
        return found, run.batch_size if fixed else None, notes
    raise ConfigError(f"model.name: {run.model_name} cannot be exported: {reasons[-1]}")


def _signature(
    run: Run, state: TrainState, inputs: np.ndarray, predictions: np.ndarray, platforms: tuple[str, ...],
    batch: int | None, workdir: Path,
) -> dict[str, Any]:  # fmt: skip
    fine = run.config.precision == "float32"
    here = TOLERANCE if fine and jax.default_backend() == "cpu" else COARSE
    tokens = run.task.predictions == "tokens"
    return {
        "made_by": MADE_BY,
        "input": {
            "shape": [None, *inputs.shape[1:]], "dtype": str(inputs.dtype),
            "meaning": "numbers of tokens" if tokens else "raw, as the run's data have them: nothing normalised",
        },
        "output": {
            "shape": [None, *predictions.shape[1:]], "dtype": str(predictions.dtype),
            "meaning": MEANING[run.task.predictions],
        },
        "names": list(run.names),
        "batch": batch,
        "platforms": list(platforms),
        "tolerance": {"cpu": here, "other": COARSE},
        "scale": _scale(run, predictions),
        "run": {
            "workdir": workdir.absolute().name, "step": int(state.step), "model": run.model_name,
            "task": run.config.task.name, "parameters": run.parameter_count, "averaged": bool(state.ema),
            "precision": run.config.precision, "tta": run.config.tta,
        },
        "versions": {"jtrain": version(), "jax": jax.__version__},
        "written": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def _scale(run: Run, predictions: np.ndarray) -> float:
    """What differences are a share of: the largest prediction, for probabilities at least 1. Numbers may be tiny by
    their unit, so that of them 1 would let anything pass."""
    largest = float(np.abs(predictions).max())
    return (largest or 1.0) if run.task.predictions in ("values", "inputs") else max(1.0, largest)


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """A fresh folder whose files take the place of those in `folder`, if nothing fails until the end."""
    fresh = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        (folder / "flatbuffers").mkdir(parents=True, exist_ok=True)
        for path in sorted(fresh.rglob("*.*")):
            if path.is_file() and "__pycache__" not in path.parts:
                os.replace(path, folder / path.relative_to(fresh))
    except OSError as error:
        raise disk_error(folder, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _check(fresh: Path, inputs: np.ndarray, predictions: np.ndarray, signature: Mapping[str, Any]) -> float:
    """The largest difference of what the written loader predicts, in two batch sizes, as a share of the signature's
    scale; raises JtrainError where it is too large."""
    spec = importlib.util.spec_from_file_location("jtrain_exported_predict", fresh / LOADER)
    assert spec is not None
    assert spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    try:
        spec.loader.exec_module(loader)
        sizes = (len(inputs), max(1, len(inputs) - 1))
        found = [loader.predict(inputs, most=size) for size in sizes]
    finally:
        sys.path[:] = before
    difference = max(float(np.abs(one - predictions).max()) for one in found) / signature["scale"]
    limit = signature["tolerance"]["cpu" if jax.default_backend() == "cpu" else "other"]
    if not difference <= limit:
        raise JtrainError(f"export: the written program's predictions differ from the run's by {difference:.2g}")
    return difference


def _told(
    run: Run, state: TrainState, folder: Path, signature: Mapping[str, Any], size: int, difference: float,
    notes: list[str],
) -> list[str]:  # fmt: skip
    averaged = "averaged parameters" if state.ema else "parameters"
    given, taken = (
        f"[{', '.join(['n', *map(str, signature[end]['shape'][1:])])}] {signature[end]['dtype']}"
        for end in ("input", "output")
    )
    return [
        f"{count(eval_params(state)):,} {averaged} of {run.model_name} after update {int(state.step)} as a program of "
        f"{size / 1e6:.3g} MB for {', '.join(signature['platforms'])} in {folder}",
        f"inputs {given}; out come {taken}, {MEANING[run.task.predictions]}",
        f"read again, it gives the run's predictions to {difference:.1e}; python {folder / LOADER} inputs.npy out.npy",
        *(f"note: {text}" for text in notes),
    ]
