"""torch: a plain loop over batches that are tensors already."""

from typing import Any

import torch
from contenders import common


def prepare(case: dict[str, Any]) -> common.Looped:
    """A loop of a model, cross-entropy and SGD.

    Args:
      case: "threads"; "compiled": the model is compiled.
    """
    torch.set_num_threads(case["threads"])
    model = mlp(case)
    return looped(case, model, *map(torch.from_numpy, common.batches(case)))


def mlp(case: dict[str, Any]) -> torch.nn.Module:
    """The MLP with the first weights of all contenders."""
    given = {path: torch.from_numpy(array) for path, array in common.mlp_weights(case).items()}
    model = torch.nn.Sequential(
        torch.nn.Linear(case["shape"][0], case["hidden"]),
        torch.nn.ReLU(),
        torch.nn.Linear(case["hidden"], case["classes"]),
    )
    with torch.no_grad():
        for layer, name in ((model[0], "dense0"), (model[2], "head")):
            layer.weight.copy_(given[f"{name}/kernel"].T)
            layer.bias.copy_(given[f"{name}/bias"])
    return model


def looped(case: dict[str, Any], model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> common.Looped:
    """Any classifier over batches that are rows in a row."""
    parts = list(zip(inputs.split(case["batch"]), targets.long().split(case["batch"]), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=case["lr"], momentum=case["momentum"])
    loss_fn = torch.nn.CrossEntropyLoss()
    forward = torch.compile(model) if case.get("compiled") else model
    done = 0

    def step() -> torch.Tensor:
        nonlocal done
        batch, wanted = parts[done % len(parts)]
        done += 1
        optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(forward(batch), wanted)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return common.Looped(case, {"torch": torch.__version__, "threads": str(case["threads"])}, step)
