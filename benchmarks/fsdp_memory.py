"""What a device holds with mesh.fsdp: bytes of parameters and state, and the memory of the compiled programs.

    python benchmarks/fsdp_memory.py

On 8 simulated CPU devices; the table stands in docs/pods.md. Temporary memory of the step is left out: on CPU, XLA
begins all gathers at once, as an accelerator's scheduler does not.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

from typing import Any

import jax
import numpy as np

import jtrain
from jtrain.state import to_flat

WIDTHS = (1024, 1024, 1024)


def make_run(fsdp: int) -> Any:
    """An MLP with AdamW and averaged parameters on 8 devices."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(256, 256)).astype(np.float32), rng.integers(0, 16, 256).astype(np.int32)
    c = jtrain.config.base()
    c.data.validation = 0.0
    c.model.mlp.features = WIDTHS
    c.ema.decay = 0.99
    c.mesh.fsdp = fsdp
    return jtrain.assemble(c, data={"train": (inputs, targets)})


def held(leaves: Any) -> int:
    """Bytes on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(leaves))


def main() -> None:
    """Prints the table."""
    print("| MB a device | fsdp 1 | fsdp 2 | fsdp 4 | fsdp 8 |\n| --- | --- | --- | --- | --- |")
    columns = []
    for fsdp in (1, 2, 4, 8):
        run = make_run(fsdp)
        init = run.init.lower({}).compile().memory_analysis()
        state = run.init_state()
        given = run.feeds["train"].train_batch(run.order, 0)
        step = run.train_step.lower(state, *given).compile().memory_analysis()
        run.close()
        columns.append(
            {
                "parameters": held(state.params),
                "state (parameters, two moments, average)": held(to_flat(state)),
                "arguments of the step (state, data)": step.argument_size_in_bytes,
                "what making the state gives": init.output_size_in_bytes,
                "temporary memory of making it": init.temp_size_in_bytes,
            }
        )
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(f"{column[name] / 1e6:.2f}" for column in columns) + " |")


if __name__ == "__main__":
    main()
