"""What devices can compute at best, by their makers' word."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Peak:
    """FLOP/s of one device of JAX, dense; None where it has no units for that, or its maker gives no figure.

    `float32` is what JAX multiplies such matrices in by default: TF32 on NVIDIA GPUs from Ampere on, one bfloat16
    pass on TPUs. With GeForce cards half precision is that with sums in float32, as XLA has them.
    """

    bfloat16: float | None
    float16: float | None
    float32: float | None
    source: str


def _gpu(half: float, single: float, source: str) -> Peak:
    return Peak(half * 1e12, half * 1e12, single * 1e12, source)


def _before_ampere(half: float, single: float, source: str) -> Peak:
    return Peak(None, half * 1e12, single * 1e12, source)  # bfloat16 is computed in float32 there


def _tpu(half: float, source: str) -> Peak:
    return Peak(half * 1e12, None, half * 1e12, source)


# By words of `device.device_kind`; of several entries the one with the most words.
PEAKS: dict[str, Peak] = {
    "V100": _before_ampere(125, 15.7, "NVIDIA V100 data sheet, SXM2"),
    "V100 PCIE": _before_ampere(112, 14, "NVIDIA V100 data sheet, PCIe"),
    "T4": _before_ampere(65, 8.1, "NVIDIA T4 data sheet"),
    "A100": _gpu(312, 156, "NVIDIA A100 data sheet"),
    "A10": _gpu(125, 62.5, "NVIDIA A10 data sheet"),
    "A30": _gpu(165, 82, "NVIDIA A30 data sheet"),
    "A40": _gpu(149.7, 74.8, "NVIDIA A40 data sheet"),
    "A6000": _gpu(154.8, 77.4, "NVIDIA Ampere GA102 white paper, RTX A6000"),
    "L4": _gpu(121, 60, "NVIDIA L4 data sheet, without sparsity"),
    "L40": _gpu(181, 90.5, "NVIDIA L40 data sheet"),
    "L40S": _gpu(362, 183, "NVIDIA L40S data sheet"),
    "H100": _gpu(989, 494, "NVIDIA H100 data sheet, SXM, without sparsity"),
    "H100 PCIe": _gpu(756, 378, "NVIDIA H100 data sheet, PCIe, without sparsity"),
    "H100 HBM2e": _gpu(756, 378, "NVIDIA H100 data sheet, PCIe, without sparsity"),  # as drivers call the PCIe board
    "H100 NVL": _gpu(835, 417, "NVIDIA H100 data sheet, NVL, without sparsity"),
    "H200": _gpu(989, 494, "NVIDIA H200 data sheet, SXM, without sparsity"),
    "H200 NVL": _gpu(835, 417, "NVIDIA H200 data sheet, NVL, without sparsity"),
    "GH200": _gpu(990, 494, "NVIDIA GH200 data sheet, without sparsity"),
    "B200": _gpu(2250, 1125, "NVIDIA DGX B200 data sheet, an eighth, without sparsity"),
    "RTX 3090": _gpu(71, 35.6, "NVIDIA Ampere GA102 white paper"),
    "RTX 4090": _gpu(165.2, 82.6, "NVIDIA Ada GPU architecture white paper"),
    "RTX 5090": _gpu(209.5, 104.8, "NVIDIA RTX Blackwell GPU architecture white paper"),
    "TPU v2": _tpu(22.5, "Google Cloud documentation, TPU v2; a device is one of a chip's two cores"),
    "TPU v3": _tpu(61.5, "Google Cloud documentation, TPU v3; a device is one of a chip's two cores"),
    "TPU v4": _tpu(275, "Google Cloud documentation, TPU v4"),
    "TPU v4 lite": _tpu(138, "Jouppi et al. 2021, table 1, TPU v4i"),
    "TPU v5 lite": _tpu(197, "Google Cloud documentation, TPU v5e"),
    "TPU v5e": _tpu(197, "Google Cloud documentation, TPU v5e"),
    "TPU v5": _tpu(459, "Google Cloud documentation, TPU v5p"),
    "TPU v5p": _tpu(459, "Google Cloud documentation, TPU v5p"),
    "TPU v6 lite": _tpu(918, "Google Cloud documentation, TPU v6e"),
    "TPU v6e": _tpu(918, "Google Cloud documentation, TPU v6e"),
}
# Words of devices that are less, or more, than their namesakes; of a card's slices the last word says how large.
OTHERS = {"mig", "grid", "laptop", "ti", "super", "d", "max"}
SLICE = re.compile(r"\d+([qcab]|cme)")


def peak_of(kind: str, precision: str) -> float | None:
    """FLOP/s of a device at best; None where it is not known.

    Args:
      kind: `device.device_kind` of JAX, such as 'NVIDIA H100 80GB HBM3'.
      precision: in which the model computes: float32, bfloat16 or float16.
    """
    words = set(re.split(r"[^a-z0-9]+", kind.lower()))
    fitting = [name for name in PEAKS if set(name.lower().split()) <= words]
    if not fitting or words & OTHERS or any(map(SLICE.fullmatch, words)):
        return None
    return getattr(PEAKS[max(fitting, key=lambda name: len(name.split()))], precision)
