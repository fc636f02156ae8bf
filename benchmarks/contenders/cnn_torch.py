"""The small CNN in torch: a plain loop over batches that are tensors already."""

from typing import Any

import torch
from contenders import common, mlp_torch


def prepare(case: dict[str, Any]) -> common.Looped:
    """A loop of a model, cross-entropy and SGD.

    Args:
      case: "threads"; "compiled": the model is compiled; "channels_last": the layout of images and kernels.
    """
    torch.set_num_threads(case["threads"])
    given = {path: torch.from_numpy(array) for path, array in common.cnn_weights(case).items()}
    layers: list[torch.nn.Module] = []
    channels = case["shape"][-1]
    for i, width in enumerate(case["features"]):
        conv = torch.nn.Conv2d(channels, width, 3, padding=1)
        with torch.no_grad():
            conv.weight.copy_(given[f"conv{i}/kernel"].permute(3, 2, 0, 1))
            conv.bias.copy_(given[f"conv{i}/bias"])  # type: ignore[union-attr]
        layers += [conv, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        channels = width
    head = torch.nn.Linear(channels, case["classes"])
    with torch.no_grad():
        head.weight.copy_(given["head/kernel"].T)
        head.bias.copy_(given["head/bias"])
    model = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)
    layout = torch.channels_last if case.get("channels_last") else torch.contiguous_format
    inputs, targets = map(torch.from_numpy, common.batches(case))
    images = inputs.permute(0, 3, 1, 2).contiguous(memory_format=layout)
    return mlp_torch.looped(case, model.to(memory_format=layout), images, targets)  # type: ignore[call-overload]
