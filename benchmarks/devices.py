"""P8: images a second of a small CNN on 8 simulated devices against 1, at the same batch of 128.

    python benchmarks/devices.py [--rounds 7] [--out benchmarks/results/P8.json]

The small CNN of P2, trained by `jtrain.train` with all on, each time on all devices that XLA has. The processor is the
same, so that the ratio is what cutting the batch costs. The losses of the first 8 updates are the same.
"""

import os

from findings import Contender, arguments, report
from harness import compare
from small_cnn import make_case


def contenders() -> list[Contender]:
    """The same training in processes of 1, 2 and 8 devices."""
    flag = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count="
    return [
        Contender(
            f"{devices} device{'s' if devices > 1 else ''}", "jtrain_train", make_case(),
            environment={"XLA_FLAGS": f"{flag}{devices}", "JAX_PLATFORMS": "cpu"},
        )
        for devices in (1, 2, 8)
    ]  # fmt: skip


def main() -> None:
    """Measures, prints and writes the row."""
    given = arguments(__doc__)
    found = compare("8 simulated devices", contenders(), reference="1 device", unit="image", rounds=given.rounds)
    claim = found.claim("images/s, 8 devices", "8 devices", "1 device", better="higher", passes=0.85, great=0.95)
    report("P8", "8 simulated devices against 1, small CNN, batch 128", [found], [claim], given.out)


if __name__ == "__main__":
    main()
