"""Predictions of a model that jtrain exported: needs jax and numpy alone.

python predict.py                       checks itself against example.npz
python predict.py inputs.npy out.npy    predictions of inputs [n, …] as signature.json describes them
"""

import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax.export
import numpy as np

HERE = Path(__file__).resolve().parent
SIGNATURE = json.loads((HERE / "signature.json").read_text(encoding="utf-8"))
sys.path.append(str(HERE))  # of flatbuffers, by which jax reads a model


@functools.cache
def model() -> Any:
    """The compiled function: inputs [batch, …] -> predictions [batch, …]."""
    content = (HERE / "model.jaxexport").read_bytes()
    if hashlib.sha256(content).hexdigest() != SIGNATURE["sha256"]:
        raise SystemExit("predict.py: model.jaxexport is damaged, or signature.json is of another export")
    return jax.jit(jax.export.deserialize(bytearray(content)).call)


def predict(inputs: Any, most: int = 256) -> np.ndarray:
    """Predictions [n, …] float32 of inputs [n, …], `most` at a time; see signature.json."""
    inputs, (_, *shape), dtype = np.asarray(inputs), SIGNATURE["input"]["shape"], SIGNATURE["input"]["dtype"]
    if list(inputs.shape[1:]) != shape or not len(inputs) or not np.can_cast(inputs.dtype, dtype, "same_kind"):
        wanted = ", ".join(map(str, ["n", *shape]))
        raise SystemExit(f"predict.py: inputs must be [{wanted}] {dtype}, got {list(inputs.shape)} {inputs.dtype}")
    size = SIGNATURE["batch"] or min(most, len(inputs))
    rows = np.minimum(np.arange(-(-len(inputs) // size) * size), len(inputs) - 1)  # the last batch is filled up
    batches = [inputs[batch].astype(dtype) for batch in rows.reshape(-1, size)]
    return np.concatenate([np.asarray(model()(batch)) for batch in batches])[: len(inputs)]


def main(arguments: list[str]) -> None:
    """The command."""
    if arguments in (["--help"], ["-h"]):
        print(__doc__)
    elif len(arguments) == 2:
        try:
            inputs = np.load(arguments[0], allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SystemExit(f"predict.py: {arguments[0]} cannot be read as an .npy file of numbers: {error}") from None
        np.save(arguments[1], predict(inputs))
    elif arguments:
        raise SystemExit(__doc__)
    else:
        with np.load(HERE / "example.npz", allow_pickle=False) as file:
            example = dict(file)
        difference = np.abs(predict(example["inputs"]) - example["predictions"]).max() / SIGNATURE["scale"]
        limit = SIGNATURE["tolerance"]["cpu" if jax.default_backend() == "cpu" else "other"]
        told = f"predictions of {len(example['inputs'])} examples differ by {difference:.1e} at most (limit {limit:g})"
        if not difference <= limit:
            raise SystemExit(f"predict.py: {told}")
        print(f"correct: {told}, jax {jax.__version__} on {jax.default_backend()}")


if __name__ == "__main__":
    main(sys.argv[1:])
