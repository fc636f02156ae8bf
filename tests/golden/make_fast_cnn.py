"""Makes fast_cnn.npz with PyTorch: two groups behind a stem, float64, on parameters that both sides can draw.

python tests/golden/make_fast_cnn.py          (needs torch; made with 2.13)
"""

import pathlib

import numpy as np
import torch
from make_resnet18 import draw
from torch import nn
from torch.nn import functional as F

MOMENTUM, SCALE = 0.6, 1 / 9


class Group(nn.Module):
    def __init__(self, inside: int, width: int):
        super().__init__()
        self.conv0 = nn.Conv2d(inside, width, 3, padding="same", bias=False)
        self.conv1 = nn.Conv2d(width, width, 3, padding="same", bias=False)
        self.norm0, self.norm1 = (nn.BatchNorm2d(width, momentum=1 - MOMENTUM) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm0(F.max_pool2d(self.conv0(x), 2)))
        return F.gelu(self.norm1(self.conv1(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 2)  # its bias is ours after the filters
        self.group0, self.group1 = Group(24, 6), Group(6, 8)
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.group1(self.group0(F.gelu(self.stem(x))))
        return SCALE * self.head(x.amax(dim=(2, 3)))


def parameters(net: Net) -> dict[str, nn.Parameter]:
    """By path, as jtrain has it; scales of norms stay 1."""
    found = {"stem_conv/kernel": net.stem.weight, "stem/bias": net.stem.bias, "head/kernel": net.head.weight}
    for name in ("group0", "group1"):
        for i in (0, 1):
            group = getattr(net, name)
            found[f"{name}_conv{i}/kernel"] = getattr(group, f"conv{i}").weight
            found[f"{name}_norm{i}/bias"] = getattr(group, f"norm{i}").bias
    return found


def ours(array: np.ndarray) -> np.ndarray:
    """A kernel in jtrain's layout."""
    return array.transpose(*range(2, array.ndim), 1, 0) if array.ndim > 1 else array


def main() -> None:
    torch.set_default_dtype(torch.float64)
    net = Net().train()
    for path, parameter in parameters(net).items():
        back = ours(np.empty(tuple(parameter.shape)))
        n, value = back.ndim, draw(path, back.shape)
        value = value.transpose(n - 1, n - 2, *range(n - 2)) if n > 1 else value
        parameter.data = torch.tensor(value)
    inputs = np.random.RandomState(1).standard_normal((6, 11, 9, 3))
    outputs = net(torch.tensor(inputs.transpose(0, 3, 1, 2)))
    loss = F.cross_entropy(outputs, torch.arange(6) % 5, label_smoothing=0.2)
    loss.backward()
    made = {"inputs": inputs, "outputs": outputs.detach().numpy(), "loss": loss.detach().numpy()}
    made |= {f"gradient/{path}": ours(p.grad.numpy()) for path, p in parameters(net).items()}
    for name in ("group0", "group1"):
        for i in (0, 1):
            norm = getattr(getattr(net, name), f"norm{i}")
            made[f"mean/{name}_norm{i}"] = norm.running_mean.numpy()
    small = {name: array.astype(np.float32) for name, array in made.items()}
    np.savez_compressed(pathlib.Path(__file__).with_name("fast_cnn.npz"), **small)


if __name__ == "__main__":
    main()
